"""Every shipped experiment is read, and runs on the cohort that its comment says how to build."""

from pathlib import Path

import pytest

from adacomed.config import load_experiment
from tests.conftest import shared

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
COHORTS = sorted((Path(__file__).parents[1] / "configs/cohorts").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_is_a_valid_experiment(path):
    experiment = load_experiment(path)
    assert experiment.cohort.parts[-2:][0] == "cohorts"
    assert "#   adacomed " in path.read_text()


@pytest.mark.parametrize("path", COHORTS, ids=lambda p: p.stem)
def test_cohort_of_real_files_has_no_error(path, cli):
    shared(path.stem)
    ran = cli("cohort", "check", path)
    assert ran.exit_code == 0, ran.output


def test_the_simulated_one_runs(tmp_path, cli):
    cohort = tmp_path / "cohorts" / "simulated"
    cli("cohort", "build", "simulated", "--samples", 120, "--out", cohort)
    config = tmp_path / "configs" / "simulated-cv.yaml"
    config.parent.mkdir()
    config.write_text(next(p for p in CONFIGS if p.stem == "simulated-cv").read_text())
    quick = ["split.folds=2", "training.epochs=1", "training.inner_folds=2"]
    ran = cli("compare", config, *quick, "--out", tmp_path / "o", "--methods", "small,bayes")
    assert ran.exit_code == 0, ran.output
