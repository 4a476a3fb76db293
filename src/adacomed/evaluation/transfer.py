"""How a model does on a second cohort, against how it did on the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from adacomed.errors import InputError, nearest
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import bootstrap, bootstrap_p, holm, percentile
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.scored import Floats
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.schema import TEST, Predictions

PREVALENCE = "prevalence"  # share of events, a row beside the metrics
MEASURED = ("auroc", "auprc", "brier", "sensitivity", "specificity")
_TEXT = (Predictions.TASK, Predictions.METHOD, "metric")
_NUMBERS = ("here", "there", "difference", "low", "high", "p")
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(_TEXT, pl.String),
    **dict.fromkeys(("n_here", "n_there"), pl.Int64),
    **dict.fromkeys(_NUMBERS, pl.Float64),
    "note": pl.String,
}


def transfer(
    here: pl.DataFrame,
    there: pl.DataFrame,
    *,
    metrics: Sequence[str] = MEASURED,
    split: str = TEST,
    split_there: str | None = None,
    n: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Metrics and prevalence of two predictions tables: there less here, unpaired.

    The cohorts are taken for different patients: their subjects are resampled independently,
    stratified by label for a metric and not for the prevalence. AUPRC, PPV and the like depend on
    the prevalence, so that their difference is not the model's alone. Of survival, the label is the
    event by the horizon, of whom that is known.

    Args:
        here: schema.Predictions, the first cohort's patients of `split`.
        there: the second cohort's; of `split_there`, or all of them.
        metrics: names in METRICS.
        n: resamples.
        seed: of the resampling.
    Returns:
        For each task and method in both tables and each metric, then the prevalence (two classes):
        task, method, metric, n_here, n_there (samples), here, there, difference, low, high (95 %,
        percentile), p (two-sided), p_holm (over the metrics of the task and method), note (why a
        number is null).
    Raises:
        InputError: an unknown metric, n < 1, or no task and method in both tables.
    """
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"no metric {name!r}{nearest(name, METRICS)}")
    if n < 1:
        raise InputError(f"{n} resamples: expected 1 or more")
    first, second = _cells(here, split), _cells(there, split_there)
    both = [key for key in first if key in second]
    if not both:
        raise InputError(f"nothing to compare: {_said(first)} here, {_said(second)} there")
    tables = [_compared(first[key], second[key], list(metrics), n, seed) for key in both]
    return pl.concat(tables)


def _cells(table: pl.DataFrame, split: str | None) -> dict[tuple[object, ...], Cells]:
    rows = at_horizon(table).filter(pl.col(Predictions.LABEL).is_not_null())
    if split is not None:
        rows = rows.filter(pl.col(Predictions.SPLIT) == split)
    keys = [Predictions.TASK, Predictions.METHOD]
    parts = rows.partition_by(keys, as_dict=True, maintain_order=True)
    return {key: Cells(part) for key, part in parts.items()}


def _said(cells: dict[tuple[object, ...], Cells]) -> str:
    return ", ".join(f"{task}/{method}" for task, method in cells) or "no labelled row"


def _compared(here: Cells, there: Cells, metrics: list[str], n: int, seed: int) -> pl.DataFrame:
    a, b = here.value(metrics), there.value(metrics)
    draws = there.resampled(metrics, n, seed + 1) - here.resampled(metrics, n, seed)
    names = list(metrics)
    if here.K == there.K == 2:
        names.append(PREVALENCE)
        (share_a, drawn_a), (share_b, drawn_b) = (
            _prevalence(c, n, s) for c, s in ((here, seed), (there, seed + 1))
        )
        a, b = np.append(a, share_a), np.append(b, share_b)
        draws = np.column_stack([draws, drawn_b - drawn_a])
    (low, high), p = percentile(draws), bootstrap_p(draws)
    rows = []
    for i, name in enumerate(names):
        values = (a[i], b[i], b[i] - a[i], low[i], high[i], p[i])
        found = [None if np.isnan(x) else float(x) for x in values]
        row: dict[str, Any] = {Predictions.TASK: here.task, Predictions.METHOD: here.method}
        row |= {"metric": name, "note": _note(a[i], b[i])}
        row |= {f"n_{k}": c.rows[Predictions.SAMPLE_ID].n_unique() for k, c in _named(here, there)}
        rows.append(row | dict(zip(_NUMBERS, found, strict=True)))
    table = pl.DataFrame(rows, schema=_SCHEMA)
    adjusted = [None if np.isnan(x) else float(x) for x in holm(p)]
    p_holm = pl.Series("p_holm", adjusted, dtype=pl.Float64)
    return table.insert_column(table.get_column_index("note"), p_holm)


def _named(here: Cells, there: Cells) -> tuple[tuple[str, Cells], ...]:
    return ("here", here), ("there", there)


def _prevalence(cells: Cells, n: int, seed: int) -> tuple[float, Floats]:
    """Share of events among the rows, and in resamples that do not hold it fixed."""
    label = cells.columns["label"].astype(np.float64)
    subjects = cells.rows[Predictions.SUBJECT_ID].to_numpy()

    def share(columns: Any, weight: Floats) -> Floats:
        return np.asarray(weight @ columns["label"] / weight.sum(axis=1))

    return float(label.mean()), bootstrap(share, {"label": label}, subjects, None, n, seed)


def _note(here: float, there: float) -> str:
    gone = [where for where, x in (("here", here), ("there", there)) if np.isnan(x)]
    return f"not defined {' and '.join(gone)}: a class has no patient" if gone else ""
