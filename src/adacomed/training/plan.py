"""Who is trained on and who validates, inside one outer fold. Test patients have no part in it.

Two regimes. "holdout": one validation set, early stopping, and its best weights are the model.
"cv": inner folds inside the training patients; the epoch count is chosen on their pooled
out-of-fold score, then a fresh model is trained on all of them for that long. Few patients want
"cv": nobody is left out of training (worth +.016 AUROC on 618 patients, where it was measured).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adacomed.cohort.split import Fold, holdout, kfold
from adacomed.config import Experiment
from adacomed.training.engine import Patients
from adacomed.training.loader import Inputs
from adacomed.training.on_disk import hand_back
from adacomed.training.outcome import UNNAMED, Outcome, Truth
from adacomed.training.scaling import FittedInputs, fit_inputs
from adacomed.training.seed import derive
from adacomed.training.streamed import Streamed, patients

FEW_PATIENTS = 2000  # below this many training patients nobody is held out just to stop in time


@dataclass(frozen=True)
class Part:
    """Patients to train on and to validate on, with scalers fitted on the former only."""

    name: str
    fitted: FittedInputs
    train: Patients
    val: Patients | None
    train_rows: NDArray[np.int64]
    val_rows: NDArray[np.int64]
    inputs: Inputs  # of every sample of the cohort

    @property
    def train_subjects(self) -> NDArray[Any]:
        """Subject of every training patient's sample, by name or number."""
        return self.inputs.subjects[self.train_rows]

    @property
    def val_subjects(self) -> NDArray[Any]:
        """Subject of every validation patient's sample, by name or number."""
        return self.inputs.subjects[self.val_rows]


@dataclass(frozen=True)
class Plan:
    """What is trained when: parts with validation patients, and one with all where that is "cv".

    Attributes:
        parts: one ("holdout") or several ("cv").
        members: "cv" only: all training patients, once for each model that will be averaged; the
            parts differ in their name, and so in the seed.
        outcome: what is asked. Its intervals of time are those of everyone here, so that all parts
            say the same; test patients have no part in them.
        seen: (N, …) of all samples of the cohort, by which validation patients are judged; None:
            their target says it all.
    """

    parts: list[Part]
    members: list[Part]
    outcome: Outcome = UNNAMED
    seen: Truth | None = None

    @property
    def streamed(self) -> bool:
        """Whether patients are read from disk, batch by batch."""
        return isinstance(self.kept.train, Streamed)

    @property
    def kept(self) -> Part:
        """The part whose scalers the kept model uses."""
        return (self.members or self.parts)[0]

    @property
    def val_target(self) -> NDArray[np.int64]:
        """Target of all validation patients, in the order of pooled validation outputs."""
        targets = [p.val.target for p in self.parts if p.val and p.val.target is not None]
        return torch.cat(targets).numpy()

    @property
    def val_rows(self) -> NDArray[np.int64]:
        """Rows of all validation patients, in the order of pooled validation outputs."""
        return np.concatenate([part.val_rows for part in self.parts])

    @property
    def val_seen(self) -> Truth:
        """What was seen of all validation patients, in the order of pooled validation outputs."""
        return self.val_target if self.seen is None else self.seen[self.val_rows]

    def prob(self, logits: Tensor) -> NDArray[np.float64]:
        """Probabilities of logits (N, J) as they come out of a model, before any correction."""
        base = self.outcome.base
        return self.outcome.probabilities(logits + torch.tensor(base) if base else logits)

    def score(self, logits: Tensor) -> float:
        """What choices are made by: AUROC, its mean over findings, or the C-index, of (N, J)."""
        return self.outcome.score(self.prob(logits), self.val_seen)

    def scorer(self, part: Part) -> Callable[[Tensor, Tensor], float]:
        """The same of one part's validation patients: (logits, target) → value."""
        outcome, seen = self.outcome, self.seen

        def score(logits: Tensor, target: Tensor) -> float:
            truth = target.numpy() if seen is None else seen[part.val_rows]
            return outcome.score(self.prob(logits), truth)

        return score


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
        few = len(np.unique(inputs.subjects[fold.train])) < FEW_PATIENTS
        regime = "cv" if fold.val is None and few else "holdout"
    seed = derive(experiment.seed, "validation")
    if regime == "holdout":
        train, val = fold.train, fold.val
        if val is None:
            train, val = holdout(
                inputs.target,
                inputs.subjects,
                fraction=settings.val_fraction,
                seed=seed,
                rows=fold.train,
            )
        outcome = inputs.outcome.fit(inputs.seen[train])
        part = _part("holdout", inputs, train, val, experiment, outcome, raw)
        if inputs.streamed:
            hand_back()
        return Plan([part], [], outcome, inputs.truth)
    rows = fold.train if fold.val is None else np.concatenate([fold.train, fold.val])
    inner = kfold(
        inputs.target[rows],
        inputs.subjects[rows],
        folds=settings.inner_folds,
        repeats=1,
        seed=seed,
    )
    outcome = inputs.outcome.fit(inputs.seen[rows])
    parts = [
        _part(f"inner {f.fold}", inputs, rows[f.train], rows[f.test], experiment, outcome, raw)
        for f in inner
    ]
    everyone = _part("all", inputs, rows, None, experiment, outcome, raw)
    copies = [replace(everyone, name=f"all {i}") for i in range(members)]
    return Plan(parts, copies, outcome, inputs.truth)


def _part(
    name: str,
    inputs: Inputs,
    train: NDArray[np.int64],
    val: NDArray[np.int64] | None,
    experiment: Experiment,
    outcome: Outcome,
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
    nobody = np.array([], np.int64)
    held_out = None if val is None else patients(inputs, fitted, val, outcome)
    return Part(
        name,
        fitted,
        patients(inputs, fitted, train, outcome, numbered=True),
        held_out,
        train,
        nobody if val is None else val,
        inputs,
    )
