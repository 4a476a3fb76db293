"""Tiny trained models of several methods on the same inputs; not to be changed by a test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from adacomed.training.loader import Inputs
from adacomed.training.methods import Problem, run_method
from adacomed.training.trained import Trained
from tests.training.conftest import make_experiment, make_fold, make_inputs

QUICK: dict[str, Any] = {
    "training": {"epochs": 2, "inner_folds": 2, "members": 1},
    "model": {"strategy": "ensemble", "H": 8, "d": 8},
    "evidence": {"stress": False},
}


@cache
def _fitted(method: str, classes: int, small: str, members: int) -> tuple[Trained, Inputs]:
    inputs = make_inputs(classes=classes)
    experiment = make_experiment(
        **{
            **QUICK,
            "small": {"kind": small, "width": 8},
            "training": {**QUICK["training"], "members": members},
            "model": {**QUICK["model"], "strategy": "reliable"},
        }
    )
    result = run_method(method, Problem(experiment, inputs, make_fold(), "task", 0))
    assert result.trained is not None
    return result.trained, inputs.take(np.arange(90, 120))


@pytest.fixture(scope="session")
def fitted() -> Callable[..., tuple[Trained, Inputs]]:
    """(method, classes, kind of small model, members) → its model and 30 test patients."""

    def call(
        method: str = "adacomed", *, classes: int = 2, small: str = "shallow", members: int = 1
    ) -> tuple[Trained, Inputs]:
        return _fitted(method, classes, small, members)

    return call
