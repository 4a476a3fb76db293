"""Prediction sets: classes that cannot be ruled out, with the true one among them 9 times in 10.

Split-conformal prediction. A patient's score for class k is 1 − p_k. Calibration patients, whom the
model was not trained on, say how large the true class's score gets; a class stays in a new
patient's set unless its score is larger than that limit. Whatever the model, new patients like the
calibration patients have their true class in the set with at least the chosen probability, and, as
limits are per class by default, so have the patients of each class. A set with exactly one class is
an answer; with several, or none, the model abstains.

The guarantee is an average over draws of the calibration patients: with n of them in a class the
coverage of one fitted set scatters by about √(coverage · (1 − coverage) / n). It holds for patients
drawn like those, not after a shift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from adacomed.evaluation.intervals import wilson
from adacomed.evaluation.scored import Floats, Ints

FEW = 30  # calibration patients of a class in a group; fewer borrow everyone's limit
SMALL = 30  # patients below whom a measured coverage is said to rest on few
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sets:
    """Fitted limits.

    Attributes:
        coverage: asked for, in (0, 1).
        limits: (K,), the largest score 1 − p_k with which class k stays in the set; ∞: always.
        groups: group → (K,) limits of its own.
        n: (K,) calibration patients behind each limit.
        notes: what a reader of the sets must know, in sentences.
    """

    coverage: float
    limits: tuple[float, ...]
    groups: dict[str, tuple[float, ...]]
    n: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def sets(self, prob: ArrayLike, groups: Sequence[Any] | NDArray[Any] | None = None) -> Bools:
        """Which classes stay.

        Args:
            prob: (N, K), made like the probabilities that the limits were fitted on.
            groups: (N,) group of each patient; one that has no limits of its own, or none at all,
                gets everyone's.
        Returns:
            (N, K) bool. A row depends on that patient alone; it may have no true value.
        Raises:
            ValueError: prob is not (N, K), or groups have another length.
        """
        p = np.asarray(prob, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != len(self.limits):
            raise ValueError(f"prob is {p.shape}, expected (N, {len(self.limits)})")
        limits = np.tile(np.array(self.limits), (len(p), 1))
        if groups is not None:
            for row, group in zip(limits, _names(groups, len(p)), strict=True):
                row[:] = self.groups.get(group or "", row)
        return np.asarray(1 - p <= limits)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, ∞ as null; `from_dict` gives back the same numbers bit for bit."""
        return {
            "coverage": self.coverage,
            "limits": _finite(self.limits),
            "groups": {name: _finite(limits) for name, limits in self.groups.items()},
            "n": list(self.n),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Sets:
        """What `to_dict` wrote; KeyError where a value is missing."""
        groups = {name: _infinite(limits) for name, limits in state["groups"].items()}
        notes = tuple(state["notes"])
        return cls(state["coverage"], _infinite(state["limits"]), groups, tuple(state["n"]), notes)


def fit_sets(
    label: ArrayLike,
    prob: ArrayLike,
    coverage: float = 0.9,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    *,
    by_class: bool = True,
) -> Sets:
    """Fit the limits on calibration patients.

    Args:
        label: (N,) class, 0 … K−1.
        prob: (N, K) of patients that the model was not trained on. Probabilities recalibrated on
            these same patients do no harm: with K = 2 a rising map changes no set, with K > 2 it
            has K + 1 numbers.
        coverage: in (0, 1).
        groups: (N,) such as sex or site; limits are then per group too. A group with fewer than 30
            patients (of a class) gets everyone's limit, and `notes` says so.
        by_class: False: one limit for all classes; coverage is then promised over all patients
            together, and a rare class may have far less.
    Returns:
        Each limit is the ⌈(n + 1) · coverage⌉-th smallest score of its n patients, ∞ where n is
        too small for there to be one.
    Raises:
        ValueError: wrong shapes, a label that is no class, or coverage outside (0, 1).
    Source: Vovk, Gammerman & Shafer 2005 (split; label-conditional: Vovk, ACML 2012); the score is
        that of Sadinle, Lei & Wasserman, JASA 2019. The same as MAPIE 1.6's
        SplitConformalClassifier with conformity_score="lac", prefit, conformalised on the
        patients of one class at a time, and read for that class; MAPIE refuses where n is too
        small, lets a score lie 1e-8 above its limit, and takes the next larger score where
        (n + 1) · coverage is a whole number that floating point makes a little larger.
    """
    y, p = _checked(label, prob, coverage)
    K = p.shape[1]
    score = 1 - p[np.arange(len(y)), y]
    everyone, n = _limits(y, score, K, coverage, by_class)
    notes = [
        f"{'class ' + str(k) if by_class else 'all classes'}: {count} calibration patients, "
        f"fewer than the {_needed(coverage)} that {coverage:.0%} needs: it stays in every set"
        for k, count in enumerate(n if by_class else n[:1])
        if np.isinf(everyone[k])
    ]
    own: dict[str, tuple[float, ...]] = {}
    names = [] if groups is None else _names(groups, len(y))
    for group in sorted({name for name in names if name is not None}):
        here = np.array([name == group for name in names])
        limits, count = _limits(y[here], score[here], K, coverage, by_class)
        few = [k for k in range(K) if count[k] < max(FEW, _needed(coverage))]
        own[group] = tuple(everyone[k] if k in few else limits[k] for k in range(K))
        for k in few if by_class else few[:1]:
            what = f"class {k}" if by_class else "all classes"
            notes.append(f"group {group}, {what}: {count[k]} patients, everyone's limit is used")
    return Sets(float(coverage), everyone, own, n, tuple(notes))


def set_coverage(
    label: ArrayLike,
    sets: ArrayLike,
    groups: Sequence[Any] | NDArray[Any] | None = None,
) -> pl.DataFrame:
    """How often held-out patients' sets hold the true class, and how much the sets say.

    Args:
        label: (N,) class, 0 … K−1, of patients that nothing was fitted on.
        sets: (N, K) bool.
        groups: (N,); adds the same rows for each group.
    Returns:
        One row for all patients and one per class, for everyone (`group` null) and each group:
        group, class (null: all), n, covered, coverage, its 95 % Wilson interval low and high (rows
        of one patient are taken for independent), size (mean number of classes), abstain (share of
        sets with another number than one), empty (share with none), note (in words, "" if there
        is nothing to say). Without a patient all figures are null and the note says it.
    Raises:
        ValueError: wrong shapes, or a label that is no class.
    """
    mask = np.asarray(sets, dtype=bool)
    y = np.asarray(label)
    if mask.ndim != 2 or y.shape != mask.shape[:1]:
        raise ValueError(f"label {y.shape} and sets {mask.shape}: need (N,) and (N, K)")
    K = mask.shape[1]
    if not np.isin(y, np.arange(K)).all():
        raise ValueError(f"label must hold the classes 0 … {K - 1} only")
    names = [] if groups is None else _names(groups, len(y))
    rows = []
    for group in [None, *sorted({name for name in names if name is not None})]:
        inside = np.array([group in (None, name) for name in names or [None] * len(y)], dtype=bool)
        for k in [None, *range(K)]:
            here = inside if k is None else inside & (y == k)
            rows.append({"group": group, "class": k, **_counted(y[here].astype(int), mask[here])})
    return pl.DataFrame(rows, schema=_COVERAGE)


_COVERAGE = {
    "group": pl.String,
    "class": pl.Int64,
    "n": pl.Int64,
    "covered": pl.Int64,
    **dict.fromkeys(("coverage", "low", "high", "size", "abstain", "empty"), pl.Float64),
    "note": pl.String,
}


def _counted(y: Ints, mask: Bools) -> dict[str, Any]:
    """A row of `set_coverage`: n ≥ 0 patients."""
    n = len(y)
    if not n:
        return {"n": 0, "covered": 0, "note": "no patient"}
    covered, size = int(mask[np.arange(n), y].sum()), mask.sum(axis=1)
    low, high = wilson(covered, n)
    return {
        "n": n,
        "covered": covered,
        "coverage": covered / n,
        "low": float(low),
        "high": float(high),
        "size": float(size.mean()),
        "abstain": float((size != 1).mean()),
        "empty": float((size == 0).mean()),
        "note": f"{n} patients: the interval is wide" if n < SMALL else "",
    }


# ---- a column of a table ------------------------------------------------------------------------
def as_lists(sets: Bools) -> list[list[int]]:
    """(N, K) bool → the classes of each set, as `schema.Predictions.SET` holds them."""
    return [np.flatnonzero(row).tolist() for row in sets]


def as_mask(lists: Sequence[Sequence[int]] | pl.Series, classes: int) -> Bools:
    """N lists of classes → (N, K) bool.

    Raises:
        ValueError: a class is not 0 … K−1.
    """
    mask = np.zeros((len(lists), classes), dtype=bool)
    for row, found in zip(mask, lists, strict=True):
        for k in found:
            if not 0 <= k < classes:
                raise ValueError(f"a prediction set holds class {k}; there are 0 … {classes - 1}")
            row[k] = True
    return mask


# ---- limits -------------------------------------------------------------------------------------
def _limits(
    y: Ints, score: Floats, K: int, coverage: float, by_class: bool
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Limit of each class, and of how many patients it is."""
    parts = [score[y == k] for k in range(K)] if by_class else [score] * K
    return tuple(_limit(part, coverage) for part in parts), tuple(len(part) for part in parts)


def _limit(score: Floats, coverage: float) -> float:
    rank = _rank(len(score), coverage)
    return float(np.sort(score)[rank - 1]) if rank <= len(score) else math.inf


def _rank(n: int, coverage: float) -> int:
    """⌈(n + 1) · coverage⌉; rounding keeps .55 · 100 from becoming 56."""
    return math.ceil(round((n + 1) * coverage, 9))


def _needed(coverage: float) -> int:
    """The fewest patients with which a limit is finite."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def _finite(limits: tuple[float, ...]) -> list[float | None]:
    return [None if math.isinf(x) else x for x in limits]


def _infinite(limits: list[float | None]) -> tuple[float, ...]:
    return tuple(math.inf if x is None else x for x in limits)


def _names(groups: Sequence[Any] | NDArray[Any], n: int) -> list[str | None]:
    """Groups as text; None and NaN are nobody's group."""
    names = [None if g is None or g != g else str(g) for g in groups]
    if len(names) != n:
        raise ValueError(f"groups has {len(names)} entries, expected {n}")
    return names


def _checked(label: ArrayLike, prob: ArrayLike, coverage: float) -> tuple[Ints, Floats]:
    y, p = np.asarray(label), np.asarray(prob, dtype=np.float64)
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}, expected a share between 0 and 1")
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1]:
        raise ValueError(f"label {y.shape} and prob {p.shape}: need (N,) and (N, K), K ≥ 2")
    if not np.isin(y, np.arange(p.shape[1])).all():
        raise ValueError(f"label must hold the classes 0 … {p.shape[1] - 1} only")
    if np.isnan(p).any():
        raise ValueError(
            f"prob is NaN for {int(np.isnan(p).any(axis=1).sum())} of {len(p)} samples"
        )
    return y.astype(np.int64), p
