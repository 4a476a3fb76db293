"""Metrics by sex, age band, site or modality pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from adacomed.evaluation.compare import summarise
from adacomed.evaluation.gaps import gaps, sentences
from adacomed.evaluation.levels import GROUP, LEAST, LEVEL, split_rows, too_few
from adacomed.evaluation.predictions import Cells
from adacomed.schema import TEST, Predictions

__all__ = ["gaps", "sentences", "subgroups"]

MEASURED = ("auroc", "auprc", "sensitivity", "specificity", "brier")


def subgroups(
    predictions: pl.DataFrame,
    *,
    by: str | Sequence[str],
    split: str = TEST,
    metrics: Sequence[str] = MEASURED,
    n: int = 1000,
    seed: int = 0,
    least: int = LEAST,
) -> pl.DataFrame:
    """Metrics with 95 % intervals in every level of some groups, as `compare.summarise` has them.

    A level with too few patients is shown with its size, the reason and no metric: fewer than
    `least` samples or subjects, or fewer than 5 samples or subjects of a class.

    Args:
        predictions: schema.Predictions.
        by: names for `levels.levels_of`.
        metrics: names in METRICS. AUPRC depends on how frequent events are in a level.
        n: resamples of the subjects.
        seed: of the resampling.
        least: samples.
    Returns:
        task, method, group, level, n (labelled samples), n_events (null with K > 2), for each
        metric `<metric>`, `<metric>_low`, `<metric>_high`, and note; in the order of the table's
        tasks and methods, of `by`, and of the levels.
    Raises:
        InputError: as `levels_of` and `summarise`.
    """
    nothing = summarise(predictions.clear(), metrics=metrics, n=n)  # checks what was asked too
    columns = [f"{m}{end}" for m in metrics for end in ("", "_low", "_high")]
    columns = [Predictions.TASK, Predictions.METHOD, GROUP, LEVEL, "n", "n_events", *columns]
    tables = [_labelled(nothing, "", "")]
    for part, group, order in split_rows(predictions, by, split):
        for level in order:
            rows = part.filter(pl.col(LEVEL) == level)
            if len(rows):
                row = _level(rows, least, {"metrics": metrics, "n": n, "seed": seed})
                tables.append(_labelled(row, group, level))
    return pl.concat(tables, how="diagonal").select(*columns, "note")


def _labelled(table: pl.DataFrame, group: str, level: str) -> pl.DataFrame:
    return table.with_columns(pl.lit(group).alias(GROUP), pl.lit(level).alias(LEVEL))


def _level(rows: pl.DataFrame, least: int, settings: dict[str, Any]) -> pl.DataFrame:
    """One level of one method: its metrics, or its size and why it has none."""
    reason = too_few(rows, least)
    if not reason:
        return summarise(rows, split=rows[Predictions.SPLIT][0], **settings)
    samples = rows.unique(Predictions.SAMPLE_ID)
    events = int((samples[Predictions.LABEL] == 1).sum())
    row = {
        Predictions.TASK: rows[Predictions.TASK][0],
        Predictions.METHOD: rows[Predictions.METHOD][0],
        "n": len(samples),
        "n_events": events if Cells(rows).K == 2 else None,
        "note": reason,
    }
    return pl.DataFrame([row], schema_overrides={"n_events": pl.Int64})
