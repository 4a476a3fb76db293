"""Tiny runs of any method and task, saved and loaded; not to be changed by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from adacomed.evaluation.recalibration import Calibrator
from adacomed.training.checkpoint import Run, load_run, save_run, written_whole
from adacomed.training.loader import Inputs
from adacomed.training.methods import Problem, run_method
from adacomed.training.outcome import Findings, Survival
from adacomed.training.scores import FIXED
from tests.training.conftest import CARD, make_experiment, make_fold, make_inputs

N = 160
FEW = {
    "randomforestclassifier__n_estimators": 12,
    "randomforestclassifier__min_samples_leaf": 3,
}  # trees, to be quick
CALIBRATORS = {
    "temperature": Calibrator("temperature", 0.7),
    "platt": Calibrator("platt", 1.3, (0.2, -0.2)),
    "isotonic": Calibrator(
        "isotonic", knots=(((0.1, 0.4, 0.4000001, 0.9), (0.0, 0.2, 0.5, 0.95)),), trust=0.98
    ),
    "isotonic, 3 classes": Calibrator(
        "isotonic", knots=tuple(((0.1, 0.3, 0.8), (0.05, 0.4, 0.9)) for _ in range(3)), trust=0.9
    ),
}


def task_inputs(task: str) -> Inputs:
    """Patients with a, b and a clinical table, of `make_inputs`, and what is asked of them."""
    inputs, rng = make_inputs(N, classes=3 if task == "three" else 2), np.random.default_rng(3)
    if task == "findings":
        seen = (rng.random((N, 3)) < 0.4).astype(np.float64)
        seen[rng.random(N) < 0.2, 1] = np.nan
        asked = Findings(("oedema", "effusion", "nodule"))
        return replace(inputs, truth=seen, asked=asked, classes=asked.names)
    if task == "survival":
        time = rng.exponential(12, N) + 0.1
        seen = np.stack([time, rng.random(N) < 0.7], axis=1).astype(np.float64)
        asked = Survival(("no", "yes"), horizon=12.0, unit="months")
        return replace(inputs, truth=seen, asked=asked, classes=asked.names)
    if task == "own":  # the table is a vector of its own, too
        row = np.zeros((N, 1), np.float32)  # everyone has a cell of it
        return replace(inputs, vectors={**inputs.vectors, "clinical": row}, own=["clinical"])
    return inputs


@cache
def _run(
    folder: Path,
    method: str,
    task: str,
    small: str,
    strategy: str,
    members: int,
    preset: str,
    pca: int | None,
    calibrator: str,
) -> Run:
    inputs = task_inputs(task)
    experiment = make_experiment(
        preset=preset,
        small={"kind": small, "width": 8},
        training={"epochs": 1, "inner_folds": 2, "members": members},
        model={"strategy": strategy, "H": 8, "d": 8},
        evidence={"stress": False, "calibration": "none"},
        inputs={"pca": pca},
    )
    with patch.dict(FIXED, {"forest": FEW}), patch("adacomed.training.scores.FOLDS", 2):
        result = run_method(method, Problem(experiment, inputs, make_fold(N), "task", 0))
    assert result.trained is not None
    result.trained.calibrator = CALIBRATORS.get(calibrator)
    out = folder / "-".join(map(str, (method, task, small, strategy, members, preset, pca)))
    with written_whole(out.with_name(out.name + calibrator)) as partial:
        save_run(
            partial,
            result.trained,
            experiment=experiment,
            card=CARD,
            task="task",
            classes=inputs.classes,
            method=method,
            encoders={},
        )
    return load_run(out.with_name(out.name + calibrator))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """(method, and what differs from the plainest run of it) → a run."""
    folder = tmp_path_factory.mktemp("exported")

    def call(
        method: str = "adacomed",
        *,
        task: str = "two",
        small: str = "shallow",
        strategy: str = "ensemble",
        members: int = 1,
        preset: str = "default",
        pca: int | None = None,
        calibrator: str = "",
    ) -> Run:
        return _run(folder, method, task, small, strategy, members, preset, pca, calibrator)

    return call
