"""Small synthetic inputs: signal in a table and in vectors, and a modality often absent."""

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.split import Fold
from adacomed.config import Experiment, parse
from adacomed.schema import CohortCard
from adacomed.training.checkpoint import load_run, save_run, written_whole
from adacomed.training.loader import Inputs

CARD = CohortCard.model_validate(
    {
        "name": "c",
        "table": "t.csv",
        "subject": "id",
        "tasks": {"task": {}},
        "modalities": {
            "a": {"kind": "embedding", "root": "a"},
            "b": {"kind": "embedding", "root": "b"},
            "clinical": {"kind": "tabular", "columns": ["age", "ward"]},
        },
    }
)


def make_inputs(n: int = 120, *, classes: int = 2, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    y[: 3 * classes] = np.tile(np.arange(classes), 3)
    a = (rng.normal(size=(n, 6)) + y[:, None]).astype(np.float32)
    b = (rng.normal(size=(n, 9)) * 5 + 2).astype(np.float32)
    b[rng.random(n) < 0.4] = np.nan
    table = pl.DataFrame(
        {
            "age": np.where(rng.random(n) < 0.2, np.nan, rng.normal(60, 10, n) + 5 * y),
            "ward": rng.choice(["A", "B", "C"], n),
        }
    ).with_columns(pl.col("age").fill_nan(None))
    return Inputs(
        sample_id=np.array([f"p{i:03d}" for i in range(n)]),
        subject_id=np.array([f"p{i:03d}" for i in range(n)]),
        vectors={"a": a, "b": b},
        tables={"clinical": table},
        small=["clinical"],
        own=[],
        target=y.astype(np.int64),
        classes=tuple(str(k) for k in range(classes)),
    )


def saved_run(folder, result, experiment, prepared, method):
    """A result's model, written as a run into `folder` and loaded again."""
    assert result.trained is not None
    with written_whole(folder) as out:
        save_run(
            out,
            result.trained,
            experiment=experiment,
            card=prepared.cohort.card,
            task=prepared.task,
            classes=prepared.inputs.classes,
            method=method,
            encoders=prepared.inputs.encoders,
        )
    return load_run(folder)


def make_fold(n: int = 120) -> Fold:
    rows = np.arange(n)
    return Fold(repeat=0, fold=0, train=rows[: n * 3 // 4], test=rows[n * 3 // 4 :])


def make_experiment(**settings) -> Experiment:
    data = {
        "cohort": "nowhere",
        "training": {"epochs": 2, "inner_folds": 2},
        "small": {
            "kind": "shallow"
        },  # the default fits forests: tests/training/test_pretraining.py
    }
    for key, value in settings.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return parse(Experiment, data, "test")


@pytest.fixture
def inputs() -> Inputs:
    return make_inputs()
