"""Other questions about the simulated patients of `simulated.py`: several findings, or survival.

Drawn from the same severity u and signs a, b, so that the same views tell of them:

- findings: P(infiltrate) = sigmoid(−.5 + 1.5 a), P(effusion) = sigmoid(−1.4 + 1.2 u + 1.2 a b),
  P(nodule) = sigmoid(−2 + 1.2 u + .8 b), each drawn of its own; 15 % of the effusions are not
  labelled, at random.
- survival: an event at an exponential time of rate exp(−3.4 + .8 u + .5 a b) a month; a patient is
  lost at a uniform time between 6 and 60 months.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from adacomed.schema import TaskCard

Floats = NDArray[np.float64]
FINDINGS = ("infiltrate", "effusion", "nodule")
UNLABELLED = 0.15
HORIZON = 24.0
FIRST, LAST = 6.0, 60.0  # months between which a patient is lost
MARK = 7  # apart from the stream of random numbers that the patients themselves came from


class Drawn(NamedTuple):
    """What happened to N patients.

    Attributes:
        card: of the task.
        columns: of the cohort's table.
        label: (N,) that a split keeps in proportion.
        truth: findings: (N, J), P(finding); survival: (N,), the rate.
    """

    card: TaskCard
    columns: dict[str, pl.Series]
    label: NDArray[np.int64]
    truth: Floats


def findings(severity: Floats, a: Floats, b: Floats, seed: int) -> Drawn:
    """Three findings of each patient, (N,) severities and signs."""
    rng = np.random.default_rng([seed, MARK])
    u = severity
    log_odds = (-0.5 + 1.5 * a, -1.4 + 1.2 * u + 1.2 * a * b, -2 + 1.2 * u + 0.8 * b)
    chance = expit(np.stack(log_odds, axis=1))
    found = (rng.random(chance.shape) < chance).astype(np.int64)
    columns = {name: pl.Series(found[:, j]) for j, name in enumerate(FINDINGS)}
    unseen = pl.Series(rng.random(len(u)) < UNLABELLED)
    columns["effusion"] = columns["effusion"].set(unseen, None)
    card = TaskCard(findings=list(FINDINGS), description="each drawn of its own")
    return Drawn(card, columns, found[:, FINDINGS.index("nodule")], chance)


def survival(severity: Floats, a: Floats, b: Floats, seed: int) -> Drawn:
    """When an event came to each patient, or when the patient was lost, in months."""
    rng = np.random.default_rng([seed, MARK])
    rate = np.exp(-3.4 + 0.8 * severity + 0.5 * a * b)
    happens, lost = rng.exponential(1 / rate), rng.uniform(FIRST, LAST, len(rate))
    died = happens <= lost
    columns = {
        "died": pl.Series(np.where(died, "yes", "no")),
        "months": pl.Series(np.minimum(happens, lost)),
    }
    card = TaskCard(
        column="died",
        positive="yes",
        negative="no",
        time="months",
        horizon=HORIZON,
        unit="months",
        description="an exponential time, censored between 6 and 60 months",
    )
    return Drawn(card, columns, died.astype(np.int64), rate)


TASKS = {"findings": findings, "survival": survival}
