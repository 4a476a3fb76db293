"""Metrics of decisions: shares of right ones, operating points, and what deciding is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from adacomed.evaluation.scored import Floats, Scored, ratio

ROUNDING = 1e-9  # of a share that is met exactly


def macro(s: Scored, value: Floats) -> Floats:
    """Mean of (R, K) over the classes; NaN where a class has no sample."""
    return np.where((s.confusion.sum(axis=2) > 0).all(axis=1), value.mean(axis=1), np.nan)


def right(s: Scored) -> Floats:
    """(R, K) weight of the samples of each class that were decided right."""
    return np.diagonal(s.confusion, axis1=1, axis2=2)


def share(true: int, *, of: Literal["label", "decision"]) -> Callable[[Scored], Floats]:
    """Share of right ones among those labelled, or decided, `true` (1: positive, 0: negative).

    With K > 2 classes each class is the positive one in turn, and the mean is taken.
    """

    def function(s: Scored) -> Floats:
        hit, side = right(s), s.confusion.sum(axis=2 if of == "label" else 1)
        if not true:
            total = s.confusion.sum(axis=(1, 2))[:, None]
            other = s.confusion.sum(axis=1 if of == "label" else 2)
            hit, side = total - side - other + hit, total - side
        value = ratio(hit, side)
        return value[:, 1] if s.K == 2 else macro(s, value)

    return function


def operating_point(
    of: Literal["sensitivity", "specificity"], at: float
) -> Callable[[Scored], Floats]:
    """The best sensitivity whose specificity is at least `at`, or the reverse.

    Among the cuts that the scores allow, without interpolation; the best cut is sought in every
    resample, so the interval counts its choice. K > 2: mean over the classes, each against the
    rest.
    """

    def function(s: Scored) -> Floats:
        found = [_best(*sides, of, at) for sides in s.below]
        value: Floats = np.mean(found, axis=0)
        return value

    return function


def _best(pos: Floats, neg: Floats, of: str, at: float) -> Floats:
    """(R,) the share `of`, from the (R, G + 1) weight of each class below each possible cut."""
    P, N, rows = pos[:, -1], neg[:, -1], np.arange(len(pos))
    if of == "sensitivity":  # the lowest cut that leaves enough negatives below
        cut = (neg < (at - ROUNDING) * N[:, None]).sum(axis=1)
        gained = ratio(P - pos[rows, cut], P)
    else:  # the highest cut that leaves enough positives above
        cut = (pos <= (1 - at + ROUNDING) * P[:, None]).sum(axis=1) - 1
        gained = ratio(neg[rows, cut], N)
    return np.where((P > 0) & (N > 0), gained, np.nan)


def net_benefit(s: Scored) -> Floats:
    """True positives less false positives at the odds of the threshold, a sample; binary only.

    A false positive costs t/(1 − t) true positives for a sample decided at the threshold t. NaN
    where a threshold is 1 (no number of false positives is worth a true one), and for K > 2.

    Source: Vickers & Elkin, Med. Decis. Making 2006.
    """
    if s.K > 2:
        return np.full(len(s.weight), np.nan)
    odds = ratio(s.threshold, 1 - s.threshold)
    gain = s.decision * np.where(s.label == 1, 1.0, -odds)
    gain = np.where(np.isnan(odds), np.nan, gain)
    return ratio(s.weight @ gain, s.weight.sum(axis=1))


def decision_curve(label: ArrayLike, prob: ArrayLike, thresholds: ArrayLike) -> dict[str, Floats]:
    """Net benefit over thresholds: of the model, of treating everybody, of treating nobody.

    Args:
        label: (N,) 0 or 1.
        prob: (N,) probability of class 1; a patient is treated where prob ≥ threshold.
        thresholds: (T,), in [0, 1).
    Returns:
        Columns of shape (T,): threshold, model, all, none (0 everywhere), in true positives a
        patient. NaN without samples.
    Raises:
        ValueError: a threshold outside [0, 1), more than two classes, or as `Scored.of`.
    Source: Vickers & Elkin, Med. Decis. Making 2006.
    """
    t = np.asarray(thresholds, dtype=np.float64)
    if t.ndim != 1 or not ((t >= 0) & (t < 1)).all():
        raise ValueError("thresholds must be (T,) and lie in [0, 1)")
    s = Scored.of(label, prob)
    if s.K > 2:
        raise ValueError(f"a decision curve needs 2 classes, prob has {s.K}")
    alike = np.ones((1, len(s.label)))
    events = np.full(t.shape, float((s.label == 1).sum()))
    size = np.full(t.shape, float(len(s.label)))
    return {
        "threshold": t,
        "model": net_benefits(s.label, s.prob[:, 1], t, alike)[0],
        "all": ratio(events - (size - events) * t / (1 - t), size),
        "none": np.zeros_like(t),
    }


def net_benefits(
    label: ArrayLike, prob: ArrayLike, thresholds: ArrayLike, weight: Floats
) -> Floats:
    """Net benefit of the model, as `decision_curve` has it, under R weightings of the patients.

    Args:
        label, prob: (N,), as for `decision_curve`.
        thresholds: (T,), in [0, 1).
        weight: (R, N), how often each patient counts.
    Returns:
        (R, T); NaN where nobody counts.
    """
    p, t = np.asarray(prob, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    order = np.argsort(p)
    first = np.searchsorted(p[order], t, side="left")  # who is treated at each threshold, on

    def treated(weight: Floats) -> Floats:
        below = np.zeros((len(weight), len(p) + 1))
        np.cumsum(weight[:, order], axis=1, out=below[:, 1:])
        return below[:, -1:] - below[:, first]

    hit, every = treated(weight * (np.asarray(label) == 1)), treated(weight)
    return ratio(hit - (every - hit) * t / (1 - t), weight.sum(axis=1, keepdims=True))
