"""Paired tests beside the bootstrap's, and who has won: only whom every test calls better."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import holm, paired_delong
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.resampled import FOLD, corrected_resampled
from adacomed.schema import TEST, Predictions

ALPHA = 0.05
TESTS = ("p", "p_delong", "p_corrected")  # each with its `_holm`


def delong_p(base: Cells, other: Cells, metric: str) -> float | None:
    """p of the paired DeLong test; None unless it applies: AUROC, two classes, a row a subject."""
    if metric != "auroc" or base.K != 2 or not base.independent:
        return None
    key = Predictions.SAMPLE_ID
    first, second = (c.rows.sort(key) for c in (base, other))
    a, b = (rows[Predictions.PROB].to_numpy() for rows in (first, second))
    p = paired_delong(first[Predictions.LABEL].to_numpy(), a, b).p
    return None if math.isnan(p) else p


def corrected_ps(rows: pl.DataFrame, reference: str, metric: str) -> dict[str, float]:
    """p of the corrected resampled t-test by method; empty unless one task's rows have folds.

    The patients of the other folds of a repeat are taken for those that a fold was trained on.

    Args:
        rows: labelled rows of one task and split, of the reference and the others.
    """
    if Predictions.FOLD not in rows.columns or rows[Predictions.FOLD].null_count():
        return {}
    repeat = pl.col(Predictions.REPEAT) if Predictions.REPEAT in rows.columns else pl.lit(0)
    rows = rows.with_columns(
        repeat.alias(Predictions.REPEAT), pl.lit(TEST).alias(Predictions.SPLIT)
    )
    rows = rows.with_columns(pl.col(FOLD).rank("dense").cast(pl.Int64))
    sample = [Predictions.SAMPLE_ID]
    folds = rows.select(*FOLD, *sample).unique().group_by(FOLD).len()
    repeats = rows.select(Predictions.REPEAT, *sample).unique().group_by(Predictions.REPEAT).len()
    test = float(np.mean(folds["len"].to_numpy()))
    train = float(np.mean(repeats["len"].to_numpy())) - test
    if not train > 0:  # one fold: nothing was left to train on, so it is no cross-validation
        return {}
    table = corrected_resampled(rows, train=train, test=test, reference=reference, metric=metric)
    found = table.select(Predictions.METHOD, "p_resampled").iter_rows()
    return {method: p for method, p in found if not math.isnan(p)}


def judged(table: pl.DataFrame) -> pl.DataFrame:
    """Add the Holm-adjusted p of every test and the winner of every row.

    The winner is the better method where the paired interval is clear of 0 and the largest of the
    adjusted p is below 0.05; else "". A metric whose best value is in the middle has no winner.

    Args:
        table: task, method, reference, metric, difference, low, high, and TESTS; one metric.
    """
    for name in TESTS:
        p = table[name].cast(pl.Float64).fill_null(math.nan)
        adjusted = pl.Series(f"{name}_holm", holm(p), dtype=pl.Float64)
        if name != "p":  # no test is null there, while an undefined bootstrap p is NaN
            adjusted = adjusted.fill_nan(None)
        table = table.with_columns(adjusted)
    winners = [_winner(row) for row in table.iter_rows(named=True)]
    order = [c for name in TESTS for c in (name, f"{name}_holm")]
    before = [c for c in table.columns if c not in order]
    return table.select(*before, *order, pl.Series("winner", winners, dtype=pl.String))


def _winner(row: dict[str, float | str | None]) -> str:
    metric = METRICS[str(row["metric"])]
    adjusted = [row[f"{name}_holm"] for name in TESTS]
    known = [float(p) for p in adjusted if p is not None]
    low, high = float(row["low"] or 0), float(row["high"] or 0)
    clear = low > 0 or high < 0
    if metric.target is not None or not clear or not max(known) < ALPHA:
        return ""
    reference_better = (low > 0) == metric.higher_is_better
    return str(row["reference"] if reference_better else row[Predictions.METHOD])


def best(table: pl.DataFrame) -> pl.DataFrame:
    """By task and metric, whether the reference wins every row of `compare.paired`'s table.

    Returns:
        task, metric, reference, wins (the rows it wins), rivals, best (bool).
    """
    keys = [Predictions.TASK, "metric", "reference"]
    counted = table.group_by(keys, maintain_order=True).agg(
        wins=(pl.col("winner") == pl.col("reference")).sum().cast(pl.Int64),
        rivals=pl.len().cast(pl.Int64),
    )
    return counted.with_columns(best=pl.col("wins") == pl.col("rivals"))
