"""A label cannot come in through the columns beside a file's: its time, its kind of view."""

from pathlib import Path

import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.errors import InputError


@pytest.mark.parametrize("beside", ["view: icu", "time: icu"])
def test_a_label_beside_a_file_is_refused(tmp_path: Path, beside: str) -> None:
    rows = "\n".join(f"p{i},{i}.png,{'NY'[i % 2]}" for i in range(8))
    (tmp_path / "t.csv").write_text(f"id,image,icu\n{rows}\n")
    (tmp_path / "cohort.yaml").write_text(
        "name: c\ntable: t.csv\nsubject: id\ntasks: {icu: {column: icu, positive: Y}}\n"
        f"modalities: {{xray: {{kind: image, column: image, {beside}}}}}\n"
    )
    with pytest.raises(InputError, match="'icu' is the label of task 'icu'"):
        load_cohort(tmp_path / "cohort.yaml")
