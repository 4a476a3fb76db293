"""Who is in the numbers and who was left out, and the encoders with what they have seen before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from adacomed.report.encoders import Encoder
from adacomed.report.facts import NOT_KNOWN, Facts, limits
from adacomed.report.figures import folded, layout
from adacomed.report.page import NONE, Figure, Row, Section, Spec, Table
from adacomed.schema import SPLITS


def section(known: Facts) -> Section:
    """Steps from the cohort to the test patients, and the patients of each split."""
    steps = known.flow
    lead = (
        f"Task {known.task}, method {known.headline}. Patients are subjects; one may have several "
        "samples."
    )
    missing = (
        "There is no flow.json in the folder, so who was left out before the split is not recorded."
    )
    tables = [*([_steps(steps)] if steps else []), _splits(known)]
    figures = [_figure(steps)] if steps else []
    return Section(
        "flow", "Data flow", lead, tables=tables, figures=figures, missing="" if steps else missing
    )


def _steps(steps: Sequence[dict[str, Any]]) -> Table:
    columns = ("what", "subjects", "samples", "left_out", "why")
    data = [[step.get(c) for c in columns] for step in steps]
    rows = [Row([NONE if v is None or v == "" else str(v) for v in row]) for row in data]
    schema: dict[str, type[pl.DataType]] = dict.fromkeys(columns, pl.String)
    schema |= dict.fromkeys(columns[1:4], pl.Int64)
    frame = pl.DataFrame(data, schema=schema, orient="row", strict=False)
    names = ["step", "patients", "samples", "left out", "why"]
    return Table("Who was left out, and why", names, rows, frame=frame)


def _splits(known: Facts) -> Table:
    data = [[split, *known.counts[split]] for split in SPLITS if known.counts[split][1]]
    rows = [Row([NONE if v is None else str(v) for v in row]) for row in data]
    schema = {"split": pl.String} | dict.fromkeys(("patients", "samples", "events"), pl.Int64)
    notes = ["Labelled rows of the predictions. In a cross-validation a patient is in several."]
    frame = pl.DataFrame(data, schema=schema, orient="row")
    return Table("Patients whose predictions are in the folder", list(schema), rows, notes, frame)


def _figure(steps: Sequence[dict[str, Any]]) -> Figure:
    names = [folded(str(step.get("what"))) for step in steps]
    kept = [int(step.get("samples") or 0) for step in steps]
    out = [int(step.get("left_out") or 0) for step in steps]
    bars: list[Spec] = [
        {
            "type": "bar",
            "orientation": "h",
            "x": values,
            "y": names,
            "name": name,
            "meta": {"legend": name},
            "marker": {"color": color},
            "text": [str(v) if v else "" for v in values],
            "textposition": "auto",
            "hovertemplate": f"%{{y}}: %{{x}} {name}<extra></extra>",
        }
        for name, values, color in (("kept", kept, "var(--c0)"), ("left out", out, "var(--c1)"))
    ]
    shape = layout("", "", height=90 + 34 * len(names), barmode="stack")
    shape["yaxis"] |= {"type": "category", "autorange": "reversed", "automargin": True}
    each = zip(steps, kept, out, strict=True)
    said = "; ".join(f"{s.get('what')}: {k} samples, {o} left out" for s, k, o in each)
    spec = {"data": bars, "layout": shape}
    return Figure("data-flow", "Samples at each step", f"Bars of samples. {said}.", spec)


# ---- encoders -----------------------------------------------------------------------------------
def encoder_section(known: Facts) -> Section:
    """A card per modality, and a warning where its encoder may have seen these patients."""
    name, title = "encoders", "Encoders"
    if not known.encoders:
        missing = "The folder does not say which modalities and encoders were used (flow.json)."
        return Section(name, title, missing=missing)
    rows = [Row(_cells(e), "warned" if e.contaminated else "") for e in known.encoders]
    columns = ["modality", "kind", "patients", "encoder", "fingerprint", "licence", "has seen"]
    data = [
        [
            e.name,
            e.kind,
            e.n_present,
            e.model,
            e.fingerprint,
            e.licence,
            _seen(e),
            bool(e.contaminated),
        ]
        for e in known.encoders
    ]
    frame = pl.DataFrame(data, schema=[*columns, "contaminated"], orient="row", strict=False)
    warnings = [
        f"Contamination: the encoder of {e.name} ({e.model or 'unnamed'}) was trained on "
        f"{', '.join(e.contaminated)}, which this cohort is, or comes from. It may know these "
        "patients; compare with an encoder that does not."
        for e in known.encoders
        if e.contaminated
    ]
    lead = "Frozen models, run once per patient; they are not changed by training here."
    table = Table("Modalities and their encoders", columns, rows, frame=frame)
    return Section(name, title, lead, tables=[table], warnings=warnings)


def _cells(e: Encoder) -> list[str]:
    n = NONE if e.n_present is None else str(e.n_present)
    model = e.model or ("none: read as it is" if e.kind in ("tabular", "series") else NOT_KNOWN)
    mark = e.fingerprint or NONE
    return [e.name, e.kind or NOT_KNOWN, n, model, mark, e.licence or NOT_KNOWN, _seen(e)]


def _seen(e: Encoder) -> str:
    if e.seen is None:
        return "not known"
    text = ", ".join(e.seen) or "none of the known cohorts"
    return f"{text} — includes this cohort" if e.contaminated else text


def limits_section(known: Facts) -> Section:
    """What the numbers cannot carry."""
    lead = "Each sentence follows from a fact of this run."
    return Section("limits", "Limits of use", lead, points=limits(known))
