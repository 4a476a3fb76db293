"""Choices made on validation: how many epochs, which of two. Never on test.

A few dozen events make a noisy judge, so every choice has an incumbent (the whole schedule; the
plain ensemble), and a challenger replaces it only where the 95 % interval of their paired
difference, on the same validation patients, lies above 0. Who validates: `plan.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from adacomed.evaluation.intervals import percentile
from adacomed.models.batch import Output
from adacomed.training.engine import ALONE, Engine
from adacomed.training.fit import FitResult, Recipe, Snapshot, fit
from adacomed.training.objective import Objective
from adacomed.training.outcome import UNNAMED
from adacomed.training.plan import Part, Plan
from adacomed.training.seed import derive, seed_everything

Tick = Callable[[str], None]
Watch = Callable[[str, str, int, float], None]  # stage, part, epoch, score on validation
Snapshots = Callable[[str, str], Snapshot | None]  # stage, part → where its fit is kept


def positive_score(logits: Tensor, target: Tensor) -> float:
    """AUROC of (N, K) logits against (N,) classes; macro one-vs-rest where K > 2."""
    return UNNAMED.score(UNNAMED.probabilities(logits), target.numpy())


def clearly_better(challenger: Tensor, incumbent: Tensor, plan: Plan) -> bool:
    """Whether the challenger's score is higher, beyond the noise of the validation patients.

    Args:
        challenger, incumbent: (N, J) logits of the plan's validation patients.
    Source: the standard-error rule of Breiman et al. 1984, Sec. 3.4.3, with the 95 % interval of
        the paired difference (400 resamples of the patients) in place of one error.
    """
    seen, outcome = plan.val_seen, plan.outcome
    subjects = np.concatenate([part.val_subjects for part in plan.parts])

    def value(logits: Tensor) -> NDArray[np.float64]:
        return outcome.resampled(plan.prob(logits), seen, subjects, n=400)

    low, _ = percentile(value(challenger) - value(incumbent))
    return bool(low > 0)


@dataclass
class Choice:
    """The outcome of training one candidate on every part.

    Attributes:
        epochs: chosen on validation.
        score: on validation, `Plan.score`.
        output: validation patients' output, in the order of `Plan.val_rows`.
        models: the trained models of the plan's parts, in order: with their best weights
            ("holdout"), or after the whole schedule ("cv", where they were asked for).
    """

    epochs: int
    score: float
    output: Output
    models: list[nn.Module]
    history: list[tuple[int, str, str, float]]


@dataclass(frozen=True)
class Candidate:
    """One method to train, before any of it is trained.

    Attributes:
        stage: its name.
        build: (part, seed) → an untrained model for the part.
        objective: part → what is minimised (class weights are the part's own).
        seed: every part's model starts from a seed derived from it and the part's name.
        tick: called after every epoch.
        watch: called after every epoch that is validated.
        engine: where it is trained.
        snapshots: where its fits are kept.
    """

    stage: str
    build: Callable[[Part, int], nn.Module]
    objective: Callable[[Part], Objective]
    recipe: Recipe
    seed: int
    tick: Callable[[], None]
    watch: Watch = lambda *_: None
    engine: Engine = ALONE
    snapshots: Snapshots = lambda *_: None

    def train(self, part: Part, recipe: Recipe, **watch: Any) -> tuple[nn.Module, FitResult]:
        """A fresh model, trained on a part's training patients."""
        seed = derive(self.seed, part.name)
        seed_everything(seed)
        model = self.build(part, seed)

        def on_epoch(epoch: int, value: float | None) -> None:
            self.tick()
            if value is not None:
                self.watch(self.stage, part.name, epoch, value)

        result = fit(
            model,
            part.train,
            objective=self.objective(part),
            recipe=recipe,
            seed=seed,
            on_epoch=on_epoch,
            engine=self.engine,
            snapshot=self.snapshots(self.stage, part.name),
            **watch,
        )
        return model, result


def choose(candidate: Candidate, plan: Plan, *, keep: bool = False) -> Choice:
    """Train a candidate on every part and choose its epoch count on the validation patients.

    Args:
        keep: keep the models of inner folds too.
    """
    recipe = candidate.recipe
    if plan.members:
        recipe = replace(recipe, patience=None)
    trained = [
        candidate.train(
            part,
            recipe,
            val=part.val,
            score=plan.scorer(part),
            metric=plan.outcome.metric,
            keep_val=bool(plan.members),
        )
        for part in plan.parts
    ]
    results = [result for _, result in trained]
    models = [model for model, _ in trained] if keep or not plan.members else []
    if not plan.members:
        [result] = results
        assert result.val_output is not None
        return _choice(plan, result, result.best_epoch, result.val_output, models)
    pooled = [_pooled(results, epoch) for epoch in range(1, recipe.epochs + 1)]
    curve = np.array([plan.score(output.logits) for output in pooled])
    best = 1 + int(np.argmax(_smooth(curve)))
    if not clearly_better(pooled[best - 1].logits, pooled[-1].logits, plan):
        best = recipe.epochs
    first = results[0]  # one part's curves stand for all
    return _choice(plan, first, best, pooled[best - 1], models)


def _choice(
    plan: Plan, result: FitResult, epoch: int, output: Output, models: list[nn.Module]
) -> Choice:
    return Choice(epoch, plan.score(output.logits), output, models, result.history)


def _pooled(results: list[FitResult], epoch: int) -> Output:
    """Validation patients of all parts after an epoch."""
    return Output.concatenate([r.val_outputs[epoch - 1] for r in results])


def _smooth(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each epoch and its neighbours: one lucky epoch should not be chosen."""
    padded = np.pad(curve, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def finish(candidate: Candidate, choice: Choice, plan: Plan) -> list[nn.Module]:
    """The models to keep: "cv" trains them now, on everyone, one for each member."""
    if not plan.members:
        return choice.models
    recipe = replace(candidate.recipe, patience=None, stop_after=choice.epochs)
    return [candidate.train(part, recipe)[0] for part in plan.members]
