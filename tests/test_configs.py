"""Every shipped experiment is read, and runs on the cohort that its comment says how to build."""

from pathlib import Path

import polars as pl
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
    shared(path.stem.removesuffix("-stats").removesuffix("-thumbnails"))
    ran = cli("cohort", "check", path)
    assert ran.exit_code == 0, ran.output


def test_the_simulated_one_runs(tmp_path, cli):
    cohort = tmp_path / "cohorts" / "simulated"
    cli("cohort", "build", "simulated", "--samples", 120, "--out", cohort)
    config = tmp_path / "configs" / "simulated-cv.yaml"
    config.parent.mkdir()
    config.write_text(next(p for p in CONFIGS if p.stem == "simulated-cv").read_text())
    quick = ["split.folds=2", "training.epochs=1", "training.inner_folds=2", "small.kind=shallow"]
    ran = cli("compare", config, *quick, "--out", tmp_path / "o", "--methods", "small,bayes")
    assert ran.exit_code == 0, ran.output


@pytest.mark.parametrize("method", ["multimodal-pred", "meta-transformer"])
def test_the_papers_small_model_reads_real_icu_series(method, tmp_path, cli):
    """From the published files to a prediction of new patients; no encoder is named or loaded."""
    shared("icu-demo")
    config = next(p for p in CONFIGS if p.stem == "icu-multimodal-pred")
    quick = ["small.width=16", "training.epochs=1", "baselines.size=tiny"]
    run = tmp_path / "run"
    ran = cli("train", config, *quick, "--method", method, "--out", run)
    assert ran.exit_code == 0, ran.output
    ids = ["141765", "147784"]
    cohort = config.parent / "cohorts" / "icu-demo.yaml"
    few = cli("predict", run, cohort, "--samples", ",".join(ids), "--out", tmp_path / "p.parquet")
    assert few.exit_code == 0, few.output
    assert pl.read_parquet(tmp_path / "p.parquet")["prob"].is_between(0, 1).all()
