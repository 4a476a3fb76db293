"""How the paper's figures look: colours, markers, intervals, and bytes that do not change."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from adacomed.errors import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")
Floats = NDArray[np.float64]

ACCENT, PLAIN, INK, GRID = "#D55E00", "#0072B2", "#222222", "#D9D9D9"
# Okabe & Ito 2008: told apart by colour-blind readers; the accent is kept for AdaCoMed.
COLORS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#8A8A8A", "#7A5C00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
DPI = 150
SVG_DPI = 100  # of the point clouds inside an SVG; its lines and words have no pixels
_SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "text.parse_math": False,  # a title may hold a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8A8A8A",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.fonttype": "none",  # words stay words: searchable, small
    "figure.dpi": DPI,
    "svg.hashsalt": "adacomed",
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function under the settings of this module, and restore the caller's."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            from matplotlib import style
        except ImportError as error:
            raise InputError("figures need matplotlib: pip install 'adacomed[paper]'") from error
        with style.context(["default", _SETTINGS]):  # whatever the user's matplotlibrc says
            return draw(*args, **kwargs)

    return inside


@styled
def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write `folder/stem.svg` and `.png` (150 dpi); the same figure gives the same bytes.

    Returns:
        The two paths, SVG first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    svg, png = folder / f"{stem}.svg", folder / f"{stem}.png"
    figure.savefig(svg, dpi=SVG_DPI, metadata={"Date": None, "Creator": None})
    figure.savefig(png, dpi=DPI, metadata={"Software": None})
    return [svg, png]


def blank(title: str, width: float, height: float) -> Figure:
    """An empty figure (inches) under its title, which is broken where it is too long."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    figure.suptitle("\n".join(textwrap.wrap(title, int(9.5 * width))))
    return figure


def panels(figure: Figure, count: int, columns: int, **more: Any) -> list[Axes]:
    """`count` (at least one) axes in rows of `columns`; places left over stay empty."""
    count = max(1, count)
    columns = min(columns, count)
    rows = -(-count // columns)
    axes = figure.subplots(rows, columns, squeeze=False, **more).ravel().tolist()
    for left_over in axes[count:]:
        left_over.remove()
    return list(axes[:count])


@dataclass(frozen=True)
class Look:
    """How one method, task or strategy is drawn: colour, doubled by marker and dash."""

    color: str
    marker: str
    dash: Any = "-"
    width: float = 1.6
    above: int = 2
    band: float = 0.12  # opacity of its interval

    @property
    def line(self) -> dict[str, Any]:
        """Keywords for `Axes.plot`."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dash,
            "linewidth": self.width,
            "markersize": 3 + 1.5 * self.width,
            "zorder": self.above,
        }


def is_ours(method: str) -> bool:
    """Whether a method is AdaCoMed or a variant of it, in any case of letters."""
    return method.lower().startswith("adacomed")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look per name in order of appearance; AdaCoMed, or its first variant, in the accent."""
    ordered = list(dict.fromkeys(names))
    first = next((name for name in ordered if is_ours(name)), None)
    others = [name for name in ordered if name != first]
    found = {
        name: Look(
            COLORS[i % len(COLORS)],
            MARKERS[(i + 1) % len(MARKERS)],
            DASHES[i % len(DASHES)],
            band=0.12 if len(others) < 5 else 0.05,
        )
        for i, name in enumerate(others)
    }
    if first is not None:
        found[first] = Look(ACCENT, "o", "-", 2.8, 3, band=0.2)
    return {name: found[name] for name in ordered}


def column(frame: pl.DataFrame, name: str) -> Floats:
    """A column as floats, null as NaN; NaN throughout where the frame has no such column."""
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def in_order(frame: pl.DataFrame, name: str, wanted: Sequence[Any] = ()) -> list[Any]:
    """The values of a column: `wanted` ones first and in that order, others as they appear."""
    present = frame[name].drop_nulls().unique(maintain_order=True).to_list()
    return [v for v in wanted if v in present] + [v for v in present if v not in wanted]


def thin(frame: pl.DataFrame, most: int = 150) -> pl.DataFrame:
    """At most `most` rows, evenly spaced, first and last kept: finer than a pixel of a panel."""
    rows = np.unique(np.linspace(0, len(frame) - 1, min(len(frame), most)).round().astype(int))
    return frame.select(pl.all().gather(rows))


def line_with_band(
    axes: Axes, x: ArrayLike, frame: pl.DataFrame, look: Look, name: str, every: int = 1
) -> None:
    """A line of `value` over x, its interval (low to high, where known) as a band.

    One point alone has no band, so it gets a bar. One point in `every` has a marker.
    """
    value, low, high = (column(frame, c) for c in ("value", "low", "high"))
    places = np.asarray(x, dtype=np.float64)
    axes.plot(places, value, label=name, markevery=every, **look.line)
    if len(places) == 1:
        interval(axes, float(places[0]), low, high, look, upright=True)
        return
    if not np.array_equal(low, high):  # one row a step: there is no spread to draw
        axes.fill_between(places, low, high, color=look.color, alpha=look.band, linewidth=0)


def interval(
    axes: Axes, at: float, low: ArrayLike, high: ArrayLike, look: Look, *, upright: bool = False
) -> None:
    """The bar from low to high at `at`; nothing where a limit is unknown."""
    ends = np.array([np.ravel(low)[0], np.ravel(high)[0]], dtype=np.float64)
    if np.isfinite(ends).all():
        where = ([at, at], ends) if upright else (ends, [at, at])
        axes.plot(*where, color=look.color, linewidth=look.width, zorder=look.above)


def legend(figure: Figure, columns: int, note: str = "", scale: float = 1) -> None:
    """One legend below all panels, each name once, and a note; `scale` makes markers bigger."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=max(1, min(columns, len(entries))),
        title=note or None,
        handlelength=3,
        markerscale=scale,
    )


def nothing(axes: Axes) -> None:
    """Say that there is nothing to see."""
    axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)


def estimate(values: Sequence[float], form: str) -> str:
    """`0.71 (0.68 to 0.74)` in the given format; "–" for what is unknown."""
    value, low, high = (format(v, form) if np.isfinite(v) else "–" for v in values)
    words = f"{value} ({low} to {high})" if np.isfinite(values[1:]).all() else value
    return words.replace("-", "−").replace("%", " %")


def cells(row: Mapping[str, Any], names: Iterable[str]) -> list[float]:
    """Values of a row by name; NaN for what is null or not there."""
    found = [row.get(name) for name in names]
    return [np.nan if value is None else float(value) for value in found]


def shades(color: str, steps: Floats) -> Floats:
    """(n, 3) red, green, blue: lighter at early steps, darker at late ones."""
    from matplotlib.colors import to_rgb

    if not len(steps):
        return np.empty((0, 3))
    t = ((steps - steps.min()) / (np.ptp(steps) or 1.0))[:, None]
    base = np.array(to_rgb(color))
    mixed: Floats = (1 - t) * (0.3 * base + 0.7) + t * 0.75 * base
    return mixed


def span(values: Floats, step: float = 0.05) -> tuple[float, float]:
    """The finite values' range, widened to whole steps; 0 to 1 without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.floor(finite.min() / step - 1e-9), np.ceil(finite.max() / step + 1e-9)
    return float(low * step), float(high * step)
