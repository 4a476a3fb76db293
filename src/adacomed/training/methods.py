"""Every method by name, behind one call: train on a fold, predict its test patients once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.split import Fold, kfold
from adacomed.config import Experiment, InputSettings
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.inference import forward, prediction_frame, probabilities
from adacomed.models.baselines import classical
from adacomed.models.baselines.haim import fit_haim
from adacomed.schema import TEST, VAL, History
from adacomed.training.loader import Inputs
from adacomed.training.names import (
    BAYES,
    HAIM,
    SINGLE,
    check_methods,
    reads_raw,
    shared_settings,
    variant,
)
from adacomed.training.neural import Trainer
from adacomed.training.pretraining import SmallModels
from adacomed.training.recipes import resolve_preset
from adacomed.training.scaling import fit_inputs
from adacomed.training.seed import derive
from adacomed.training.selection import Tick, plan
from adacomed.training.trained import Trained

# one network each
PLAIN = ("large-ensemble", "flex-moe", "healnet", "meta-transformer", "onellm", "gru")
NEURAL: dict[str, Callable[[Trainer, str], Trained]] = {  # (trainer, strategy) → trained
    "adacomed": Trainer.adacomed,
    "small": lambda t, _: t.small(),
    "average": lambda t, _: t.average(),
    "multimodal-pred": lambda t, _: t.small(),
    **{name: lambda t, _, name=name: t.plain(name) for name in PLAIN},  # type: ignore[misc]
}
FUSED = {  # name → (modality → features, tables, classes, inner folds, seed) → Fitted
    "late-fusion": classical.late_fusion,
    "weighted-late-fusion": classical.weighted_late_fusion,
}


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
class Trainers:
    """Trainers of one fold and seed, and the small models that they share."""

    made: dict[str, Trainer] = field(default_factory=dict)
    smalls: dict[str, SmallModels] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """One fold of an experiment: what every method is given, and nothing else.

    Attributes:
        trainers: what methods of this fold have trained already, so that they can share it.
    """

    experiment: Experiment
    inputs: Inputs
    fold: Fold
    task: str
    seed: int
    trainers: Trainers = field(default_factory=Trainers, repr=False, compare=False)

    def trainer(self, experiment: Experiment, *, raw: bool) -> Trainer:
        """The fold's trainer under these settings, made once (its strategy is named later)."""
        key = f"{raw} {shared_settings(experiment)}"
        if key not in self.trainers.made:
            inputs = self.inputs if raw else replace(self.inputs, raw={})
            members = resolve_preset(experiment).members
            layout = plan(inputs, self.fold, experiment, members=members, raw=raw)
            seed = derive(self.seed, self.fold.repeat, self.fold.fold)
            self.trainers.made[key] = Trainer(
                experiment,
                layout,
                classes=len(inputs.classes),
                seed=seed,
                task=self.task,
                smalls=self.trainers.smalls,
            )
        return self.trainers.made[key]


def run_method(name: str, problem: Problem, tick: Tick = lambda stage: None) -> Result:
    """Train `name` on the fold's training patients and predict its test patients, once.

    Raises:
        InputError: unknown method, or too few patients to choose anything on.
    """
    check_methods([name], problem.inputs, problem.experiment)
    if name == BAYES:
        return _bayes(problem)
    base, experiment = variant(name, problem.experiment)
    if base in NEURAL or base.endswith(SINGLE):
        return _neural(name, base, experiment, problem, tick)
    return _classical(name, base, experiment, problem)


def _neural(name: str, base: str, experiment: Experiment, problem: Problem, tick: Tick) -> Result:
    fold = problem.fold
    trainer = problem.trainer(experiment, raw=reads_raw(name, problem.experiment))
    trainer.tick = tick
    if base in NEURAL:
        trained = NEURAL[base](trainer, resolve_preset(experiment).strategy)
    else:
        trained = trainer.single(base.removesuffix(SINGLE))
    test = problem.inputs.take(fold.test)
    output = forward(trained, test)
    val_rows = trainer.plan.val_rows
    frames = [
        _frame(problem, name, VAL, val_rows, trained.val_output, trained.threshold),
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


def _classical(name: str, base: str, experiment: Experiment, problem: Problem) -> Result:
    inputs, fold = problem.inputs, problem.fold
    rows = fold.train if fold.val is None else np.concatenate([fold.train, fold.val])
    y = inputs.target[rows]
    inner = kfold(
        y,
        inputs.subject_id[rows],
        folds=experiment.training.inner_folds,
        repeats=1,
        seed=derive(experiment.seed, "validation"),
    )
    splits = [(f.train, f.test) for f in inner]
    seed = derive(problem.seed, name, fold.repeat, fold.fold)
    features = _features(inputs, rows, experiment.inputs)
    if base in FUSED:
        of = {m: x[rows] for m, x in features.items()}
        fitted = FUSED[base](of, inputs.tables, y, splits, seed)
        prob = fitted.predict({m: x[fold.test] for m, x in features.items()})
    else:
        every = base == HAIM or base.endswith("-all") or not inputs.tables
        chosen = features if every else list(inputs.tables)
        x = np.concatenate([features[m] for m in chosen], axis=1)
        if base == HAIM:
            full = experiment.baselines.full_grid
            fitted = fit_haim(x[rows], y, splits, seed, full_grid=full)
        else:
            fitted = classical.fit_kind(base.removesuffix("-all"), x[rows], y, splits, seed)
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


def _features(
    inputs: Inputs, train: NDArray[np.int64], settings: InputSettings
) -> dict[str, NDArray[np.float64]]:
    """Modality → (N, P) for scikit-learn, scaled on `train`; a table counts once."""
    fitted = fit_inputs(inputs, train, standardise=settings.standardise, pca=settings.pca)
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
