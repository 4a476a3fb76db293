"""Where cohorts are small (`reproduce simulated-grid`, `rivals`): data frame in, Figure out."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import polars as pl

from adacomed.report.paper_style import (
    ACCENT,
    INK,
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
    styled,
)
from adacomed.report.training_figures import name_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {"auroc": "AUROC", "auprc": "AUPRC"}


@styled
def share_lines(frame: pl.DataFrame, title: str) -> Figure:
    """Share of the Bayes ceiling over training patients, a panel per modalities × missing.

    Args:
        frame: modalities, missing (a rate), n (training patients), method, share, low, high.
        title: on the picture.
    """
    counts, rates = (sorted(in_order(frame, name)) for name in ("modalities", "missing"))
    sizes, drawn = sorted(in_order(frame, "n")), looks(in_order(frame, "method"))
    places = list(product(counts, rates))
    columns = max(1, len(rates))
    figure = blank(title, max(8.5, 3.9 * columns), 1.9 + 3.4 * max(1, len(counts)))
    axes = panels(figure, len(places), columns, sharex=True, sharey=True)
    for ax, (modalities, missing) in zip(axes, places, strict=False):
        here = frame.filter(modalities=modalities, missing=missing).rename({"share": "value"})
        ax.set_title(f"{modalities} modalities, {100 * missing:.0f} % missing")
        ax.axhline(1, color=INK, linewidth=1, linestyle="--", label="Bayes ceiling")
        for method, look in drawn.items():
            mine = here.filter(method=method).sort("n")
            if len(mine):
                line_with_band(ax, column(mine, "n"), mine, look, method)
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
        ax.set_xticks([], minor=True)
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    for ax in axes[-columns:]:
        ax.set_xlabel("training patients")
    if not places:
        nothing(axes[0])
    legend(figure, 4, "Share of the Bayes ceiling, 95 % intervals")
    return figure


@styled
def method_forest(frame: pl.DataFrame, title: str) -> Figure:
    """Every method's AUROC and AUPRC, the best AUROC on top; a line where AdaCoMed stands.

    Args:
        frame: method, metric ("auroc" or "auprc"), value, low, high.
        title: on the picture.
    """
    metrics = in_order(frame, "metric", list(METRICS))
    first = frame.filter(metric=metrics[0]) if metrics else frame
    methods = first.sort("value", descending=True, nulls_last=True)["method"].to_list()
    figure = blank(title, 11, 1.8 + 0.34 * max(1, len(methods)))
    axes = panels(figure, len(metrics), max(1, len(metrics)), sharey=True)
    for ax, metric in zip(axes, metrics, strict=False):
        ax.set_title(f"{METRICS.get(metric, metric)}, 95 % interval")
        for row in frame.filter(metric=metric).iter_rows(named=True):
            ours, at = is_ours(row["method"]), methods.index(row["method"])
            look = Look(ACCENT, "D", width=2.6, above=3) if ours else Look(PLAIN, "o")
            value, low, high = cells(row, ("value", "low", "high"))
            if row["method"] == "adacomed":  # a variant of it gets no line
                ax.axvline(value, color=ACCENT, linewidth=1, linestyle="--", label="AdaCoMed")
            interval(ax, at, low, high, look)
            ax.plot(value, at, **look.line)
            words = estimate([value, low, high], ".3f")
            ax.text(1.01, at, words, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.grid(visible=False, axis="y")
    name_rows(axes[0], methods)
    if not methods:
        nothing(axes[0])
    legend(figure, 2)
    return figure
