"""Calibration: whether a predicted 30 % happens in 30 % of the patients."""

from __future__ import annotations

import numpy as np

from adacomed.evaluation import calibration
from adacomed.report.figures import UNIT, Problem, Style, layout, line, problems, rounded, rule
from adacomed.report.page import NONE, Figure, Row, Section, Spec, Table, interval, number
from adacomed.report.source import CEILING, Source

PER_BIN = 20  # patients that a bin should have; small test sets get fewer, wider bins


def section(source: Source, look: dict[str, Style]) -> Section:
    """Reliability curves, the spread of the probabilities, and slope, intercept and ECE."""
    name, title = "calibration", "Calibration"
    rivals = {method: style for method, style in look.items() if method != CEILING}
    found = list(problems(source, rivals, once=True))
    if not found:
        missing = "Calibration needs labelled test patients of both classes."
        return Section(name, title, missing=missing)
    lead = (
        "A curve on the diagonal means that predicted risks come true as often as they say. "
        "Perfect calibration has slope 1, intercept 0 and ECE 0."
    )
    if source.repeated:
        lead += " Each patient once (first repeat and seed)."
    figures = [_reliability(found), _histogram(found)]
    return Section(name, title, lead, tables=[_numbers(found)], figures=figures)


def _reliability(found: list[Problem]) -> Figure:
    data: list[Spec] = [rule([0, 1], [0, 1], "perfect")]
    lines = []
    for name, style, y, p in found:
        curve = calibration.calibration_curve(y, p, bins=min(10, max(3, len(y) // PER_BIN)))
        observed = np.asarray(curve["observed"])
        bars = {
            "type": "data",
            "array": rounded(np.asarray(curve["high"]) - observed),
            "arrayminus": rounded(observed - np.asarray(curve["low"])),
            "thickness": 1,
            "color": style.color,
        }
        more = {
            "mode": "lines+markers",
            "error_y": bars,
            "marker": {"size": 7, "color": style.color},
        }
        data.append(line(curve["predicted"], observed, name, style, **more))
        lines += [
            Row([name, str(int(n)), number(x), interval(o, low, high)])
            for x, o, low, high, n in zip(
                curve["predicted"], observed, curve["low"], curve["high"], curve["n"], strict=True
            )
            if style.shown
        ]
    columns = ["method", "patients", "mean predicted", "observed"]
    table = Table("Bins of the reliability curves (methods shown at first)", columns, lines)
    alt = "Reliability curves: observed frequency against mean predicted probability per bin."
    shape = layout("mean predicted probability", "observed frequency", xaxis=UNIT, yaxis=UNIT)
    return Figure("reliability", "Reliability", alt, {"data": data, "layout": shape}, table)


def _histogram(found: list[Problem]) -> Figure:
    edges = np.linspace(0, 1, 21)
    centres = (edges[:-1] + edges[1:]) / 2
    data = []
    for i, (name, style, _, p) in enumerate(found):
        share = np.histogram(p, bins=edges)[0] / len(p)
        shown = Style(style.color, style.dash, style.width, style.shown and i < 4)
        data.append(line(centres, share, name, shown) | {"line": _steps(shown)})
    name, _, _, p = found[0]
    alt = (
        f"Histogram of predicted probabilities. {name}: median {number(float(np.median(p)))}, "
        f"from {number(float(p.min()))} to {number(float(p.max()))}."
    )
    shape = layout("predicted probability", "share of patients", xaxis=UNIT)
    shape["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    spec = {"data": data, "layout": shape}
    return Figure("probabilities", "Predicted probabilities", alt, spec)


def _steps(style: Style) -> Spec:
    return {"color": style.color, "dash": style.dash, "width": style.width, "shape": "hvh"}


def _numbers(found: list[Problem]) -> Table:
    rows = []
    for name, _, y, p in found:
        slope, intercept = calibration.slope_intercept(y, p)
        rows.append(Row([name, number(slope), number(intercept), number(calibration.ece(y, p))]))
    columns = ["method", "slope", "intercept", "ECE"]
    note = f"{NONE} : could not be estimated."
    return Table("Calibration on the test patients", columns, rows, [note])
