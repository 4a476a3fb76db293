"""Who is trained on, validated on and tested on; a subject is never on two sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.model_selection import (
    RepeatedStratifiedKFold,
    StratifiedGroupKFold,
    train_test_split,
)

from adacomed.cohort.cohort import Cohort
from adacomed.errors import InputError
from adacomed.schema import SPLITS, TEST, TRAIN, VAL, Samples

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """One way to divide the labelled samples; row indices into `samples`.

    Attributes:
        repeat, fold: counted from 0.
        train, test: (n,) int64, increasing.
        val: likewise, or None where the caller takes validation from train.
    """

    repeat: int
    fold: int
    train: Rows
    test: Rows
    val: Rows | None = None


def official(cohort: Cohort, target: np.ndarray) -> Fold:
    """The cohort's own split, labelled rows only; `val` is None where the column has no val rows.

    Args:
        target: (N,) class, −1 where unlabelled.
    Raises:
        InputError: no split column, no labelled train or test row, a subject in two splits (which
            `split_by_sample` in the card allows).
    """
    names = cohort.samples[Samples.SPLIT]
    if names.null_count() == len(names):
        raise InputError(f"{cohort.card.name}: no official split; write split: COLUMN in its YAML")
    rows = {
        s: np.flatnonzero((names == s).fill_null(False).to_numpy() & (target >= 0)) for s in SPLITS
    }
    for name in (TRAIN, TEST):
        if not len(rows[name]):
            column = cohort.card.split
            raise InputError(f"{cohort.card.name}: column {column!r} has no labelled {name} row")
    for name in (TRAIN, VAL):
        found = np.unique(target[rows[name]])
        if len(found) == 1:
            raise InputError(
                f"{cohort.card.name}: the {name} rows of column {cohort.card.split!r} are all of "
                f"class {found[0]}; two classes are needed to train and to choose on"
            )
    val = rows[VAL] if len(rows[VAL]) else None
    fold = Fold(0, 0, rows[TRAIN], rows[TEST], val)
    if not cohort.card.split_by_sample:
        subjects = cohort.samples[Samples.SUBJECT_ID]
        assert_disjoint(fold, numbered(subjects), names=subjects)
    return fold


def kfold(
    target: np.ndarray, subjects: np.ndarray, *, folds: int, repeats: int, seed: int
) -> list[Fold]:
    """Repeated stratified k-fold over the labelled rows; grouped where a subject has several.

    With one row a subject these are exactly scikit-learn's
    `RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)`, else
    `StratifiedGroupKFold(shuffle=True, random_state=seed + repeat)`.

    Args:
        target: (N,) class, −1 where unlabelled.
        subjects: (N,) subject of each row.
    Raises:
        InputError: a class with fewer subjects than folds.
    """
    rows = np.flatnonzero(target >= 0)
    y, groups = target[rows], subjects[rows]
    fewest, n = _rarest(y, groups)
    if n < folds:
        way = f"at most {n} folds would work" if n > 1 else "no number of folds would work"
        raise InputError(
            f"{folds} folds, but class {fewest} has {n} patients; {way} "
            f"(split.folds, or training.inner_folds inside the training patients)"
        )
    made = []
    for number, (train, test) in enumerate(_parts(y, groups, folds, repeats, seed)):
        if len(np.unique(y[train])) < len(np.unique(y)):
            raise InputError(
                f"{folds} folds leave a training part without one class: class {fewest} is in only "
                f"{n} patients; fewer folds or another seed would work"
            )
        made.append(Fold(number // folds, number % folds, rows[train], rows[test]))
    return made


def _parts(
    y: np.ndarray, groups: np.ndarray, folds: int, repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if len(np.unique(groups)) == len(groups):
        every = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
        yield from every.split(y, y)
        return
    for repeat in range(repeats):
        one = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed + repeat)
        yield from one.split(y, y, groups)


def _rarest(y: np.ndarray, groups: np.ndarray) -> tuple[int, int]:
    """The class that the fewest subjects have, and their number."""
    counts = {int(k): len(np.unique(groups[y == k])) for k in np.unique(y)}
    if len(counts) < 2:
        raise InputError(f"{len(counts)} class among the {len(y)} labelled samples; two are needed")
    rarest = min(counts, key=lambda k: counts[k])
    return rarest, counts[rarest]


def holdout(
    target: np.ndarray,
    subjects: np.ndarray,
    *,
    fraction: float,
    seed: int,
    rows: np.ndarray | None = None,
) -> tuple[Rows, Rows]:
    """Hold out a fraction of the subjects, stratified by class.

    A subject with several rows counts as its rarest class.

    Args:
        target: (N,) class, −1 where unlabelled.
        subjects: (N,) subject of each row.
        fraction: of the subjects, in (0, 1); at least one of every class is held out, and
            at least one stays.
        rows: what to divide, default every labelled row.
    Returns:
        Rows to train on and rows held out, each increasing.
    Raises:
        InputError: a class with fewer than two subjects.
    """
    rows = np.arange(len(target)) if rows is None else np.asarray(rows)
    rows = np.sort(rows[target[rows] >= 0])
    y = target[rows]
    names, who = np.unique(subjects[rows], return_inverse=True)
    classes, count = np.unique(y, return_counts=True)
    strata = np.full(len(names), -1)
    for k in classes[np.argsort(-count, kind="stable")]:  # the rarest is written last
        strata[who[y == k]] = k
    found, sizes = np.unique(strata, return_counts=True)
    if len(found) < 2 or sizes.min() < 2:
        each = ", ".join(f"class {k}: {n}" for k, n in zip(found, sizes, strict=True)) or "none"
        raise InputError(f"to hold patients out, two of every class are needed; found {each}")
    size = min(max(round(fraction * len(names)), len(found)), len(names) - len(found))
    kept, held = train_test_split(
        np.arange(len(names)), test_size=size, stratify=strata, random_state=seed
    )
    for k in found:  # stratified rounding may leave a rare class on one side only
        if not (strata[held] == k).any():
            held = np.append(held, kept[strata[kept] == k][0])
        elif (strata[held] == k).sum() == (strata == k).sum():
            held = held[held != held[strata[held] == k][0]]
    out = np.isin(who, held)
    return rows[~out], rows[out]


def numbered(names: pl.Series) -> np.ndarray:
    """(N,) int64: the same for the same name, in the order of the names; less room than text."""
    if names.is_sorted():
        return np.cumsum((names != names.shift()).fill_null(False).to_numpy(), dtype=np.int64)
    return names.rank("dense").to_numpy().astype(np.int64)


def assert_disjoint(
    fold: Fold, subjects: np.ndarray, names: Sequence[str] | pl.Series | None = None
) -> None:
    """Raise an InputError that names a subject in two of train, val and test.

    Args:
        subjects: (N,) subject of each row, by name or number; names: (N,), of numbered ones.
    """
    parts = {TRAIN: fold.train, VAL: fold.val, TEST: fold.test}
    there = {name: rows for name, rows in parts.items() if rows is not None}
    for (first, rows), (second, others) in combinations(there.items(), 2):
        both = np.intersect1d(subjects[rows], subjects[others])
        if len(both):
            row = int(others[np.flatnonzero(subjects[others] == both[0])[0]])
            subject = str((subjects if names is None else names)[row])
            raise InputError(
                f"subject {subject!r} is in two splits, {first} and {second}; "
                f"give every row of a subject the same split"
            )
