"""One trial: AdaCoMed under other settings, judged on validation patients. Test patients: never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.split import Fold
from adacomed.config import Experiment
from adacomed.training.loader import Inputs
from adacomed.training.methods import Problem, Trainers
from adacomed.training.names import reads_raw
from adacomed.training.pretraining import SmallModels
from adacomed.training.recipes import resolve_preset
from adacomed.training.selection import Tick

METHOD = "adacomed"
Report = Callable[[int, float], bool]  # (step, standing) → whether it is worth going on


class BehindError(Exception):
    """A trial that is stopped early: others stood better at the same step."""


class Judged(NamedTuple):
    """What a trial comes to.

    Attributes:
        score: on validation, of the outcome's metric; higher is better.
        prob: (N, J) of the validation patients, out of fold.
        rows: (N,) of the problem's inputs, increasing.
    """

    score: float
    prob: NDArray[np.float64]
    rows: NDArray[np.int64]


@dataclass
class Standing:
    """How a trial stands while it trains, in one number that only gets surer.

    "holdout": the best epoch so far, which is the one that would be kept; a step is an epoch.
    "cv": the mean over the inner folds that are finished; a step is a fold.

    Attributes:
        report: told of every step; False stops the trial, unless it was the last step.
        epochs: of the schedule.
        folds: inner folds; 0: "holdout".
    """

    report: Report
    epochs: int
    folds: int = 0
    _best: float = -np.inf
    _finished: list[float] = field(default_factory=list)

    def __call__(self, stage: str, part: str, epoch: int, value: float) -> None:
        """An epoch of a stage was validated.

        Raises:
            BehindError: it is not worth going on.
        """
        if stage == "small" or not np.isfinite(value):
            return  # not of the fusion, or a fold with one class only
        if not self.folds:
            self._best = max(self._best, value)
            step, standing = epoch, self._best
        elif epoch == self.epochs:
            self._finished.append(value)
            step, standing = len(self._finished), float(np.mean(self._finished))
        else:
            return
        if not self.report(step, standing) and step < (self.folds or self.epochs):
            raise BehindError


@dataclass
class Objective:
    """Settings → validation score, over and over, on the training patients of one fold.

    Args:
        experiment: where the search starts.
        inputs, fold, task: as `adacomed train` has them; the fold's test patients are taken away
            here, so that no trial can read them.
        seed: of the training.
    """

    experiment: Experiment
    inputs: Inputs
    fold: Fold
    task: str
    seed: int
    _smalls: dict[str, SmallModels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fold = replace(self.fold, test=np.array([], dtype=np.int64))

    def __call__(
        self, experiment: Experiment, report: Report, tick: Tick = lambda stage: None
    ) -> Judged:
        """Train on the inner folds, or on what the hold-out leaves, and judge.

        Raises:
            BehindError: `report` said so.
            FloatingPointError: the training diverged.
            InputError: settings that do not go together.
        """
        # no score depends on how many models are averaged in the end, nor on what is calibrated
        training = experiment.training.model_copy(update={"members": 1})
        evidence = experiment.evidence.model_copy(update={"calibration": "none"})
        settings = experiment.model_copy(update={"training": training, "evidence": evidence})
        preset = resolve_preset(settings)
        watch, known = Standing(report, preset.epochs), set(self._smalls)
        shared = Trainers(smalls=self._smalls)
        problem = Problem(settings, self.inputs, self.fold, self.task, self.seed, shared, watch)
        trainer = problem.trainer(settings, raw=reads_raw(METHOD, settings))
        trainer.tick = tick
        plan = trainer.plan
        watch.folds = len(plan.parts) if plan.members else 0
        output = trainer.adacomed(preset.strategy).val_output
        if set(self._smalls) - known:  # of another step size: nobody comes back to the old ones
            for key in known:
                del self._smalls[key]
        # the prior is corrected already, so what `Plan.score` would add must not be added again
        prob = plan.outcome.probabilities(output.logits)
        score = plan.outcome.score(prob, plan.val_seen)
        order = np.argsort(plan.val_rows)
        return Judged(score, prob[order], plan.val_rows[order])
