"""The paper's Figures 2, 4 and 5: data frame in, matplotlib Figure out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from adacomed.report.paper import METRICS
from adacomed.report.paper_style import (
    MARKERS,
    Look,
    blank,
    cells,
    column,
    estimate,
    in_order,
    legend,
    line_with_band,
    looks,
    nothing,
    panels,
    span,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = ("direct combination", "AdaCoMed")
FUSED = "fused"
SHARE = ("share", "share_low", "share_high")
DOMINATION = ("domination", "domination_low", "domination_high")
HYPERPARAMETERS = {  # letter: axis, and the range that the paper recommends
    "lambda": ("λ, weight of the contrastive loss", 0.1, 1.0),
    "d": ("d, width of the joint space", 512.0, 2048.0),
}


# ---- Fig. 2 -------------------------------------------------------------------------------------
@styled
def domination_panels(points: pl.DataFrame, numbers: pl.DataFrame, title: str) -> Figure:
    """Fig. 2: the fused points among the modalities' clouds, side by side, the shares below.

    Args:
        points: panel, cloud (a modality or "fused"), x, y (UMAP).
        numbers: panel beside the columns of `evaluation.domination.Domination.frame`.
        title: on the picture.
    """
    shown = in_order(points, "panel", PANELS)
    clouds = [c for c in in_order(points, "cloud") if c != FUSED]
    look = _cloud_looks(clouds)
    figure = blank(title, 10, 6.2)
    axes = panels(figure, len(shown), 2)
    for ax, panel in zip(axes, shown, strict=False):
        ax.set(title=panel, xticks=[], yticks=[], ylabel="UMAP 2")
        here = points.filter(pl.col("panel") == panel)
        for cloud in [*clouds, FUSED]:
            part = here.filter(pl.col("cloud") == cloud)
            _cloud(ax, part, look[cloud], cloud)
        below = _shares(numbers.filter(pl.col("panel") == panel))
        ax.set_xlabel("\n".join(["UMAP 1", *below]))
    if not shown:
        nothing(axes[0])
    legend(figure, 6, scale=2)
    return figure


def _cloud_looks(clouds: list[str]) -> dict[str, Look]:
    colors = ("#D55E00", "#009E73", "#E6B800", "#CC79A7", "#8A8A8A", "#7A5C00", "#222222")
    found = {c: Look(colors[i % 7], MARKERS[1 + i % 8]) for i, c in enumerate(clouds)}
    return found | {FUSED: Look("#0072B2", "o", above=3)}


def _cloud(ax: Axes, part: pl.DataFrame, look: Look, name: str) -> None:
    size = float(np.clip(4000 / max(1, len(part)), 6, 22))
    ax.scatter(
        column(part, "x"),
        column(part, "y"),
        s=size,
        c=look.color,
        marker=look.marker,
        alpha=0.6,
        linewidths=0,
        label=name,
        zorder=look.above,
        rasterized=True,  # thousands of shapes would make the SVG heavy
    )


def _shares(found: pl.DataFrame) -> list[str]:
    if found.is_empty():
        return []
    rows, balanced = found.rows(named=True), f"{100 / len(found):.0f} %"
    lines = ["", f"Nearest points of a fused point, by cloud (in balance {balanced} each)"]
    lines += [f"{row['cloud']}: {estimate(cells(row, SHARE), '.0%')}" for row in rows]
    return [*lines, f"domination: {estimate(cells(rows[0], DOMINATION), '.2f')}"]


# ---- Fig. 4 -------------------------------------------------------------------------------------
@styled
def training_size_radar(frame: pl.DataFrame, title: str) -> Figure:
    """Fig. 4 as the paper draws it: a radar of the metrics per share of the training data.

    Args:
        frame: method, fraction (of the training patients), metric, value.
        title: on the picture.
    """
    methods, metrics = looks(in_order(frame, "method")), in_order(frame, "metric", METRICS)
    fractions = sorted(in_order(frame, "fraction"))
    low, high = span(column(frame, "value"))
    figure = blank(title, 10, 10 if len(fractions) > 2 else 6)
    axes = panels(figure, len(fractions), 2, subplot_kw={"projection": "polar"})
    angles = np.linspace(0, 2 * np.pi, len(metrics) + 1)  # the last closes the ring
    for ax, fraction in zip(axes, fractions, strict=False):
        ax.set_title(f"{100 * fraction:.0f} % of the training data", pad=16)
        for method, look in methods.items():
            part = frame.filter(pl.col("fraction") == fraction, pl.col("method") == method)
            found = dict(zip(part["metric"], column(part, "value"), strict=True))
            ring = [found.get(m, np.nan) for m in [*metrics, *metrics[:1]]]
            ax.plot(angles, ring, label=method, **look.line)
    for ax in axes:
        ax.set(theta_offset=np.pi / 2, theta_direction=-1, ylim=(low, high))
        ax.set_xticks(angles[:-1], metrics)
        ax.tick_params("x", pad=8)
        _rings(ax, low, high, angles[:2].mean())
    if not fractions:
        nothing(axes[0])
    legend(figure, 4, f"Radial axis: {low:.2f} (centre) to {high:.2f} (rim) in every panel")
    return figure


def _rings(ax: Axes, low: float, high: float, angle: float) -> None:
    """Rings at every tenth, with their numbers above the lines (matplotlib's are below)."""
    tenths = np.arange(np.ceil(low * 10 - 1e-9), high * 10 + 1e-9) / 10
    ax.set_yticks(tenths, [""] * len(tenths))
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for at in tenths[tenths > low + 0.02]:
        words = ax.text(angle, at, f"{at:.1f}", bbox=box, fontsize=9, zorder=5)
        words.set(ha="center", va="center")


@styled
def training_size_lines(frame: pl.DataFrame, title: str) -> Figure:
    """Fig. 4 as lines: one panel per metric, 95 % intervals as bands.

    Args:
        frame: method, fraction, metric, value, low, high; n (training patients) is optional.
        title: on the picture.
    """
    methods, metrics = looks(in_order(frame, "method")), in_order(frame, "metric", METRICS)
    figure = blank(title, 11, 7.2 if len(metrics) > 3 else 4.4)
    axes = panels(figure, len(metrics), 3)
    ticks = frame.unique("fraction", keep="first", maintain_order=True).sort("fraction")
    patients = column(ticks, "n")
    names = [
        f"{100 * fraction:.0f} %" + (f"\n{n:,.0f}" if np.isfinite(n) else "")
        for fraction, n in zip(ticks["fraction"], patients, strict=True)
    ]
    for ax, metric in zip(axes, metrics, strict=False):
        for method, look in methods.items():
            mine = (pl.col("metric") == metric) & (pl.col("method") == method)
            part = frame.filter(mine).sort("fraction")
            line_with_band(ax, column(part, "fraction"), part, look, method)
        ax.set(title=metric)
        ax.set_xticks(ticks["fraction"].to_list(), names)
    if not metrics:
        nothing(axes[0])
    below = ", and the number of patients" if np.isfinite(patients).any() else ""
    legend(figure, 4, f"Share of the training data{below}; bands: 95 % intervals")
    return figure


# ---- Fig. 5 -------------------------------------------------------------------------------------
@styled
def sensitivity(frame: pl.DataFrame, title: str, metric: str = "AUROC") -> Figure:
    """Fig. 5: a metric over λ and over d, per task, with 95 % bands.

    Args:
        frame: parameter ("lambda", "d"), at, task, value, low, high; a λ of 0 stands at the left.
        title: on the picture.
        metric: what `value` is.
    """
    present, tasks = in_order(frame, "parameter"), in_order(frame, "task")
    shown = [letter for letter in HYPERPARAMETERS if letter in present]
    figure = blank(title, 10, 4.8)
    axes = panels(figure, len(shown), 2, sharey=True)
    for ax, parameter in zip(axes, shown, strict=False):
        here = frame.filter(pl.col("parameter") == parameter)
        values = sorted(in_order(here, "at"))
        least = min((v for v in values if v > 0), default=1.0)
        ax.set_xscale("log")
        for task, look in looks(tasks).items():
            part = here.filter(pl.col("task") == task).sort("at")
            at = column(part, "at")
            line_with_band(ax, np.where(at > 0, at, least / 3), part, look, task)
        ax.set_xticks([v if v > 0 else least / 3 for v in values], [f"{v:g}" for v in values])
        ax.minorticks_off()
        name, low, high = HYPERPARAMETERS[parameter]
        ax.axvspan(low, high, color="#F2F2F2", zorder=0, label="range that the paper recommends")
        ax.set(xlabel=name)
    axes[0].set_ylabel(metric)
    if not shown:
        nothing(axes[0])
    legend(figure, 4)
    return figure
