"""Prediction sets: do they hold the true class as often as promised, and how much do they say?"""

from __future__ import annotations

import polars as pl

from adacomed.evaluation.refit import coverage_table
from adacomed.report.figures import layout, rounded
from adacomed.report.mechanism import has
from adacomed.report.page import (
    NONE,
    Figure,
    Row,
    Section,
    Spec,
    Table,
    finite,
    interval,
    label,
    measured,
    number,
)
from adacomed.report.source import Source
from adacomed.schema import CEILING, Predictions

COVERAGE = 0.9  # nominal, where the settings do not say


def section(source: Source, nominal: float | None) -> Section:
    """Coverage per class and abstention of every method that has prediction sets.

    Args:
        nominal: the coverage that was asked for; None: not recorded.
    """
    name, title = "sets", "Prediction sets"
    found = coverage(source)
    if found is None:
        missing = (
            "The predictions have no prediction sets (conformal prediction), so a patient of whom "
            "the model is unsure is not marked as such."
        )
        return Section(name, title, missing=missing)
    asked = f"{nominal:.0%} " if nominal else ""
    lead = (
        "A prediction set holds the classes that cannot be ruled out; its limits were set on "
        f"validation patients so that it holds the true class of {asked}of the patients of each "
        "class. Anything but exactly one class is an abstention: the model leaves it to people."
    )
    if source.repeated:
        lead += " Each patient once (first repeat and seed)."
    mine = found.filter(pl.col(Predictions.METHOD) == source.headline)
    figures = [_figure(mine, nominal, source.headline)] if len(mine) else []
    return Section(name, title, lead, tables=[_numbers(found)], figures=figures)


def coverage(source: Source) -> pl.DataFrame | None:
    """`refit.coverage_table` on the test patients, each once; None where no method has sets."""
    if not has(source.test, Predictions.SET):
        return None
    rivals = [source.patients(method) for method in source.methods if method != CEILING]
    found = coverage_table(pl.concat(rivals))
    return None if found.is_empty() else found


def _class(k: int | None) -> str:
    return "all" if k is None else f"class {k}"


def _numbers(found: pl.DataFrame) -> Table:
    """A row per method: coverage over all patients and in each class, and what the sets say."""
    rows, notes = [], []
    parts = found.partition_by(Predictions.METHOD, maintain_order=True)
    for part in parts:
        [everyone, *classes] = part.iter_rows(named=True)
        shares = [_share(everyone["abstain"]), _share(everyone["empty"])]
        covered = [measured(row, "coverage").replace(" [", "\n[") for row in (everyone, *classes)]
        size = number(finite(everyone["size"]), 2)
        rows.append(Row([str(everyone[Predictions.METHOD]), *covered, size, *shares]))
        for row in classes:
            if row["note"]:
                notes.append(f"{_class(row['class'])}: {row['note']}.")
    heads = [f"{_class(k)} (n\u00a0=\u00a0{n})" for k, n in parts[0].select("class", "n").rows()]
    columns = ["method", *heads, "mean size", "abstains", "empty"]
    caption = "Share of the sets that hold the true class, 95 % Wilson intervals"
    return Table(caption, columns, rows, list(dict.fromkeys(notes)), frame=found)


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def _figure(mine: pl.DataFrame, nominal: float | None, headline: str) -> Figure:
    kept = mine.filter(pl.col("n") > 0)
    names = [f"{_class(k)} (n = {n})" for k, n in kept.select("class", "n").iter_rows()]
    value, low, high = (kept[c].to_numpy() for c in ("coverage", "low", "high"))
    bars = {"type": "data", "array": rounded(high - value), "arrayminus": rounded(value - low)}
    data: Spec = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(value),
        "y": [label(n) for n in names],
        "error_x": bars | {"color": "var(--c0)", "thickness": 2},
        "marker": {"color": "var(--c0)", "size": 10},
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
    }
    shape = layout("", "", height=120 + 34 * len(names))
    shape["xaxis"] |= {"tickformat": ".0%", "range": [min(0.5, float(low.min()) - 0.02), 1.01]}
    shape["yaxis"] |= {"type": "category", "autorange": "reversed", "automargin": True}
    if nominal is not None:
        line = {"type": "line", "x0": nominal, "x1": nominal, "y0": 0, "y1": 1, "yref": "paper"}
        shape["shapes"] = [line | {"line": {"color": "var(--muted)", "dash": "dot", "width": 1.5}}]
    each = zip(names, value, low, high, strict=True)
    said = "; ".join(f"{n} {interval(float(v), float(a), float(b))}" for n, v, a, b in each)
    asked = f" The dotted line is the {nominal:.0%} asked for." if nominal is not None else ""
    alt = f"Coverage of {headline}'s prediction sets by true class: {said}.{asked}"
    spec = {"data": [data], "layout": shape}
    return Figure("set-coverage", "Share of sets that hold the true class", alt, spec)
