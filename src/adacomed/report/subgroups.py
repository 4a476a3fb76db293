"""How the headline method does by sex, age band, site and modality pattern: a forest plot."""

from __future__ import annotations

import polars as pl

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.gaps import GAPS, gaps
from adacomed.evaluation.subgroups import subgroups
from adacomed.report.figures import folded, layout, rounded
from adacomed.report.mechanism import has
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
from adacomed.report.tables import estimate
from adacomed.schema import Predictions

PATTERNS = "modalities"  # evaluation.subgroups' name for the pattern of `present`
RESAMPLES = 300
MOST = 40  # rows of the plot; the table has all


def section(source: Source, table: pl.DataFrame) -> Section:
    """The subgroups that the predictions know of; modality patterns are always among them."""
    name, title = "subgroups", "Subgroups"
    rows = source.rows(source.headline)
    by = list(source.groups)
    if has(source.predictions, Predictions.PRESENT):
        by.append(PATTERNS)
    if rows.is_empty() or not by:
        missing = (
            "The predictions have no group columns (groups: in the cohort's YAML, such as sex, "
            "age, site) and do not say which modalities each test patient has."
        )
        return Section(name, title, missing=missing)
    binary = len(source.prob_columns) == 1
    metrics = ["auroc", *(["sensitivity", "specificity"] if binary else [])]
    found = subgroups(rows, by=by, metrics=metrics, n=RESAMPLES)
    tables = [_numbers(found, metrics, source.headline)]
    lead = (
        f"{source.headline} in parts of the test patients. A small group is shown with its size "
        "and no number. An interval that holds the overall line is no evidence of a difference."
    )
    if source.groups and binary:
        tables.append(_gaps(gaps(rows, by=list(source.groups), n=RESAMPLES)))
    else:
        lead += " The predictions have no columns of sex, age or site." * (not source.groups)
    overall = table.filter(pl.col(Predictions.METHOD) == source.headline)
    value = finite(overall["auroc"][0]) if len(overall) else None
    figures = [figure] if (figure := forest(found, value, source.headline)) else []
    return Section(name, title, lead, tables=tables, figures=figures)


def forest(found: pl.DataFrame, overall: float | None, headline: str) -> Figure | None:
    """AUROC and interval of each group, its size beside its name; None where none has one."""
    kept = found.filter(pl.col("auroc").is_finite()).head(MOST)
    if kept.is_empty():
        return None
    names, data = [], []
    for i, (group,) in enumerate(kept.select("group").unique(maintain_order=True).iter_rows()):
        part = kept.filter(pl.col("group") == group)
        rows = [
            f"{group}: {level} (n\u00a0=\u00a0{n})"
            for level, n in part.select("level", "n").iter_rows()
        ]
        names += rows
        data.append(_marks(part, rows, str(group), i))
    lines = sum(folded(n).count("<br>") + 1 for n in names)
    shape = layout("", "", height=90 + 14 * len(names) + 17 * lines)
    shape["yaxis"] |= {
        "type": "category",
        "automargin": True,
        "categoryarray": [folded(n) for n in reversed(names)],
        "range": [-0.6, len(names) - 0.4],
    }
    if overall is not None:
        line = {"type": "line", "x0": overall, "x1": overall, "y0": 0, "y1": 1, "yref": "paper"}
        shape["shapes"] = [line | {"line": {"color": "var(--muted)", "dash": "dot", "width": 1.5}}]
    said = "; ".join(
        f"{r['group']} {r['level']} (n = {r['n']}) "
        + measured(r, "auroc", "auroc_low", "auroc_high")
        for r in kept.iter_rows(named=True)
    )
    overall_said = f" The dotted line is that of all test patients, {number(overall)}."
    alt = f"Forest plot of {headline}'s AUROC by subgroup, 95 % intervals.{overall_said} {said}."
    spec = {"data": data, "layout": shape}
    return Figure("subgroup-forest", f"AUROC of {headline} by subgroup", alt, spec)


def _marks(part: pl.DataFrame, names: list[str], group: str, i: int) -> Spec:
    color = f"var(--c{i % 8})"
    value, low, high = (part[f"auroc{end}"].to_numpy() for end in ("", "_low", "_high"))
    bars = {"type": "data", "array": rounded(high - value), "arrayminus": rounded(value - low)}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(value),
        "y": [folded(n) for n in names],
        "name": label(group),
        "error_x": bars | {"color": color, "thickness": 2},
        "marker": {"color": color, "size": 9, "symbol": ("circle", "diamond", "square")[i % 3]},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }


def _numbers(found: pl.DataFrame, metrics: list[str], headline: str) -> Table:
    rows = []
    for row in found.iter_rows(named=True):
        cells = [f"{row['group']}: {row['level']}", str(row["n"])]
        cells.append(NONE if row["n_events"] is None else str(row["n_events"]))
        rows.append(Row([*cells, *(estimate(row, m) for m in metrics), row["note"] or ""]))
    columns = ["group", "patients", "events", *(METRICS[m].label for m in metrics), "note"]
    caption = f"{headline} by subgroup, 95 % intervals"
    return Table(caption, columns, rows, frame=found)


def _gaps(found: pl.DataFrame) -> Table:
    """The largest difference between any two levels of each group; who has none has a note."""
    rows, why = [], {}
    for row in found.iter_rows(named=True):
        if row["note"]:
            why[row["group"]] = f"{row['group']}: {row['note']}."
        if row["value"] is None:
            continue
        between = f"{row['highest']} / {row['lowest']}"
        what = f"{row['group']}: {GAPS[row['gap']].label}"
        rows.append(Row([what, measured(row), between, str(row["n"])]))
    columns = ["gap", "largest difference", "highest / lowest", "patients"]
    notes = [
        "A largest difference is above 0 even where the levels are alike. A lower limit of 0 says "
        "that no difference was shown.",
        *why.values(),
    ]
    return Table("Gaps between the levels of a group, 95 % intervals", columns, rows, notes, found)
