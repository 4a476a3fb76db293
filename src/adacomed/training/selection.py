"""Choices made on validation: how many epochs, which strategy, which threshold. Never on test.

Two regimes. "holdout": one validation set, early stopping, and its best weights are the model.
"cv": inner folds inside the training patients; the epoch count is chosen on their pooled
out-of-fold score, then a fresh model is trained on all of them for that long. Few patients want
"cv": nobody is left out of training (worth +.016 AUROC on 618 patients, where it was measured).

A few dozen events make a noisy judge, so every choice has an incumbent (the whole schedule; the
plain ensemble), and a challenger replaces it only where the 95 % interval of their paired
difference, on the same validation patients, lies above 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adacomed.cohort.split import Fold, holdout, kfold
from adacomed.config import Experiment
from adacomed.evaluation.discrimination import METRICS, auroc
from adacomed.evaluation.intervals import bootstrap, percentile
from adacomed.evaluation.scored import Scored
from adacomed.models.batch import Batch, Output
from adacomed.training.fit import FitResult, Recipe, fit
from adacomed.training.loader import Inputs
from adacomed.training.objective import Objective
from adacomed.training.scaling import FittedInputs, fit_inputs
from adacomed.training.seed import derive, seed_everything

FEW_PATIENTS = 2000  # below this many training patients nobody is held out just to stop in time

Tick = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """Patients to train on and to validate on, with scalers fitted on the former only."""

    name: str
    fitted: FittedInputs
    train: Batch
    val: Batch | None
    val_rows: NDArray[np.int64]
    train_subjects: NDArray[np.str_]
    val_subjects: NDArray[np.str_]


@dataclass(frozen=True)
class Plan:
    """What is trained when: parts with validation patients, and one with all where that is "cv".

    Attributes:
        parts: one ("holdout") or several ("cv").
        members: "cv" only: all training patients, once for each model that will be averaged; the
            parts differ in their name, and so in the seed.
    """

    parts: list[Part]
    members: list[Part]

    @property
    def kept(self) -> Part:
        """The part whose scalers the kept model uses."""
        return (self.members or self.parts)[0]

    @property
    def val_target(self) -> NDArray[np.int64]:
        """Classes of all validation patients, in the order of pooled validation outputs."""
        targets = [p.val.target for p in self.parts if p.val and p.val.target is not None]
        return torch.cat(targets).numpy()

    @property
    def val_rows(self) -> NDArray[np.int64]:
        """Rows of all validation patients, in the order of pooled validation outputs."""
        return np.concatenate([part.val_rows for part in self.parts])


def plan(
    inputs: Inputs, fold: Fold, experiment: Experiment, *, members: int = 1, raw: bool = False
) -> Plan:
    """Lay out validation for one outer fold (see the module's first lines).

    Args:
        members: models that "cv" trains on all training patients and averages.
        raw: the method reads raw inputs.
    Raises:
        InputError: too few patients of a class to validate on.
    """
    settings = experiment.training
    regime = settings.validation
    if regime == "auto":
        few = len(np.unique(inputs.subject_id[fold.train])) < FEW_PATIENTS
        regime = "cv" if fold.val is None and few else "holdout"
    seed = derive(experiment.seed, "validation")
    if regime == "holdout":
        train, val = fold.train, fold.val
        if val is None:
            train, val = holdout(
                inputs.target,
                inputs.subject_id,
                fraction=settings.val_fraction,
                seed=seed,
                rows=fold.train,
            )
        return Plan([_part("holdout", inputs, train, val, experiment, raw)], [])
    rows = fold.train if fold.val is None else np.concatenate([fold.train, fold.val])
    inner = kfold(
        inputs.target[rows],
        inputs.subject_id[rows],
        folds=settings.inner_folds,
        repeats=1,
        seed=seed,
    )
    parts = [
        _part(f"inner {f.fold}", inputs, rows[f.train], rows[f.test], experiment, raw)
        for f in inner
    ]
    everyone = _part("all", inputs, rows, None, experiment, raw)
    return Plan(parts, [replace(everyone, name=f"all {i}") for i in range(members)])


def _part(
    name: str,
    inputs: Inputs,
    train: NDArray[np.int64],
    val: NDArray[np.int64] | None,
    experiment: Experiment,
    raw: bool,
) -> Part:
    settings = experiment.inputs
    fitted = fit_inputs(
        inputs,
        train,
        standardise=settings.standardise,
        pca=settings.pca,
        raw=raw,
        seed=experiment.seed,
    )
    batch = replace(fitted.batch(inputs.take(train)), index=torch.arange(len(train)))
    held_out = None if val is None else fitted.batch(inputs.take(val))
    nobody = np.array([], int)
    rows = nobody if val is None else val
    of = inputs.subject_id
    return Part(name, fitted, batch, held_out, rows, of[train], of[rows])


def positive_score(logits: Tensor, target: Tensor) -> float:
    """AUROC of (N, K) logits against (N,) classes; macro one-vs-rest where K > 2."""
    return float(auroc(target.numpy(), _prob(logits)))


def clearly_better(challenger: Tensor, incumbent: Tensor, plan: Plan) -> bool:
    """Whether the challenger's AUROC is higher, beyond the noise of the validation patients.

    Args:
        challenger, incumbent: (N, K) logits of the plan's validation patients.
    Source: the standard-error rule of Breiman et al. 1984, Sec. 3.4.3, with the 95 % interval of
        the paired difference (400 resamples of the patients) in place of one error.
    """
    y = plan.val_target
    subjects = np.concatenate([part.val_subjects for part in plan.parts])

    def value(prob: NDArray[np.float64]) -> NDArray[np.float64]:
        return bootstrap(
            lambda columns, weight: METRICS["auroc"].function(
                Scored.of(columns["label"], columns["prob"], weight=weight)
            ),
            {"label": y, "prob": prob},
            subjects,
            y,
            n=400,
        )

    low, _ = percentile(value(_prob(challenger)) - value(_prob(incumbent)))
    return bool(low > 0)


def _prob(logits: Tensor) -> NDArray[np.float64]:
    prob = torch.softmax(logits.double(), dim=-1).numpy()
    return prob[:, 1] if prob.shape[1] == 2 else prob


@dataclass
class Choice:
    """The outcome of training one candidate on every part.

    Attributes:
        epochs: chosen on validation.
        score: its validation AUROC.
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
        build: (part, seed) → an untrained model for the part.
        objective: part → what is minimised (class weights are the part's own).
        seed: every part's model starts from a seed derived from it and the part's name.
        tick: called after every epoch.
    """

    build: Callable[[Part, int], nn.Module]
    objective: Callable[[Part], Objective]
    recipe: Recipe
    seed: int
    tick: Callable[[], None]

    def train(self, part: Part, recipe: Recipe, **watch: Any) -> tuple[nn.Module, FitResult]:
        """A fresh model, trained on a part's training patients."""
        seed = derive(self.seed, part.name)
        seed_everything(seed)
        model = self.build(part, seed)
        result = fit(
            model,
            part.train,
            objective=self.objective(part),
            recipe=recipe,
            seed=seed,
            on_epoch=self.tick,
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
        candidate.train(part, recipe, val=part.val, score=positive_score, keep_val=True)
        for part in plan.parts
    ]
    results = [result for _, result in trained]
    models = [model for model, _ in trained] if keep or not plan.members else []
    if not plan.members:
        return _choice(plan, results, results[0].best_epoch, models)
    pooled = [_pooled(results, epoch) for epoch in range(1, recipe.epochs + 1)]
    curve = np.array([auroc(plan.val_target, _prob(output.logits)) for output in pooled])
    best = 1 + int(np.argmax(_smooth(curve)))
    if not clearly_better(pooled[best - 1].logits, pooled[-1].logits, plan):
        best = recipe.epochs
    return _choice(plan, results, best, models)


def _choice(plan: Plan, results: list[FitResult], epoch: int, models: list[nn.Module]) -> Choice:
    output = _pooled(results, epoch)
    score = float(auroc(plan.val_target, _prob(output.logits)))
    history = results[0].history  # one part's curves stand for all
    return Choice(epoch, score, output, models, history)


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
