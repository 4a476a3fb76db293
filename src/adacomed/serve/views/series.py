"""Measurements over time as small charts, one per variable, and as a table of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from adacomed.readers.series import Series
from adacomed.report.figures import layout, rounded
from adacomed.report.page import Figure, Row, Spec, Table, label

CHARTS = 24  # variables that are drawn, those with the most measurements
POINTS = 400  # of one chart
ROWS = 60  # measurements in a chart's own table


def charts(series: Series, units: Mapping[str, str], prefix: str) -> list[Figure]:
    """A chart for each of the `CHARTS` variables measured most, hours along x.

    Args:
        prefix: of the figures' ids, unique on the page.
    """
    counts = np.bincount(series.variable, minlength=len(series.names))
    most = [int(v) for v in np.argsort(-counts, kind="stable")[:CHARTS] if counts[v]]
    span = (float(series.hours.min()), float(series.hours.max()))
    return [
        _chart(series, v, units.get(series.names[v], ""), f"{prefix}-{i}", span)
        for i, v in enumerate(sorted(most, key=lambda v: series.names[v]))
    ]


def overview(series: Series, units: Mapping[str, str]) -> Table:
    """Each variable measured: how often, first, last, lowest, highest."""
    rows = []
    for v, name in enumerate(series.names):
        _, values = _of(series, v)
        if len(values):
            low, high = values.min(), values.max()
            numbers = [f"{x:.5g}" for x in (values[0], values[-1], low, high)]
            rows.append(Row([name, units.get(name, ""), str(len(values)), *numbers]))
    columns = ["variable", "unit", "measured", "first", "last", "lowest", "highest"]
    absent = len(series.names) - len(rows)
    notes = [f"{absent} of {len(series.names)} variables were never measured."] if absent else []
    return Table("What was measured", columns, rows, notes)


def _of(series: Series, variable: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mine = series.variable == variable
    return series.hours[mine], series.value[mine]


def _chart(series: Series, v: int, unit: str, name: str, span: tuple[float, float]) -> Figure:
    hours, values = _of(series, v)
    shown = thinned(values)
    variable = series.names[v]
    data: Spec = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": rounded(hours[shown]),
        "y": rounded(values[shown], 6),
        "name": label(variable),
        "line": {"color": "var(--c0)", "width": 1.5},
        "marker": {"color": "var(--c0)", "size": 5},
        "hovertemplate": f"%{{x:.1f}} h: %{{y}} {label(unit)}<extra></extra>",
    }
    pad = max(0.5, 0.02 * (span[1] - span[0]))
    axis = {"range": [span[0] - pad, span[1] + pad]}
    shape = layout("hours", unit or "value", height=210, xaxis=axis)
    shape["margin"] = {"l": 56, "r": 10, "t": 10, "b": 44}
    title = f"{variable} ({unit})" if unit else variable
    last = f"the last {values[-1]:.5g} at {hours[-1]:.1f} hours"
    alt = f"{title}: measured once, {values[0]:.5g} at {hours[0]:.1f} hours."
    many = (
        f"{title}: measured {len(values)} times from {hours[0]:.1f} to {hours[-1]:.1f} hours, "
        f"{values.min():.5g} to {values.max():.5g}, {last}."
    )
    alt = many if len(values) > 1 else alt
    left = len(values) - ROWS
    notes = [f"and {left} more measurements" if left > 0 else ""]
    pairs = zip(hours[:ROWS].tolist(), values[:ROWS].tolist(), strict=True)
    rows = [Row([f"{h:.2f}", f"{x:.6g}"]) for h, x in pairs]
    table = Table(title, ["hours", unit or "value"], rows, [n for n in notes if n])
    return Figure(name, title, alt, {"data": [data], "layout": shape}, table)


def thinned(values: NDArray[np.float64], most: int = POINTS) -> NDArray[np.int64]:
    """At most `most` places of (N,) in order: of each stretch of time its lowest and highest."""
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    kept = set()
    for a, b in pairwise(edges.tolist()):
        kept |= {a + int(values[a:b].argmin()), a + int(values[a:b].argmax())}
    return np.array(sorted(kept), np.int64)
