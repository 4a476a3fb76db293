"""Metrics of the probabilities themselves: how wrong they are, and how they are miscalibrated.

Written as those in `discrimination`: R weightings at once, `Scored` → (R,). With K > 2 classes each
class is held against the rest and the mean over the classes taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adacomed.evaluation.scored import Floats, Ints, Scored, ratio

BINS = 15  # as Guo et al., ICML 2017


def brier(s: Scored) -> Floats:
    """Mean of (p − y)²; with K > 2 classes summed over the classes (Brier 1950)."""
    square = ((s.prob - np.eye(s.K)[s.label]) ** 2).sum(axis=1)
    return _mean(s, square / 2 if s.K == 2 else square)


def log_loss(s: Scored) -> Floats:
    """Mean of −ln p of the true class, in nats; p of 0 is taken for 2e-16."""
    true = s.prob[np.arange(len(s.label)), s.label]
    return _mean(s, -np.log(np.clip(true, np.finfo(np.float64).eps, 1)))


def calibration_slope(s: Scored) -> Floats:
    """Slope of the recalibration line on the log-odds: 1 is right, below 1 is too extreme.

    Source: Cox, Biometrika 1958.
    """
    slope: Floats = np.mean([slope for slope, _ in s.recalibrated], axis=0)
    return slope


def calibration_intercept(s: Scored) -> Floats:
    """Intercept of the recalibration line on the log-odds, beside the slope: 0 is right."""
    intercept: Floats = np.mean([intercept for _, intercept in s.recalibrated], axis=0)
    return intercept


def expected_calibration_error(s: Scored) -> Floats:
    """Mean |observed − predicted| over 15 bins of equal width, by their size.

    Source: Naeini et al., AAAI 2015; class by class for K > 2: Kull et al., NeurIPS 2019.
    """
    found = [binned_error(s.label == k, s.prob[:, k], s.weight) for k in s.scored_classes]
    error: Floats = np.mean(found, axis=0)
    return error


def binned_error(
    positive: NDArray[np.bool_] | Ints,
    prob: Floats,
    weight: Floats,
    bins: int = BINS,
) -> Floats:
    """(R,) expected calibration error of (N,) probabilities under (R, N) weights."""
    index = np.minimum((prob * bins).astype(np.int64), bins - 1)
    excess = np.eye(bins)[index] * (prob - positive)[:, None]  # (N, bins)
    return ratio(np.abs(weight @ excess).sum(axis=1), weight.sum(axis=1))


def _mean(s: Scored, value: Floats) -> Floats:
    return ratio(s.weight @ value, s.weight.sum(axis=1))
