"""Any task as questions that a classifier can be asked: which class, for each of some rows.

Classes are one question. Findings are one of yes or no for each, asked of the patients who are
labelled for it. Survival is one of yes or no as well: each patient is a row of "yes" where the
event came, and a row of "no" that weighs as much as the events that were to be expected of anyone
who was watched so long: Σ_j yes_j / no_j over the intervals j that the patient survived, where
yes_j and no_j count the patients with and without the event in j. Where the odds of the hazard are
in proportion, exp(a_j + f(x)), the odds of "yes" at x are then exp(f(x)) times a constant: a
patient has one number for all intervals, and every classifier that takes weights can find it.
Source: discrete-time hazards, Cox 1972, Sec. 6; events against expected events as what a model of
relative risk is fitted to, LeBlanc & Crowley, Biometrics 1992.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from adacomed.models.small.scores import Asked

Floats = NDArray[np.float64]
HALF = 0.5  # a patient, added to both sides where a rate is taken


@dataclass(frozen=True)
class Question:
    """R rows to learn from; a patient may be in none, one or several of them.

    Attributes:
        who: (R,) the row's patient, increasing.
        y: (R,) int64 class.
        weight: (R,) of the rows; None: all alike.
        strata: (N,) what folds keep in proportion.
    """

    who: NDArray[np.int64]
    y: NDArray[np.int64]
    weight: Floats | None
    strata: NDArray[np.int64]

    def rows(self, patients: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Rows of those of N patients who are marked."""
        return np.flatnonzero(patients[self.who])

    def log_share(self, classes: int) -> Tensor:
        """(K,) log of the classes' share of the rows; a class without any counts as one row."""
        weight = None if self.weight is None else torch.from_numpy(self.weight)
        count = torch.from_numpy(self.y).bincount(weight, minlength=classes)
        total = len(self.y) if weight is None else float(weight.sum())
        return (count.clamp_min(1) / total).log() if total else torch.zeros(classes)


def questions(target: Tensor, asked: Asked) -> list[Question]:
    """What is asked of N patients.

    Args:
        target: (N,) int64 classes, or (N, J) with NaN where nothing was observed (`outcome.py`).
    """
    y = target.numpy()
    if asked == "classes":
        return [Question(np.arange(len(y)), y, None, y)]
    if asked == "survival":
        return [_survival(y.astype(np.float64))]
    return [_finding(column) for column in y.T]


def _finding(column: Floats) -> Question:
    who = np.flatnonzero(~np.isnan(column))
    strata = np.nan_to_num(column).astype(np.int64)
    return Question(who, strata[who], None, strata)


def _survival(target: Floats) -> Question:
    yes, no = target == 1, target == 0
    odds = (yes.sum(axis=0) + HALF) / (no.sum(axis=0) + HALF)
    weight = np.stack([no @ odds, yes.sum(axis=1)], axis=1)  # (N, 2)
    who, y = np.nonzero(weight)
    return Question(who, y, weight[who, y], yes.any(axis=1).astype(np.int64))


def intercepts(z: Floats, target: Floats, base: Sequence[float], *, penalty: float) -> Floats:
    """(J,) that make log-odds base + intercept + z most likely, pulled towards none.

    Args:
        z: (N, J) or (N, 1), what is known of each patient.
        target: (N, J), NaN where nothing was observed.
        penalty: nats for an intercept of 1.
    """
    known, start = ~np.isnan(target), np.asarray(base)
    said = np.nan_to_num(target)

    def loss(a: Floats) -> tuple[float, Floats]:
        odds = start + a + z
        nats = (known * (np.logaddexp(0, odds) - said * odds)).sum() + penalty * (a**2).sum()
        slope = (known * (expit(odds) - said)).sum(axis=0) + 2 * penalty * a
        return nats / len(z), slope / len(z)

    return np.asarray(minimize(loss, np.zeros(len(start)), jac=True, method="L-BFGS-B").x)
