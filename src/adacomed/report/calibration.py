"""Calibration: whether a predicted 30 % happens in 30 % of the patients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from adacomed.evaluation import calibration
from adacomed.evaluation.discrimination import METRICS
from adacomed.report.figures import (
    UNIT,
    Problem,
    Style,
    band,
    layout,
    line,
    problems,
    rule,
)
from adacomed.report.page import NONE, Figure, Row, Section, Spec, Table, interval, number
from adacomed.report.source import Source
from adacomed.report.tables import estimate
from adacomed.schema import CEILING, Predictions

PER_BIN = 20  # patients that a bin should have; small test sets get fewer, wider bins
SHOWN = ("calibration_slope", "calibration_intercept", "ece", "brier", "log_loss")


def section(source: Source, table: pl.DataFrame, look: dict[str, Style]) -> Section:
    """Reliability curves, histograms by class, and slope, intercept and ECE with intervals."""
    name, title = "calibration", "Calibration"
    rivals = {method: style for method, style in look.items() if method != CEILING}
    found = list(problems(source, rivals, once=True))
    if not found:
        missing = "Calibration needs labelled test patients of both classes."
        return Section(name, title, missing=missing)
    lead = (
        "A curve on the diagonal means that predicted risks come true as often as they say. "
        "Perfect calibration has slope 1, intercept 0 and ECE 0; a slope below 1 means that the "
        "predictions are too extreme."
    )
    if source.repeated:
        lead += " Charts: each patient once (first repeat and seed)."
    figures = [_reliability(found), _histogram(source, found)]
    return Section(name, title, lead, tables=[_numbers(table)], figures=figures)


def _reliability(found: list[Problem]) -> Figure:
    bands: list[Spec] = []
    drawn: list[Spec] = [rule([0, 1], [0, 1], "perfect")]
    lines = []
    for name, style, y, p, _ in found:
        curve = calibration.calibration_curve(y, p, bins=min(10, max(3, len(y) // PER_BIN)))
        bands.append(band(curve["predicted"], curve["low"], curve["high"], name, style))
        marker = {"size": 7, "color": style.color}
        more = {"mode": "lines+markers", "marker": marker}
        drawn.append(line(curve["predicted"], curve["observed"], name, style, **more))
        columns = ("predicted", "observed", "low", "high", "n")
        lines += [
            Row([name, str(int(n)), number(x), interval(o, low, high)])
            for x, o, low, high, n in zip(*(curve[c] for c in columns), strict=True)
            if style.shown
        ]
    columns_of_table = ["method", "patients", "mean predicted", "observed"]
    table = Table(
        "Bins of the reliability curves (methods shown at first)", columns_of_table, lines
    )
    alt = (
        "Reliability curves: observed frequency against mean predicted probability per bin; the "
        "light area is the 95 % interval of the observed frequency."
    )
    shape = layout("mean predicted probability", "observed frequency", xaxis=UNIT, yaxis=UNIT)
    return Figure(
        "reliability", "Reliability", alt, {"data": bands + drawn, "layout": shape}, table
    )


def _histogram(source: Source, found: list[Problem]) -> Figure:
    """Probabilities of the headline by true class; K > 2: of each class, by whether it is true."""
    mine = [p for p in found if p.name.split(", class ")[0] == source.headline] or found[:1]
    edges = np.linspace(0, 1, 21)
    centres = (edges[:-1] + edges[1:]) / 2
    data, said = [], []
    for i, (name, values) in enumerate(_classes(mine)):
        share = np.histogram(values, bins=edges)[0] / len(values)
        style = Style(f"var(--c{i % 8})", ("solid", "dash")[i % 2], 2.5, shown=i < 4)
        shape = {"color": style.color, "dash": style.dash, "width": style.width, "shape": "hvh"}
        data.append(line(centres, share, name, style) | {"line": shape})
        q = [number(float(v)) for v in np.quantile(values, [0.25, 0.5, 0.75])]
        said.append(f"{name}: median {q[1]}, half of them between {q[0]} and {q[2]}")
    alt = f"Histogram of {mine[0].name.split(', class ')[0]}'s probabilities. " + "; ".join(said)
    axis = layout("predicted probability", "share of the class", xaxis=UNIT)
    axis["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    spec = {"data": data, "layout": axis}
    return Figure("probabilities", "Predicted probabilities by class", f"{alt}.", spec)


def _classes(mine: list[Problem]) -> Iterator[tuple[str, np.ndarray]]:
    for problem in mine:
        part = problem.name.partition(", ")[2]
        for true in (0, 1):
            values = problem.p[problem.y == true]
            what = (f"not {part}", part)[true] if part else ("no event", "event")[true]
            yield f"{what} (n = {len(values)})", values


def _numbers(table: pl.DataFrame) -> Table:
    shown = [m for m in SHOWN if m in table.columns]
    mine = table.filter(pl.col(Predictions.METHOD) != CEILING)
    rows = [
        Row([str(row[Predictions.METHOD]), *(estimate(row, metric) for metric in shown)])
        for row in mine.iter_rows(named=True)
    ]
    columns = ["method", *(METRICS[m].label for m in shown)]
    note = (
        f"{NONE} : could not be estimated (one class, or classes that the probability separates). "
        "ECE is biased upwards in small samples."
    )
    keep = [Predictions.METHOD, *(f"{m}{end}" for m in shown for end in ("", "_low", "_high"))]
    frame = mine.select(c for c in keep if c in mine.columns)
    return Table("Calibration on the test patients, 95 % intervals", columns, rows, [note], frame)
