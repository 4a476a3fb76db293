"""Several findings of one task at once: their mean, with an interval that resamples patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from adacomed.errors import InputError, nearest
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import Columns, bootstrap, bootstrap_p, holm, percentile
from adacomed.evaluation.predictions import Cells, listed
from adacomed.evaluation.scored import HALF, Floats, Scored
from adacomed.schema import TEST, Predictions, finding_task

MACRO = ("auroc", "auprc", "brier")  # in a table of means, where none are named
KEYS = [Predictions.SAMPLE_ID, Predictions.SUBJECT_ID]
CELL = [Predictions.REPEAT, Predictions.SEED]


def mean_auroc(truth: ArrayLike, prob: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """Mean AUROC over J findings, (R,).

    Args:
        truth: (N, J) 0, 1 or NaN where a finding was not labelled.
        prob: (N, J) score, any scale.
        weight: (R, N), default ones of shape (1, N).
    Returns:
        Of the findings that have both classes under a weighting; NaN where none has.
    """
    return _mean_over(["auroc"], truth, prob, None, weight)[:, 0]


def _mean_over(
    metrics: Sequence[str],
    truth: ArrayLike,
    prob: ArrayLike,
    threshold: Floats | None,
    weight: ArrayLike | None,
) -> Floats:
    """(R, M) metrics, each the mean over the findings in which it is defined."""
    y, p = np.asarray(truth, dtype=np.float64), np.asarray(prob, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 2:
        raise ValueError(f"need truth and prob of one shape (N, J), got {y.shape} and {p.shape}")
    w = np.ones((1, len(y))) if weight is None else np.asarray(weight, dtype=np.float64)
    values = np.full((y.shape[1], len(w), len(metrics)), np.nan)
    for j in range(y.shape[1]):
        known = np.flatnonzero(~np.isnan(y[:, j]))
        if len(known):
            cut = None if threshold is None else threshold[known, j]
            scored = Scored.of(y[known, j].astype(np.int64), p[known, j], cut, w[:, known])
            values[j] = np.stack([METRICS[m].function(scored) for m in metrics], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # none has both classes: NaN
        mean: Floats = np.nanmean(values, axis=0)
    return mean


def summarise_findings(
    predictions: pl.DataFrame,
    task: str,
    findings: Sequence[str],
    *,
    split: str = TEST,
    metrics: Sequence[str] = MACRO,
    n: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """The mean over a task's findings, one row per method, with 95 % intervals.

    A metric is computed for each finding on those labelled for it, averaged over the findings, and
    over repeats and seeds. The interval resamples subjects, all findings and rows of a subject
    together (percentile); a finding of one class in a resample is left out of that resample's mean.

    Args:
        predictions: schema.Predictions, a row for each sample and finding.
        task: of the cohort; its rows are called `schema.finding_task(task, finding)`.
        metrics: names in METRICS.
    Returns:
        task, method, findings (how many have both classes), n (samples), then `<metric>`,
        `<metric>_low`, `<metric>_high` of each, and note ("" or which finding was left out).
    Raises:
        InputError: an unknown metric, or no row of these findings.
    """
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"no metric {name!r}{nearest(name, METRICS)}")
    rows = []
    for method, part in _methods(predictions, task, findings, split).items():
        columns = _wide(part, task, findings)
        [value] = _statistic(metrics)(columns, np.ones((1, len(columns["cell"]))))
        draws = _draws(columns, metrics, n, seed)
        low, high = percentile(draws)
        out = _one_class(columns, findings)
        row: dict[str, object] = {Predictions.TASK: task, Predictions.METHOD: method}
        row |= {"findings": len(findings) - len(out), "n": part[Predictions.SAMPLE_ID].n_unique()}
        for i, name in enumerate(metrics):
            row |= {name: value[i], f"{name}_low": low[i], f"{name}_high": high[i]}
        said = f"left out of AUROC, of one class only: {', '.join(out)}" if out else ""
        rows.append({**row, "note": said})
    return pl.DataFrame(rows)


def paired_findings(
    predictions: pl.DataFrame,
    task: str,
    findings: Sequence[str],
    *,
    reference: str = "adacomed",
    metric: str = "auroc",
    split: str = TEST,
    n: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """The reference's mean over the findings less each other method's, on the same resamples.

    Returns:
        task, method, reference, metric, n, difference, low, high, p, p_holm, as `compare.paired`.
    Raises:
        InputError: no such reference, or a method was tested on other samples.
    """
    parts = _methods(predictions, task, findings, split)
    if reference not in parts:
        raise InputError(f"no method {reference!r} to compare with{nearest(reference, parts)}")
    mine = _wide(parts[reference], task, findings)
    draws = _draws(mine, [metric], n, seed)[:, 0]
    one = np.ones((1, len(mine["cell"])))
    rows = []
    for method, part in parts.items():
        if method == reference:
            continue
        other = _wide(part, task, findings)
        if other["key"].tolist() != mine["key"].tolist():
            apart = sorted(set(other["key"].tolist()) ^ set(mine["key"].tolist()))
            raise InputError(
                f"{reference!r} and {method!r} cannot be paired: {len(apart)} samples are in one "
                f"only ({listed(map(str, apart))})"
            )
        values = draws - _draws(other, [metric], n, seed)[:, 0]
        low, high = percentile(values)
        gap = (_statistic([metric])(mine, one) - _statistic([metric])(other, one))[0, 0]
        found = {"difference": float(gap), "low": float(low), "high": float(high)}
        row = {Predictions.TASK: task, Predictions.METHOD: method, "reference": reference}
        counted = {"metric": metric, "n": part[Predictions.SAMPLE_ID].n_unique()}
        rows.append({**row, **counted, **found, "p": float(bootstrap_p(values))})
    table = pl.DataFrame(rows)
    return table if not rows else table.with_columns(pl.Series("p_holm", holm(table["p"])))


def _methods(
    predictions: pl.DataFrame, task: str, findings: Sequence[str], split: str
) -> dict[str, pl.DataFrame]:
    """Labelled rows of the findings by method, in the table's order."""
    names = [finding_task(task, finding) for finding in findings]
    rows = predictions.filter(
        (pl.col(Predictions.SPLIT) == split)
        & pl.col(Predictions.LABEL).is_not_null()
        & pl.col(Predictions.TASK).is_in(names)
    )
    if rows.is_empty():
        raise InputError(f"no labelled row of split {split!r} is of a finding of task {task!r}")
    for part in rows.partition_by(Predictions.TASK, Predictions.METHOD):
        _ = Cells(part).keys  # raises where a sample occurs twice
    parts = rows.partition_by(Predictions.METHOD, as_dict=True, maintain_order=True)
    return {str(method): part for (method,), part in parts.items()}


def _wide(part: pl.DataFrame, task: str, findings: Sequence[str]) -> Columns:
    """One row per sample and cell, in a fixed order: truth, prob and threshold (N, J)."""
    by = [c for c in CELL if c in part.columns]
    if Predictions.THRESHOLD not in part.columns:
        part = part.with_columns(pl.lit(HALF).alias(Predictions.THRESHOLD))
    keys = [*KEYS, *by]
    wide = part.select(keys).unique().sort(keys)
    found: dict[str, list[np.ndarray]] = {"truth": [], "prob": [], "threshold": []}
    wanted = (Predictions.LABEL, Predictions.PROB, Predictions.THRESHOLD)
    for finding in findings:
        of = part.filter(pl.col(Predictions.TASK) == finding_task(task, finding))
        mine = wide.join(of, on=keys, how="left", maintain_order="left", nulls_equal=True)
        for name, column in zip(found, wanted, strict=True):
            values = mine[column].cast(pl.Float64).fill_null(float("nan"))
            found[name].append(values.to_numpy())
    cell = (
        wide.select(pl.struct(by).rank("dense")).to_series() if by else pl.Series([0] * len(wide))
    )
    columns = {name: np.stack(values, axis=1) for name, values in found.items()}
    columns["prob"] = np.where(np.isnan(columns["truth"]), 0.0, columns["prob"])
    key = wide.select(pl.concat_str(keys, separator=" ")).to_series()
    others = {"subject": wide[Predictions.SUBJECT_ID].to_numpy(), "cell": cell.to_numpy()}
    return {**columns, **others, "key": key.to_numpy()}


def _statistic(metrics: Sequence[str]) -> Callable[[Columns, Floats], Floats]:
    """(columns, weight (R, N)) → (R, M): means over findings per cell, mean over the cells."""

    def statistic(columns: Columns, weight: Floats) -> Floats:
        cells = np.unique(columns["cell"])
        total: Floats = np.zeros((len(weight), len(metrics)))
        for cell in cells:
            i = np.flatnonzero(columns["cell"] == cell)
            truth, prob, cut = (columns[name][i] for name in ("truth", "prob", "threshold"))
            total += _mean_over(metrics, truth, prob, cut, weight[:, i])
        return total / len(cells)

    return statistic


def _draws(columns: Columns, metrics: Sequence[str], n: int, seed: int) -> Floats:
    arrays = {k: v for k, v in columns.items() if k not in ("subject", "key")}
    return bootstrap(_statistic(metrics), arrays, columns["subject"], None, n, seed)


def _one_class(columns: Columns, findings: Sequence[str]) -> list[str]:
    """Findings of which everyone here has the same label, or none has any."""
    values = [set(column[~np.isnan(column)]) for column in columns["truth"].T]
    return [f for f, seen in zip(findings, values, strict=True) if len(seen) < 2]
