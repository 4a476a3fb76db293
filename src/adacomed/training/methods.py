"""Every method by name, behind one call: train on a fold, predict its test patients once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.split import Fold
from adacomed.config import Experiment
from adacomed.evaluation.scored import HALF
from adacomed.inference import forward, prediction_frame, probabilities
from adacomed.models.baselines.classical import Members
from adacomed.models.batch import Output
from adacomed.schema import TEST, VAL, History
from adacomed.training.calibrated import Calibrated, calibrate
from adacomed.training.classical import fit_classical
from adacomed.training.distributed import distributed_engine, processes
from adacomed.training.engine import Engine, local_engine
from adacomed.training.loader import Inputs
from adacomed.training.names import (
    BAYES,
    SINGLE,
    check_methods,
    reads_raw,
    shared_settings,
    variant,
)
from adacomed.training.neural import Trainer
from adacomed.training.on_disk import hand_back
from adacomed.training.plan import plan
from adacomed.training.pretraining import SmallModels
from adacomed.training.recipes import resolve_preset
from adacomed.training.seed import derive
from adacomed.training.selection import Snapshots, Tick, Watch
from adacomed.training.stress import Stress, stress
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


@dataclass
class Result:
    """One method on one fold.

    Attributes:
        predictions: rows of predictions.parquet: validation (out of fold) and test patients.
        history: rows of history.parquet, empty for a classical method.
        choices: what was chosen on validation.
        stress: rows of stress.parquet; no column where the method was left out.
        trained: a neural method's model, to be saved as a run.
    """

    predictions: pl.DataFrame
    history: pl.DataFrame
    choices: dict[str, Any]
    trained: Trained | None = None
    stress: pl.DataFrame = field(default_factory=pl.DataFrame)


@dataclass(frozen=True)
class Trainers:
    """Trainers of one fold and seed, and what they share: small models, members of late fusion."""

    made: dict[str, Trainer] = field(default_factory=dict)
    smalls: dict[str, SmallModels] = field(default_factory=dict)
    members: Members = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """One fold of an experiment: what every method is given, and nothing else.

    Attributes:
        trainers: what methods of this fold have trained already, so that they can share it.
        watch: called after every epoch that is validated.
        snapshots: where fits are kept after every epoch.
    """

    experiment: Experiment
    inputs: Inputs
    fold: Fold
    task: str
    seed: int
    trainers: Trainers = field(default_factory=Trainers, repr=False, compare=False)
    watch: Watch = lambda *_: None
    snapshots: Snapshots = lambda *_: None

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
                classes=layout.outcome.width,
                seed=seed,
                task=self.task,
                smalls=self.trainers.smalls,
                watch=self.watch,
                engine=self._engine(experiment),
                snapshots=self.snapshots,
            )
        return self.trainers.made[key]

    def _engine(self, experiment: Experiment) -> Engine:
        settings = experiment.training
        alone = local_engine(
            settings.device,
            settings.precision,
            compiled=settings.compile,
            graphs=settings.cuda_graphs,
            patients=len(self.fold.train),
        )
        return distributed_engine(alone) if processes() > 1 else alone


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
    said = {VAL: trained.val_output, TEST: forward(trained, test)}
    who = {VAL: problem.inputs.take(trainer.plan.val_rows), TEST: test}
    frames = [
        _frame(problem, name, split, who[split], probabilities(o, trained), trained, output=o)
        for split, o in said.items()
    ]

    def predicted(patients: Inputs) -> pl.DataFrame:
        prob = probabilities(forward(trained, patients), trained)
        return _frame(problem, name, TEST, patients, prob, trained)

    hand_back()
    stressed = _stressed(problem, name, predicted)
    hand_back()
    return Result(
        predictions=pl.concat(frames),
        history=_history(trained.history),
        choices=trained.choices | {"threshold": trained.threshold} | stressed.said,
        trained=trained,
        stress=stressed.rows,
    )


def _frame(
    problem: Problem,
    method: str,
    split: str,
    patients: Inputs,
    prob: NDArray[np.float64],
    made: Trained | Calibrated | None,
    output: Output | None = None,
) -> pl.DataFrame:
    """Rows of predictions.parquet from (N, K) calibrated probabilities.

    Args:
        made: whose threshold and prediction sets these are; None: .5, and no sets.
    """
    return prediction_frame(
        patients,
        prob,
        output=output,
        sets=made.sets if made else None,
        calibrator=made.calibrator if made else None,
        outcome=made.outcome if isinstance(made, Trained) else None,
        task=problem.task,
        method=method,
        split=split,
        threshold=made.threshold if made else HALF,
        repeat=problem.fold.repeat,
        fold=problem.fold.fold,
        seed=problem.seed,
    )


def _classical(name: str, base: str, experiment: Experiment, problem: Problem) -> Result:
    inputs, fold = problem.inputs, problem.fold
    rows = fold.train if fold.val is None else np.concatenate([fold.train, fold.val])
    # the two late fusions weigh the same members: one seed, so that they are fitted once
    seed = derive(problem.seed, name.removeprefix("weighted-"), fold.repeat, fold.fold)
    members = problem.trainers.members
    method = fit_classical(base, inputs, rows, experiment, seed=seed, members=members)
    fitted = method.fitted
    made = calibrate(inputs.target[rows], fitted.out_of_fold, inputs.subject_id[rows], experiment)
    prob = made.apply(method.of(fold.test))
    frames = [
        _frame(problem, name, VAL, inputs.take(rows), made.prob, made),
        _frame(problem, name, TEST, inputs.take(fold.test), prob, made),
    ]

    def predicted(patients: Inputs) -> pl.DataFrame:
        return _frame(problem, name, TEST, patients, made.apply(method.predict(patients)), made)

    stressed = _stressed(problem, name, predicted)
    choices = fitted.choices | made.found | {"threshold": made.threshold} | stressed.said
    return Result(pl.concat(frames), _history([]), choices, stress=stressed.rows)


def _stressed(problem: Problem, name: str, predicted: Callable[[Inputs], pl.DataFrame]) -> Stress:
    """The fold's test patients with less or worse inputs, by a method that is trained."""
    inputs, fold = problem.inputs, problem.fold
    return stress(
        predicted,
        inputs.take(fold.test),
        inputs.take(fold.train),
        problem.experiment.evidence,
        seed=problem.experiment.split.seed,
        reads_raw=reads_raw(name, problem.experiment),
    )


def _bayes(problem: Problem) -> Result:
    """The ceiling: P(label | the generator's signals), known for simulated cohorts only."""
    inputs, rows = problem.inputs, problem.fold.test
    assert inputs.bayes_prob is not None
    p = inputs.bayes_prob[rows]
    frame = _frame(problem, BAYES, TEST, inputs.take(rows), np.stack([1 - p, p], axis=1), None)
    return Result(frame, _history([]), {"title": "known only because the cohort is simulated"})


def _history(rows: list[tuple[str, int, str, str, float]]) -> pl.DataFrame:
    names = [History.STAGE, History.EPOCH, History.PART, History.METRIC, History.VALUE]
    types = [pl.String, pl.Int64, pl.String, pl.String, pl.Float64]
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")
