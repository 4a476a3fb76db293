"""Tasks beyond classes: several findings of a patient, or when an event came.

What was seen of N patients ("truth") is (N, J) for findings: 1, 0, or NaN where one was not
labelled; and (N, 2) for survival: the time, and whether it is the event's (1) or the last sight of
whom had none (0), NaN where unlabelled.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort import labels as coding
from adacomed.cohort.table import as_text, name_rows
from adacomed.errors import InputError
from adacomed.schema import Labels, Samples, TaskCard, finding_task

Kind = Literal["classes", "findings", "survival"]
Truth = NDArray[np.float64]
LEAST = 10  # patients of a stratum, below which it is joined to another


def kind_of(card: TaskCard) -> Kind:
    """What a task asks: a class, several findings, or when an event comes."""
    if card.findings is not None:
        return "findings"
    return "classes" if card.time is None else "survival"


def finding_columns(card: TaskCard) -> dict[str, str]:
    """Finding → its column, in the card's order."""
    named = card.findings or []
    return dict(named) if isinstance(named, dict) else {name: name for name in named}


def label_columns(card: TaskCard) -> list[str]:
    """Every column that tells the label, which no modality may read."""
    return [*(c for c in (card.column, card.time) if c), *finding_columns(card).values()]


def assert_meaning(card: TaskCard, name: str) -> None:
    """Raise an InputError where a task's keys contradict each other."""
    where, columns = f"task {name!r}", list(finding_columns(card).values())
    if card.findings is not None:
        if len(set(columns)) < max(1, len(columns)) or len(columns) != len(card.findings):
            raise InputError(f"{where}: findings: must name at least one column, and none twice")
        if card.column or card.time or card.classes:
            raise InputError(
                f"{where}: findings: names the columns; leave out column:, time: and classes:"
            )
    if card.time is not None and (card.column is None or card.classes is not None):
        raise InputError(
            f"{where}: time: makes a survival task; write column: with whether the event happened "
            f"(0/1, or positive: VALUE) beside it, without classes:"
        )
    if card.time is None and (card.intervals or card.horizon is not None or card.unit):
        raise InputError(f"{where}: intervals:, horizon: and unit: need time:, a survival task")


def code_findings(
    samples: pl.DataFrame,
    columns: dict[str, pl.Series],
    name: str,
    card: TaskCard,
    *,
    strict: bool = True,
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Labels of every finding (sample_id, task, label), a task each, and the findings' names.

    Args:
        columns: finding → (N,).
        strict: as for `labels.code_task`.
    Raises:
        InputError: as `labels.code_task`, of the finding that it names.
    """
    one = card.model_copy(update={"findings": None})
    parts = []
    for finding, column in columns.items():
        task = finding_task(name, finding)
        target, _ = coding.code_task(column, task, one, strict=strict)
        parts.append(_coded(samples, task, target))
    return pl.concat(parts), tuple(columns)


def _coded(samples: pl.DataFrame, task: str, target: np.ndarray) -> pl.DataFrame:
    id_, label = Samples.SAMPLE_ID, pl.Series(Labels.LABEL, target, dtype=pl.Int64)
    coded = samples.select(id_, pl.lit(task).alias(Labels.TASK), label)
    return coded.filter(pl.col(Labels.LABEL) != coding.UNLABELLED)


def code_survival(
    samples: pl.DataFrame,
    event: pl.Series,
    time: pl.Series,
    name: str,
    card: TaskCard,
    *,
    strict: bool = True,
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Labels of a survival task (sample_id, task, label 1 = the event, time), and the two names.

    A patient without a time, or of whom it is not known whether the event happened, has no label.

    Args:
        event, time: (N,) columns.
    Raises:
        InputError: an event column with more than two values, a time that is no number, below 0, or
            missing though the event happened; an event that nobody has by the horizon.
    """
    where, ids = f"task {name!r}", samples[Samples.SAMPLE_ID].to_list()
    target, names = coding.code_task(event, name, card, strict=strict)
    others = as_text(event.filter(pl.Series(target == 0))).drop_nulls().n_unique()
    if strict and card.positive is not None and card.negative is None and others > 1:
        raise InputError(
            f"{where}: column {event.name!r} holds {others} values beside {str(card.positive)!r}; "
            f"whether an event happened has two: write negative: VALUE, the rest is unlabelled"
        )
    text = as_text(time)
    when = text.cast(pl.Float64, strict=False).fill_nan(None)
    wrong = (text.is_not_null() & (when.is_null() | ~when.is_finite().fill_null(False))).arg_true()
    if len(wrong) and strict:
        rows = name_rows(wrong.to_list(), ids)
        raise InputError(f"{where}: column {time.name!r} is no number at {rows}")
    known = when.is_not_null().to_numpy() & np.isfinite(when.fill_null(np.nan).to_numpy())
    below = known & (when.fill_null(0.0).to_numpy() < 0)
    lost = (target == 1) & ~known
    for rows_of, what in ((below, "below 0"), (lost, "missing though the event happened")):
        if strict and rows_of.any():
            rows = name_rows(np.flatnonzero(rows_of).tolist(), ids)
            raise InputError(f"{where}: {time.name!r} is {what} at {rows}")
    labelled = np.where(known & ~below, target, coding.UNLABELLED)
    whole = samples.select(Samples.SAMPLE_ID, when.alias(Labels.TIME))
    coded = _coded(samples, name, labelled).join(
        whole.unique(Samples.SAMPLE_ID), on=Samples.SAMPLE_ID, how="left", maintain_order="left"
    )
    if strict:
        _assert_by_horizon(coded, card, where)
    return coded, names


def _assert_by_horizon(coded: pl.DataFrame, card: TaskCard, where: str) -> None:
    times = coded.filter(pl.col(Labels.LABEL) == 1)[Labels.TIME]
    first = times.min()
    if card.horizon is not None and isinstance(first, float) and first > card.horizon:
        raise InputError(
            f"{where}: nobody has the event by horizon: {card.horizon:g}; the first is at {first:g}"
        )


def horizon_of(card: TaskCard, truth: Truth) -> float:
    """The time whose risk is predicted: the card's, else the median follow-up without the event.

    It says what is asked, so that it is one for all folds. Where everyone had the event, it is the
    median time of the events.
    """
    if card.horizon is not None:
        return card.horizon
    free = truth[truth[:, 1] == 0, 0]
    with_event = truth[truth[:, 1] == 1, 0]
    for times in (free, with_event):
        if len(times) and (middle := float(np.median(times))) > 0:
            return middle
    return 1.0


def assert_learnable(
    truth: Truth, kind: Kind, names: tuple[str, ...], subjects: NDArray[np.str_], task: str
) -> None:
    """Raise an InputError where too few are labelled, or a finding or the event never varies.

    Args:
        truth: (N, J) or (N, 2); names: of the findings.
    """
    if kind == "findings":
        for name, column in zip(names, truth.T, strict=True):
            coding.assert_learnable(_integers(column), subjects, finding_task(task, name))
        return
    events = _integers(truth[:, 1])
    patients = len(np.unique(subjects[events >= 0]))
    if patients < LEAST:
        raise InputError(
            f"task {task!r}: {patients} labelled patients arrived; at least {LEAST} are needed"
        )
    if not (events == 1).any():
        raise InputError(f"task {task!r}: nobody has the event, so that nothing can be learnt")


def _integers(column: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.where(np.isnan(column), coding.UNLABELLED, column).astype(np.int64)


def strata(truth: Truth, kind: Kind, subjects: NDArray[np.str_]) -> NDArray[np.int64]:
    """What a split keeps in proportion, (N,): −1 where unlabelled.

    Findings: the rarest that is present, 0 for none; one with fewer than `LEAST` patients of its
    own is joined to 0. Survival: the event; where everyone had it, an early or a late one.
    """
    if kind == "survival":
        events = _integers(truth[:, 1])
        if len(np.unique(events[events >= 0])) < 2:
            late = truth[:, 0] > np.nanmedian(truth[:, 0]) if (events >= 0).any() else events
            return np.where(events >= 0, late, coding.UNLABELLED).astype(np.int64)
        return events
    labelled = ~np.isnan(truth).all(axis=1)
    patients = [len(np.unique(subjects[column == 1])) for column in truth.T]
    out = np.zeros(len(truth), dtype=np.int64)
    for j in np.argsort(-np.array(patients), kind="stable"):  # the rarest is written last
        out[truth[:, j] == 1] = j + 1
    for k in np.unique(out):
        if k and len(np.unique(subjects[labelled & (out == k)])) < LEAST:
            out[out == k] = 0
    found, count = np.unique(out[labelled], return_counts=True)
    if len(found) > 1 and found[0] == 0 and count[0] < LEAST:
        out[out == 0] = found[1:][count[1:].argmax()]
    if labelled.any() and len(np.unique(out[labelled])) < 2:
        share = np.nan_to_num(np.nanmean(truth[:, ~np.isnan(truth).all(axis=0)], axis=0), nan=0.0)
        column = truth[:, ~np.isnan(truth).all(axis=0)][:, np.abs(share - 0.5).argmin()]
        out = (column == 1).astype(np.int64)
    return np.where(labelled, out, coding.UNLABELLED)
