"""Every method by name, behind one call: train on a fold, predict its test patients once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.split import Fold, kfold
from adacomed.config import Experiment
from adacomed.errors import InputError, nearest
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.inference import forward, prediction_frame, probabilities
from adacomed.models.baselines import classical
from adacomed.schema import TEST, VAL, History
from adacomed.training.loader import Inputs
from adacomed.training.neural import Trainer, resolve_preset
from adacomed.training.scaling import fit_inputs
from adacomed.training.seed import derive
from adacomed.training.selection import Tick, plan
from adacomed.training.trained import Trained

NEURAL = {
    "adacomed": Trainer.adacomed,
    "small": Trainer.small,
    "large-ensemble": Trainer.large_ensemble,
    "average": Trainer.average,
}
TABLE_ONLY = tuple(classical.KINDS)
EVERYTHING = tuple(f"{kind}-all" for kind in classical.KINDS)
LATE_FUSION = "late-fusion"
BAYES = "bayes"  # the ceiling of a simulated cohort: its generator's own probability
SINGLE = "-large"


@dataclass
class Result:
    """One method on one fold.

    Attributes:
        predictions: rows of predictions.parquet: validation (out of fold) and test patients.
        history: rows of history.parquet, empty for a classical method.
        choices: what was chosen on validation.
        trained: a neural method's model, to be saved as a run.
    """

    predictions: pl.DataFrame
    history: pl.DataFrame
    choices: dict[str, Any]
    trained: Trained | None = None


@dataclass(frozen=True)
class Problem:
    """One fold of an experiment: what every method is given, and nothing else."""

    experiment: Experiment
    inputs: Inputs
    fold: Fold
    task: str
    seed: int


def method_names(inputs: Inputs) -> list[str]:
    """Every method that can run on these inputs, the headline first."""
    names = ["adacomed", "small", "large-ensemble", "average"]
    names += [f"{m}{SINGLE}" for m in inputs.vectors]
    names += [*TABLE_ONLY, *EVERYTHING] if inputs.tables else [*TABLE_ONLY]
    return [*names, LATE_FUSION, *([BAYES] if inputs.bayes_prob is not None else [])]


def check_methods(asked: Sequence[str] | None, inputs: Inputs) -> list[str]:
    """`asked`, all where nothing was, or InputError that names the nearest method."""
    known = method_names(inputs)
    for name in asked or []:
        if name not in known:
            raise InputError(f"no method {name!r}{nearest(name, known)}")
    return list(dict.fromkeys(asked or known))


def run_method(name: str, problem: Problem, tick: Tick = lambda stage: None) -> Result:
    """Train `name` on the fold's training patients and predict its test patients, once.

    Raises:
        InputError: unknown method, or too few patients to choose anything on.
    """
    check_methods([name], problem.inputs)
    if name == BAYES:
        return _bayes(problem)
    if name in NEURAL or name.endswith(SINGLE):
        return _neural(name, problem, tick)
    return _classical(name, problem)


def _neural(name: str, problem: Problem, tick: Tick) -> Result:
    inputs, fold = problem.inputs, problem.fold
    members = resolve_preset(problem.experiment).members
    layout = plan(inputs, fold, problem.experiment, members=members)
    trainer = Trainer(
        problem.experiment,
        layout,
        classes=len(inputs.classes),
        seed=derive(problem.seed, fold.repeat, fold.fold),
        tick=tick,
    )
    train: Callable[[Trainer], Trained] = NEURAL.get(
        name, lambda t: t.single(name.removesuffix(SINGLE))
    )
    trained = train(trainer)
    test = inputs.take(fold.test)
    output = forward(trained, test)
    frames = [
        _frame(problem, name, VAL, layout.val_rows, trained.val_output, trained.threshold),
        _frame(problem, name, TEST, fold.test, output, trained.threshold),
    ]
    return Result(
        predictions=pl.concat(frames),
        history=_history(trained.history),
        choices=trained.choices | {"threshold": trained.threshold},
        trained=trained,
    )


def _frame(
    problem: Problem,
    method: str,
    split: str,
    rows: NDArray[np.int64],
    said: Any,
    threshold: float,
) -> pl.DataFrame:
    """Rows of predictions.parquet from an Output or from (N, K) probabilities."""
    is_prob = isinstance(said, np.ndarray)
    return prediction_frame(
        problem.inputs.take(rows),
        said if is_prob else probabilities(said),
        output=None if is_prob else said,
        task=problem.task,
        method=method,
        split=split,
        threshold=threshold,
        repeat=problem.fold.repeat,
        fold=problem.fold.fold,
        seed=problem.seed,
    )


def _classical(name: str, problem: Problem) -> Result:
    inputs, fold = problem.inputs, problem.fold
    rows = fold.train if fold.val is None else np.concatenate([fold.train, fold.val])
    y = inputs.target[rows]
    inner = kfold(
        y,
        inputs.subject_id[rows],
        folds=problem.experiment.training.inner_folds,
        repeats=1,
        seed=derive(problem.experiment.seed, "validation"),
    )
    splits = [(f.train, f.test) for f in inner]
    seed = derive(problem.seed, name, fold.repeat, fold.fold)
    features = _features(inputs, rows)
    if name == LATE_FUSION:
        of = {m: x[rows] for m, x in features.items()}
        fitted = classical.late_fusion(of, inputs.tables, y, splits, seed)
        prob = fitted.predict({m: x[fold.test] for m, x in features.items()})
    else:
        kind = name.removesuffix("-all")
        chosen = features if name.endswith("-all") or not inputs.tables else list(inputs.tables)
        x = np.concatenate([features[m] for m in chosen], axis=1)
        fitted = classical.fit_kind(kind, x[rows], y, splits, seed)
        prob = fitted.predict(x[fold.test])
    threshold = 0.5
    if len(inputs.classes) == 2:
        threshold = float(choose_threshold(y, fitted.out_of_fold[:, 1]))
    frames = [
        _frame(problem, name, VAL, rows, fitted.out_of_fold, threshold),
        _frame(problem, name, TEST, fold.test, prob, threshold),
    ]
    choices = fitted.choices | {"threshold": threshold}
    return Result(pl.concat(frames), _history([]), choices)


def _features(inputs: Inputs, train: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Modality → (N, P) for scikit-learn, scaled on `train`; a table counts once."""
    fitted = fit_inputs(inputs, train)
    features = {m: e.transform(inputs.tables[m]) for m, e in fitted.tables.items()}
    batch = fitted.batch(inputs)
    for name, x in batch.embeddings.items():
        features.setdefault(name, x.numpy())
    return {m: np.asarray(x, np.float64) for m, x in features.items()}


def _bayes(problem: Problem) -> Result:
    """The ceiling: P(label | the generator's signals), known for simulated cohorts only."""
    inputs, rows = problem.inputs, problem.fold.test
    assert inputs.bayes_prob is not None
    p = inputs.bayes_prob[rows]
    frame = _frame(problem, BAYES, TEST, rows, np.stack([1 - p, p], axis=1), 0.5)
    return Result(frame, _history([]), {"title": "known only because the cohort is simulated"})


def _history(rows: list[tuple[str, int, str, str, float]]) -> pl.DataFrame:
    names = [History.STAGE, History.EPOCH, History.PART, History.METRIC, History.VALUE]
    types = [pl.String, pl.Int64, pl.String, pl.String, pl.Float64]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")
