"""A chart of the weights' promise: is the large branch the right one where w_large is high?"""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np
import polars as pl

from adacomed.evaluation.reliability import (
    NEEDED,
    Branches,
    branches,
    reliability_table,
    weight_reliability,
)
from adacomed.report.figures import UNIT, layout, rounded, rule
from adacomed.report.mechanism import MAX_POINTS, has
from adacomed.report.page import Figure, Row, Spec, Table, interval, number
from adacomed.report.source import Source

PER_BIN = 10  # patients on whom exactly one branch is right that a bin should have


def promise(source: Source) -> Figure | None:
    """How often the large branch is the right one of the two, by w_large, with the patients below.

    From the headline's rows of every repeat and seed; None where these have no weights of two
    branches, or the task has more than two classes.
    """
    rows = source.rows(source.headline)
    if not has(rows, *NEEDED) or len(source.prob_columns) > 1:
        return None
    [row] = weight_reliability(rows).iter_rows(named=True)
    found = branches(rows)
    bins = reliability_table(found, bins=min(5, max(2, row["n_discordant"] // PER_BIN)))
    ends = [float(found.w_large.min()), float(found.w_large.max())] if row["adapts"] else [0, 1]
    data = [rule(ends, [0.5, 0.5], "one as often as the other"), _points(bins), *_rug(found)]
    shape = layout("w_large (weight of the large branch)", "the large branch is the right one")
    shape["yaxis"] |= {"range": [-0.12, 1.12], "tickformat": ".0%", "dtick": 0.25}
    if row["correlation"] is None:
        shape["xaxis"] |= UNIT
        high = any(share > 0.5 for share in bins["large_right"].drop_nulls())
        shape["annotations"] = [_across(row["note"], 0.2 if high else 0.8)]
    spec = {"data": data, "layout": shape}
    title = "Do the weights keep their promise?"
    return Figure("promise", title, _words(row), spec, _numbers(bins, source.repeated))


def _points(bins: pl.DataFrame) -> Spec:
    share, low, high = (
        bins[c].to_numpy() for c in ("large_right", "large_right_low", "large_right_high")
    )
    bars = {"type": "data", "array": rounded(high - share), "arrayminus": rounded(share - low)}
    name = "share in a bin, 95 % interval"
    hover = "w_large %{x:.3f}: %{y:.0%} of %{customdata} patients<extra></extra>"
    return {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(bins["w_large"]),
        "y": rounded(share),
        "error_y": bars | {"thickness": 2, "color": "var(--c0)"},
        "marker": {"color": "var(--c0)", "size": 10, "symbol": "circle"},
        "customdata": bins["n_discordant"].to_list(),
        "name": name,
        "meta": {"legend": name},
        "hovertemplate": hover,
    }


def _rug(found: Branches) -> list[Spec]:
    """A tick per row on which exactly one branch is right: above for the large, below the small."""
    data: list[Spec] = []
    for side, which, y, color in (
        (1, "large", 1.06, "var(--c2)"),
        (-1, "small", -0.06, "var(--c1)"),
    ):
        w = np.sort(found.w_large[found.sign == side])
        w = w[:: 1 + len(w) // MAX_POINTS]
        name = f"only {which} right ({found.patients(found.sign == side)})"
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": rounded(w),
                "y": [y] * len(w),
                "name": name,
                "meta": {"legend": name},
                "marker": {"color": color, "size": 9, "symbol": "line-ns-open"},
                "hovertemplate": f"only the {which} branch right<br>%{{x:.3f}}<extra></extra>",
            }
        )
    return data


def _across(text: str, y: float) -> Spec:
    """A sentence over the chart, at the height y (0 … 1) where no point is."""
    place = {"xref": "paper", "yref": "paper", "x": 0.5, "y": y, "yanchor": "middle"}
    return place | {"text": "<br>".join(wrap(text, 40)), "showarrow": False}


def _words(row: dict[str, Any]) -> str:
    right, loss = (
        interval(row[c], row[f"{c}_low"], row[f"{c}_high"])
        for c in ("correlation", "loss_correlation")
    )
    counted = (
        f"{row['n_discordant']} of {row['n']} patients on whom exactly one branch is right (the "
        f"large one on {row['n_large_right']})"
    )
    if not row["adapts"]:
        return f"{row['note']}. There are {counted}."
    said = (
        f"Rank correlation of w_large with the branch that is right: {right}, over {counted}. "
        f"With how much lower the large branch's log loss is: {loss}, over all patients."
    )
    return f"{said} Mind: {row['note']}." if row["note"] else said


def _numbers(bins: pl.DataFrame, repeated: bool) -> Table:
    lines = []
    for b in bins.iter_rows(named=True):
        share = interval(b["large_right"], b["large_right_low"], b["large_right_high"])
        counts = [str(b["n"]), str(b["n_discordant"])]
        lines.append(Row([number(b["w_large"]), *counts, share, number(b["gain"])]))
    columns = [
        "mean w_large",
        "patients",
        "exactly one branch right",
        "of these the large",
        "log loss, small − large",
    ]
    notes = ["A branch decides by its own probability at the method's threshold (else .5)."]
    if repeated:
        notes.append(
            "All repeats and seeds: a patient may be in several bins and counts once in the "
            "interval of each."
        )
    return Table("Patients in bins of w_large", columns, lines, notes)
