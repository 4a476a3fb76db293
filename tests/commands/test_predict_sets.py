"""`adacomed predict` writes calibrated probabilities and prediction sets, as the run's own are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.evaluation.conformal import as_mask
from adacomed.inference import forward, probabilities
from adacomed.intake import gather_for
from adacomed.schema import Predictions, RunFiles
from adacomed.training.checkpoint import load_run

from .conftest import QUICK, adacomed


@pytest.fixture(scope="module")
def calibrated(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose probabilities are Platt-scaled and whose sets cover 80 %."""
    out = tmp_path_factory.mktemp("calibrated") / "run"
    asked = ["evidence.calibration=platt", "evidence.coverage=0.8"]
    adacomed("train", experiment, "--out", out, *QUICK, *asked)
    return out


def test_new_predictions_are_the_runs_own(calibrated, simulated, tmp_path, cli) -> None:
    ran = cli("predict", calibrated, simulated, "--out", tmp_path / "new.parquet")
    assert ran.exit_code == 0, ran.output
    new = pl.read_parquet(tmp_path / "new.parquet")
    own = pl.read_parquet(calibrated / RunFiles.PREDICTIONS).filter(pl.col("split") == "test")
    both = own.join(new, on=Predictions.SAMPLE_ID)
    assert len(both) == len(own) > 0
    assert (both["prob"] - both["prob_right"]).abs().max() <= 1e-9
    assert both[Predictions.SET].to_list() == both[f"{Predictions.SET}_right"].to_list()
    run = load_run(calibrated)
    assert run.trained.calibrator is not None
    assert run.trained.calibrator.kind == "platt"
    assert run.trained.sets is not None
    assert run.trained.sets.coverage == 0.8
    p = new[Predictions.PROB].to_numpy()
    expected = run.trained.sets.sets(np.stack([1 - p, p], axis=1))
    assert np.array_equal(as_mask(new[Predictions.SET], 2), expected)


def test_from_python_as_the_readme_does(calibrated, simulated, tmp_path, cli) -> None:
    assert cli("predict", calibrated, simulated, "--out", tmp_path / "p.parquet").exit_code == 0
    run = load_run(calibrated)
    output = forward(run.trained, gather_for(run, load_cohort(simulated, labels=False)))
    written = pl.read_parquet(tmp_path / "p.parquet")[Predictions.PROB].to_numpy()
    assert np.array_equal(probabilities(output, run.trained)[:, 1], written)
    assert np.abs(probabilities(output)[:, 1] - written).max() > 1e-4


def test_help_says_what_a_prediction_set_is(cli) -> None:
    said = " ".join(cli("predict", "--help").output.split())
    assert "prediction_set lists the classes that cannot be ruled out" in said
    assert "abstains" in said
