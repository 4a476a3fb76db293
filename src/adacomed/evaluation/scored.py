"""Scored samples under many weightings at once: what every metric is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from adacomed.evaluation.logistic import logistic_line

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HALF = 0.5  # the decision threshold of a binary task where none was chosen
EPS = 1e-12  # a probability of exactly 0 or 1 has no log-odds: it is moved in by this much


@dataclass(frozen=True)
class Scored:
    """N scored samples under R weightings, with the sums that the metrics share.

    Attributes:
        label: (N,) class, 0 … K−1.
        prob: (N, K) score of each class.
        decision: (N,) class decided for.
        weight: (R, N), ≥ 0; in a bootstrap, how often each sample was drawn.
        threshold: (N,) of the decision; of no use with K > 2.
    """

    label: Ints
    prob: Floats
    decision: Ints
    weight: Floats
    threshold: Floats

    @classmethod
    def of(
        cls,
        label: ArrayLike,
        prob: ArrayLike,
        threshold: ArrayLike | None = None,
        weight: ArrayLike | None = None,
    ) -> Scored:
        """Check and complete the arrays.

        Args:
            label: (N,) integer class.
            prob: (N,) score of the positive class, or (N, K).
            threshold: binary tasks: positive where prob ≥ threshold; a number or (N,), default
                0.5. With K > 2 the decision is the most probable class and this is not used.
            weight: (R, N), default ones of shape (1, N).
        Raises:
            ValueError: shapes differ, a score is NaN, or a label is not a class 0 … K−1.
        """
        p = np.asarray(prob, dtype=np.float64)
        p = np.stack([1 - p, p], axis=1) if p.ndim == 1 else p
        if p.ndim != 2 or p.shape[1] < 2 or np.shape(label) != p.shape[:1]:
            raise ValueError(
                f"label {np.shape(label)} and prob {np.shape(prob)}: need (N,) and (N,) or (N, K)"
            )
        if np.isnan(p).any():
            missing = int(np.isnan(p).any(axis=1).sum())
            raise ValueError(f"prob is NaN for {missing} of {len(p)} samples")
        y = np.asarray(label).astype(np.int64)
        if not (np.isin(y, np.arange(p.shape[1])) & (y == np.asarray(label))).all():
            raise ValueError(f"label must hold the classes 0 … {p.shape[1] - 1} only")
        cut = np.asarray(HALF if threshold is None else threshold, dtype=np.float64)
        cut = np.broadcast_to(cut, y.shape)
        decision = (p[:, 1] >= cut).astype(np.int64) if p.shape[1] == 2 else p.argmax(axis=1)
        w = np.ones((1, len(y))) if weight is None else np.asarray(weight, dtype=np.float64)
        return cls(y, p, decision, w, cut)

    @property
    def K(self) -> int:
        """Number of classes."""
        return int(self.prob.shape[1])

    @cached_property
    def confusion(self) -> Floats:
        """(R, K, K) weight of the samples by true class (axis 1) and decision (axis 2)."""
        cell = np.eye(self.K**2)[self.label * self.K + self.decision]
        counts: Floats = self.weight @ cell
        return counts.reshape(-1, self.K, self.K)

    @cached_property
    def ranked(self) -> list[tuple[Floats, Floats]]:
        """Weight of positives and of negatives at each distinct score, ascending: two (R, G).

        One pair for a binary task; for K > 2 one per class against the rest.
        """
        return [
            _by_score(self.label == k, self.prob[:, k], self.weight) for k in self.scored_classes
        ]

    @cached_property
    def below(self) -> list[tuple[Floats, Floats]]:
        """`ranked` added up: weight below each distinct score, and last below none: (R, G + 1)."""
        return [(_below(pos), _below(neg)) for pos, neg in self.ranked]

    @property
    def scored_classes(self) -> Sequence[int]:
        """The classes that are held against the rest: 1 of a binary task, else every one."""
        return [1] if self.K == 2 else range(self.K)

    @cached_property
    def recalibrated(self) -> list[tuple[Floats, Floats]]:
        """Slope and intercept (R,) of the recalibration line on the log-odds, as `ranked`."""
        distinct = [np.unique(self.prob[:, k]) for k in self.scored_classes]
        return [
            logistic_line(logit(np.clip(p, EPS, 1 - EPS)), pos, neg)
            for p, (pos, neg) in zip(distinct, self.ranked, strict=True)
        ]


def _by_score(positive: NDArray[np.bool_], score: Floats, weight: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(score, kind="stable")
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.diff(score[order]) > 0
    starts = np.flatnonzero(new)
    w = weight[:, order]
    hit = w * positive[order]
    return np.add.reduceat(hit, starts, axis=1), np.add.reduceat(w - hit, starts, axis=1)


def _below(weight: Floats) -> Floats:
    total = np.zeros((len(weight), weight.shape[1] + 1))
    np.cumsum(weight, axis=1, out=total[:, 1:])
    return total


def ratio(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    out: Floats = np.full(np.broadcast(a, b).shape, np.nan)
    return np.divide(a, b, out=out, where=b != 0)
