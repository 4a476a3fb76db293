from pathlib import Path

import pytest

from adacomed.cohort.items import inside
from adacomed.errors import InputError


def test_a_name_stays_below_its_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "outside.png").write_text("x")
    (root / "a" / "1.png").write_text("x")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    assert inside(root, "a/1.png").read_text() == "x"
    assert inside(root, "a/../link.png").read_text() == "x"  # a link is the folder owner's choice
    for name in ("../outside.png", "a/../../outside.png", str(tmp_path / "outside.png")):
        with pytest.raises(InputError, match="lies outside"):
            inside(root, name)
    with pytest.raises(InputError, match=r"2\.png: no such file"):
        inside(root, "a/2.png")
