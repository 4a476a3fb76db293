"""Calibration of a binary risk: whether a predicted 30 % happens in 30 % of the patients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from adacomed.evaluation.intervals import wilson
from adacomed.evaluation.probability import BINS, binned_error
from adacomed.evaluation.scored import Floats, Ints, Scored


class Recalibration(NamedTuple):
    """logit P(y = 1) = intercept + slope · logit(prob); perfect: slope 1, intercept 0."""

    slope: float
    intercept: float


def calibration_curve(label: ArrayLike, prob: ArrayLike, bins: int = 10) -> dict[str, Floats]:
    """Observed frequency against mean predicted probability in bins of about equal size.

    Args:
        label: (N,) 0 or 1.
        prob: (N,) probability of class 1, in [0, 1].
        bins: quantile bins; equal probabilities stay together, so there may be fewer.
    Returns:
        Columns of shape (bins,), ascending: `predicted` (mean), `observed` (share of events), its
        95 % Wilson interval `low` and `high`, `n` (samples) and `events`.
    Raises:
        ValueError: shapes differ, a label is not 0 or 1, or a probability is not in [0, 1].
    """
    y, p = _checked(label, prob)
    if not len(p):
        return {k: np.empty(0) for k in ("predicted", "observed", "low", "high", "n", "events")}
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)))
    n, total, events = _binned(np.searchsorted(edges[1:-1], p, side="right"), y, p)
    low, high = wilson(events, n)
    return {
        "predicted": total / n,
        "observed": events / n,
        "low": low,
        "high": high,
        "n": n,
        "events": events,
    }


def ece(label: ArrayLike, prob: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: mean |observed − predicted| over equal-width bins, by size.

    Args:
        label: (N,) 0 or 1.
        prob: (N,) probability of class 1, in [0, 1].
    Returns:
        In [0, 1]; biased upwards in small samples. NaN without samples.
    Raises:
        ValueError: as `calibration_curve`.
    Source: Naeini et al., AAAI 2015; 15 bins as Guo et al., ICML 2017.
    """
    y, p = _checked(label, prob)
    return float(binned_error(y, p, np.ones((1, len(y))), bins)[0])


def slope_intercept(label: ArrayLike, prob: ArrayLike) -> Recalibration:
    """Logistic recalibration: maximum-likelihood slope and intercept on the log-odds.

    Slope < 1: predictions too extreme. Both NaN where there is no estimate: one class only, one
    probability only, or classes that the probability separates completely.

    Args:
        label: (N,) 0 or 1.
        prob: (N,) probability of class 1; 0 and 1 are moved in by 1e-12.
    Raises:
        ValueError: as `calibration_curve`.
    Source: Cox, Biometrika 1958.
    """
    y, p = _checked(label, prob)
    [(slope, intercept)] = Scored.of(y, p).recalibrated
    return Recalibration(float(slope[0]), float(intercept[0]))


def _binned(index: Ints, y: Ints, p: Floats) -> tuple[Floats, Floats, Floats]:
    """Samples, sum of probabilities and events of every bin that has a sample."""
    sums: Floats = np.stack([np.bincount(index, w) for w in (np.ones(len(p)), p, y)])
    n, total, events = sums[:, sums[0] > 0]
    return n, total, events


def _checked(label: ArrayLike, prob: ArrayLike) -> tuple[Ints, Floats]:
    y, p = np.asarray(label), np.asarray(prob, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(f"label is {y.shape} and prob {p.shape}, expected (N,) both")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("label must be 0 or 1")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("prob must lie in [0, 1]")
    return y.astype(np.int64), p
