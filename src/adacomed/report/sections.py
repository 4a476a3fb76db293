"""The sections of a report in their order; one without data says why instead of showing a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from adacomed.report import (
    calibration,
    curves,
    decisions,
    figures,
    findings,
    flow,
    mechanism,
    patients,
    provenance,
    reliability,
    robustness,
    sets,
    subgroups,
    survival,
)
from adacomed.report.facts import Facts
from adacomed.report.figures import Difference
from adacomed.report.page import Figure, Section, Table, frame_table, number
from adacomed.report.source import Source
from adacomed.report.tables import best_rival, headline_table
from adacomed.schema import Predictions


def every(
    source: Source,
    table: pl.DataFrame,
    paired: Sequence[Difference],
    extra: Mapping[str, pl.DataFrame],
    known: Facts,
) -> list[Section]:
    """All sections, top to bottom; a survival task has no section about classes."""
    rival = best_rival(table, source.headline)
    look = figures.styles(source.methods, source.headline, rival)
    several = findings.section(source)
    more = [frame_table(title, frame) for title, frame in extra.items()]
    if source.survival:
        scored = [survival.section(source, table, more)]
    else:
        scored = [
            _results(source, table, paired, more),
            *([several] if several else []),
            _paired(source, paired),
            _curves(source, table, look),
            calibration.section(source, table, look),
            decisions.section(source, table, look),
            subgroups.section(source, table),
            robustness.section(source, look),
            sets.section(source, known.nominal),
        ]
    return [
        *scored,
        _weights(source),
        _router(source),
        _training(source),
        patients.section(source),
        flow.section(known),
        flow.encoder_section(known),
        flow.limits_section(known),
        provenance.section(source),
    ]


def _results(
    source: Source,
    table: pl.DataFrame,
    paired: Sequence[Difference],
    more: list[Table],
) -> Section:
    if table.is_empty():
        missing = "No test patient has a label, so no method can be scored."
        return Section("results", "Results", tables=more, missing=missing)
    return Section("results", "Results", tables=[headline_table(source, table, paired), *more])


def _paired(source: Source, paired: Sequence[Difference]) -> Section:
    name, title = "paired", "Paired differences"
    if not paired:
        missing = (
            "There is only one method, so nothing to compare it with."
            if len(source.methods) < 2
            else f"No rival was tested on the same labelled patients as {source.headline}."
        )
        return Section(name, title, missing=missing)
    lead = (
        f"{source.headline} minus each rival on the same patients, resampled together. A filled "
        "mark means that the 95 % interval excludes 0; the intervals are not adjusted for the "
        "number of comparisons."
    )
    return Section(name, title, lead, figures=[figures.forest(paired, source.headline, "AUROC")])


def _curves(source: Source, table: pl.DataFrame, look: dict[str, figures.Style]) -> Section:
    rows = {str(r[Predictions.METHOD]): r for r in table.iter_rows(named=True)}
    label = {m: {k: number(r.get(k)) for k in ("auroc", "auprc")} for m, r in rows.items()}
    ordered = {m: look[m] for m in look if m in rows}
    found = [
        curves.roc(source, ordered, {m: v["auroc"] for m, v in label.items()}),
        curves.precision_recall(source, ordered, {m: v["auprc"] for m, v in label.items()}),
    ]
    lead = (
        "Press a method to show or hide it. The light areas are pointwise 95 % bands; patients "
        "were resampled within their class."
    )
    if source.repeated:
        lead += " Curves pool every repeat and seed; the numbers beside the names are the table's."
    missing = "A curve needs labelled test patients of both classes."
    return _figures("curves", "ROC and precision–recall", lead, found, missing)


def _figures(
    name: str, title: str, lead: str, found: Sequence[Figure | None], missing: str
) -> Section:
    kept = [figure for figure in found if figure is not None]
    return (
        Section(name, title, lead, figures=kept) if kept else Section(name, title, missing=missing)
    )


def _first(source: Source) -> str:
    return " Each patient once (first repeat and seed)." if source.repeated else ""


def _weights(source: Source) -> Section:
    rows = source.patients(source.headline)
    found = [mechanism.weights(rows), mechanism.similarity(rows), mechanism.agreement(rows)]
    found.append(reliability.promise(source))
    lead = (
        "Each patient has their own balance of the large branch (frozen encoders) and the small "
        "model." + _first(source) + " The last chart takes every one." * source.repeated
    )
    missing = f"{source.headline} left no weights of two branches; only a fused model has them."
    return _figures("weights", "Large against small", lead, found, missing)


def _router(source: Source) -> Section:
    found = [mechanism.router(source, source.patients(source.headline))]
    lead = (
        "The router weighs one expert per subset of modalities (Eq. 2); an expert that needs an "
        "absent modality is masked." + _first(source)
    )
    missing = f"{source.headline} left no router weights; only a mixture of experts has them."
    return _figures("router-weights", "Router", lead, found, missing)


def _training(source: Source) -> Section:
    missing = "There is no history.parquet in the folder: nothing was trained by this loop."
    lead = "Solid: training patients; dashed: validation patients. Several folds: their mean."
    found = mechanism.training(source)
    return _figures("training", "Training curves", lead, found, missing)
