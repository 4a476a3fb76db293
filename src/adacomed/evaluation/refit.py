"""A predictions table made anew from its own validation rows: recalibrated, or given sets.

For tables that were made elsewhere, or to ask what another calibration would have done. Each model
(task, method, repeat, fold, seed) is fitted on its own rows of split `val` and on nothing else. Of
survival, the class is the event by the horizon, and whoever was lost before it is not fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.errors import InputError, nearest
from adacomed.evaluation.conformal import as_lists, as_mask, fit_sets, set_coverage
from adacomed.evaluation.discrimination import choose_threshold
from adacomed.evaluation.predictions import prob_columns
from adacomed.evaluation.recalibration import AUTO, KINDS, choose_calibrator
from adacomed.evaluation.scored import HALF, Floats
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.schema import CEILING, TEST, VAL, Predictions, prob_column

MODEL = (
    Predictions.TASK,
    Predictions.METHOD,
    Predictions.REPEAT,
    Predictions.FOLD,
    Predictions.SEED,
)


def recalibrated(predictions: pl.DataFrame, kind: str, *, seed: int = 0) -> pl.DataFrame:
    """The same table with probabilities calibrated, and a threshold chosen, on its validation rows.

    Args:
        predictions: schema.Predictions.
        kind: a name of `recalibration.KINDS`, or "auto".
    Returns:
        The rows in their order; prediction sets, which were of other probabilities, are left out.
    Raises:
        InputError: an unknown kind, or a model without validation rows.
    """
    if kind not in (*KINDS, AUTO):
        raise InputError(f"no calibration {kind!r}{nearest(kind, (*KINDS, AUTO))}")

    def change(part: pl.DataFrame, val: pl.DataFrame) -> pl.DataFrame:
        label, prob = _label(val), _prob(val)
        subjects = val[Predictions.SUBJECT_ID].to_numpy()
        calibrator, _ = choose_calibrator(kind, label, prob, subjects, seed)
        new, cut = calibrator.apply(_prob(part)), HALF
        if prob.shape[1] == 2:
            cut = choose_threshold(label, calibrator.apply(prob)[:, 1])
        return _with_prob(part, new).with_columns(pl.lit(cut).alias(Predictions.THRESHOLD))

    changed = _each_model(predictions, f"calibration {kind!r}", change)
    return changed.drop(Predictions.SET, strict=False)


def with_sets(predictions: pl.DataFrame, coverage: float) -> pl.DataFrame:
    """The same table with class-conditional prediction sets, fitted on its validation rows.

    Args:
        coverage: in (0, 1), of every class.
    Raises:
        InputError: a coverage outside (0, 1), or a model without validation rows.
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage {coverage:g}: expected a share between 0 and 1, such as 0.9")

    def change(part: pl.DataFrame, val: pl.DataFrame) -> pl.DataFrame:
        sets = fit_sets(_label(val), _prob(val), coverage)
        lists = pl.Series(as_lists(sets.sets(_prob(part))), dtype=pl.List(pl.Int64))
        return part.with_columns(lists.alias(Predictions.SET))

    return _each_model(predictions, "prediction sets", change)


def coverage_table(predictions: pl.DataFrame, *, split: str = TEST) -> pl.DataFrame:
    """`conformal.set_coverage` of every task and method that has sets, on its labelled rows.

    Returns:
        task, method, then set_coverage's columns; no rows where nothing has sets.
    """
    tables = []
    if Predictions.SET in predictions.columns:
        rows = at_horizon(predictions).filter(
            pl.col(Predictions.SPLIT) == split,
            pl.col(Predictions.LABEL).is_not_null(),
            pl.col(Predictions.SET).is_not_null(),
        )
        for part in rows.partition_by(MODEL[0], MODEL[1], maintain_order=True):
            mask = as_mask(part[Predictions.SET], _prob(part).shape[1])
            of = [pl.lit(part[c][0]).alias(c) for c in MODEL[:2]]
            tables.append(set_coverage(_label(part), mask).select(*of, pl.all().exclude("group")))
    return pl.concat(tables) if tables else pl.DataFrame()


def _each_model(
    predictions: pl.DataFrame,
    what: str,
    change: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame],
) -> pl.DataFrame:
    """All rows, changed model by model: `change` takes a model's rows and its validation rows."""
    row = "row of the table"
    parts = []
    for part in _models(predictions.with_row_index(row)):
        known = pl.col(Predictions.LABEL).is_not_null()
        val = at_horizon(part).filter(pl.col(Predictions.SPLIT) == VAL, known)
        if part[Predictions.METHOD][0] == CEILING:  # true probabilities, fitted on nobody
            parts.append(part)
            continue
        if val.is_empty():
            raise InputError(
                f"{what}: {part[Predictions.METHOD][0]!r} has no labelled rows of split {VAL!r} to "
                f"be fitted on; add its validation patients to the table, or leave the method out"
            )
        parts.append(change(part, val))
    return pl.concat(parts, how="diagonal").sort(row).drop(row)


def _models(predictions: pl.DataFrame) -> Iterator[pl.DataFrame]:
    keys = [c for c in MODEL if c in predictions.columns]
    yield from predictions.partition_by(keys, maintain_order=True)


def _label(rows: pl.DataFrame) -> NDArray[np.int64]:
    return rows[Predictions.LABEL].to_numpy().astype(np.int64)


def _prob(rows: pl.DataFrame) -> Floats:
    """(N, K)."""
    classes = [c for c in prob_columns(rows) if rows[c].null_count() == 0]
    if classes:
        return rows.select(classes).to_numpy()
    p = rows[Predictions.PROB].to_numpy()
    return np.stack([1 - p, p], axis=1)


def _with_prob(rows: pl.DataFrame, prob: Floats) -> pl.DataFrame:
    K = prob.shape[1]
    if K == 2:
        return rows.with_columns(pl.Series(Predictions.PROB, prob[:, 1]))
    columns = [pl.Series(prob_column(k), prob[:, k]) for k in range(K)]
    return rows.with_columns(*columns, pl.Series(Predictions.PROB, prob.max(axis=1)))
