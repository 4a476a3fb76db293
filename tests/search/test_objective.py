"""A trial is judged on validation patients; test patients have no part in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from adacomed.cohort.split import Fold
from adacomed.config import Experiment
from adacomed.search.objective import BehindError, Objective, Standing
from adacomed.search.space import applied
from adacomed.training.loader import Inputs
from adacomed.training.methods import Problem
from adacomed.training.outcome import Findings, Survival
from tests.training.conftest import make_experiment, make_fold, make_inputs


def goes_on(step: int, standing: float) -> bool:
    return True


def objective(inputs: Inputs, fold: Fold, experiment: Experiment | None = None) -> Objective:
    return Objective(experiment or make_experiment(), inputs, fold, "task", 0)


def garbage(inputs: Inputs, rows: np.ndarray) -> Inputs:
    """The same cohort, with nonsense in place of these patients' inputs and labels."""
    vectors = {m: x.copy() for m, x in inputs.vectors.items()}
    for i, x in enumerate(vectors.values()):
        x[rows] = [np.nan, 1e30][i % 2]
    here = pl.Series(np.isin(np.arange(len(inputs)), rows))
    table = inputs.tables["clinical"].with_columns(
        pl.when(here).then(-1e12).otherwise(pl.col("age")).alias("age"),
        pl.when(here).then(pl.lit("nowhere")).otherwise(pl.col("ward")).alias("ward"),
    )
    target = inputs.target.copy()
    target[rows] = 1 - target[rows]
    return replace(inputs, vectors=vectors, tables={"clinical": table}, target=target)


@pytest.mark.parametrize("validation", ["cv", "holdout"])
def test_nonsense_in_test_patients_changes_nothing(validation: str) -> None:
    inputs, fold = make_inputs(), make_fold()
    settings = make_experiment(training={"validation": validation})
    first = objective(inputs, fold, settings)(settings, goes_on)
    second = objective(garbage(inputs, fold.test), fold, settings)(settings, goes_on)
    assert first.score == second.score
    assert np.array_equal(first.prob, second.prob)
    assert not set(first.rows) & set(fold.test)
    changed = objective(garbage(inputs, fold.train[:20]), fold, settings)(settings, goes_on)
    assert changed.score != first.score  # the same nonsense in training patients does


@pytest.mark.parametrize("validation", ["cv", "holdout"])
def test_the_score_is_the_one_that_train_reports(validation: str) -> None:
    settings = make_experiment(training={"validation": validation, "members": 2})
    inputs, fold = make_inputs(), make_fold()
    judged = objective(inputs, fold, settings)(settings, goes_on)
    trainer = Problem(settings, inputs, fold, "task", 0).trainer(settings, raw=False)
    trained = trainer.adacomed("auto")
    assert round(judged.score, 4) == trained.choices["auroc_on_validation"]
    assert np.array_equal(judged.rows, np.sort(trainer.plan.val_rows))


def test_trials_do_not_depend_on_those_before_them() -> None:
    base = make_experiment()
    others = [
        applied(base, {"training.lr": lr, "model.tau": tau})
        for lr, tau in [(1e-3, 0.1), (1e-2, 0.1), (1e-3, 0.3)]
    ]
    one = objective(make_inputs(), make_fold(), base)
    in_a_row = [one(e, goes_on).score for e in others]
    alone = [objective(make_inputs(), make_fold(), base)(e, goes_on).score for e in others]
    assert in_a_row == alone
    assert len(set(alone)) == 3
    assert len(one._smalls) == 1  # of the last step size only


def test_tasks_beyond_classes_are_judged_by_their_own_metric() -> None:
    inputs, fold = make_inputs(), make_fold()
    rng = np.random.default_rng(0)
    both = np.stack([inputs.target, rng.integers(0, 2, len(inputs))], axis=1).astype(float)
    asked = replace(inputs, truth=both, asked=Findings(("x", "y")))
    time = rng.exponential(10, len(inputs)) * (2 - inputs.target)
    events = np.stack([time, rng.random(len(inputs)) < 0.7], axis=1).astype(float)
    survival = replace(inputs, truth=events, asked=Survival(("no", "yes"), 8.0))
    settings = make_experiment()
    for patients in (asked, survival):
        judged = objective(patients, fold, settings)(settings, goes_on)
        problem = Problem(settings, patients, fold, "task", 0)
        trained = problem.trainer(settings, raw=False).adacomed("auto")
        name = f"{patients.outcome.metric}_on_validation"
        assert round(judged.score, 4) == trained.choices[name]
        assert judged.prob.shape == (90, 2)


def test_a_fold_is_a_step_and_one_behind_stops_there() -> None:
    seen: list[tuple[int, float]] = []
    watch = Standing(lambda *step: seen.append(step) or len(seen) < 2, epochs=2, folds=3)
    watch("small", "inner 0", 2, 0.1)  # not the fusion
    for part, value in (("inner 0", 0.8), ("inner 1", 0.6)):
        watch("adacomed", part, 1, 0.0)  # not the end of the fold
        if part == "inner 1":
            with pytest.raises(BehindError):
                watch("adacomed", part, 2, value)
        else:
            watch("adacomed", part, 2, value)
    assert seen == [(1, 0.8), (2, pytest.approx(0.7))]


def test_the_last_step_stops_nobody_and_a_holdout_stands_as_its_best_epoch() -> None:
    watch = Standing(lambda *_: False, epochs=1, folds=1)
    watch("adacomed", "inner 0", 1, 0.5)
    seen: list[tuple[int, float]] = []
    watch = Standing(lambda *step: seen.append(step) is None, epochs=3)
    for epoch, value in enumerate([0.6, 0.5, float("nan")], 1):
        watch("adacomed", "holdout", epoch, value)
    assert seen == [(1, 0.6), (2, 0.6)]


def test_a_trial_that_is_stopped_trains_no_further() -> None:
    ticks: list[str] = []
    settings = make_experiment(training={"epochs": 2, "inner_folds": 4})
    with pytest.raises(BehindError):
        objective(make_inputs(), make_fold(), settings)(
            settings, lambda step, _: step < 2, ticks.append
        )
    fusion = [tick for tick in ticks if tick != "small"]
    assert len(fusion) == 2 * 2  # two folds of four, and nobody is trained on all patients
