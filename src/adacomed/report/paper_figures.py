"""The paper's Figures 2, 4, 5 and 6 and ours beside them: data frame in, matplotlib Figure out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from adacomed.report.paper import METRICS
from adacomed.report.paper_style import (
    ACCENT,
    COLORS,
    INK,
    MARKERS,
    PLAIN,
    Look,
    blank,
    cells,
    column,
    estimate,
    in_order,
    interval,
    is_ours,
    legend,
    line_with_band,
    looks,
    nothing,
    panels,
    save,
    shades,
    span,
    styled,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ablation_forest",
    "ceiling_bars",
    "domination_panels",
    "save",
    "sensitivity",
    "training_size_lines",
    "training_size_radar",
    "trajectories_3d",
    "trajectories_flat",
]

PANELS = ("direct combination", "AdaCoMed")
FUSED = "fused"
SHARE = ("share", "share_low", "share_high")
DOMINATION = ("domination", "domination_low", "domination_high")
STRATEGIES = {  # the paper's red, green, blue, orange, told apart by shape too
    "learnable": Look("#B2182B", "o", "-"),
    "inverse": Look("#009E73", "s", "--"),
    "gaussian": Look("#0072B2", "^", "-."),
    "threshold": Look("#E69F00", "D", ":"),
}
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


# ---- Fig. 6 -------------------------------------------------------------------------------------
def _means(frame: pl.DataFrame, strategy: str) -> pl.DataFrame:
    """One row per step of a strategy, over its rows (seeds, folds)."""
    mine = frame.filter(pl.col("strategy") == strategy)
    return mine.group_by("step").agg(pl.col("s", "w_large", "w_small").mean()).sort("step")


def _strategies(frame: pl.DataFrame) -> dict[str, Look]:
    known = in_order(frame, "strategy", list(STRATEGIES))
    others = looks(s for s in known if s not in STRATEGIES)
    return {s: STRATEGIES.get(s) or others[s] for s in known}


@styled
def trajectories_3d(frame: pl.DataFrame, title: str) -> Figure:
    """Fig. 6: (w_large, w_small, s) over training per strategy, darker at later steps.

    Args:
        frame: strategy, step, s, w_large, w_small; several rows per step are drawn as they are.
        title: on the picture.
    """
    figure = blank(title, 8.5, 7.4)
    ax: Any = figure.add_subplot(projection="3d")  # Axes3D
    strategies = _strategies(frame)
    for name, look in strategies.items():
        mine, mean = frame.filter(pl.col("strategy") == name).sort("step"), _means(frame, name)
        where = [column(mine, c) for c in ("w_large", "w_small", "s")]
        shade = shades(look.color, column(mine, "step"))
        cloud = {"s": 16, "marker": look.marker, "depthshade": False, "rasterized": True}
        ax.scatter(*where, c=shade, **cloud)
        ax.scatter([], [], [], color=look.color, marker=look.marker, s=40, label=name)
        for end, fill in ((0, "white"), (-1, look.color)):
            at = [[column(mean, c)[end]] for c in ("w_large", "w_small", "s")]
            mark = {"s": 110, "marker": look.marker, "edgecolor": INK, "linewidths": 1.4}
            ax.scatter(*at, c=fill, depthshade=False, zorder=10, **mark)
    ax.set(xlabel="w_large", ylabel="w_small", zlabel="s, similarity", xlim=(0, 1), ylim=(0, 1))
    ax.set_zlim(bottom=0)
    ax.view_init(elev=18, azim=-55)
    ax.set_box_aspect((1, 1, 0.85), zoom=1.15)
    if not strategies:
        ax.text2D(0.5, 0.5, "no data", ha="center", transform=ax.transAxes)
    legend(figure, 4, "Lighter: earlier, darker: later. White: start; large: end")
    return figure


@styled
def trajectories_flat(frame: pl.DataFrame, title: str) -> Figure:
    """Fig. 6 flat: s, w_large and w_small over the steps, a mean line per strategy.

    Args:
        frame: strategy, step, s, w_large, w_small; where a step has several rows, their 10 % and
            90 % quantiles bound a band.
        title: on the picture.
    """
    figure = blank(title, 11, 4.6)
    names = {"s": "s, similarity", "w_large": "w_large", "w_small": "w_small"}
    for ax, (name, words) in zip(panels(figure, 3, 3), names.items(), strict=True):
        ax.set(title=words, xlabel="step")
        for strategy, look in _strategies(frame).items():
            mine = frame.filter(pl.col("strategy") == strategy).group_by("step")
            spread = {"low": pl.col(name).quantile(0.1), "high": pl.col(name).quantile(0.9)}
            part = thin(mine.agg(pl.col(name).mean().alias("value"), **spread).sort("step"))
            every = max(1, len(part) // 8)
            line_with_band(ax, column(part, "step"), part, look, strategy, every=every)
        if name != "s":
            ax.set_ylim(-0.03, 1.03)
        if frame.is_empty():
            nothing(ax)
    legend(figure, 4)
    return figure


# ---- ours ---------------------------------------------------------------------------------------
@styled
def ablation_forest(frame: pl.DataFrame, title: str) -> Figure:
    """Each variant's AUROC less the default's, per cohort; filled where the interval excludes 0.

    Args:
        frame: variant, cohort, difference, low, high; the variants in the order of the rows.
        title: on the picture.
    """
    variants, cohorts = in_order(frame, "variant"), in_order(frame, "cohort")
    colors = dict(zip(cohorts, (PLAIN, ACCENT, *COLORS[1:]), strict=False))
    figure = blank(title, 10, 1.9 + max(1, len(variants)) * (0.14 + 0.24 * len(cohorts)))
    ax = panels(figure, 1, 1)[0]
    ax.axvline(0, color=INK, linewidth=1)
    for c, cohort in enumerate(cohorts):
        look = Look(colors[cohort], MARKERS[c % len(MARKERS)])
        ax.plot([], [], label=cohort, **look.line | {"linestyle": ""})
        for row in frame.filter(pl.col("cohort") == cohort).iter_rows(named=True):
            at = variants.index(row["variant"]) + (c - (len(cohorts) - 1) / 2) * 0.62 / len(cohorts)
            value, low, high = cells(row, ("difference", "low", "high"))
            fill = look.color if low > 0 or high < 0 else "white"
            interval(ax, at, low, high, look)
            ax.plot(value, at, **look.line | {"linestyle": "", "markerfacecolor": fill})
            words = estimate([value, low, high], "+z.3f")
            ax.text(1.01, at, words, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(range(len(variants)), variants)
    ax.set(xlabel="AUROC less the default's (right: better than the default)")
    ax.set_ylim(max(1, len(variants)) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    if frame.is_empty():
        nothing(ax)
    legend(figure, 4, "95 % intervals; filled: the interval excludes 0")
    return figure


@styled
def ceiling_bars(frame: pl.DataFrame, title: str) -> Figure:
    """Share of the Bayes ceiling that each method reaches, one panel per number of patients.

    Args:
        frame: n, method, share, low, high; the methods are sorted by their mean share.
        title: on the picture.
    """
    sizes = sorted(in_order(frame, "n"))
    means = frame.group_by("method").agg(pl.col("share").mean())
    methods = means.sort("share", "method", descending=[True, False], nulls_last=True)["method"]
    figure = blank(title, 11, 2.1 + 0.34 * max(1, len(methods)))
    axes = panels(figure, len(sizes), max(1, len(sizes)), sharex=True, sharey=True)
    for ax, size in zip(axes, sizes, strict=False):
        ax.set_title(f"{size:,} patients")
        ax.axvline(1, color=INK, linewidth=1, linestyle="--", label="Bayes ceiling")
        for row in frame.filter(pl.col("n") == size).iter_rows(named=True):
            ours, at = is_ours(row["method"]), methods.to_list().index(row["method"])
            look = Look(ACCENT, "D", width=2.6, above=3) if ours else Look(PLAIN, "o")
            value, low, high = cells(row, ("share", "low", "high"))
            interval(ax, at, low, high, look)
            ax.plot(value, at, **look.line)
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(max(1, len(methods)) - 0.5, -0.5)
    for words in axes[0].get_yticklabels():
        if is_ours(words.get_text()):
            words.set(color=ACCENT, fontweight="bold")
    if not sizes:
        nothing(axes[0])
    legend(figure, 3, "Share of the Bayes ceiling, 95 % intervals")
    return figure
