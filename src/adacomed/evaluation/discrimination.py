"""The metrics of one set of predictions: the paper's six and those that clinical papers report.

All are written for R weightings of the same N samples at once, shape (R, N) → (R,), so that a
bootstrap is one pass over arrays; a plain metric is the case R = 1 with every weight 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from adacomed.evaluation.decisions import macro, net_benefit, operating_point, right, share
from adacomed.evaluation.probability import (
    brier,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
    log_loss,
)
from adacomed.evaluation.scored import HALF, Floats, Scored, ratio


# ---- ranking ------------------------------------------------------------------------------------
def _area(pos: Floats, neg: Floats, below: Floats) -> Floats:
    below = below[:, :-1] + neg / 2  # a tie counts half
    return ratio((pos * below).sum(axis=1), pos.sum(axis=1) * neg.sum(axis=1))


def _average_precision(step: Floats, hit: Floats, other: Floats) -> Floats:
    """Σ (step in recall) · precision, over the cuts at each distinct score; ties enter together.

    Args:
        step: (R, G) weight of the sought class at each score.
        hit: (R, G) the same, of all that the cut takes in.
        other: (R, G) weight of the rest that it takes in.
    """
    area: Floats = (step * np.nan_to_num(ratio(hit, hit + other))).sum(axis=1)
    return area


def _auroc(s: Scored) -> Floats:
    pairs = zip(s.ranked, s.below, strict=True)
    area: Floats = np.mean([_area(*weight, below) for weight, (_, below) in pairs], axis=0)
    return area


def _auprc(s: Scored) -> Floats:
    found = []
    for (step, _), (pos, neg) in zip(s.ranked, s.below, strict=True):
        hit, other = (w[:, -1:] - w[:, :-1] for w in (pos, neg))
        found.append(_share_of_both(_average_precision(step, hit, other), pos, neg))
    area: Floats = np.mean(found, axis=0)
    return area


def _auprc_negative(s: Scored) -> Floats:
    found = []
    for (_, step), (pos, neg) in zip(s.ranked, s.below, strict=True):
        value = _average_precision(step, neg[:, 1:], pos[:, 1:])  # from the lowest score up
        found.append(_share_of_both(value, neg, pos))
    area: Floats = np.mean(found, axis=0)
    return area


def _share_of_both(value: Floats, sought: Floats, rest: Floats) -> Floats:
    """The sum over the weight of the sought class; NaN with one class only."""
    return ratio(value, np.where(rest[:, -1] > 0, sought[:, -1], 0))


# ---- decisions ----------------------------------------------------------------------------------
def _acc(s: Scored) -> Floats:
    return ratio(right(s).sum(axis=1), s.confusion.sum(axis=(1, 2)))


def _macro_precision(s: Scored) -> Floats:
    # A class never decided for has no precision; it counts 0 in the mean, as in scikit-learn.
    return macro(s, np.nan_to_num(ratio(right(s), s.confusion.sum(axis=1))))


def _macro_recall(s: Scored) -> Floats:
    return macro(s, ratio(right(s), s.confusion.sum(axis=2)))


def _macro_f1(s: Scored) -> Floats:
    both = s.confusion.sum(axis=1) + s.confusion.sum(axis=2)
    return macro(s, ratio(2 * right(s), both))


# ---- all of them --------------------------------------------------------------------------------
class Metric(NamedTuple):
    """A metric: (R,) values of scored samples, whether more is better, and its name for people.

    `target` is the best value of a metric for which neither more nor less is better.
    """

    function: Callable[[Scored], Floats]
    higher_is_better: bool
    label: str
    target: float | None = None


METRICS: dict[str, Metric] = {
    "acc": Metric(_acc, True, "Acc"),
    "auroc": Metric(_auroc, True, "AUROC"),
    "auprc": Metric(_auprc, True, "AUPRC"),
    "mAP": Metric(_macro_precision, True, "mAP"),
    "mAR": Metric(_macro_recall, True, "mAR"),
    "mF1": Metric(_macro_f1, True, "mF1"),
    "auprc_negative": Metric(_auprc_negative, True, "AUPRC of the negative class"),
    "brier": Metric(brier, False, "Brier"),
    "log_loss": Metric(log_loss, False, "Log loss"),
    "calibration_slope": Metric(calibration_slope, True, "Calibration slope", 1.0),
    "calibration_intercept": Metric(calibration_intercept, True, "Calibration intercept", 0.0),
    "ece": Metric(expected_calibration_error, False, "ECE"),
    "sensitivity": Metric(share(1, of="label"), True, "Sensitivity"),
    "specificity": Metric(share(0, of="label"), True, "Specificity"),
    "ppv": Metric(share(1, of="decision"), True, "PPV"),
    "npv": Metric(share(0, of="decision"), True, "NPV"),
    "sensitivity_at_90_specificity": Metric(
        operating_point("sensitivity", 0.9), True, "Sens. at 90 % spec."
    ),
    "specificity_at_90_sensitivity": Metric(
        operating_point("specificity", 0.9), True, "Spec. at 90 % sens."
    ),
    "net_benefit": Metric(net_benefit, True, "Net benefit"),
}


def metrics(
    label: ArrayLike, prob: ArrayLike, threshold: ArrayLike | None = None
) -> dict[str, float]:
    """Every metric of METRICS; one that is not defined (a class has no sample) is NaN.

    mAP, mAR and mF1 are macro-averaged precision, recall and F1, not average precision: the mean
    over the classes, each class against the rest, after the decision. With K > 2 classes all but
    acc, brier and log_loss are such macro one-vs-rest means, and net_benefit, which needs one
    threshold, is NaN. Brier is the mean of (p − y)², for K > 2 summed over the classes; log loss is
    in nats; the calibration slope and intercept are NaN where the scores separate the classes.

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


def choose_threshold(
    label: ArrayLike, prob: ArrayLike, criterion: Literal["f1", "youden"] = "f1"
) -> float:
    """The decision threshold that does best on validation patients; never choose it on test ones.

    Candidates lie midway between neighbouring distinct probabilities; of equally good ones the
    nearest to 0.5 is taken. Binary tasks only.

    Args:
        label: (N,) 0 or 1, of the validation patients.
        prob: (N,) probability of the positive class, or (N, 2).
        criterion: "f1": macro F1; "youden": J = sensitivity + specificity − 1.
    Returns:
        t, for the decision prob ≥ t; 0.5 where the validation patients have one class only.
    Raises:
        ValueError: as `Scored.of`, more than two classes, or an unknown criterion.
    Source: Youden, Cancer 1950.
    """
    if criterion not in ("f1", "youden"):
        raise ValueError(f"criterion is {criterion!r}, expected 'f1' or 'youden'")
    scored = Scored.of(label, prob)
    if scored.K > 2:
        raise ValueError(f"a threshold needs 2 classes, prob has {scored.K}")
    [(pos, neg)] = scored.ranked
    P, N = pos.sum(), neg.sum()
    if P == 0 or N == 0:
        return HALF
    fn, tn = (np.cumsum(x[0]) - x[0] for x in (pos, neg))  # below each distinct probability
    tp, fp = P - fn, N - tn
    if criterion == "f1":
        score = (2 * tp / (2 * tp + fp + fn) + 2 * tn / (2 * tn + fp + fn)) / 2
    else:
        score = tp / P + tn / N - 1
    values = np.unique(scored.prob[:, 1])
    middle = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2])
    middle[1:] = np.where(middle[1:] > values[:-1], middle[1:], values[1:])  # neighbouring floats
    best = middle[score >= score.max() - 1e-12]
    return float(best[np.abs(best - HALF).argmin()])
