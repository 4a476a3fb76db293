"""The sections of a report in their order; one without data says why instead of showing a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from adacomed.evaluation import compare
from adacomed.report import calibration, figures, mechanism, reliability
from adacomed.report.figures import Difference
from adacomed.report.page import Figure, Row, Section, Table, frame_table, number
from adacomed.report.source import Source
from adacomed.report.tables import best_rival, estimate, headline_table
from adacomed.schema import Predictions, RunFiles


def every(
    source: Source,
    table: pl.DataFrame,
    paired: Sequence[Difference],
    extra: Mapping[str, pl.DataFrame],
) -> list[Section]:
    """All sections, top to bottom."""
    rival = best_rival(table, source.headline)
    look = figures.styles(source.methods, source.headline, rival)
    return [
        _results(source, table, paired, extra),
        _paired(source, paired),
        _curves(source, table, look),
        calibration.section(source, look),
        _weights(source),
        _router(source),
        _patterns(source),
        _training(source),
        _reproduce(source),
    ]


def _results(
    source: Source,
    table: pl.DataFrame,
    paired: Sequence[Difference],
    extra: Mapping[str, pl.DataFrame],
) -> Section:
    tables = [frame_table(title, frame) for title, frame in extra.items()]
    if table.is_empty():
        missing = "No test patient has a label, so no method can be scored."
        return Section("results", "Results", tables=tables, missing=missing)
    return Section("results", "Results", tables=[headline_table(source, table, paired), *tables])


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
        figures.roc(source, ordered, {m: v["auroc"] for m, v in label.items()}),
        figures.precision_recall(source, ordered, {m: v["auprc"] for m, v in label.items()}),
    ]
    lead = "Press a method to show or hide it."
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


def _patterns(source: Source) -> Section:
    name, title = "patterns", "Modality patterns"
    rows = source.rows(source.headline)
    if rows.is_empty() or not mechanism.has(rows, Predictions.PRESENT):
        missing = "The predictions do not say which modalities each test patient has."
        return Section(name, title, missing=missing)
    rows = rows.with_columns(mechanism.pattern(rows))
    binary = len(source.prob_columns) == 1
    subjects = pl.col(Predictions.SAMPLE_ID)
    counts = rows.group_by("pattern").agg(
        subjects.n_unique().alias("n"),
        pl.col(Predictions.LABEL).cast(pl.Float64).mean().alias("prevalence"),
    )
    lines = []
    for pattern, n, prevalence in counts.sort("n", descending=True).iter_rows():
        part = rows.filter(pl.col("pattern") == pattern)
        [scored] = compare.summarise(part, metrics=["auroc"]).iter_rows(named=True)
        share = number(prevalence) if binary else "–"
        lines.append(Row([pattern, str(n), share, estimate(scored, "auroc")]))
    caption = f"{source.headline} by the modalities that a test patient has"
    columns = ["modalities present", "patients", "prevalence", "AUROC"]
    table = Table(caption, columns, lines, ["– : not defined for so few patients or one class."])
    return Section(name, title, tables=[table])


def _training(source: Source) -> Section:
    missing = "There is no history.parquet in the folder: nothing was trained by this loop."
    lead = "Solid: training patients; dashed: validation patients. Several folds: their mean."
    found = mechanism.training(source)
    return _figures("training", "Training curves", lead, found, missing)


def _reproduce(source: Source) -> Section:
    settings = _settings(source.config)
    rows = [
        Row(["predictions", _count(source, Predictions.SAMPLE_ID, "samples")]),
        Row(["splits tested", _cells(source)]),
        Row(["preset", str(settings.get("preset", "default" if settings else "not recorded"))]),
        Row(["seed", str(settings.get("seed", 0 if settings else "not recorded"))]),
        *(Row([f"SHA-256 of {name}", digest]) for name, digest in source.hashes.items()),
        *(
            Row([k, str(v)])
            for k, v in source.environment.items()
            if not isinstance(v, dict | list)
        ),
    ]
    shown = []
    if source.config:
        shown.append(("config.yaml", source.config))
    if source.environment:
        shown.append(("environment.json", json.dumps(source.environment, indent=2, sort_keys=True)))
    read = {RunFiles.CONFIG: source.config, RunFiles.ENVIRONMENT: source.environment}
    absent = [name for name, content in read.items() if not content]
    missing = f"Not in the folder: {' and '.join(absent)}." if absent else ""
    table = Table("What this report was made from", ["what", "value"], rows)
    return Section("reproduce", "To reproduce", tables=[table], files=shown, missing=missing)


def _settings(config: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(config) if config else {}
    except yaml.YAMLError:  # shown verbatim below; a report is not the place to refuse it
        settings = {}
    return settings if isinstance(settings, dict) else {}


def _count(source: Source, column: str, what: str) -> str:
    methods = len(source.methods)
    plural = "method" if methods == 1 else "methods"
    return f"{source.predictions[column].n_unique()} {what}, {methods} {plural}"


def _cells(source: Source) -> str:
    said = []
    for column in (Predictions.REPEAT, Predictions.FOLD, Predictions.SEED):
        if column in source.test.columns and source.test[column].drop_nulls().len():
            values = source.test[column].drop_nulls().unique().sort().cast(pl.String).to_list()
            said.append(f"{column} {', '.join(values[:10])}{' …' if len(values) > 10 else ''}")
    return "; ".join(said) or "not recorded"
