"""Modality domination as a number: how near a model's fused points lie to each modality's cloud."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from adacomed.evaluation.intervals import Interval, bootstrap, percentile
from adacomed.evaluation.scored import Floats

CELLS = 4_000_000  # distances held at a time: 32 MB
PAIRS = 20_000  # random pairs behind the mean distance: its relative error is below 1 %


@dataclass(frozen=True)
class Domination:
    """Where the fused points lie among the clouds of M modalities.

    Attributes:
        share: per cloud, the mean share of a fused point's nearest points, with its 95 % interval;
            they add up to 1 and are 1/M each in balance.
        distance: per cloud, the mean distance of a fused point to the cloud's k nearest points,
            in units of the mean distance of two points of the pooled clouds.
        domination: (largest share − 1/M) / (1 − 1/M): 0 where the fused points lie equally near to
            every cloud, 1 where they lie in one alone. It is never negative, so chance lifts it
            above 0, and with it the lower limit of its interval.
        k: nearest points per modality; k·M (at most N) over the pooled clouds.
        note: "" or what was changed, such as a smaller k.
    """

    share: dict[str, Interval]
    distance: dict[str, float]
    domination: Interval
    k: int
    note: str = ""

    def frame(self) -> pl.DataFrame:
        """One row per cloud: cloud, share, distance and domination, limits as _low and _high."""
        value, low, high = self.domination
        rows = [
            (cloud, *share, self.distance[cloud], value, low, high)
            for cloud, share in self.share.items()
        ]
        columns = ["share", "share_low", "share_high", "distance"]
        columns += ["domination", "domination_low", "domination_high"]
        schema = {"cloud": pl.String} | dict.fromkeys(columns, pl.Float64)
        return pl.DataFrame(rows, schema=schema, orient="row")


def domination(
    fused: ArrayLike,
    alone: Mapping[str, ArrayLike],
    *,
    k: int = 15,
    n: int = 1000,
    seed: int = 0,
) -> Domination:
    """How the neighbours of N patients' fused points split among the modalities' clouds.

    Among the k·M points of the pooled clouds nearest to a fused point (Euclidean; the patient's own
    points count too), the share from each cloud; then the mean over patients. Points at the same
    distance share the last places. Location, scale and rotation of the space do not matter.

    Two limits. Opposed patients cancel: half of them in one cloud and half in another is balance
    between these two. And the intervals hold the clouds fixed: in many dimensions a few points are
    everyone's neighbours, so that clouds of one distribution reach a domination near .05.

    Args:
        fused: (N, D) a model's representation of each patient with all modalities; N ≥ M.
        alone: per modality (N, D), the same model's representation with that modality alone.
        k: nearest points per modality. Where k·M > N one cloud cannot hold them all, so k becomes
            N // M, with a note.
        n: bootstrap resamples of patients, each with its own neighbours, for percentile intervals.
        seed: of the resamples and of the random pairs.
    Raises:
        ValueError: shapes differ, values are not finite, M < 2, N < M, k < 1 or n < 1.
    Source: ours; the paper shows it as a picture (Fig. 2).
    """
    points = np.asarray(fused, dtype=np.float64)
    clouds = {name: np.asarray(cloud, dtype=np.float64) for name, cloud in alone.items()}
    _check(points, clouds, k, n)
    N, M = len(points), len(clouds)
    pooled = np.concatenate(list(clouds.values()))  # (M·N, D)
    centre = pooled.mean(axis=0)
    scale = np.sqrt(pooled.var(axis=0).mean()) or 1.0  # of no effect on a ratio: for the arithmetic
    points, pooled = (points - centre) / scale, (pooled - centre) / scale
    used = min(k, N // M)
    note = "" if used == k else f"{N} patients: k = {used} instead of {k}"
    share, distance = _neighbours(points, pooled, M, used)

    draws = _resampled(share, n, seed)
    low, high = percentile(draws)
    mean, unit = share.mean(axis=0), _random_distance(pooled, seed)
    limits = percentile(_one_number(draws))
    return Domination(
        {c: Interval(*map(float, (mean[m], low[m], high[m]))) for m, c in enumerate(clouds)},
        {c: float(distance[m] / unit) if unit else np.nan for m, c in enumerate(clouds)},
        Interval(float(_one_number(mean)), *map(float, limits)),
        used,
        note,
    )


def _resampled(share: Floats, n: int, seed: int) -> Floats:
    """Mean shares (n, M) of patients drawn again, from each patient's shares (N, M)."""
    N = len(share)
    mean = {"share": share / N}
    return bootstrap(lambda columns, w: w @ columns["share"], mean, np.arange(N), n=n, seed=seed)


def _check(fused: Floats, alone: Mapping[str, Floats], k: int, n: int) -> None:
    if len(alone) < 2:
        raise ValueError(f"domination is among 2 modalities or more, got {list(alone)}")
    shapes = {name: cloud.shape for name, cloud in alone.items()}
    if fused.ndim != 2 or any(shape != fused.shape for shape in shapes.values()):
        raise ValueError(f"need one shape (N, D) for all, got fused {fused.shape} and {shapes}")
    if not all(np.isfinite(points).all() for points in (fused, *alone.values())):
        raise ValueError("representations must be finite: take patients who have every modality")
    if len(fused) < len(alone):
        raise ValueError(f"need as many patients as modalities, got {len(fused)} and {len(alone)}")
    if k < 1 or n < 1:
        raise ValueError(f"need k ≥ 1 and n ≥ 1, got {k} and {n}")


def _one_number(share: Floats) -> Floats:
    """Mean shares (…, M) → domination (…)."""
    M = share.shape[-1]
    largest: Floats = share.max(axis=-1)
    above: Floats = (largest - 1 / M) / (1 - 1 / M)
    return np.maximum(above, 0)  # rounding


def _neighbours(points: Floats, pooled: Floats, M: int, k: int) -> tuple[Floats, Floats]:
    """Shares (N, M) of each point's k·M nearest, and mean distance (M,) to a cloud's k nearest."""
    share, distance = [], np.zeros(M)
    for squared in _squared_distances(points, pooled):  # (rows, M·N)
        rows = len(squared)
        own = squared.reshape(rows, M, -1)
        share.append(_votes(squared, k * M).reshape(rows, M, -1).sum(axis=2) / (k * M))
        nearest = np.partition(own, k - 1, axis=2)[:, :, :k]
        distance += np.sqrt(nearest).mean(axis=2).sum(axis=0)
    return np.concatenate(share), distance / len(points)


def _squared_distances(points: Floats, pooled: Floats) -> Iterator[Floats]:
    """(rows, M·N) squared distances, the points in chunks of rows."""
    norm = (pooled**2).sum(axis=1)
    size = max(1, CELLS // len(pooled))
    for start in range(0, len(points), size):
        part = points[start : start + size]
        squared = (part**2).sum(axis=1)[:, None] + norm - 2 * part @ pooled.T
        yield np.maximum(squared, 0)


def _votes(squared: Floats, count: int) -> Floats:
    """1 for each row's `count` nearest; points that tie for the last places share these."""
    last = np.partition(squared, count - 1, axis=1)[:, count - 1 : count]
    slack = 1e-10 * (1 + last)  # the matrix product rounds equal distances differently
    nearer = squared < last - slack
    tied = ~nearer & (squared <= last + slack)
    left = count - nearer.sum(axis=1, keepdims=True)
    return np.where(nearer, 1.0, tied * (left / tied.sum(axis=1, keepdims=True)))


def _random_distance(pooled: Floats, seed: int) -> float:
    """Mean distance between two different points of the pooled clouds, over random pairs."""
    generator = np.random.default_rng([seed, 1])
    first = generator.integers(0, len(pooled), PAIRS)
    second = (first + generator.integers(1, len(pooled), PAIRS)) % len(pooled)
    pairs = zip(first.reshape(-1, 1000), second.reshape(-1, 1000), strict=True)
    return float(np.mean([np.linalg.norm(pooled[a] - pooled[b], axis=1).mean() for a, b in pairs]))
