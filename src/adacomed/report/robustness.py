"""What becomes of each method where a modality is taken away, or noise is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from adacomed.errors import InputError
from adacomed.evaluation.robustness import stress_table
from adacomed.report.figures import Style, band, folded, layout, line, rounded
from adacomed.report.page import (
    NONE,
    Figure,
    Row,
    Section,
    Spec,
    Table,
    finite,
    label,
    measured,
    number,
)
from adacomed.report.source import Source
from adacomed.schema import CEILING, Predictions

BUDGET = 20_000_000  # rows resampled in all: about 5 seconds
FEWEST, MOST_RESAMPLES = 100, 400
MOST = 40  # rows of the heat map
KEPT, NOISE = Predictions.KEPT, Predictions.NOISE


def section(source: Source, look: dict[str, Style]) -> Section:
    """Heat map of modality subsets × methods, and AUROC over noise."""
    name, title = "robustness", "Missing modalities and noise"
    if source.stress is None:
        missing = (
            "There is no stress.parquet in the folder: the methods were not asked what they say of "
            "the test patients with modalities taken away (evidence.stress)."
        )
        return Section(name, title, missing=missing)
    n = max(FEWEST, min(MOST_RESAMPLES, BUDGET // len(source.stress)))
    try:
        found = stress_table(source.stress, metric="auroc", n=n)
    except InputError as error:  # the rest of the page does not depend on it
        return Section(name, title, missing=f"stress.parquet cannot be scored: {error}.")
    methods = [m for m in look if m in set(found[Predictions.METHOD]) and m != CEILING]
    figures = [heat_map(found, methods), noise_curve(found, look)]
    lead = (
        "The same test patients again: the modalities named are all that any method was given; a "
        "patient who lacks them has nothing, and is counted. Every row is about the same patients, "
        f"so rows can be compared. {n} resamples."
    )
    return Section(name, title, lead, figures=[f for f in figures if f is not None])


def heat_map(found: pl.DataFrame, methods: Sequence[str]) -> Figure | None:
    """AUROC by the modalities kept (rows) and method (columns); the difference on hover."""
    clean = found.filter(pl.col(NOISE) == 0, pl.col(KEPT).list.len() > 0)
    if clean.is_empty():
        return None
    order = clean.select(KEPT).unique(maintain_order=True)[KEPT].to_list()
    order = sorted((list(k) for k in order), key=lambda k: (-len(k), k))
    cells = {(tuple(r[KEPT]), r[Predictions.METHOD]): r for r in clean.iter_rows(named=True)}
    names = [_words(k, order[0]) for k in order]
    grid = [[cells.get((tuple(k), m)) for m in methods] for k in order]
    value = [[finite(c["value"]) if c else None for c in row] for row in grid]
    heat: Spec = {
        "type": "heatmap",
        "z": value[:MOST],
        "x": [label(m) for m in methods],
        "y": [folded(n, 24) for n in names[:MOST]],
        "text": [[number(v, 2) for v in row] for row in value[:MOST]],
        "customdata": [[_hover(c) for c in row] for row in grid[:MOST]],
        "texttemplate": "%{text}",
        "textfont": {"color": "var(--text)", "size": 12},
        "zmin": 0.5,
        "zmax": max([0.6, *(v for row in value for v in row if v is not None)]),
        "colorscale": [[0, "var(--heat0)"], [1, "var(--heat1)"]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{x}, %{y}<br>%{customdata}<extra></extra>",
    }
    shape = layout("", "modalities kept", height=130 + 30 * min(len(names), MOST))
    axis: dict[str, Any] = {"type": "category", "showgrid": False, "automargin": True}
    shape["yaxis"] |= axis | {"autorange": "reversed"}
    shape["yaxis"] |= {"title": {"text": ""}}
    shape["xaxis"] |= axis | {"side": "top", "tickangle": -35 if len(methods) > 3 else 0}
    shape["margin"] = shape["margin"] | {"t": 90, "b": 10}
    wide = 150 + 62 * len(methods)
    spec = {"data": [heat], "layout": shape}
    table = _numbers(names, grid, methods, clean)
    title = "AUROC by the modalities kept"
    return Figure("stress", title, _alt(grid, methods, names), spec, table, min_width=wide)


def _words(kept: Sequence[str], most: Sequence[str]) -> str:
    return "all" if len(kept) == len(most) else " + ".join(kept)


def _hover(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not run"
    value = measured(cell)
    less = measured(cell, "difference", "difference_low", "difference_high")
    said = f"AUROC {value}<br>against all modalities {less}"
    return said + f"<br>{cell['n_nothing']} of {cell['n']} patients left with nothing"


def _alt(grid: list[list[Any]], methods: Sequence[str], names: list[str]) -> str:
    said = []
    for j, method in enumerate(methods):
        column = [
            (finite(row[j]["value"]), n) for row, n in zip(grid, names, strict=True) if row[j]
        ]
        known = [(v, n) for v, n in column if v is not None]
        if known:
            (low, worst), (high, best) = min(known), max(known)
            said.append(f"{method} from {number(low)} ({worst}) to {number(high)} ({best})")
    return f"Heat map of AUROC by the modalities kept: {'; '.join(said)}."


def _numbers(
    names: list[str], grid: list[list[Any]], methods: Sequence[str], frame: pl.DataFrame
) -> Table:
    rows = []
    for name, cells in zip(names, grid, strict=True):
        nothing = max((c["n_nothing"] for c in cells if c), default=0)
        texts = [_cell(c) for c in cells]
        rows.append(Row([name, str(nothing), *texts]))
    columns = ["modalities kept", "patients with none of them", *methods]
    note = "In brackets the 95 % interval; below it the difference to all modalities."
    caption = "AUROC with modalities taken away"
    return Table(caption, columns, rows, [note], frame.with_columns(pl.col(KEPT).list.join(" + ")))


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return NONE
    text = measured(cell).replace(" [", "\n[")
    less = finite(cell["difference"])
    return f"{text}\n({'+' if less > 0 else ''}{number(less)})" if less else text


def noise_curve(found: pl.DataFrame, look: dict[str, Style]) -> Figure | None:
    """AUROC against the noise added to every vector and number; None where none was added."""
    most = int(found[KEPT].list.len().max() or 0)  # type: ignore[arg-type]
    whole = found.filter(pl.col(KEPT).list.len() == most).sort(NOISE)
    if whole[NOISE].n_unique() < 2:
        return None
    bands, lines, rows, said = [], [], [], []
    levels = whole[NOISE].unique().sort().to_list()
    for method, style in look.items():
        mine = whole.filter(pl.col(Predictions.METHOD) == method)
        if mine.is_empty() or method == CEILING:
            continue
        marks = {"mode": "lines+markers", "marker": {"size": 6, "color": style.color}}
        bands.append(band(mine[NOISE], mine["low"], mine["high"], method, style))
        lines.append(line(mine[NOISE], mine["value"], method, style, **marks))
        at = {r[NOISE]: r for r in mine.iter_rows(named=True)}
        rows.append(Row([method, *(_cell(at.get(level)) for level in levels)]))
        said.append(f"{method} {number(mine['value'][0])} → {number(mine['value'][-1])}")
    columns = ["method", *(f"noise {number(level, 2)}" for level in levels)]
    flat = whole.with_columns(pl.col(KEPT).list.join(" + "))
    table = Table("AUROC with noise added", columns, rows, frame=flat)
    shape = layout("noise (standard deviations)", "AUROC")
    shape["xaxis"] |= {"tickvals": rounded(np.asarray(levels))}
    alt = (
        "AUROC against the noise added, in standard deviations of each input, from none"
        f" to {number(levels[-1], 1)}: {'; '.join(said)}."
    )
    spec = {"data": bands + lines, "layout": shape}
    return Figure("noise", "AUROC with noise added", alt, spec, table)
