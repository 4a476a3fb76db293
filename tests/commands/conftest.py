"""One small simulated cohort and one run trained on it, shared by the tests of all verbs."""

from __future__ import annotations

from pathlib import Path

import pytest

from adacomed.cli import main

TINY = ["training.epochs=2", "training.inner_folds=2", "training.members=1", "small.kind=shallow"]
QUICK = [*TINY, "model.strategy=ensemble"]


def adacomed(*words: object) -> None:
    """Run the command line where no `cli` fixture reaches: in a fixture that lives longer."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code, words


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort folder of 120 simulated patients."""
    out = tmp_path_factory.mktemp("simulated") / "cohort"
    adacomed("cohort", "build", "simulated", "--samples", 120, "--out", out)
    return out


@pytest.fixture(scope="session")
def experiment(simulated: Path) -> Path:
    """The shortest experiment YAML there is."""
    path = simulated.parent / "experiment.yaml"
    path.write_text(f"cohort: {simulated.name}\n")
    return path


@pytest.fixture(scope="session")
def run(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of AdaCoMed, two epochs; not to be changed by a test."""
    out = tmp_path_factory.mktemp("runs") / "run"
    adacomed("train", experiment, "--out", out, *QUICK)
    return out
