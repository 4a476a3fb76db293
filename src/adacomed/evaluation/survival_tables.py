"""Survival predictions → a table with intervals, paired differences, risk groups, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from adacomed.errors import InputError, nearest
from adacomed.evaluation import ipcw
from adacomed.evaluation.intervals import (
    Columns,
    Interval,
    bootstrap,
    bootstrap_p,
    holm,
    percentile,
)
from adacomed.evaluation.predictions import Cells, listed
from adacomed.evaluation.scored import Floats
from adacomed.evaluation.survival import concordance, kaplan_meier
from adacomed.evaluation.tables import aligned, estimate, number, p_value
from adacomed.schema import TEST, Predictions

METRICS = {"c_index": "C-index", "auroc_at": "AUROC at the horizon", "ibs": "integrated Brier"}
FEW = 20  # events below which a row gets a note


def is_survival(predictions: pl.DataFrame) -> bool:
    """Whether a table holds times, and so risks by a horizon."""
    times = Predictions.TIME in predictions.columns
    return times and predictions[Predictions.TIME].is_not_null().any()


def at_horizon(predictions: pl.DataFrame) -> pl.DataFrame:
    """The table with `label` = the event by the horizon, null of whom was lost before.

    What reads classes (AUROC, calibration, decision curves) then reads survival predictions too.
    Other tables stay as they are.
    """
    if not is_survival(predictions) or Predictions.HORIZON not in predictions.columns:
        return predictions
    time, horizon = pl.col(Predictions.TIME), pl.col(Predictions.HORIZON)
    event = pl.col(Predictions.LABEL) == 1
    by_then = pl.when(event & (time <= horizon)).then(1)
    later = by_then.when((time > horizon) | (~event & (time == horizon))).then(0)
    label = pl.when(time.is_null() | horizon.is_null()).then(pl.col(Predictions.LABEL))
    return predictions.with_columns(label.otherwise(later).alias(Predictions.LABEL))


def summarise_survival(
    predictions: pl.DataFrame, *, split: str = TEST, n: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """C-index, AUROC at the horizon and integrated Brier score, one row per task and method.

    Each is computed per repeat and seed on all folds together and averaged; 95 % intervals resample
    subjects within event and no event (percentile). The Brier score is integrated up to the last
    interval's end that all folds share, or to when the last patient was seen.

    Args:
        predictions: schema.Predictions with time, horizon, survival and intervals.
    Returns:
        task, method, n, n_events, horizon, then c_index, auroc_at and ibs with _low and _high (ibs
        is null without curves), note ("" or a warning).
    Raises:
        InputError: no labelled row with a time, or a sample twice in one repeat and seed.
    """
    rows = [_row(cells, n, seed) for cells in _cells(predictions, split)]
    return pl.DataFrame(rows, infer_schema_length=None)


def _row(cells: Cells, n: int, seed: int) -> dict[str, object]:
    columns = _columns(cells)
    [value], draws = _values(columns, cells, n, seed)
    low, high = percentile(draws)
    samples = cells.rows.unique(Predictions.SAMPLE_ID)
    events = int((samples[Predictions.LABEL] == 1).sum())
    row: dict[str, object] = {Predictions.TASK: cells.task, Predictions.METHOD: cells.method}
    row |= {"n": len(samples), "n_events": events, Predictions.HORIZON: columns["horizon"][0]}
    for i, name in enumerate(METRICS):
        found = [float(x[i]) for x in (value, low, high)]
        found = [None if np.isnan(x) else x for x in found]  # type: ignore[misc]
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
    what = "event" if events == 1 else "events"
    row["note"] = f"{events} {what}: the intervals are wide" if events < FEW else ""
    return row


def paired_survival(
    predictions: pl.DataFrame,
    *,
    reference: str = "adacomed",
    split: str = TEST,
    n: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """The reference's C-index less each other method's, on the same resamples of the subjects.

    Returns:
        task, method, reference, metric ("c_index"), n, difference, low, high, p, p_holm.
    Raises:
        InputError: no such reference, or a method was tested on other samples.
    """
    every = {(c.task, c.method): c for c in _cells(predictions, split)}
    methods = [method for _, method in every]
    if reference not in methods:
        raise InputError(f"no method {reference!r} to compare with{nearest(reference, methods)}")
    rows = []
    for (task, method), cells in every.items():
        if method == reference or (task, reference) not in every:
            continue
        base = every[task, reference]
        mine, theirs = _columns(base), _columns(cells)
        if mine["key"].tolist() != theirs["key"].tolist():
            apart = sorted({*mine["key"].tolist()} ^ {*theirs["key"].tolist()})
            raise InputError(
                f"{reference!r} and {method!r} cannot be paired: {len(apart)} rows are of one only "
                f"({listed(map(str, apart))})"
            )
        [[a]], draws = _values(mine, base, n, seed, ["c_index"])
        [[b]], others = _values(theirs, cells, n, seed, ["c_index"])
        values = (draws - others)[:, 0]
        low, high = percentile(values)
        named = {Predictions.TASK: task, Predictions.METHOD: method, "reference": reference}
        found = {"difference": float(a - b), "low": float(low), "high": float(high)}
        p = float(bootstrap_p(values))
        rows.append({**named, "metric": "c_index", "n": len(mine["time"]), **found, "p": p})
    table = pl.DataFrame(rows)
    return table if not rows else table.with_columns(pl.Series("p_holm", holm(table["p"])))


def calibration_at_horizon(
    rows: pl.DataFrame, groups: int = 5
) -> list[tuple[int, float, Interval]]:
    """Predicted and observed risk by the horizon in groups of like predicted risk.

    Args:
        rows: labelled survival rows of one task and method, each sample once.
    Returns:
        For each group: patients, mean predicted risk, and 1 − Kaplan–Meier at the horizon with its
        95 % limits.
    """
    risk = rows[Predictions.PROB].to_numpy()
    time, event = rows[Predictions.TIME].to_numpy(), rows[Predictions.LABEL].to_numpy() == 1
    horizon = float(rows[Predictions.HORIZON][0])
    out = []
    for members in np.array_split(np.argsort(risk, kind="stable"), groups):
        if len(members):
            S, low, high = kaplan_meier(time[members], event[members]).at(horizon)
            observed = Interval(1 - S, 1 - high, 1 - low)
            out.append((len(members), float(risk[members].mean()), observed))
    return out


def text_survival(table: pl.DataFrame) -> str:
    """`summarise_survival`'s table for a terminal, the best C-index of a task on top."""
    header = ["task", "method", "n", "events", *METRICS.values()]
    body = []
    ordered = table.sort([Predictions.TASK, "c_index"], descending=[False, True], nulls_last=True)
    for row in ordered.iter_rows(named=True):
        cells = [row[Predictions.TASK], row[Predictions.METHOD], str(row["n"])]
        cells.append(str(row["n_events"]))
        cells += [estimate(row[m], row[f"{m}_low"], row[f"{m}_high"]) for m in METRICS]
        body.append(cells)
    notes = [
        f"{r[Predictions.METHOD]}: {r['note']}" for r in table.iter_rows(named=True) if r["note"]
    ]
    return "\n".join([aligned(header, body), *notes])


def text_paired_survival(table: pl.DataFrame) -> str:
    """`paired_survival`'s table for a terminal."""
    header = ["task", "comparison", "n", "C-index difference (95 % CI)", "p", "p (Holm)"]
    body = []
    for row in table.iter_rows(named=True):
        gap = estimate(row["difference"], row["low"], row["high"], 3, " to ")
        what = f"{row['reference']} − {row[Predictions.METHOD]}"
        ps = [p_value(row["p"]), p_value(row["p_holm"])]
        body.append([row[Predictions.TASK], what, number(row["n"], 0), gap, *ps])
    return aligned(header, body)


def _cells(predictions: pl.DataFrame, split: str) -> list[Cells]:
    if not is_survival(predictions):
        raise InputError(f"no row has a {Predictions.TIME!r}: these are no survival predictions")
    known = pl.col(Predictions.LABEL).is_not_null() & pl.col(Predictions.TIME).is_not_null()
    rows = predictions.filter(known & (pl.col(Predictions.SPLIT) == split))
    if rows.is_empty():
        raise InputError(f"no row of split {split!r} has a label and a time")
    keys = (Predictions.TASK, Predictions.METHOD)
    return [Cells(part) for part in rows.partition_by(*keys, maintain_order=True)]


def _columns(cells: Cells) -> dict[str, np.ndarray]:
    """What the metrics read, in an order that is the same for every method."""
    by = [Predictions.SAMPLE_ID, *cells.keys]
    rows = cells.rows.sort(by)
    cell = rows.select(pl.struct(cells.keys).rank("dense")).to_series() if cells.keys else None
    if Predictions.HORIZON not in rows.columns:
        rows = rows.with_columns(pl.lit(float("nan")).alias(Predictions.HORIZON))
    return {
        "time": rows[Predictions.TIME].to_numpy(),
        "event": rows[Predictions.LABEL].to_numpy() == 1,
        "risk": rows[Predictions.PROB].to_numpy(),
        "horizon": rows[Predictions.HORIZON].to_numpy(),
        "cell": np.zeros(len(rows), int) if cell is None else cell.to_numpy(),
        "subject": rows[Predictions.SUBJECT_ID].to_numpy(),
        "key": rows.select(pl.concat_str(by, separator=" ")).to_series().to_numpy(),
    }


def _curves(cells: Cells) -> tuple[Floats, Floats] | None:
    """A grid of times (T,) and P(no event by then) (N, T), in the order of `_columns`."""
    rows = cells.rows.sort([Predictions.SAMPLE_ID, *cells.keys])
    if Predictions.SURVIVAL not in rows.columns or rows[Predictions.SURVIVAL].null_count():
        return None
    ends = rows[Predictions.INTERVALS].to_list()
    last = min(end[-1] for end in ends)
    until = min(last, float(rows[Predictions.TIME].to_numpy().max()))
    grid = np.linspace(0, until, ipcw.GRID + 1)[1:]
    curves = rows[Predictions.SURVIVAL].to_list()
    out = np.empty((len(rows), len(grid)))
    for one in {tuple(end) for end in ends}:  # every fold has intervals of its own
        here = [i for i, end in enumerate(ends) if tuple(end) == one]
        out[here] = ipcw.interpolated([curves[i] for i in here], one, grid)
    return grid, out


def _values(
    columns: dict[str, np.ndarray],
    cells: Cells,
    n: int,
    seed: int,
    metrics: Sequence[str] = tuple(METRICS),
) -> tuple[Floats, Floats]:
    """(1, M) the metrics, and (n, M) in n resamples of the subjects."""
    found = _curves(cells) if "ibs" in metrics else None

    def statistic(given: Columns, weight: Floats) -> Floats:
        total: Floats = np.zeros((len(weight), len(metrics)))
        each = np.unique(given["cell"])
        for cell in each:
            i = np.flatnonzero(given["cell"] == cell)
            time, event, risk = (given[name][i] for name in ("time", "event", "risk"))
            w, horizon = weight[:, i], float(given["horizon"][i][0])
            value = {"c_index": concordance(time, event, risk, w)}
            if "auroc_at" in metrics:
                value["auroc_at"] = ipcw.auroc_at(time, event, risk, horizon, w)
            if "ibs" in metrics:
                none = np.full(len(weight), np.nan)
                scored = (
                    none
                    if found is None
                    else ipcw.integrated_brier(time, event, found[1][i], found[0], w)
                )
                value["ibs"] = scored
            total += np.stack([value[m] for m in metrics], axis=1)
        return total / len(each)

    arrays = {k: columns[k] for k in ("time", "event", "risk", "horizon", "cell")}
    value = statistic(arrays, np.ones((1, len(columns["time"]))))
    strata = columns["event"].astype(int)
    return value, bootstrap(statistic, arrays, columns["subject"], strata, n, seed)
