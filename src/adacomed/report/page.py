"""What a report page is made of: sections of tables and figures, as plain data for the template."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

Spec = dict[str, Any]  # a plotly figure as plain JSON: {"data": [...], "layout": {...}}

NONE = "–"  # shown where a number does not exist


@dataclass(frozen=True)
class Row:
    """One table row; `kind` is a CSS class: "headline" or "ceiling"."""

    cells: list[str]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of each row names the row.

    Attributes:
        frame: the same as numbers, for `--json` and `--csv`; None: the text is all there is.
    """

    caption: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    frame: pl.DataFrame | None = None


@dataclass(frozen=True)
class Card:
    """A headline figure: its name, its value, and below it the interval or what to know of it."""

    name: str
    value: str
    below: str = ""


@dataclass(frozen=True)
class Figure:
    """A plotly chart with what a reader who cannot see it needs.

    Attributes:
        id: unique on the page.
        alt: the chart in a sentence or two.
        spec: plotly's `data` and `layout`. A string `var(--name)` is a colour of style.css, so that
            light, dark and print each have their own.
        table: the numbers behind the chart, where they are few enough to read.
        min_width: in pixels; a narrower screen scrolls the chart.
    """

    id: str
    title: str
    alt: str
    spec: Spec
    table: Table | None = None
    min_width: int = 0


@dataclass(frozen=True)
class Section:
    """A heading with its tables and figures; `missing` says why there are none."""

    id: str
    title: str
    lead: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: str = ""
    warnings: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)  # sentences, a bullet each
    files: list[tuple[str, str]] = field(default_factory=list)  # title and text, shown verbatim


def number(value: float | None, digits: int = 3) -> str:
    """A number as the field prints it: `.845`, `−.012`, and 1 or more with its leading digit.

    >>> number(0.8451), number(-0.0123), number(1.0), number(None)
    ('.845', '−.012', '1.000', '–')
    """
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and float(text) != 0 else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def interval(value: float | None, low: float | None, high: float | None, between: str = " ") -> str:
    """An estimate with its 95 % interval after `between`.

    >>> interval(0.845, 0.801, 0.889), interval(0.5, None, None)
    ('.845 [.801, .889]', '.500')
    """
    if number(low) == NONE or number(high) == NONE:
        return number(value)
    return f"{number(value)}{between}[{number(low)}, {number(high)}]"


def finite(value: object) -> float | None:
    """A float that can be shown, else None.

    >>> finite(0.5), finite(None), finite(float("nan"))
    (0.5, None, None)
    """
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def measured(
    row: Mapping[str, object], value: str = "value", low: str = "low", high: str = "high"
) -> str:
    """`interval` of a table's row, by the names of its columns.

    >>> measured({"value": 0.845, "low": 0.801, "high": None})
    '.845'
    """
    return interval(finite(row.get(value)), finite(row.get(low)), finite(row.get(high)))


def label(text: str) -> str:
    """Text for inside a plotly chart, which reads tags such as `<a>` in names."""
    return html.escape(text, quote=False)


def frame_table(caption: str, frame: pl.DataFrame) -> Table:
    """Any data frame as a table: floats to three digits, null as a dash."""
    rows = [Row([_cell(value) for value in row]) for row in frame.iter_rows()]
    return Table(caption, list(frame.columns), rows, frame=frame)


def _cell(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, float):
        return number(value) if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
