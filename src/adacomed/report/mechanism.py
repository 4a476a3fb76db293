"""Charts of how the fusion works: weights of the two branches, similarity, router, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from adacomed.report.figures import DASHES, Style, layout, line, rounded, rule
from adacomed.report.page import Figure, Row, Spec, Table, label, number
from adacomed.report.source import Source
from adacomed.schema import History, Predictions

MAX_POINTS = 2000  # patients in a scatter; the page stays small and the cloud readable
MAX_PATTERNS = 12


def has(frame: pl.DataFrame, *columns: str) -> bool:
    """Whether every column exists and holds a value."""
    return all(c in frame.columns and frame[c].null_count() < len(frame) for c in columns)


def pattern(rows: pl.DataFrame) -> pl.Series:
    """The present modalities of each row as a name such as `ct + wsi`."""
    joined = rows[Predictions.PRESENT].list.sort().list.join(" + ")
    return joined.replace({"": "none"}).fill_null("unknown").alias("pattern")


def weights(rows: pl.DataFrame) -> Figure | None:
    """Distribution of w_large over patients."""
    if not has(rows, Predictions.W_LARGE):
        return None
    w = rows[Predictions.W_LARGE].drop_nulls().to_numpy()
    count, edge = np.histogram(w, bins=np.linspace(0, 1, 41))
    bars = {
        "type": "bar",
        "x": rounded((edge[:-1] + edge[1:]) / 2),
        "y": count.tolist(),
        "marker": {"color": "var(--c0)"},
        "hovertemplate": "w_large %{x:.2f}: %{y} patients<extra></extra>",
    }
    q = np.quantile(w, [0, 0.25, 0.5, 0.75, 1])
    spread = f"from {number(q[0])} to {number(q[4])}"
    middle = f"median {number(q[2])}, half of the patients in [{number(q[1])}, {number(q[3])}]"
    alt = f"Histogram of the large branch's weight over {len(w)} patients: {spread}, {middle}."
    if q[4] - q[0] < 1e-6:
        alt += " The weight is the same for everyone: this strategy does not adapt to the patient."
    shape = layout("w_large (weight of the large branch)", "patients", bargap=0.05)
    shape["xaxis"] |= {"range": [-0.01, 1.01], "tickformat": ".1f"}
    return Figure("w-large", "Weight of the large branch", alt, {"data": [bars], "layout": shape})


def similarity(rows: pl.DataFrame) -> Figure | None:
    """w_large against s, a point per patient: the weighting strategy as it acted."""
    if not has(rows, Predictions.W_LARGE, Predictions.S):
        return None
    sample = _sample(rows.drop_nulls([Predictions.W_LARGE, Predictions.S]))
    data = _by_label(sample, Predictions.S, Predictions.W_LARGE)
    s, w = sample[Predictions.S].to_numpy(), sample[Predictions.W_LARGE].to_numpy()
    alt = (
        f"Scatter of w_large against s, {_shown(sample, rows)}. s runs from {number(s.min())} to "
        f"{number(s.max())}, w_large from {number(w.min())} to {number(w.max())}."
    )
    shape = layout("s (similarity, Eq. 4)", "w_large")
    return Figure("s-weight", "Weight against similarity", alt, {"data": data, "layout": shape})


def agreement(rows: pl.DataFrame) -> Figure | None:
    """Where the two branches agree: logit_large against logit_small, coloured by label."""
    if not has(rows, Predictions.LOGIT_LARGE, Predictions.LOGIT_SMALL):
        return None
    sample = _sample(rows.drop_nulls([Predictions.LOGIT_LARGE, Predictions.LOGIT_SMALL]))
    small, large = (
        sample[c].to_numpy() for c in (Predictions.LOGIT_SMALL, Predictions.LOGIT_LARGE)
    )
    low, high = float(min(small.min(), large.min())), float(max(small.max(), large.max()))
    data = [rule([low, high], [low, high], "large = small")]
    data += _by_label(sample, Predictions.LOGIT_SMALL, Predictions.LOGIT_LARGE)
    same = float(np.mean(np.sign(small) == np.sign(large)))
    alt = (
        f"Scatter of the two branches' log-odds, {_shown(sample, rows)}. "
        f"They fall on the same side of 0 for {same:.0%} of the patients."
    )
    shape = layout("logit of the small branch", "logit of the large branch")
    return Figure("logits", "Large against small", alt, {"data": data, "layout": shape})


def _sample(rows: pl.DataFrame) -> pl.DataFrame:
    return rows if len(rows) <= MAX_POINTS else rows.sample(MAX_POINTS, seed=0)


def _shown(sample: pl.DataFrame, rows: pl.DataFrame) -> str:
    if len(sample) == MAX_POINTS < len(rows):
        return f"{len(sample)} of {len(rows)} patients drawn at random"
    return f"{len(sample)} patients"


def _by_label(rows: pl.DataFrame, x: str, y: str) -> list[Spec]:
    """One cloud per class, the rarer later so that it lies on top."""
    sizes = rows.group_by(Predictions.LABEL).len().sort(pl.col("len"), descending=True)
    binary = set(sizes[Predictions.LABEL]) <= {0, 1}
    data: list[Spec] = []
    for value in sizes[Predictions.LABEL]:
        part = rows.filter(pl.col(Predictions.LABEL) == value)
        name = f"{'event' if value else 'no event'}" if binary else f"class {value}"
        color = ("var(--c0)", "var(--c1)")[value] if binary else f"var(--c{value % 8})"
        symbol = ("circle", "diamond", "square", "x")[value % 4]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": rounded(part[x]),
                "y": rounded(part[y]),
                "name": name,
                "meta": {"legend": f"{name} ({len(part)})"},
                "marker": {"color": color, "size": 7, "opacity": 0.6, "symbol": symbol},
                "hovertemplate": f"{name}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
            }
        )
    return data


def router(source: Source, rows: pl.DataFrame) -> Figure | None:
    """Mean router weight of every expert, one row per modality pattern."""
    if not has(rows, Predictions.ROUTER):
        return None
    rows = rows.filter(pl.col(Predictions.ROUTER).list.len() > 0)
    if rows.is_empty():
        return None
    names = pattern(rows) if has(rows, Predictions.PRESENT) else pl.Series("pattern", ["all"])
    weight = np.stack([np.asarray(r, dtype=np.float64) for r in rows[Predictions.ROUTER]])
    experts = _experts(source, weight.shape[1])
    index = rows.select(names if len(names) == len(rows) else pl.lit("all").alias("pattern"))
    counts = index["pattern"].value_counts(sort=True).head(MAX_PATTERNS)
    groups = {
        f"{name} (n = {n})": (index["pattern"] == name).to_numpy() for name, n in counts.rows()
    }
    means = np.stack([weight[mask].mean(axis=0) for mask in groups.values()])
    table = Table(
        "Mean router weight per expert",
        ["modalities present", *experts],
        [Row([name, *map(number, row)]) for name, row in zip(groups, means.tolist(), strict=True)],
    )
    top = experts[int(weight.mean(axis=0).argmax())]
    alt = f"Heat map of mean router weights; over all patients the heaviest expert is {top}."
    spec = _heatmap(means, list(groups), experts)
    wide = 160 + 38 * min(len(experts), 31)  # every cell's number stays readable
    return Figure("router", "Router weights", alt, spec, table, min_width=wide)


def _experts(source: Source, count: int) -> list[str]:
    given = source.inputs.get("experts")
    if isinstance(given, list) and len(given) == count:
        return [" + ".join(map(str, e)) if isinstance(e, list) else str(e) for e in given]
    return [f"expert {i + 1}" for i in range(count)]


def _heatmap(means: np.ndarray[Any, Any], rows: list[str], columns: list[str]) -> Spec:
    data = {
        "type": "heatmap",
        "z": [rounded(row, 3) for row in means],
        "x": [label(c) for c in columns],
        "y": [label(r).replace(" (n", "<br>(n") for r in rows],
        "zmin": 0,
        "colorscale": [[0, "var(--heat0)"], [1, "var(--heat1)"]],
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "hovertemplate": "%{y}<br>%{x}: %{z:.3f}<extra></extra>",
    }
    if len(columns) <= 15:
        data |= {"texttemplate": "%{z:.2f}", "textfont": {"color": "var(--text)", "size": 12}}
    shape = layout("expert", "", height=150 + 40 * len(rows))
    names = {"type": "category", "showgrid": False, "automargin": True}
    shape["yaxis"] |= names | {"autorange": "reversed"}
    shape["xaxis"] |= names
    return {"data": [data], "layout": shape}


CURVES = {
    "loss": ("Loss", ["loss", "task", "contrast"], "loss (nats)"),
    "auroc": ("AUROC while training", ["auroc"], "AUROC"),
    "weights": ("Similarity and weight while training", ["s", "w_large"], "mean over patients"),
}


def training(source: Source) -> list[Figure]:
    """Training curves: loss, AUROC, then s and w_large, over epochs, for every stage."""
    if source.history is None or not has(source.history, History.METRIC, History.VALUE):
        return []
    keys = [History.STAGE, History.PART, History.METRIC]
    history = (
        source.history.filter(pl.col(History.VALUE).is_finite())
        .group_by([*keys, History.EPOCH], maintain_order=True)
        .agg(pl.col(History.VALUE).mean())  # several folds or members: their mean
        .sort(History.EPOCH)
    )
    figures = [_curve(history, source, key) for key in CURVES]
    return [figure for figure in figures if figure is not None]


def _curve(history: pl.DataFrame, source: Source, key: str) -> Figure | None:
    title, metrics, axis = CURVES[key]
    part_of = history.filter(pl.col(History.METRIC).is_in(metrics))
    stages = list(dict.fromkeys([source.headline, "small", *part_of[History.STAGE]]))
    data, ends = [], []
    for (stage, part, metric), points in part_of.group_by(
        [History.STAGE, History.PART, History.METRIC], maintain_order=True
    ):
        name = f"{stage}, {part}" if metric in ("loss", "auroc") else f"{stage}, {part}, {metric}"
        dash = DASHES[2 * metrics.index(str(metric)) % 5 if len(metrics) > 1 else 0]
        style = Style(
            color=f"var(--c{(2 * stages.index(str(stage)) + (part == 'val')) % 8})",
            dash="dash" if part == "val" and dash == "solid" else dash,
            shown=stages.index(str(stage)) < 2 and metric not in ("task", "contrast"),
        )
        more = {"mode": "lines+markers" if len(points) < 3 else "lines"}
        data.append(line(points[History.EPOCH], points[History.VALUE], name, style, **more))
        ends.append(
            f"{name} {number(points[History.VALUE][0])} → {number(points[History.VALUE][-1])}"
        )
    if not data:
        return None
    alt = f"{title} over epochs, first and last value: {'; '.join(ends[:12])}."
    return Figure(f"training-{key}", title, alt, {"data": data, "layout": layout("epoch", axis)})
