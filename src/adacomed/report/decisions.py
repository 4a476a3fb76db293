"""What a decision costs: the confusion matrix at the chosen threshold, and the decision curve."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from adacomed.evaluation.decisions import decision_curve, net_benefits
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import Columns, bootstrap, percentile
from adacomed.evaluation.scored import HALF, Floats
from adacomed.report.figures import Problem, Style, band, layout, line, problems, rule
from adacomed.report.page import Figure, Row, Section, Spec, Table, number
from adacomed.report.source import Source
from adacomed.report.tables import estimate
from adacomed.schema import CEILING, Predictions

SHOWN = ("sensitivity", "specificity", "ppv", "npv", "net_benefit")
THRESHOLDS = np.linspace(0.01, 0.99, 99)
RESAMPLES = 200


def section(source: Source, table: pl.DataFrame, look: dict[str, Style]) -> Section:
    """Decisions at the method's threshold, and net benefit over all thresholds."""
    name, title = "decisions", "Decisions"
    rows = source.patients(source.headline)
    if rows.is_empty():
        return Section(name, title, missing="Decisions need labelled test patients.")
    figures = [matrix(source, rows)]
    rivals = {method: style for method, style in look.items() if method != CEILING}
    found = list(problems(source, rivals, once=True)) if len(source.prob_columns) == 1 else []
    if found:
        figures.append(curve(found))
    lead = (
        "A patient counts as positive where the probability reaches the threshold, which was "
        "chosen on validation patients (else .5)."
        if len(source.prob_columns) == 1
        else "The most probable class is decided for. A decision curve needs two classes."
    )
    if source.repeated:
        lead += " Charts: each patient once (first repeat and seed)."
    return Section(
        name, title, lead, tables=[_numbers(table, len(source.prob_columns) == 1)], figures=figures
    )


def decided(source: Source, rows: pl.DataFrame) -> NDArray[np.int64]:
    """(N,) the class decided for in each row: by its threshold, or the most probable of K > 2."""
    if len(source.prob_columns) > 1:
        best: NDArray[np.int64] = rows.select(source.prob_columns).to_numpy().argmax(axis=1)
        return best
    cut: ArrayLike = HALF
    if Predictions.THRESHOLD in rows.columns:
        cut = rows[Predictions.THRESHOLD].fill_null(HALF).to_numpy()
    return (rows[Predictions.PROB].to_numpy() >= cut).astype(np.int64)


def matrix(source: Source, rows: pl.DataFrame) -> Figure:
    """Counts of patients by true class and decision, headline method."""
    label, decision = rows[Predictions.LABEL].to_numpy(), decided(source, rows)
    K = max(2, len(source.prob_columns))
    counts = np.zeros((K, K), dtype=np.int64)
    np.add.at(counts, (label, decision), 1)
    names = ["no event", "event"] if K == 2 else [f"class {k}" for k in range(K)]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    heat = _heat(counts, share, names)
    shape = layout("decided", "true", height=340 if K < 4 else 90 + 60 * K)
    names_only = {"type": "category", "showgrid": False}
    shape["xaxis"] |= names_only
    shape["yaxis"] |= names_only | {"autorange": "reversed", "automargin": True}
    lines = [
        Row([f"true: {n}", *map(str, row)]) for n, row in zip(names, counts.tolist(), strict=True)
    ]
    data = [[n, *row] for n, row in zip(names, counts.tolist(), strict=True)]
    columns = ["true", *(f"decided: {n}" for n in names)]
    frame = pl.DataFrame(data, schema=columns, orient="row")
    table = Table(f"Confusion matrix of {source.headline}", columns, lines, frame=frame)
    at = _threshold(rows) if K == 2 else ""
    alt = f"Confusion matrix of {source.headline}{at}, {len(rows)} test patients: " + "; ".join(
        f"of {row.sum()} with true {names[k]}, "
        + ", ".join(f"{n} decided {names[j]}" for j, n in enumerate(row))
        for k, row in enumerate(counts)
    )
    spec = {"data": [heat], "layout": shape}
    return Figure("confusion", f"Confusion matrix{at}", f"{alt}.", spec, table)


def _heat(counts: NDArray[np.int64], share: NDArray[np.float64], names: list[str]) -> Spec:
    return {
        "type": "heatmap",
        "z": share.round(4).tolist(),
        "x": names,
        "y": names,
        "text": [
            [f"{n}<br>({s:.0%})" for n, s in zip(*both, strict=True)]
            for both in zip(counts.tolist(), share.tolist(), strict=True)
        ],
        "texttemplate": "%{text}",
        "textfont": {"color": "var(--text)", "size": 14},
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "var(--heat0)"], [1, "var(--heat1)"]],
        "showscale": False,
        "xgap": 3,
        "ygap": 3,
        "hovertemplate": "true: %{y}, decided: %{x}<br>%{z:.1%} of the true class<extra></extra>",
    }


def _threshold(rows: pl.DataFrame) -> str:
    """` at the threshold .312`, or the range of the folds' own thresholds."""
    if Predictions.THRESHOLD not in rows.columns or not rows[Predictions.THRESHOLD].count():
        return f" at the threshold {number(HALF)}"
    low, high = rows.select(pl.min(Predictions.THRESHOLD), high=pl.max(Predictions.THRESHOLD)).row(
        0
    )
    several = f" to {number(high)} (each fold has its own)" if high - low > 5e-4 else ""
    return f" at the threshold {number(low)}{several}"


def _resampled(problem: Problem) -> tuple[Floats, Floats]:
    def statistic(columns: Columns, weight: Floats) -> Floats:
        return net_benefits(columns["label"], columns["prob"], THRESHOLDS, weight)

    columns = {"label": problem.y, "prob": problem.p}
    return percentile(bootstrap(statistic, columns, problem.subjects, problem.y, RESAMPLES))


def curve(found: list[Problem]) -> Figure:
    """Net benefit against the threshold, beside treating everyone and no one."""
    prevalence = float(found[0].y.mean())
    most = float(min(0.99, max(0.3, 3 * prevalence)))  # beyond it hardly anyone would be treated
    net = {p.name: decision_curve(p.y, p.p, THRESHOLDS) for p in found}
    everyone = net[found[0].name]["all"]
    bands = [band(THRESHOLDS, *_resampled(p), p.name, p.style) for p in found]
    lines = [line(THRESHOLDS, net[p.name]["model"], p.name, p.style) for p in found]
    no_one = rule([0, 1], [0, 0], "treat no one")
    no_one["line"] = no_one["line"] | {"dash": "solid"}
    rules = [rule(THRESHOLDS.tolist(), everyone.tolist(), "treat everyone"), no_one]
    shape = layout("threshold probability", "net benefit")
    shape["xaxis"] |= {"range": [0, most], "tickformat": ".1f"}
    shape["yaxis"] |= {"range": [-0.35 * prevalence, 1.15 * prevalence]}
    alt = (
        "Decision curves: net benefit against the threshold probability, the light area is the "
        "95 % band. A method is of use where it lies above both grey lines, treating everyone and "
        "no one."
    )
    values = {"treat everyone": everyone} | {name: n["model"] for name, n in net.items()}
    spec = {"data": [*bands, *rules, *lines], "layout": shape}
    return Figure("decision-curve", "Decision curve", alt, spec, _at_marks(values, most))


def _at_marks(values: dict[str, Floats], most: float) -> Table:
    """Net benefit at a few thresholds; the frame has them all."""
    marks = [t for t in (0.05, 0.1, 0.2, 0.3, 0.5) if t <= most]
    index = [int(np.abs(THRESHOLDS - t).argmin()) for t in marks]
    rows = [Row([name, *(number(float(v[i])) for i in index)]) for name, v in values.items()]
    columns = ["method", *(f"at {number(t, 2)}" for t in marks)]
    frame = pl.DataFrame({"threshold": THRESHOLDS.round(2), **values})
    caption = "Net benefit: true positives per patient, less weighted false ones"
    return Table(caption, columns, rows, frame=frame)


def _numbers(table: pl.DataFrame, binary: bool) -> Table:
    shown = [m for m in SHOWN if m in table.columns and table[m].is_finite().any()]
    mine = table.filter(pl.col(Predictions.METHOD) != CEILING)
    rows = [
        Row([str(row[Predictions.METHOD]), *(estimate(row, metric) for metric in shown)])
        for row in mine.iter_rows(named=True)
    ]
    columns = ["method", *(METRICS[m].label for m in shown)]
    keep = [Predictions.METHOD, *(f"{m}{end}" for m in shown for end in ("", "_low", "_high"))]
    frame = mine.select(c for c in keep if c in mine.columns)
    what = "At the chosen threshold" if binary else "Decisions, mean over the classes"
    return Table(f"{what}, 95 % intervals", columns, rows, frame=frame)
