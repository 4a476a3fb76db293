"""Logistic regression on one number under many weightings at once: what recalibration needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]

QUICK, LONG = 8, 100  # rounds of plain Newton for all, of a careful one for those left over
ENOUGH = 1e-7  # a step as small as this, on standardised x, is the last: the next would be 1e-14


def logistic_line(x: Floats, pos: Floats, neg: Floats) -> tuple[Floats, Floats]:
    """Maximum-likelihood slope and intercept of P(y = 1) = expit(intercept + slope · x).

    Args:
        x: (G,) ascending values.
        pos: (R, G) weight of the positives at each value, in each of R weightings.
        neg: (R, G) weight of the negatives.
    Returns:
        (R,) slopes and (R,) intercepts; both NaN where there is no maximum: one class only, or
        classes that a cut on x separates (then the slope grows without end).
    """
    slope, intercept = np.full((2, len(pos)), np.nan)
    found = np.flatnonzero(~_separated(x, pos, neg))
    if not len(found):
        return slope, intercept
    whole = pos[found].sum(axis=0), neg[found].sum(axis=0)
    total = (whole[0] + whole[1]).sum()
    mean = float((whole[0] + whole[1]) @ x / total)
    scale = float(np.sqrt((whole[0] + whole[1]) @ (x - mean) ** 2 / total))
    z = (x - mean) / scale
    start = _climb(z, whole[0][None], whole[1][None], np.zeros((1, 2)), LONG, careful=True)[0]
    pos, neg = pos[found], neg[found]
    beta, done = _climb(z, pos, neg, start + _common_step(z, pos, neg, start[0]), QUICK)
    if not done.all():
        first = np.repeat(start, (~done).sum(), axis=0)
        beta[~done] = _climb(z, pos[~done], neg[~done], first, LONG, careful=True)[0]
    slope[found] = beta[:, 1] / scale
    intercept[found] = beta[:, 0] - slope[found] * mean
    return slope, intercept


def _separated(x: Floats, pos: Floats, neg: Floats) -> NDArray[np.bool_]:
    """(R,) whether the likelihood has no maximum: a class is missing, or a cut parts the two."""
    if not len(x):
        return np.ones(len(pos), dtype=bool)
    ends = [
        (x[(w > 0).argmax(axis=1)], x[::-1][(w[:, ::-1] > 0).argmax(axis=1)]) for w in (pos, neg)
    ]
    (low_pos, high_pos), (low_neg, high_neg) = ends
    missing = (pos.sum(axis=1) == 0) | (neg.sum(axis=1) == 0)
    parted: NDArray[np.bool_] = missing | (high_neg <= low_pos) | (high_pos <= low_neg)
    return parted


def _climb(
    x: Floats, pos: Floats, neg: Floats, beta: Floats, rounds: int, *, careful: bool = False
) -> tuple[Floats, NDArray[np.bool_]]:
    """Newton's method on every row; `careful` halves a step until the likelihood rises.

    Returns:
        (R, 2) intercepts and slopes, and (R,) whether the last step was small enough.
    """
    beta, todo = beta.copy(), np.arange(len(beta))
    target, weight = np.stack([pos.sum(axis=1), pos @ x], axis=1), pos + neg
    for _ in range(rounds):
        if not len(todo):
            break
        step = _newton_step(x, weight, target, beta[todo])
        if careful:
            step = _halved(x, weight, target, beta[todo], step)
        beta[todo] += step
        going = ~(np.abs(step).max(axis=1) < ENOUGH * (1 + np.abs(beta[todo]).max(axis=1)))
        if not going.all():
            todo, weight, target = todo[going], weight[going], target[going]
    done = np.ones(len(beta), dtype=bool)
    done[todo] = False
    return beta, done


def _newton_step(x: Floats, weight: Floats, target: Floats, beta: Floats) -> Floats:
    """(R, 2) information⁻¹ · score, each row at its own beta."""
    powers = np.stack([np.ones_like(x), x, x**2], axis=1)
    with np.errstate(all="ignore"):  # a row that runs away here is taken up again, carefully
        p = expit(beta[:, :1] + beta[:, 1:] * x)
        mean = weight * p
        return _solved(target - mean @ powers[:, :2], (mean * (1 - p)) @ powers)


def _common_step(x: Floats, pos: Floats, neg: Floats, beta: Floats) -> Floats:
    """`_newton_step` from one beta (2,) for all rows: matrix products only, so nearly free."""
    powers = np.stack([np.ones_like(x), x, x**2], axis=1)
    p, weight = expit(beta[0] + beta[1] * x)[:, None], pos + neg
    with np.errstate(all="ignore"):
        score = pos @ powers[:, :2] - weight @ (p * powers[:, :2])
        return _solved(score, weight @ (p * (1 - p) * powers))


def _solved(score: Floats, moments: Floats) -> Floats:
    """Solve the 2 × 2 systems whose matrix is [[m₀, m₁], [m₁, m₂]]."""
    a, b, c = moments.T
    a, c = a * (1 + 1e-12) + 1e-300, c * (1 + 1e-12) + 1e-300  # where all p are 0 or 1
    step = np.stack([c * score[:, 0] - b * score[:, 1], a * score[:, 1] - b * score[:, 0]], axis=1)
    solved: Floats = step / (a * c - b**2)[:, None]
    return solved


def _halved(x: Floats, weight: Floats, target: Floats, beta: Floats, step: Floats) -> Floats:
    """The step, halved in each row until the likelihood does not fall."""

    def likelihood(beta: Floats) -> Floats:
        z = beta[:, :1] + beta[:, 1:] * x
        value: Floats = (beta * target).sum(axis=1) - (weight * np.logaddexp(0, z)).sum(axis=1)
        return value

    step, before = np.nan_to_num(step, nan=0.0, posinf=1.0, neginf=-1.0), likelihood(beta)
    for _ in range(60):
        worse = likelihood(beta + step) < before
        worse &= np.abs(step).max(axis=1) > ENOUGH
        if not worse.any():
            break
        step[worse] /= 2
    return step
