"""Time to an event: C-index and Brier score of the methods, Kaplan–Meier curves by risk group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from adacomed.errors import InputError
from adacomed.evaluation import ipcw, survival
from adacomed.evaluation.scored import Floats
from adacomed.evaluation.survival_tables import (
    METRICS,
    calibration_at_horizon,
    paired_survival,
    summarise_survival,
)
from adacomed.report.figures import Style, band, layout, line
from adacomed.report.page import Figure, Row, Section, Spec, Table, finite, interval, number
from adacomed.report.source import Source
from adacomed.report.tables import FAMILY_ERROR, estimate
from adacomed.schema import CEILING, Predictions

RESAMPLES = 300
PAIRED = 1000  # of two methods alone; Bonferroni's p needs small ones
GROUPS = ("lowest third of risk", "middle third", "highest third")
NOTE = (
    "C-index: of pairs of patients whose order is known, the share in which the one with the "
    "higher risk had the event first (Harrell). Integrated Brier score: lower is better. In it "
    "and the AUROC those who were seen stand for those lost to sight (inverse probability of "
    "censoring)."
)
_SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys((Predictions.TASK, Predictions.METHOD, "note"), pl.String),
    **dict.fromkeys(("n", "n_events"), pl.Int64),
    **dict.fromkeys([f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")], pl.Float64),
}


def scores(source: Source) -> pl.DataFrame:
    """C-index, AUROC at the horizon and integrated Brier score of every method.

    Returns:
        As `survival_tables.summarise_survival`, so that the page and a terminal say the same; no
        rows without labelled test patients.
    """
    rows = source.test.filter(pl.col(Predictions.TIME).is_not_null())
    return summarise_survival(rows, n=RESAMPLES) if len(rows) else pl.DataFrame(schema=_SCHEMA)


def _usable(source: Source, method: str) -> pl.DataFrame:
    rows = source.patients(method)
    needed = [Predictions.TIME, Predictions.SURVIVAL, Predictions.INTERVALS]
    return rows.drop_nulls(needed) if len(rows) else rows


def _arrays(rows: pl.DataFrame) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """time (N,), event (N,), risk (N,), survival (N, J), ends (J,), the first row's ends for all.

    Folds may have intervals of their own; the curves are then read at the first row's ends.
    """
    t = rows[Predictions.TIME].to_numpy().astype(np.float64)
    event = rows[Predictions.LABEL].to_numpy().astype(np.float64)
    ends = np.asarray(rows[Predictions.INTERVALS][0], dtype=np.float64)
    curve = np.empty((len(t), len(ends)))
    each = zip(rows[Predictions.SURVIVAL], rows[Predictions.INTERVALS], strict=True)
    for i, (S, own) in enumerate(each):
        curve[i] = ipcw.interpolated(np.asarray(S)[None], np.asarray(own), ends)[0]
    return t, event, rows[Predictions.PROB].to_numpy(), curve, ends


def section(source: Source, found: pl.DataFrame, more: Sequence[Table]) -> Section:
    """The table of all methods, and what became of the headline's risk groups."""
    ordered = found.sort("c_index", descending=True, nulls_last=True)
    lines = [
        Row(
            [str(r[Predictions.METHOD]), str(r["n"]), str(r["n_events"])]
            + [estimate(r, m) for m in METRICS],
            "headline" if r[Predictions.METHOD] == source.headline else "",
        )
        for r in ordered.iter_rows(named=True)
    ]
    columns = ["method", "patients", "events", *METRICS.values()]
    few = [n for n in dict.fromkeys(found["note"]) if n]
    table = Table("Test patients, 95 % intervals in brackets", columns, lines, [NOTE, *few], found)
    rows = _usable(source, source.headline)
    figures = [risk_groups(rows, source.headline)] if len(rows) >= len(GROUPS) else []
    risks = calibrated(rows, source.headline) if len(rows) else None
    lead = (
        "Figures are averages over the repeats and seeds; the chart shows the first of them."
        if source.repeated
        else ""
    )
    return Section(
        "results", "Results", lead, tables=[t for t in (table, risks, *more) if t], figures=figures
    )


def calibrated(rows: pl.DataFrame, headline: str) -> Table | None:
    """Risk by the horizon as predicted and as seen, in groups of like predicted risk."""
    if Predictions.HORIZON not in rows.columns or rows[Predictions.HORIZON].null_count():
        return None
    lines = [
        Row([f"{k + 1}", str(n), number(mean), interval(*seen)])
        for k, (n, mean, seen) in enumerate(calibration_at_horizon(rows))
    ]
    columns = ["group, from low risk to high", "patients", "predicted", "seen"]
    caption = f"Risk of the event by {rows[Predictions.HORIZON][0]:.4g}, {headline}"
    note = "Predicted: mean of the group. Seen: one less Kaplan–Meier's estimate, 95 % interval."
    return Table(caption, columns, lines, [note])


def risk_groups(rows: pl.DataFrame, headline: str) -> Figure:
    """Kaplan–Meier curves of the thirds by predicted risk, and what was predicted for each."""
    t, event, risk, curve, ends = _arrays(rows)
    third = np.searchsorted(np.quantile(risk, [1 / 3, 2 / 3]), risk, side="right")
    bands, seen, foreseen, lines, said = [], [], [], [], []
    for k, name in enumerate(GROUPS):
        here = third == k
        if not here.any():
            continue
        style = Style(f"var(--c{(0, 2, 1)[k]})", ("solid", "dash", "longdash")[k], 2.5)
        km = survival.kaplan_meier(t[here], event[here])
        x, low, high = _steps(km.time, km.low, km.high)
        bands.append(band(x, low, high, name, style))
        x, y = _steps(km.time, km.survival)
        seen.append(line(x, y, name, style))
        mean = np.concatenate([[1.0], curve[here].mean(axis=0)])
        foreseen.append(_predicted(np.concatenate([[0.0], ends]), mean, name, style))
        last = km.at(float(ends[-1]))
        counts = [str(int(here.sum())), str(int(event[here].sum()))]
        lines.append(Row([name, *counts, interval(*last), number(float(mean[-1]))]))
        said.append(f"{name}: {interval(*last)} without the event at {ends[-1]:.4g}")
    test = survival.log_rank(t, event, third)
    p = "p < .001" if test.p < 0.001 else f"p = {number(finite(test.p))}"
    columns = ["risk group", "patients", "events", "without the event at the end", "predicted"]
    note = f"End: {ends[-1]:.4g} in the task's unit of time. Log-rank test: {p}."
    table = Table(f"Risk groups of {headline}", columns, lines, [note])
    shape = layout("time, in the task's unit", "share without the event")
    shape["yaxis"] |= {"range": [-0.01, 1.02], "tickformat": ".1f"}
    shape["xaxis"] |= {"rangemode": "tozero"}
    alt = (
        f"Kaplan–Meier curves of thirds of {headline}'s predicted risk with 95 % bands; the dotted "
        f"line of the same colour is the mean prediction. {'; '.join(said)}. Log-rank {p}."
    )
    spec = {"data": [*bands, *foreseen, *seen], "layout": shape}
    return Figure("kaplan-meier", "Survival by predicted risk", alt, spec, table)


def _steps(time: Floats, *values: Floats) -> list[Floats]:
    """A step function's corners: time and values doubled, starting at (0, 1)."""
    x = np.repeat(np.concatenate([[0.0], time]), 2)[1:]
    return [x, *(np.repeat(np.concatenate([[1.0], v]), 2)[:-1] for v in values)]


def _predicted(x: Floats, y: Floats, name: str, style: Style) -> Spec:
    drawn = line(x, y, f"{name}, predicted", Style(style.color, "dot", 1.8))
    return drawn | {"meta": {"band": name}}


def words(source: Source, found: pl.DataFrame) -> Sequence[str]:
    """The result in plain language."""
    mine = found.filter(pl.col(Predictions.METHOD) == source.headline)
    if mine.is_empty():
        return ["There are no labelled test patients, so this report has no measure of quality."]
    row = mine.row(0, named=True)
    value = finite(row["c_index"])
    counted = f"{row['n']} test patients, {row['n_events']} of them with the event"
    if value is None:
        return [f"{source.headline} was tested on {counted}; no pair of them has a known order."]
    low, high = number(finite(row["c_index_low"])), number(finite(row["c_index_high"]))
    said = [
        f"On {counted}, {source.headline} reaches a C-index of {number(value)} (95 % interval "
        f"{low} to {high})."
    ]
    rivals = found.filter(
        ~pl.col(Predictions.METHOD).is_in([source.headline, CEILING]), pl.col("c_index").is_finite()
    ).sort("c_index", descending=True)
    if len(rivals):
        said.append(_against(source, rivals.row(0, named=True), len(rivals)))
    return said


def _against(source: Source, rival: dict[str, object], rivals: int) -> str:
    """The headline's C-index less the best rival's.

    One of them is favoured only where the interval is clear of 0 and p, times the number of rivals
    from which this one was picked (Bonferroni), is small.
    """
    name = str(rival[Predictions.METHOD])
    start = f"The best other method is {name} with {number(finite(rival['c_index']))}"
    two = source.test.filter(pl.col(Predictions.METHOD).is_in([source.headline, name]))
    try:
        paired = paired_survival(two, reference=source.headline, n=PAIRED).row(0, named=True)
    except InputError:
        return f"{start}; it was tested on other patients, so no winner is named."
    gap, low, high = (finite(paired[c]) for c in ("difference", "low", "high"))
    if low is None or high is None:
        return f"{start}; their difference has no interval, so no winner is named."
    apart = f"the difference is {number(gap)} (95 % interval {number(low)} to {number(high)})"
    if low <= 0 <= high or paired["p"] * rivals >= FAMILY_ERROR:
        return f"{start}: {apart}, which may be chance."
    return f"{start}: {apart}, in favour of {source.headline if low > 0 else name}."
