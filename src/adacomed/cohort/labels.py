"""Labels: a column of the user's table, or labels.parquet, as integer classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.cohort.table import as_text, read_table, require_columns
from adacomed.errors import InputError, nearest
from adacomed.schema import Labels, TaskCard

UNLABELLED = -1
LISTED = 10  # up to this many distinct label codes are listed in a message; more are only counted

# PyYAML reads an unquoted yes / on / true as a boolean, while a csv keeps the word.
_SPELLINGS = {True: {"true", "yes", "on", "1"}, False: {"false", "no", "off", "0"}}
Value = str | int | float | bool


def code_task(
    column: pl.Series, name: str, card: TaskCard, *, strict: bool = True
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A label column as classes 0 … K−1, −1 where unlabelled, (N,) int64, and the classes' names.

    Args:
        column: (N,), the label column.
        strict: every named value must occur; False for new patients, of whom few may be labelled.
    Raises:
        InputError: a value that never occurs, or a column whose meaning is not clear.
    """
    values = as_text(column)
    if card.classes is not None:
        target = np.full(len(values), UNLABELLED)
        for k, value in enumerate(card.classes):
            target[_equal(values, value, name, strict)] = k
        return target, tuple(str(c) for c in card.classes)
    if card.positive is None:
        return _zero_one(values, name, strict)
    positive = _equal(values, card.positive, name, strict)
    known = values.is_not_null().to_numpy()
    if card.negative is not None:
        negative = _equal(values, card.negative, name, strict)
    else:
        negative = known & ~positive
    others = values.filter(pl.Series(negative)).unique().to_list()
    other = str(card.negative) if card.negative is not None else f"not {card.positive}"
    if card.negative is None and len(others) == 1:
        other = others[0]
    return np.where(positive, 1, np.where(negative, 0, UNLABELLED)), (other, str(card.positive))


def _zero_one(values: pl.Series, name: str, strict: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    found = set(_unified(values).drop_nulls().unique())
    if not found <= {"0", "1"}:
        if not strict:
            return np.full(len(values), UNLABELLED), ("0", "1")
        raise InputError(
            f"task {name!r}: column {values.name!r} is not coded 0/1 ({_seen(values)}); write "
            f"positive: VALUE for a binary task, or classes: [VALUE, VALUE, …]"
        )
    return _unified(values).cast(pl.Int64).fill_null(UNLABELLED).to_numpy(), ("0", "1")


def _unified(values: pl.Series) -> pl.Series:
    """One spelling for what is equal: 1, 1.0, "1" and true are "1"."""
    lower = values.str.to_lowercase()
    words = lower.replace_strict({"true": "1", "false": "0"}, default=None).fill_null(values)
    return as_text(words.cast(pl.Float64, strict=False)).fill_null(words)


def _equal(values: pl.Series, wanted: Value, name: str, strict: bool) -> np.ndarray:
    """Rows that hold `wanted`, (N,) bool."""
    if isinstance(wanted, bool):
        hit = values.str.to_lowercase().is_in(list(_SPELLINGS[wanted]))
    else:
        hit = _unified(values) == _unified(pl.Series([str(wanted).strip()]))[0]
    found = hit.fill_null(False).to_numpy()
    if strict and not found.any():
        options = values.drop_nulls().unique().to_list()
        hint = nearest(str(wanted), options) if len(options) <= LISTED else ""
        raise InputError(
            f"task {name!r}: no row of column {values.name!r} holds {str(wanted)!r} "
            f"({_seen(values)}){hint if hint.startswith('; did') else ''}"
        )
    return np.asarray(found, dtype=bool)


def _seen(values: pl.Series) -> str:
    """The distinct codes where they are few, else their number: many codes may be patient data."""
    distinct = sorted(values.drop_nulls().unique().to_list())
    if len(distinct) > LISTED:
        return f"it has {len(distinct)} distinct values"
    return f"it holds {', '.join(repr(v) for v in distinct)}" if distinct else "it is empty"


def read_labels(path: Path, ids: Sequence[str], tasks: Sequence[str]) -> pl.DataFrame:
    """labels.parquet of a built cohort: sample_id, task, label[, bayes_prob].

    Raises:
        InputError: a column is missing, a label is no integer ≥ 0, a sample is unknown or twice.
    """
    frame = read_table(path, ids=[Labels.SAMPLE_ID])
    require_columns(frame, [Labels.SAMPLE_ID, Labels.TASK, Labels.LABEL], str(path))
    frame = frame.filter(
        pl.col(Labels.TASK).is_in(list(tasks)) & pl.col(Labels.LABEL).is_not_null()
    )
    label = frame[Labels.LABEL].cast(pl.Int64, strict=False)
    if label.null_count() or (label.cast(pl.Float64) != frame[Labels.LABEL].cast(pl.Float64)).any():
        raise InputError(f"{path}: column 'label' must hold integer classes 0, 1, …")
    if len(label) and label.min() < 0:  # type: ignore[operator]
        raise InputError(f"{path}: a label is below 0; leave an unlabelled sample's row out")
    frame = frame.with_columns(as_text(frame[Labels.SAMPLE_ID]).alias(Labels.SAMPLE_ID), label)
    unknown = frame.filter(~pl.col(Labels.SAMPLE_ID).is_in(list(ids)))[Labels.SAMPLE_ID]
    if len(unknown):
        raise InputError(f"{path}: {len(unknown)} labels of unknown samples, first {unknown[0]!r}")
    twice = frame.filter(frame.select(Labels.SAMPLE_ID, Labels.TASK).is_duplicated())
    if len(twice):
        raise InputError(
            f"{path}: sample {twice[Labels.SAMPLE_ID][0]!r} has two labels of one task"
        )
    kept = [Labels.SAMPLE_ID, Labels.TASK, Labels.LABEL]
    return frame.select(kept + [c for c in frame.columns if c == Labels.BAYES_PROB])


def class_names(card: TaskCard, labels: pl.Series, name: str) -> tuple[str, ...]:
    """Names of the classes of integer labels: from the card where it has them, else the numbers."""
    highest = max(labels.to_list(), default=-1)
    if card.classes is not None:
        names = tuple(str(c) for c in card.classes)
    elif card.positive is not None:
        negative = f"not {card.positive}" if card.negative is None else str(card.negative)
        names = (negative, str(card.positive))
    else:
        names = tuple(str(k) for k in range(max(2, highest + 1)))
    if highest >= len(names):
        raise InputError(f"task {name!r}: label {highest} but only {len(names)} classes named")
    return names


def assert_learnable(target: np.ndarray, subjects: np.ndarray, name: str, least: int = 10) -> None:
    """Raise an InputError where too few patients, or only one class, are labelled."""
    labelled = target != UNLABELLED
    patients = len(np.unique(subjects[labelled]))
    if patients < least:
        raise InputError(
            f"task {name!r}: {patients} labelled patients arrived; at least {least} are needed"
        )
    if len(np.unique(target[labelled])) < 2:
        raise InputError(
            f"task {name!r}: all {patients} labelled patients are of one class; two are needed"
        )
