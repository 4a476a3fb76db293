"""Predictions table → metrics with intervals per method, and paired differences of methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from adacomed.errors import InputError, nearest
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import bootstrap_p, percentile
from adacomed.evaluation.limits import limits
from adacomed.evaluation.notes import note
from adacomed.evaluation.predictions import Cells, listed, read_predictions
from adacomed.evaluation.scored import Floats
from adacomed.evaluation.tables import markdown, text_paired, text_table
from adacomed.evaluation.verdict import TESTS, corrected_ps, delong_p, judged
from adacomed.schema import TEST, Predictions

__all__ = ["markdown", "paired", "read_predictions", "summarise", "text_paired", "text_table"]


def summarise(
    predictions: pl.DataFrame,
    *,
    split: str = TEST,
    metrics: Sequence[str] = tuple(METRICS),
    n: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Metrics with 95 % intervals, one row per task and method in the order of the table.

    The folds of one repeat and seed are pooled, a metric is computed per repeat and seed, and
    averaged over these. Its interval comes from resampling subjects, all rows of a subject in all
    repeats together, stratified by label. Where each subject has one row and the task two classes,
    AUROC has DeLong's interval instead (Newcombe's where DeLong's has no variance) and shares have
    Wilson's; see `limits`. Decisions use the row's `threshold`, else 0.5. Rows without a label are
    left out; choosing subgroups is the caller's job.

    Args:
        predictions: schema.Predictions; threshold, repeat, fold, seed may be absent.
        metrics: names in METRICS.
        n: resamples.
        seed: of the resampling.
    Returns:
        task, method, n (samples), n_events (of class 1; null with K > 2), then for each metric
        `<metric>`, `<metric>_low`, `<metric>_high`; auroc_interval ("DeLong", "Newcombe",
        "bootstrap" or "constant scores") and note ("" or a warning, such as "4 events: the
        interval is wide", and the reason of every NaN). No rows: an empty table.
    Raises:
        InputError: an unknown metric, a sample twice in one repeat and seed, or n < 1.
    """
    names = _known(metrics, n)
    rows = [_row(cells, names, n, seed) for cells in _groups(predictions, split)]
    return pl.DataFrame(rows, schema=_schema(names))


def _schema(names: list[str]) -> dict[str, type[pl.DataType]]:
    schema: dict[str, type[pl.DataType]] = {
        Predictions.TASK: pl.String,
        Predictions.METHOD: pl.String,
    }
    schema |= {"n": pl.Int64, "n_events": pl.Int64}
    schema |= {f"{m}{end}": pl.Float64 for m in names for end in ("", "_low", "_high")}
    return schema | {"auroc_interval": pl.String, "note": pl.String}


def _row(cells: Cells, names: list[str], n: int, seed: int) -> dict[str, object]:
    value = cells.value(names)
    low, high, auroc_interval = limits(cells, names, value, cells.resampled(names, n, seed))
    samples = cells.rows.unique(Predictions.SAMPLE_ID)
    row: dict[str, object] = {Predictions.TASK: cells.task, Predictions.METHOD: cells.method}
    row["n"] = len(samples)
    row["n_events"] = int((samples[Predictions.LABEL] == 1).sum()) if cells.K == 2 else None
    for i, name in enumerate(names):
        found = (float(value[i]), float(low[i]), float(high[i]))
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
    row["auroc_interval"] = auroc_interval
    return row | {"note": note(cells, names, value, low, high)}


HEADLINES = ("auroc", "auprc")  # what methods are compared by; each is a family of its own


def paired_headlines(predictions: pl.DataFrame, **settings: Any) -> pl.DataFrame:
    """`paired` by each of `HEADLINES`, one below the other; p values adjusted within each."""
    return pl.concat([paired(predictions, metric=name, **settings) for name in HEADLINES])


def paired(
    predictions: pl.DataFrame,
    *,
    reference: str = "adacomed",
    metric: str = "auroc",
    split: str = TEST,
    n: int = 2000,
    seed: int = 0,
) -> pl.DataFrame:
    """The reference minus each other method on the same samples, subjects resampled together.

    Metrics are averaged over repeats and seeds as in `summarise`.

    Args:
        predictions: schema.Predictions; tasks without the reference are left out.
        metric: a name in METRICS; for a lower-is-better one a negative difference is a gain.
        n: resamples.
    Returns:
        task, method, reference, metric, n (samples), difference, low, high (95 %, percentile),
        p (two-sided, bootstrap: at least 2/(n + 1)), p_delong (paired DeLong; null unless AUROC of
        two classes and one row a subject), p_corrected (corrected resampled t-test; null without
        folds), each followed by its `_holm` (adjusted over all rows of the table), and winner (""
        unless the interval is clear of 0 and every test's p_holm below 0.05).
    Raises:
        InputError: no such reference or metric, or a method was not tested on exactly the samples
            (in each repeat and seed) of the reference; it says how many differ.
    """
    [name] = _known([metric], n)
    groups = _groups(predictions, split)
    methods = sorted({c.method for c in groups})
    if groups and reference not in methods:
        raise InputError(f"no method {reference!r} to compare with{nearest(reference, methods)}")
    rows = []
    for base in (c for c in groups if c.method == reference):
        others = [c for c in groups if c.task == base.task and c is not base]
        rows += _against_all(base, others, name, n, seed)
    text = dict.fromkeys((Predictions.TASK, Predictions.METHOD, "reference", "metric"), pl.String)
    numbers = dict.fromkeys(("difference", "low", "high", *TESTS), pl.Float64)
    return judged(pl.DataFrame(rows, schema={**text, "n": pl.Int64, **numbers}))


def _against_all(
    base: Cells, others: list[Cells], metric: str, n: int, seed: int
) -> list[dict[str, object]]:
    """A row per other method of the task."""
    draws = base.resampled([metric], n, seed)
    rows = [_against(base, draws, other, metric, seed) for other in others]
    tested = pl.concat([base.rows, *(other.rows for other in others)])
    corrected = corrected_ps(tested, base.method, metric)
    return [row | {"p_corrected": corrected.get(str(row["method"]))} for row in rows]


def _against(base: Cells, draws: Floats, other: Cells, metric: str, seed: int) -> dict[str, object]:
    """Base minus other; the resamples are the same, as the samples are."""
    _assert_same(base, other)
    values = draws - other.resampled([metric], len(draws), seed)
    low, high = percentile(values)
    return {
        Predictions.TASK: base.task,
        Predictions.METHOD: other.method,
        "reference": base.method,
        "metric": metric,
        "n": base.rows[Predictions.SAMPLE_ID].n_unique(),
        "difference": float((base.value([metric]) - other.value([metric]))[0]),
        "low": float(low[0]),
        "high": float(high[0]),
        "p": float(bootstrap_p(values)[0]),
        "p_delong": delong_p(base, other, metric),
    }


def _known(metrics: Sequence[str], n: int) -> list[str]:
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"no metric {name!r}{nearest(name, METRICS)}")
    if n < 1:
        raise InputError(f"{n} resamples: expected 1 or more")
    return list(metrics)


def _groups(predictions: pl.DataFrame, split: str) -> list[Cells]:
    """The labelled rows of a split by task and method, in the table's order."""
    rows = predictions.filter(
        (pl.col(Predictions.SPLIT) == split) & pl.col(Predictions.LABEL).is_not_null()
    )
    return [
        Cells(part)
        for part in rows.partition_by(Predictions.TASK, Predictions.METHOD, maintain_order=True)
    ]


def _assert_same(base: Cells, other: Cells) -> None:
    """Both have the same samples, subjects and labels in the same repeats and seeds."""
    keys = [Predictions.SAMPLE_ID, Predictions.SUBJECT_ID, Predictions.LABEL, *base.keys]
    first, second = (c.rows.select(keys) for c in (base, other))
    missing = first.join(second, on=keys, how="anti", nulls_equal=True)
    extra = second.join(first, on=keys, how="anti", nulls_equal=True)
    ids = pl.concat([missing, extra])[Predictions.SAMPLE_ID].unique(maintain_order=True).to_list()
    if ids:
        raise InputError(
            f"{base.method!r} and {other.method!r} cannot be paired: {len(ids)} samples are "
            f"in one only, or differ in subject, label, repeat or seed ({listed(ids)})"
        )
