"""The metrics of one set of predictions: the paper's six and those that clinical papers report.

All are written for R weightings of the same N samples at once, shape (R, N) → (R,), so that a
bootstrap is one pass over arrays; a plain metric is the case R = 1 with every weight 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HALF = 0.5  # the decision threshold of a binary task where none was chosen


@dataclass(frozen=True)
class Scored:
    """N scored samples under R weightings, with the sums that the metrics share.

    Attributes:
        label: (N,) class, 0 … K−1.
        prob: (N, K) score of each class.
        decision: (N,) class decided for.
        weight: (R, N), ≥ 0; in a bootstrap, how often each sample was drawn.
    """

    label: Ints
    prob: Floats
    decision: Ints
    weight: Floats

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
            raise ValueError(f"label {np.shape(label)} and prob {np.shape(prob)}: need (N,) and (N,) or (N, K)")  # fmt: skip
        if np.isnan(p).any():
            raise ValueError(f"prob is NaN for {int(np.isnan(p).any(axis=1).sum())} of {len(p)} samples")  # fmt: skip
        y = np.asarray(label).astype(np.int64)
        if not (np.isin(y, np.arange(p.shape[1])) & (y == np.asarray(label))).all():
            raise ValueError(f"label must hold the classes 0 … {p.shape[1] - 1} only")
        cut = HALF if threshold is None else threshold
        decision = (p[:, 1] >= cut).astype(np.int64) if p.shape[1] == 2 else p.argmax(axis=1)
        w = np.ones((1, len(y))) if weight is None else np.asarray(weight, dtype=np.float64)
        return cls(y, p, decision, w)

    @property
    def K(self) -> int:  # noqa: N802
        """Number of classes."""
        return self.prob.shape[1]

    @cached_property
    def confusion(self) -> Floats:
        """(R, K, K) weight of the samples by true class (axis 1) and decision (axis 2)."""
        cell = np.eye(self.K**2)[self.label * self.K + self.decision]
        return (self.weight @ cell).reshape(-1, self.K, self.K)

    @cached_property
    def ranked(self) -> list[tuple[Floats, Floats]]:
        """Weight of positives and of negatives at each distinct score, ascending: two (R, G).

        One pair for a binary task; for K > 2 one per class against the rest.
        """
        classes = [1] if self.K == 2 else range(self.K)
        return [_by_score(self.label == k, self.prob[:, k], self.weight) for k in classes]


def _by_score(positive: NDArray[np.bool_], score: Floats, weight: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(score, kind="stable")
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.diff(score[order]) > 0
    starts = np.flatnonzero(new)
    w = weight[:, order]
    hit = w * positive[order]
    return np.add.reduceat(hit, starts, axis=1), np.add.reduceat(w - hit, starts, axis=1)


def _ratio(a: Floats, b: Floats) -> Floats:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b != 0)


# ---- ranking ------------------------------------------------------------------------------------
def _area(pos: Floats, neg: Floats) -> Floats:
    below = np.cumsum(neg, axis=1) - neg / 2  # a tie counts half
    return _ratio((pos * below).sum(axis=1), pos.sum(axis=1) * neg.sum(axis=1))


def _average_precision(pos: Floats, neg: Floats) -> Floats:
    """Σ (step in recall) · precision from the highest score down; ties enter together."""
    hit, drawn = pos[:, ::-1], (pos + neg)[:, ::-1]
    precision = np.nan_to_num(_ratio(np.cumsum(hit, axis=1), np.cumsum(drawn, axis=1)))
    P = np.where(neg.sum(axis=1) > 0, pos.sum(axis=1), 0)  # one class only: undefined
    return _ratio((hit * precision).sum(axis=1), P)


def _auroc(s: Scored) -> Floats:
    return np.mean([_area(pos, neg) for pos, neg in s.ranked], axis=0)


def _auprc(s: Scored) -> Floats:
    return np.mean([_average_precision(pos, neg) for pos, neg in s.ranked], axis=0)


def _auprc_negative(s: Scored) -> Floats:
    if s.K > 2:
        return np.full(len(s.weight), np.nan)
    [(pos, neg)] = s.ranked
    return _average_precision(neg[:, ::-1], pos[:, ::-1])


# ---- decisions ----------------------------------------------------------------------------------
def _macro(s: Scored, value: Floats) -> Floats:
    """Mean of (R, K) over the classes; NaN where a class has no sample."""
    return np.where((s.confusion.sum(axis=2) > 0).all(axis=1), value.mean(axis=1), np.nan)


def _right(s: Scored) -> Floats:
    return np.diagonal(s.confusion, axis1=1, axis2=2)


def _acc(s: Scored) -> Floats:
    return _ratio(_right(s).sum(axis=1), s.confusion.sum(axis=(1, 2)))


def _macro_precision(s: Scored) -> Floats:
    # A class never decided for has no precision; it counts 0 in the mean, as in scikit-learn.
    return _macro(s, np.nan_to_num(_ratio(_right(s), s.confusion.sum(axis=1))))


def _macro_recall(s: Scored) -> Floats:
    return _macro(s, _ratio(_right(s), s.confusion.sum(axis=2)))


def _macro_f1(s: Scored) -> Floats:
    both = s.confusion.sum(axis=1) + s.confusion.sum(axis=2)
    return _macro(s, _ratio(2 * _right(s), both))


def _share(true: int, *, of: Literal["label", "decision"]) -> Callable[[Scored], Floats]:
    """Share of right ones among those labelled, or decided, `true`; binary tasks only."""

    def function(s: Scored) -> Floats:
        if s.K > 2:
            return np.full(len(s.weight), np.nan)
        whole = s.confusion.sum(axis=2 if of == "label" else 1)
        return _ratio(_right(s)[:, true], whole[:, true])

    return function


# ---- probabilities ------------------------------------------------------------------------------
def _mean(s: Scored, value: Floats) -> Floats:
    return _ratio(s.weight @ value, s.weight.sum(axis=1))


def _brier(s: Scored) -> Floats:
    square = ((s.prob - np.eye(s.K)[s.label]) ** 2).sum(axis=1)
    return _mean(s, square / 2 if s.K == 2 else square)


def _log_loss(s: Scored) -> Floats:
    true = s.prob[np.arange(len(s.label)), s.label]
    return _mean(s, -np.log(np.clip(true, np.finfo(np.float64).eps, 1)))


class Metric(NamedTuple):
    """A metric: (R,) values of scored samples, whether more is better, and its name for people."""

    function: Callable[[Scored], Floats]
    higher_is_better: bool
    label: str


METRICS: dict[str, Metric] = {
    "acc": Metric(_acc, True, "Acc"),
    "auroc": Metric(_auroc, True, "AUROC"),
    "auprc": Metric(_auprc, True, "AUPRC"),
    "mAP": Metric(_macro_precision, True, "mAP"),
    "mAR": Metric(_macro_recall, True, "mAR"),
    "mF1": Metric(_macro_f1, True, "mF1"),
    "auprc_negative": Metric(_auprc_negative, True, "AUPRC of the negative class"),
    "brier": Metric(_brier, False, "Brier"),
    "log_loss": Metric(_log_loss, False, "Log loss"),
    "sensitivity": Metric(_share(1, of="label"), True, "Sensitivity"),
    "specificity": Metric(_share(0, of="label"), True, "Specificity"),
    "ppv": Metric(_share(1, of="decision"), True, "PPV"),
    "npv": Metric(_share(0, of="decision"), True, "NPV"),
}


def metrics(
    label: ArrayLike, prob: ArrayLike, threshold: ArrayLike | None = None
) -> dict[str, float]:
    """Every metric of METRICS; one that is not defined (a class has no sample) is NaN.

    mAP, mAR and mF1 are macro-averaged precision, recall and F1, not average precision: the mean
    over the classes, each class against the rest, after the decision. AUROC and AUPRC (average
    precision) of K > 2 classes are macro one-vs-rest; auprc_negative, sensitivity, specificity,
    ppv and npv are for binary tasks and NaN otherwise. Brier is the mean of (p − y)², for K > 2
    summed over the classes; log loss is in nats.

    Args:
        label: (N,) integer class; binary: 1 is the positive one.
        prob: (N,) probability of the positive class, or (N, K).
        threshold: positive where prob ≥ threshold; a number or (N,). None: 0.5, and for K > 2
            always the most probable class.
    Raises:
        ValueError: shapes differ, a probability is NaN or outside [0, 1], a label is no class.
    Source: AdaCoMed Sec. 4.1; auprc_negative: its MMIST table takes "alive" as positive.

    >>> found = metrics([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    >>> found["auroc"], round(found["auprc"], 3), found["acc"]
    (0.75, 0.833, 0.75)
    """
    scored = Scored.of(label, prob, threshold)
    p = np.asarray(prob, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"{int(((p < 0) | (p > 1)).sum())} values of prob are outside [0, 1]")
    return {name: float(metric.function(scored)[0]) for name, metric in METRICS.items()}


def auroc(label: ArrayLike, prob: ArrayLike) -> float:
    """Area under the ROC curve of (N,) scores (any scale) or (N, K), ties counted half.

    NaN with one class only; macro one-vs-rest for K > 2. Raises as `Scored.of`.
    Source: Hanley & McNeil, Radiology 1982 (the rank statistic).
    """
    return float(_auroc(Scored.of(label, prob))[0])


def auprc(label: ArrayLike, prob: ArrayLike) -> float:
    """Area under the precision–recall curve as average precision (no interpolation).

    NaN with one class only; macro one-vs-rest for K > 2. Raises as `Scored.of`.
    """
    return float(_auprc(Scored.of(label, prob))[0])
