"""Survival under censoring: who outlives whom, Kaplan–Meier, log-rank, what is known by a time.

A patient is (time, event): the event happened at `time`, or the patient was last seen without it.
A higher risk means an earlier event, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, norm

from adacomed.evaluation.intervals import LEVEL
from adacomed.evaluation.scored import Floats, ratio

BLOCK = 4_000_000  # pairs held at a time


def concordance(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, weight: ArrayLike | None = None
) -> Floats:
    """Harrell's C-index, (R,): of pairs whose order is known, how often the riskier one was first.

    A pair counts where one had the event and the other was seen later, or was last seen at that
    very time without it. Equal risks count half; two events at one time have no order.

    Args:
        time: (N,), any unit.
        event: (N,) bool, or 0 and 1.
        risk: (N,), any scale.
        weight: (R, N), ≥ 0, as in a bootstrap; default ones of shape (1, N).
    Returns:
        NaN where no pair has a known order.
    Raises:
        ValueError: shapes differ, or a time or a risk is NaN.
    Source: Harrell et al., JAMA 1982.

    >>> concordance([1, 2, 3], [1, 1, 0], [0.9, 0.9, 0.1]).tolist()
    [0.8333333333333334]
    """
    t, e, r = _checked(time, event, risk)
    w = np.ones((1, len(t))) if weight is None else np.asarray(weight, dtype=np.float64)
    cases = np.flatnonzero(e)
    size = max(1, BLOCK // max(1, len(t)))
    right, pairs = np.zeros(len(w)), np.zeros(len(w))
    for start in range(0, len(cases), size):
        case = cases[start : start + size]
        first, mine = t[case, None], r[case, None]
        known = (t > first) | ((t == first) & ~e)  # (cases, N)
        score = known * ((mine > r) + 0.5 * (mine == r))
        right += (w[:, case] * (w @ score.T)).sum(axis=1)
        pairs += (w[:, case] * (w @ known.T.astype(np.float64))).sum(axis=1)
    return ratio(right, pairs)


def _checked(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    t, r = np.asarray(time, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    e = np.asarray(event).astype(bool)
    if not t.shape == e.shape == r.shape or t.ndim != 1:
        raise ValueError(f"need (N,) each; got {t.shape}, {e.shape} and {r.shape}")
    if np.isnan(t).any() or np.isnan(r).any():
        raise ValueError("a time or a risk is NaN")
    return t, e, r


def status_at(time: ArrayLike, event: ArrayLike, horizon: float) -> Floats:
    """Whether the event had happened by `horizon`, (N,): 1, 0, or NaN where it was not seen.

    >>> status_at([2, 2, 9, 5], [1, 0, 1, 0], 5.0).tolist()
    [1.0, nan, 0.0, 0.0]
    """
    t, e = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    by_then = np.where(e & (t <= horizon), 1.0, np.nan)
    return np.where((t > horizon) | ((t == horizon) & ~e), 0.0, by_then)


@dataclass(frozen=True)
class KaplanMeier:
    """A survival curve: it steps at each of T distinct times and is 1 before the first.

    Attributes:
        time: (T,), increasing.
        at_risk, events: (T,), patients still seen just before each time, and events at it.
        survival, low, high: (T,), with Greenwood's variance on the log(−log) scale. Where nobody
            is left without the event the scale ends: low is 0 and high what it was before.
    """

    time: Floats
    at_risk: Floats
    events: Floats
    survival: Floats
    low: Floats
    high: Floats

    def at(self, when: float) -> tuple[float, float, float]:
        """Survival at a time, with its limits; after the last patient was seen, the last ones."""
        i = int(np.searchsorted(self.time, when, side="right")) - 1
        if i < 0:
            return 1.0, 1.0, 1.0
        return float(self.survival[i]), float(self.low[i]), float(self.high[i])


def kaplan_meier(time: ArrayLike, event: ArrayLike, level: float = LEVEL) -> KaplanMeier:
    """The curve of N ≥ 1 patients.

    Args:
        time: (N,), any unit; event: (N,) bool, or 0 and 1.
    Raises:
        ValueError: no patient, shapes differ, or a time is NaN.
    Source: Kaplan & Meier, JASA 1958; Kalbfleisch & Prentice 1980 (the band).
    """
    t, e, _ = _checked(time, event, np.zeros(np.shape(time)))
    if not len(t):
        raise ValueError("a survival curve needs a patient")
    when, at_risk, events = _table(t, e)
    survival = np.asarray(np.cumprod(1 - events / at_risk), dtype=np.float64)
    alive = at_risk - events
    greenwood = np.cumsum(ratio(events, at_risk * np.where(alive > 0, alive, np.nan)))
    inside = (survival > 0) & (survival < 1)
    log = np.log(np.where(inside, survival, 0.5))
    half = norm.isf((1 - level) / 2) * np.sqrt(np.where(inside, greenwood, 0.0)) / log
    low = np.where(inside, np.exp(log * np.exp(-half)), survival)
    high: Floats = np.where(inside, np.exp(log * np.exp(half)), survival)
    if survival[-1] == 0:
        ended = int(np.argmax(survival == 0))
        high[ended:] = high[ended - 1] if ended else 1.0
    return KaplanMeier(when, at_risk, events, survival, low, high)


def _table(t: Floats, e: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Distinct times, patients at risk just before each, events at each."""
    when, row = np.unique(t, return_inverse=True)
    seen = np.bincount(row, minlength=len(when)).astype(np.float64)
    at_risk: Floats = seen[::-1].cumsum()[::-1]
    events = np.bincount(row, weights=e, minlength=len(when)).astype(np.float64)
    return when, at_risk, events


class LogRank(NamedTuple):
    """Of G groups: the statistic, its degrees of freedom (G − 1), and p."""

    statistic: float
    df: int
    p: float


def log_rank(time: ArrayLike, event: ArrayLike, group: ArrayLike) -> LogRank:
    """Whether G groups have one survival curve.

    Args:
        time: (N,); event: (N,); group: (N,), G distinct values.
    Returns:
        NaN with one group, or where there is no event to tell them apart.
    Source: Mantel, Cancer Chemother. Rep. 1966; Peto & Peto, J. R. Stat. Soc. A 1972.
    """
    t, e, _ = _checked(time, event, np.zeros(np.shape(time)))
    names, code = np.unique(np.asarray(group), return_inverse=True)
    when, row = np.unique(t, return_inverse=True)
    G, T = len(names), len(when)
    cell = (code * T + row).astype(np.int64)
    seen = np.bincount(cell, minlength=G * T).reshape(G, T)
    events = np.bincount(cell, weights=e, minlength=G * T).reshape(G, T)
    at_risk = seen[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float64)
    d, n = events.sum(axis=0), at_risk.sum(axis=0)
    share = at_risk / n  # (G, T)
    apart = (events - d * share).sum(axis=1)
    spread = d * ratio(n - d, np.where(n > 1, n - 1, np.nan))
    spread = np.where(n > 1, spread, 0.0)
    covariance = np.diag((spread * share).sum(axis=1)) - (spread * share) @ share.T
    if G < 2 or not e.any():
        return LogRank(float("nan"), max(G - 1, 0), float("nan"))
    solved = np.linalg.pinv(covariance[1:, 1:]) @ apart[1:]
    statistic = float(apart[1:] @ solved)
    return LogRank(statistic, G - 1, float(chi2.sf(statistic, G - 1)))
