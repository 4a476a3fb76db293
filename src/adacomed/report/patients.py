"""Five test patients, by their ids only: why each was chosen, what its prediction is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.explain.shapley import from_stress
from adacomed.report.decisions import decided
from adacomed.report.figures import layout, rounded
from adacomed.report.mechanism import has
from adacomed.report.page import NONE, Figure, Row, Section, Spec, Table, label, number
from adacomed.report.source import CELL, Source
from adacomed.schema import Explanations, Predictions


@dataclass(frozen=True)
class Example:
    """One patient of the page.

    Attributes:
        why: what the patient is an example of.
        row: the row of the predictions table.
        shapley: modality → its share of the prediction, in probability; None where not known.
    """

    why: str
    row: dict[str, Any]
    shapley: dict[str, float] | None

    @property
    def sample(self) -> str:
        """Its id."""
        return str(self.row[Predictions.SAMPLE_ID])


def section(source: Source) -> Section:
    """The table of the examples and a chart of the modalities' shares for each."""
    name, title = "patients", "Five patients"
    found = examples(source)
    if not found:
        return Section(name, title, missing="Examples need labelled test patients.")
    lead = (
        f"Test patients of {source.headline}, picked by rule, not by hand. Ids only: whoever may "
        "see the cohort can look them up."
    )
    if any(e.shapley for e in found):
        lead += (
            " A bar is the modality's exact Shapley value: how much it moves the probability, "
            "averaged over every order in which the modalities could come in; an absent one has 0."
        )
    else:
        lead += (
            " The folder has no explanations (explanations.parquet of `adacomed explain`, or "
            "stress.parquet with every subset), so what each modality adds is not shown."
        )
    figures = [_bars(i, e) for i, e in enumerate(found) if e.shapley]
    return Section(name, title, lead, tables=[_table(source, found)], figures=figures)


def examples(source: Source) -> list[Example]:
    """At most five different patients, the same ones whenever the predictions are the same."""
    rows = source.patients(source.headline)
    if rows.is_empty():
        return []
    rows = rows.sort(Predictions.SAMPLE_ID)  # ties go to the first id
    taken: list[int] = []
    found = []
    for why, order in _orders(source, rows):
        index = next((int(i) for i in order if int(i) not in taken), None)
        if index is not None:
            taken.append(index)
            found.append((why, rows.row(index, named=True)))
    values = _shapley(source, [str(row[Predictions.SAMPLE_ID]) for _, row in found])
    return [Example(why, row, values.get(str(row[Predictions.SAMPLE_ID]))) for why, row in found]


def _orders(source: Source, rows: pl.DataFrame) -> list[tuple[str, NDArray[np.int64]]]:
    """What a patient can be an example of, and the rows that are, the best example first."""
    y, decision = rows[Predictions.LABEL].to_numpy(), decided(source, rows)
    K = len(source.prob_columns)
    risk = rows[Predictions.PROB].to_numpy()
    if K > 1:
        risk = rows.select(source.prob_columns).to_numpy().max(axis=1)  # how sure
        named = ("sure and right", "sure and wrong", "unsure and wrong")
        parts = (y == decision, y != decision, y != decision)
    elif source.survival:  # who was lost to sight was not wrongly predicted
        named = ("high risk, event seen", "high risk, no event seen", "low risk, event seen")
        parts = (y == 1, y == 0, y == 1)
    else:
        named = ("high risk, right", "high risk, wrong", "low risk, wrong")
        parts = ((y == 1) & (decision == 1), (y == 0) & (decision == 1), (y == 1) & (decision == 0))
    found = [
        (why, _within(part, worth))
        for why, part, worth in zip(named, parts, (-risk, -risk, risk), strict=True)
    ]
    if has(rows, Predictions.LOGIT_LARGE, Predictions.LOGIT_SMALL):
        both = rows.select(Predictions.LOGIT_LARGE, Predictions.LOGIT_SMALL).to_numpy()
        apart = -np.abs(both[:, 0].astype(float) - both[:, 1].astype(float))
        found.append(("the branches disagree most", _within(np.isfinite(apart), apart)))
    middle = np.abs(risk - np.median(risk))
    found.append(("typical: nearest the median", _within(np.ones(len(y), bool), middle)))
    return found


def _within(part: NDArray[np.bool_], worth: NDArray[np.float64]) -> NDArray[np.int64]:
    index: NDArray[np.int64] = np.flatnonzero(part)
    return index[np.argsort(worth[index], kind="stable")]


# ---- what each modality adds --------------------------------------------------------------------
def _shapley(source: Source, samples: Sequence[str]) -> dict[str, dict[str, float]]:
    """sample → modality → Shapley value: from explanations.parquet, else from the stress table."""
    found = _explained(source, samples)
    if not found and source.stress is not None:
        found = _from_stress(source, samples)
    return found


def _explained(source: Source, samples: Sequence[str]) -> dict[str, dict[str, float]]:
    frame = source.explanations
    if frame is None or Explanations.LEVEL not in frame.columns:
        return {}
    K = len(source.prob_columns)
    mine = frame.filter(
        pl.col(Explanations.LEVEL) == "modality",
        pl.col(Explanations.SAMPLE_ID).is_in(list(samples)),
    )
    if K == 1:
        mine = mine.filter(pl.col(Explanations.CLASS) == 1)
    decision = _decisions(source) if K > 1 else {}
    found: dict[str, dict[str, float]] = {}
    columns = (Explanations.SAMPLE_ID, Explanations.CLASS, Explanations.NAME, Explanations.VALUE)
    for sample, k, name, value in mine.select(columns).iter_rows():
        if K == 1 or decision.get(str(sample)) == k:
            found.setdefault(str(sample), {})[str(name)] = float(value)
    return found


def _decisions(source: Source) -> dict[str, int]:
    rows = source.patients(source.headline)
    return dict(zip(rows[Predictions.SAMPLE_ID], decided(source, rows).tolist(), strict=True))


def _from_stress(source: Source, samples: Sequence[str]) -> dict[str, dict[str, float]]:
    """From what the method said of these patients under every subset; {} where one is missing."""
    assert source.stress is not None
    mine = source.stress.filter(
        pl.col(Predictions.METHOD) == source.headline, pl.col(Predictions.SAMPLE_ID).is_in(samples)
    )
    for column in CELL:  # the first repeat and seed, as the examples themselves
        if column in mine.columns and len(mine):
            mine = mine.filter(pl.col(column).eq_missing(pl.lit(mine[column].min())))
    if mine.is_empty():
        return {}
    try:
        found = from_stress(mine)
    except InputError:  # a sample of the patients, or not every subset: no exact values
        return {}
    several = len(source.prob_columns) > 1
    decision = _decisions(source) if several else {}
    return {
        sample: dict(zip(found.names, values[:, decision.get(sample, 1)].tolist(), strict=True))
        for sample, values in zip(found.sample_id.tolist(), found.values, strict=True)
    }


# ---- on the page --------------------------------------------------------------------------------
def _table(source: Source, found: list[Example]) -> Table:
    binary = len(source.prob_columns) == 1
    columns = ["patient", "chosen as", "label", "probability" if binary else "probabilities"]
    optional = {
        Predictions.TIME: "time",
        Predictions.SET: "prediction set",
        Predictions.W_LARGE: "w_large",
        Predictions.LOGIT_LARGE: "logit, large",
        Predictions.LOGIT_SMALL: "logit, small",
        Predictions.SPREAD: "spread",
        Predictions.PRESENT: "modalities",
    }
    shown = {c: n for c, n in optional.items() if any(e.row.get(c) is not None for e in found)}
    rows = []
    for e in found:
        prob = [number(e.row[c]) for c in source.prob_columns]
        cells = [e.sample, e.why, str(e.row[Predictions.LABEL]), " ".join(prob)]
        rows.append(Row([*cells, *(_cell(e.row.get(c)) for c in shown)]))
    notes = ["spread: how far apart the models averaged are for the patient, in log-odds."]
    notes = notes if Predictions.SPREAD in shown else []
    caption = f"Examples of {source.headline}'s test patients"
    return Table(caption, [*columns, *shown.values()], rows, notes)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return number(value) if isinstance(value, float) else NONE if value is None else str(value)


def _bars(index: int, example: Example) -> Figure:
    """One bar per modality, to the right where it raises the probability."""
    assert example.shapley is not None
    values = dict(sorted(example.shapley.items(), key=lambda item: abs(item[1]), reverse=True))
    bars: Spec = {
        "type": "bar",
        "orientation": "h",
        "x": rounded(list(values.values())),
        "y": [label(name) for name in values],
        "marker": {"color": ["var(--c1)" if v > 0 else "var(--c0)" for v in values.values()]},
        "text": [("+" if v > 0 else "") + number(v) for v in values.values()],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:+.3f}<extra></extra>",
    }
    most = max([0.05, *map(abs, values.values())]) * 1.75
    shape = layout("", "", height=90 + 32 * len(values))
    shape["xaxis"] |= {"range": [-most, most], "zeroline": True, "zerolinecolor": "var(--muted)"}
    shape["yaxis"] |= {"type": "category", "autorange": "reversed", "automargin": True}
    said = "; ".join(f"{name} {'+' if v > 0 else ''}{number(v)}" for name, v in values.items())
    title = f"{example.sample}, {example.why}: what moves the probability"
    alt = f"Shapley values of the modalities of {example.sample} ({example.why}): {said}."
    return Figure(f"patient-{index + 1}", title, alt, {"data": [bars], "layout": shape})
