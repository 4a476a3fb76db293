"""Scores of survival predictions under censoring, by inverse probability of being seen.

A patient who was lost tells nothing of what came after; those who were seen that long stand for the
lost ones too. G(t), the chance of not being lost by t, is Kaplan and Meier's with events and losses
exchanged, from the very patients that are scored, anew in every resample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.scored import Floats, Scored, ratio

GRID = 50  # times at which a Brier score is taken for its integral


def kept_in_sight(time: Floats, event: NDArray[np.bool_], weight: Floats, when: Floats) -> Floats:
    """G at some times, (R, T): the weighted chance of not being lost by then.

    At one time events come before losses: who had the event then could not be lost any more.

    Args:
        time: (N,); event: (N,) bool; weight: (R, N).
        when: (T,).
    """
    distinct, row = np.unique(time, return_inverse=True)
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(len(distinct)))
    seen = np.add.reduceat(weight[:, order], starts, axis=1)
    events = np.add.reduceat((weight * event)[:, order], starts, axis=1)
    at_risk = seen[:, ::-1].cumsum(axis=1)[:, ::-1]
    lost = np.nan_to_num(ratio(seen - events, at_risk - events))
    G = np.concatenate([np.ones((len(weight), 1)), np.cumprod(1 - lost, axis=1)], axis=1)
    return G[:, np.searchsorted(distinct, when, side="right")]


def brier(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    when: ArrayLike,
    weight: ArrayLike | None = None,
) -> Floats:
    """Brier score of P(no event by t), (R, T), at T times.

    Args:
        time: (N,); event: (N,) bool, or 0 and 1.
        survival: (N, T), predicted.
        when: (T,).
        weight: (R, N), default ones of shape (1, N).
    Returns:
        NaN at a time by which everybody had been lost.
    Source: Graf et al., Stat. Med. 1999.
    """
    t, e = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    S, at = np.asarray(survival, dtype=np.float64), np.asarray(when, dtype=np.float64)
    w = np.ones((1, len(t))) if weight is None else np.asarray(weight, dtype=np.float64)
    G_own, G_at = kept_in_sight(t, e, w, t), kept_in_sight(t, e, w, at)
    case = (t[:, None] <= at) & e[:, None]  # (N, T)
    control = t[:, None] > at
    # who had the event was in sight then, so that G is above 0 wherever this weight is used
    stands_for = np.nan_to_num(ratio(w, G_own))
    of_cases = stands_for @ (S**2 * case)
    of_controls = w @ ((1 - S) ** 2 * control)
    total = of_cases + np.where(control.any(axis=0), ratio(of_controls, G_at), 0.0)
    return ratio(total, np.broadcast_to(w.sum(axis=1, keepdims=True), total.shape))


def integrated_brier(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    when: ArrayLike,
    weight: ArrayLike | None = None,
) -> Floats:
    """Mean of `brier` over the time between the first and the last of `when`, (R,).

    Args:
        when: (T,), T ≥ 2, increasing; otherwise as `brier`.
    Source: Graf et al., Stat. Med. 1999; trapezoidal rule.
    """
    at = np.asarray(when, dtype=np.float64)
    score = brier(time, event, survival, at, weight)
    mean: Floats = np.trapezoid(score, at, axis=1) / (at[-1] - at[0])
    return mean


def auroc_at(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    horizon: float,
    weight: ArrayLike | None = None,
) -> Floats:
    """AUROC of the event by `horizon` against none by then, (R,): cumulative, dynamic.

    Args:
        time: (N,); event: (N,) bool, or 0 and 1; risk: (N,), any scale.
        weight: (R, N), default ones of shape (1, N).
    Returns:
        NaN where nobody had the event by then, or nobody was seen longer.
    Source: Uno et al., JASA 2007; Hung & Chiang, Can. J. Stat. 2010.
    """
    t, e = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    r = np.asarray(risk, dtype=np.float64)
    w = np.ones((1, len(t))) if weight is None else np.asarray(weight, dtype=np.float64)
    case, control = e & (t <= horizon), t > horizon
    stands_for = np.where(case, np.nan_to_num(ratio(w, kept_in_sight(t, e, w, t))), w)
    known = case | control
    if not known.any():
        return np.full(len(w), np.nan)
    scored = Scored.of(case[known].astype(int), _two(r[known]), weight=stands_for[:, known])
    return METRICS["auroc"].function(scored)


def _two(risk: Floats) -> Floats:
    """(N, 2): a score of both sides, on any scale."""
    return np.stack([-risk, risk], axis=1)


def interpolated(survival: ArrayLike, ends: ArrayLike, when: ArrayLike) -> Floats:
    """P(no event by t) between the ends of intervals, (N, T): straight from one end to the next.

    Args:
        survival: (N, J) by the end of each interval.
        ends: (J,), increasing, above 0; at time 0 everyone is without the event.
        when: (T,); after the last end the last value stays.
    """
    S = np.asarray(survival, dtype=np.float64)
    x = np.concatenate([[0.0], np.asarray(ends, dtype=np.float64)])
    y = np.concatenate([np.ones((len(S), 1)), S], axis=1)
    at = np.clip(np.asarray(when, dtype=np.float64), 0.0, x[-1])
    right = np.clip(np.searchsorted(x, at, side="left"), 1, len(x) - 1)
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    between: Floats = y[:, right - 1] * (1 - share) + y[:, right] * share
    return between
