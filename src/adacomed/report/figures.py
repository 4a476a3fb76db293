"""What every chart is made of: a method's look, lines, bands; and the paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from adacomed.report.page import Figure, Row, Spec, Table, interval, label, number
from adacomed.report.source import Source, one_vs_rest
from adacomed.schema import CEILING, Predictions

CURVE_POINTS = 300  # a curve is thinned to this; finer than a pixel of the chart
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Style:
    """How one method is drawn in every chart."""

    color: str
    dash: str
    width: float = 2
    shown: bool = True


def styles(methods: Sequence[str], headline: str, rival: str | None) -> dict[str, Style]:
    """A style per method; the headline, `small`, `large-ensemble` and the rival are shown at first.

    Colours are told apart by colour-blind readers and doubled by dashes.
    """
    first = [headline, "small", "large-ensemble", *([rival] if rival else [])]
    order = [m for m in dict.fromkeys([*first, *methods]) if m in methods and m != CEILING]
    result = {
        method: Style(
            color=f"var(--c{i % 8})",
            dash=DASHES[i % len(DASHES)],
            width=3 if method == headline else 1.8,
            shown=method in first,
        )
        for i, method in enumerate(order)
    }
    if CEILING in methods:
        result[CEILING] = Style("var(--muted)", "dot", 1.5, shown=False)
    return result


def line(x: ArrayLike, y: ArrayLike, name: str, style: Style, **more: Any) -> Spec:
    """A line of one method, with an entry in the legend."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": rounded(x),
        "y": rounded(y),
        "name": label(name),
        "meta": {"legend": name},
        "line": {"color": style.color, "dash": style.dash, "width": style.width},
        "visible": True if style.shown else "legendonly",
        "hovertemplate": f"{label(name)}<br>%{{x:.2f}}, %{{y:.2f}}<extra></extra>",
    } | more


def rule(x: Sequence[float], y: Sequence[float], name: str) -> Spec:
    """A thin grey line of reference."""
    style = Style("var(--muted)", "dot", 1)
    return line(x, y, name, style, hoverinfo="skip", hovertemplate=None)


def band(x: ArrayLike, low: ArrayLike, high: ArrayLike, name: str, style: Style) -> Spec:
    """A light area between two curves, shown and hidden together with the line called `name`."""
    along, below, above = (np.asarray(v, dtype=np.float64) for v in (x, low, high))
    known = np.isfinite(below) & np.isfinite(above)
    along, below, above = along[known], below[known], above[known]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": rounded(np.concatenate([along, along[::-1]])),
        "y": rounded(np.concatenate([above, below[::-1]])),
        "fill": "toself",
        "fillcolor": style.color,
        "line": {"width": 0, "color": style.color},
        "opacity": 0.14,
        "meta": {"band": name},
        "visible": True if style.shown else "legendonly",
        "hoverinfo": "skip",
    }


def rounded(values: ArrayLike, digits: int = 4) -> list[float | None]:
    """Plain numbers for JSON; what is not finite is a gap (None)."""
    array = np.round(np.asarray(values, dtype=np.float64), digits)
    return [float(v) if np.isfinite(v) else None for v in array]


def folded(text: str, width: int = 20) -> str:
    """Text for a chart's axis, broken into lines so that a phone has room left for the chart."""
    return "<br>".join(wrap(label(text), width, break_long_words=False))


def layout(x: str, y: str, **more: Any) -> Spec:
    """A layout in the page's colours; `xaxis` and `yaxis` in `more` are merged."""
    axis = {"gridcolor": "var(--grid)", "zeroline": False, "linecolor": "var(--muted)"}
    return {
        "height": 400,
        "margin": {"l": 64, "r": 16, "t": 30, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--text)", "size": 13, "family": "system-ui, sans-serif"},
        "hoverlabel": {"bgcolor": "var(--card)", "font": {"color": "var(--text)"}},
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": "var(--muted)",
            "activecolor": "var(--c0)",
        },
        "showlegend": False,
        "dragmode": False,
        **{k: v for k, v in more.items() if k not in ("xaxis", "yaxis")},
        "xaxis": axis | {"title": {"text": label(x), "standoff": 8}} | more.get("xaxis", {}),
        "yaxis": axis | {"title": {"text": label(y), "standoff": 8}} | more.get("yaxis", {}),
    }


UNIT = {"range": [-0.01, 1.01], "tickformat": ".1f", "dtick": 0.2}


def thin(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """At most CURVE_POINTS of each array, first and last kept."""
    n = len(arrays[0])
    index = np.unique(np.linspace(0, n - 1, min(n, CURVE_POINTS)).round().astype(int))
    return [a[index] for a in arrays]


class Problem(NamedTuple):
    """A binary problem of one method: y, p and the subject of each of N rows."""

    name: str
    style: Style
    y: NDArray[np.int64]
    p: NDArray[np.float64]
    subjects: NDArray[Any]


def problems(source: Source, look: dict[str, Style], *, once: bool = False) -> Iterable[Problem]:
    """Every method's binary problems that have both classes.

    For K > 2 each class is one against the rest: the headline's are shown at first, a colour each.

    Args:
        once: each patient once (first repeat and seed), else every row.
    """
    for method, style in look.items():
        rows = source.patients(method) if once else source.rows(method)
        who = rows[Predictions.SUBJECT_ID].to_numpy()
        for k, (part, y, p) in enumerate(one_vs_rest(source, rows)):
            if not 0 < y.sum() < len(y):
                continue
            if part:
                own = replace(style, color=f"var(--c{k % 8})", shown=method == source.headline)
                yield Problem(f"{method}, {part}", own, y, p, who)
            else:
                yield Problem(method, style, y, p, who)


@dataclass(frozen=True)
class Difference:
    """Headline minus `method` on the same patients, 95 % interval, p adjusted for all rivals."""

    method: str
    value: float
    low: float
    high: float
    p_holm: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def forest(differences: Sequence[Difference], headline: str, metric: str) -> Figure:
    """Paired differences with their intervals, one row per rival."""
    ordered = sorted(differences, key=lambda d: d.value)
    names = [label(d.method) for d in ordered]
    marker = [{True: "circle", False: "circle-open"}[d.clear] for d in ordered]
    data = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([d.value for d in ordered]),
        "y": names,
        "error_x": {
            "type": "data",
            "array": rounded([d.high - d.value for d in ordered]),
            "arrayminus": rounded([d.value - d.low for d in ordered]),
            "color": "var(--c0)",
            "thickness": 2,
        },
        "marker": {
            "color": "var(--c0)",
            "size": 10,
            "symbol": marker,
            "line": {"width": 2, "color": "var(--c0)"},
        },
        "hovertemplate": "%{y}: %{x:+.3f}<extra></extra>",
    }
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper"}
    zero["line"] = {"color": "var(--muted)", "dash": "dot", "width": 1.5}
    shape = layout("", "", height=110 + 32 * len(ordered), shapes=[zero])
    shape["yaxis"] |= {"automargin": True, "type": "category", "range": [-0.6, len(ordered) - 0.4]}
    table = _differences_table(differences, headline, metric)
    alt = f"Forest plot. {table.caption}. " + "; ".join(
        f"{d.method} {interval(d.value, d.low, d.high)}" for d in reversed(ordered)
    )
    title = f"{headline} − rival, {metric}"  # no axis title: it would not fit a phone
    return Figure("forest", title, alt, {"data": [data], "layout": shape}, table)


def _differences_table(differences: Sequence[Difference], headline: str, metric: str) -> Table:
    ordered = sorted(differences, key=lambda d: d.value)
    caption = f"{headline} minus each rival, {metric}, same patients, 95 % intervals"
    rows = [
        Row([d.method, interval(d.value, d.low, d.high), number(d.p_holm), _yes(d.clear)])
        for d in reversed(ordered)
    ]
    columns = ["rival", "difference", "p (Holm)", "interval excludes 0"]
    data_of = [(d.method, d.value, d.low, d.high, d.p_holm) for d in reversed(ordered)]
    frame = pl.DataFrame(
        data_of, schema=["rival", "difference", "low", "high", "p_holm"], orient="row"
    )
    return Table(caption, columns, rows, frame=frame)


def _yes(true: bool) -> str:
    return "yes" if true else "no"
