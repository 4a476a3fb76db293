"""Figure 6 and two of our own (ablation, ceiling): data frame in, matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

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
    shades,
    styled,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRATEGIES = {  # the paper's red, green, blue, orange, told apart by shape too
    "learnable": Look("#B2182B", "o", "-"),
    "inverse": Look("#009E73", "s", "--"),
    "gaussian": Look("#0072B2", "^", "-."),
    "threshold": Look("#E69F00", "D", ":"),
}


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
    name_rows(axes[0], methods.to_list())
    if not sizes:
        nothing(axes[0])
    legend(figure, 3, "Share of the Bayes ceiling, 95 % intervals")
    return figure


def name_rows(axes: Axes, methods: Sequence[str]) -> None:
    """A row per method, the first on top, AdaCoMed's name in the accent."""
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(max(1, len(methods)) - 0.5, -0.5)
    for words in axes.get_yticklabels():
        if is_ours(words.get_text()):
            words.set(color=ACCENT, fontweight="bold")
