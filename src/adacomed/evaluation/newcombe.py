"""A score interval for AUROC: it exists where DeLong's has no variance to work with."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm

from adacomed.evaluation.intervals import LEVEL, Interval


def newcombe(area: float, positives: float, negatives: float, level: float = LEVEL) -> Interval:
    """Confidence interval of an AUROC from its value and the sizes of the two classes alone.

    The limits are the areas A with |area − A| = z · √V(A), where V is Hanley and McNeil's variance
    with (m + n)/2 − 1 in the place of both m − 1 and n − 1, so that swapping the classes mirrors
    the interval. It has a width for completely separated classes and for a single event.

    Args:
        area: AUROC, in [0, 1]; NaN gives NaN limits.
        positives: m, samples of class 1; independent ones.
        negatives: n, samples of class 0.
    Raises:
        ValueError: area outside [0, 1], or a class without a sample although there is an area.
    Source: Newcombe, Stat. Med. 2006;25:559–573, method 5; Hanley & McNeil, Radiology 1982.

    >>> [round(x, 3) for x in newcombe(1.0, 10, 90)]
    [1.0, 0.89, 1.0]
    """
    if math.isnan(area):
        return Interval(area, area, area)
    if not 0 <= area <= 1 or positives < 1 or negatives < 1:
        raise ValueError(f"need an area in [0, 1] and samples of both classes, got {area}")
    z = norm.isf((1 - level) / 2)

    def excess(A: float) -> float:
        return float((area - A) ** 2 - z**2 * _variance(A, positives, negatives))

    # At 0 and 1 the variance is 0, so the area itself is a root too: the bracket stops short of it.
    tiny = 1e-12
    low = 0.0 if area < tiny else float(brentq(excess, 0.0, min(area, 1 - tiny), xtol=tiny))
    high = 1.0 if area > 1 - tiny else float(brentq(excess, max(area, tiny), 1.0, xtol=tiny))
    return Interval(area, low, high)


def _variance(A: float, m: float, n: float) -> float:
    """Hanley and McNeil's variance of an area, symmetric in the classes (Newcombe's V₂)."""
    more = (m + n) / 2 - 1
    return A * (1 - A) * (1 + more * (1 - A) / (2 - A) + more * A / (1 + A)) / (m * n)
