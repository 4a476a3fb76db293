"""Uncertainty: Wilson and DeLong intervals, and a bootstrap that resamples patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from scipy.stats import t as students_t

from adacomed.evaluation.scored import Floats

LEVEL = 0.95
CHUNK = 300_000  # weights held at a time: 2.4 MB stays in the cache, which is twice as fast


class Interval(NamedTuple):
    """An estimate and its confidence limits; limits that cannot be had are NaN."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference a − b, its confidence limits and two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def wilson(events: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Score interval of a proportion: low and high, of the shape of `events`; n ≥ 1.

    Source: Wilson, JASA 1927.
    """
    k, m = np.asarray(events, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z2 = norm.isf((1 - level) / 2) ** 2
    centre = (k + z2 / 2) / (m + z2)
    half = np.sqrt(z2 * (k * (m - k) / m + z2 / 4)) / (m + z2)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


# ---- DeLong -------------------------------------------------------------------------------------
def delong_covariance(label: ArrayLike, prob: ArrayLike) -> tuple[Floats, Floats]:
    """AUROC of J scores of the same samples and the covariance of these AUROCs.

    Args:
        label: (N,) 0 or 1.
        prob: (J, N) scores, any scale.
    Returns:
        (J,) AUROC and (J, J) covariance; the latter NaN with fewer than 2 samples of a class.
    Source: DeLong et al., Biometrics 1988, by the ranks of Sun & Xu, IEEE Signal Process. Lett.
        2014: O(N log N).
    """
    y, p = np.asarray(label), np.asarray(prob, dtype=np.float64)
    if p.ndim != 2 or y.shape != p.shape[1:] or not np.isin(y, (0, 1)).all() or np.isnan(p).any():
        raise ValueError(f"need label (N,) of 0 and 1 and prob (J, N), got {y.shape} and {p.shape}")
    J, (m, n) = len(p), ((y == 1).sum(), (y == 0).sum())
    if m == 0 or n == 0:
        return np.full(J, np.nan), np.full((J, J), np.nan)
    v10, v01 = _placements(y, p)
    if m < 2 or n < 2:
        return v10.mean(axis=1), np.full((J, J), np.nan)
    covariance = np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n
    return v10.mean(axis=1), covariance


def _placements(y: NDArray[Any], p: Floats) -> tuple[Floats, Floats]:
    """Share of negatives below each positive (J, m), of positives above each negative (J, n)."""
    ranks, one, zero = rankdata(p, axis=1), y == 1, y == 0
    v10: Floats = (ranks[:, one] - rankdata(p[:, one], axis=1)) / zero.sum()
    v01: Floats = 1 - (ranks[:, zero] - rankdata(p[:, zero], axis=1)) / one.sum()
    return v10, v01


def _degrees(label: ArrayLike, prob: ArrayLike) -> float:
    """Satterthwaite's degrees of freedom of the sum of the two classes' variances."""
    placed = _placements(np.asarray(label), np.asarray(prob, dtype=np.float64)[None])
    parts = [(float(v.var(ddof=1)) / v.size, v.size) for v in placed]
    return sum(s for s, _ in parts) ** 2 / sum(s**2 / (size - 1) for s, size in parts)


def delong(
    label: ArrayLike,
    prob: ArrayLike,
    level: float = LEVEL,
    logit_scale: bool = False,
    student: bool = False,
) -> Interval:
    """AUROC with DeLong's confidence interval; patients must be independent (one row each).

    Args:
        label: (N,) 0 or 1.
        prob: (N,) score, any scale.
        logit_scale: make the interval on logit(AUROC): it stays inside (0, 1) and covers better
            near 1. Otherwise the symmetric interval, cut to [0, 1].
        student: Student's t with Satterthwaite's degrees of freedom in place of the normal
            quantile, for a variance that is estimated from a few patients of a class.
    Returns:
        The limits are NaN where the classes are separated completely (no variance) or a class has
        fewer than 2 samples; all three are NaN with one class.
    Source: DeLong et al., Biometrics 1988; Pepe 2003, Sec. 5.2.4 (logit); Brunner & Munzel,
        Biom. J. 2000 (degrees of freedom).
    """
    area, covariance = delong_covariance(label, np.asarray(prob)[None])
    value, error = float(area[0]), float(np.sqrt(covariance[0, 0]))
    if not error > 0:
        return Interval(value, float("nan"), float("nan"))
    tail = (1 - level) / 2
    z = students_t.isf(tail, _degrees(label, prob)) if student else norm.isf(tail)
    if logit_scale:
        half = z * error / (value * (1 - value))
        return Interval(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))
    return Interval(value, max(0.0, float(value - z * error)), min(1.0, float(value + z * error)))


def paired_delong(
    label: ArrayLike, prob_a: ArrayLike, prob_b: ArrayLike, level: float = LEVEL
) -> Difference:
    """AUROC of a minus AUROC of b on the same patients: difference, low, high, two-sided p.

    Args:
        label: (N,) 0 or 1; patients must be independent (one row each).
        prob_a: (N,) score, any scale.
        prob_b: (N,) score of the same patients in the same order.
    Returns:
        p is 1 for scores that rank alike; limits and p are NaN where no variance can be had.
    Source: DeLong et al., Biometrics 1988.
    """
    area, covariance = delong_covariance(label, np.stack([np.asarray(prob_a), np.asarray(prob_b)]))
    difference = float(area[0] - area[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if np.isnan(variance) or (variance <= 1e-15 and difference != 0):
        return Difference(difference, float("nan"), float("nan"), float("nan"))
    if variance <= 1e-15:
        return Difference(0.0, 0.0, 0.0, 1.0)
    error, z = np.sqrt(variance), norm.isf((1 - level) / 2)
    p = float(2 * norm.sf(abs(difference) / error))
    return Difference(difference, float(difference - z * error), float(difference + z * error), p)


# ---- bootstrap ----------------------------------------------------------------------------------
Columns = Mapping[str, NDArray[Any]]


def bootstrap(
    statistic: Callable[[Columns, Floats], Floats],
    columns: Columns,
    clusters: ArrayLike,
    strata: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Floats:
    """Resample patients with replacement, all rows of a patient together; n values of a statistic.

    The same clusters, strata and seed give the same resamples whatever the order of the rows, so
    the draws of two methods on the same patients are paired: subtract them.

    Args:
        statistic: (columns, weight) → shape (R, …); weight (R, N) says how often each row counts in
            each of R resamples (as `discrimination.Scored` takes it).
        columns: arrays of N rows, passed on.
        clusters: (N,) patient of each row.
        strata: (N,) patients are drawn within their stratum, so that its size stays; a patient
            whose rows differ (say, a label that changes) is in the highest one.
    Returns:
        Shape (n, …). Limits: `percentile`.
    """
    parts = [statistic(columns, weight) for weight in _weights(clusters, strata, n, seed)]
    return np.concatenate(parts)


def _weights(clusters: ArrayLike, strata: ArrayLike | None, n: int, seed: int) -> Iterator[Floats]:
    """(R, N) counts of every row in R resamples, in chunks that add up to n resamples."""
    subjects, row = np.unique(np.asarray(clusters), return_inverse=True)
    code = np.zeros(len(row), dtype=np.int64)
    if strata is not None:
        code = np.unique(np.asarray(strata), return_inverse=True)[1]
    stratum = np.zeros(len(subjects), dtype=np.int64)
    np.maximum.at(stratum, row, code)
    members = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]
    generators = [np.random.default_rng([seed, s]) for s in range(len(members))]
    size = max(1, CHUNK // max(1, len(row)))
    for start in range(0, n, size):
        R = min(size, n - start)
        count = np.empty((R, len(subjects)))
        for who, generator in zip(members, generators, strict=True):
            drawn = generator.integers(0, len(who), size=(R, len(who)))
            drawn += np.arange(R)[:, None] * len(who)
            count[:, who] = np.bincount(drawn.ravel(), minlength=R * len(who)).reshape(R, -1)
        yield count[:, row]


def percentile(values: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Percentile interval along axis 0 of resampled values: low and high, shape (…).

    Resamples in which the statistic was undefined are left out; where that is more than half of
    them the limits are NaN.
    """
    few = np.isnan(values).mean(axis=0) > 0.5
    filled = np.where(few, 0.0, values)  # nanquantile warns where nothing is left
    tail = (1 - level) / 2
    low, high = np.nanquantile(filled, [tail, 1 - tail], axis=0)
    return np.where(few, np.nan, low), np.where(few, np.nan, high)


def bootstrap_p(values: Floats) -> Floats:
    """Two-sided p that a difference is 0 from its resampled values (n, …): never below 2/(n + 1).

    Source: the inverted percentile interval; +1 as Davison & Hinkley 1997, Eq. 4.11.
    """
    defined = ~np.isnan(values)
    n = defined.sum(axis=0)
    below, above = (values <= 0).sum(axis=0), (values >= 0).sum(axis=0)
    p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (n + 1))
    return np.where(defined.mean(axis=0) < 0.5, np.nan, p)


def holm(p: ArrayLike) -> Floats:
    """Holm-adjusted p of one family, (m,); NaN is no test and stays NaN.

    Source: Holm, Scand. J. Statist. 1979.
    """
    values = np.asarray(p, dtype=np.float64)
    out = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factor = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factor))
    return out
