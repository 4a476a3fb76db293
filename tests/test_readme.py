"""The README is executed: its YAML is written, its commands are run, its Python too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from .conftest import Ran
from .serve.served import serving

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.M | re.S)
PATIENT = {"modalities": {"clinical": {"age": 71, "sex": "F"}, "note": "Short of breath."}}
QUICK = ["training.epochs=2", "training.inner_folds=2", "model.strategy=ensemble"]


def write_table(path: Path) -> None:
    """60 patients as in the README's example, half of them without a note."""
    rng = np.random.default_rng(0)
    lines = ["patient_id,age,sex,lactate,notes,died"]
    for i in range(60):
        sick = i % 3 == 0
        note = "" if i % 2 else f"Seen on the ward and {'worse' if sick else 'better'} today."
        lactate = "" if i % 7 == 0 else f"{rng.normal(3 if sick else 1.5):.1f}"
        age = 60 + 10 * sick + i % 5
        lines.append(f"p{i:03d},{age},{'FM'[i % 2]},{lactate},{note},{'yes' if sick else 'no'}")
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.filterwarnings("ignore")
def test_the_readme_works_from_top_to_bottom(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "patients.csv")
    commands = 0
    for kind, text in BLOCKS:
        if kind == "yaml":
            name = re.match(r"# (\S+)\n", text).group(1)
            (tmp_path / name).write_text(text)
            if name == "cohort.yaml":  # another hospital with the same table
                (tmp_path / "other-hospital.yaml").write_text(text)
        elif kind == "python":
            space: dict[str, object] = {}
            exec(compile(text, "README.md", "exec"), space)
            assert space["prob"].shape == (60, 2)
        elif kind == "sh":
            for line in text.strip().splitlines():
                _, *words = shlex.split(line, comments=True)
                commands += 1
                if words[0] == "serve":  # it would not end by itself
                    with serving(Path(words[1])) as served:
                        answer = served.client().post("/v1/predict", json={"patients": [PATIENT]})
                        assert answer.status_code == 200, answer.text
                        assert served.end() == 0
                    continue
                quick = QUICK if words[0] in ("train", "compare") else []
                ran: Ran = cli(*words, *quick)
                assert ran.exit_code == 0, f"{line}\n{ran.output}"
    assert commands >= 5
    assert (tmp_path / "runs/first/report.html").is_file()
    assert (tmp_path / "runs/cv/paired.csv").is_file()


def test_every_method_and_verb_that_the_readme_names_exists():
    from adacomed.cli import COMMANDS
    from adacomed.training.methods import NEURAL
    from adacomed.training.names import BAYES, EVERYTHING, HAIM, LATE_FUSION, TABLE_ONLY

    table = README.split("## What is compared")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`([\w<>-]+)`", "\n".join(row.split("|")[1] for row in rows)))
    known = {*NEURAL, *TABLE_ONLY, *EVERYTHING, *LATE_FUSION, HAIM, BAYES, "<modality>-large"}
    assert known <= named
    for verb in set(re.findall(r"adacomed (\w+)", README)) - {"takes", "demo"}:
        assert any(name.split()[0] == verb for name in COMMANDS), verb
