"""search.html: how the search went, in the report's look; one file, nothing loaded."""

from __future__ import annotations

from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from adacomed import __version__
from adacomed.report.figures import Style, layout, line, rounded, rule
from adacomed.report.page import Figure, Section, Spec, frame_table, label, number
from adacomed.report.templates import environment
from adacomed.search.results import DONE, Found
from adacomed.search.space import Parameter
from adacomed.training.writing import replacing

if TYPE_CHECKING:
    from optuna import Study

ENOUGH = 10  # trials with a score before an importance says anything
DRAWN = 4000  # trials in a chart


def write_page(found: Found, study: Study, space: list[Parameter], target: Path) -> None:
    """Write the page through a temporary name."""
    here = files("adacomed.report")
    sections = [
        _best(found, space),
        _history(found),
        _importance(found, study),
        _slices(found, space),
    ]
    text = (
        environment(jinja2.PackageLoader("adacomed.search", ""))
        .get_template("page.html")
        .render(
            title=f"Search: {found.title}",
            sentences=found.sentences(),
            sections=sections,
            specs={f.id: f.spec for s in sections for f in s.figures},
            style=Markup((here / "style.css").read_text(encoding="utf-8")),
            script=Markup((here / "script.js").read_text(encoding="utf-8")),
            plotly=Markup(get_plotlyjs()),
            version=__version__,
            made=date.today().isoformat(),
        )
    )
    with replacing(target) as partial:
        partial.write_text(text, "utf-8")


def _best(found: Found, space: list[Parameter]) -> Section:
    rows = [
        {
            "setting": p.name,
            "best": _text(found.best[p.name]),
            "default": _text(found.start[p.name]),
        }
        | {"searched": p.text()}
        for p in space
    ]
    scores = {"best": number(found.best["score"], 4), "default": number(found.start["score"], 4)}
    top = {"setting": f"{found.metric} on validation", **scores, "searched": ""}
    table = frame_table("Best trial and the experiment's own values", pl.DataFrame([top, *rows]))
    return Section("best", "Best and default", tables=[table])


def _text(value: Any) -> str | None:
    if value is None:
        return None  # not active under this strategy
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _points(frame: pl.DataFrame, x: str) -> tuple[list[Any], list[float | None]]:
    return frame[x].to_list(), rounded(frame["score"].to_numpy())


def _marks(x: list[Any], y: list[float | None], trials: list[int]) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "text": [f"trial {t}" for t in trials],
        "marker": {"color": "var(--c0)", "size": 8, "symbol": "circle"},
        "hovertemplate": "%{text}: %{y:.4f} at %{x}<extra></extra>",
    }


def _scored(found: Found) -> pl.DataFrame:
    return found.table.filter(pl.col("state") == DONE).tail(DRAWN)


def _history(found: Found) -> Section:
    scored = _scored(found)
    x, y = _points(scored, "trial")
    highest = np.maximum.accumulate(scored["score"].to_numpy())
    ends = [0.0, float(max(found.table["trial"].to_list()))]
    start = float(found.start["score"])
    curve = line(x, highest, "best so far", Style("var(--c1)", "solid"))
    curve |= {"line": {**curve["line"], "shape": "hv"}, "hovertemplate": "%{y:.4f}<extra></extra>"}
    marks = _marks(x, y, scored["trial"].to_list()) | {"name": "trial", "meta": {"legend": "trial"}}
    data = [marks, curve, rule(ends, [start, start], "default")]
    stopped = len(found.table) - len(scored)
    alt = (
        f"Validation score of {len(scored)} trials in their order, highest "
        f"{number(found.best['score'])} at trial {found.best['trial']}; the default's is "
        f"{number(start)}."
    )
    lead = f"{stopped} of {len(found.table)} trials were stopped early and have no score."
    shape = layout("trial", f"{found.metric} on validation")
    figure = Figure("history", "Optimisation history", alt, {"data": data, "layout": shape})
    return Section("course", "How the search went", lead, figures=[figure])


def _importance(found: Found, study: Study) -> Section:
    name, title = "importance", "What mattered"
    if found.scored < ENOUGH:
        missing = f"An importance takes at least {ENOUGH} trials with a score."
        return Section(name, title, missing=missing)
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    try:
        share = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except (RuntimeError, ValueError):  # every score the same, or nothing common to all trials
        share = {}
    if not share or not np.isfinite(list(share.values())).all():
        return Section(
            name, title, missing="The scores do not depend on anything that was searched."
        )
    names, values = list(share)[::-1], list(share.values())[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": rounded(values),
        "y": [label(n) for n in names],
        "marker": {"color": "var(--c0)"},
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    shape = layout("share of the scores' variance", "", height=140 + 32 * len(names))
    shape["yaxis"] |= {"automargin": True, "type": "category"}
    each = "; ".join(f"{n} {number(v, 2)}" for n, v in share.items())
    alt = f"Share of the variance of the scores by setting: {each}."
    lead = (
        "By functional ANOVA (Hutter et al. 2014), in the trials with a score, of the settings "
        "that all of them had."
    )
    figure = Figure("importances", "Importance", alt, {"data": [bars], "layout": shape})
    return Section(name, title, lead, figures=[figure])


def _slices(found: Found, space: list[Parameter]) -> Section:
    scored = _scored(found)
    figures = []
    for i, parameter in enumerate(space):
        rows = scored.filter(pl.col(parameter.name).is_not_null())
        if rows.is_empty():
            continue
        x, y = _points(rows, parameter.name)
        axis: dict[str, Any] = {"type": "log" if parameter.log else "linear"}
        if parameter.choices:
            axis = {"type": "category", "categoryarray": [str(c) for c in parameter.choices]}
        shape = layout(parameter.name, f"{found.metric} on validation", xaxis=axis, height=320)
        marks = _marks([str(v) for v in x] if parameter.choices else x, y, rows["trial"].to_list())
        top = rows.sort("score", descending=True).row(0, named=True)
        highest = f"highest {number(top['score'])} at {_text(top[parameter.name])}"
        alt = f"Score against {parameter.name} in {len(rows)} trials, {highest}."
        figures.append(
            Figure(f"slice-{i}", parameter.name, alt, {"data": [marks], "layout": shape})
        )
    return Section("slices", "Score by setting", figures=figures)
