"""Everything that is needed to make the numbers again."""

from __future__ import annotations

import json

import polars as pl

from adacomed.report.facts import read_settings
from adacomed.report.page import Row, Section, Table
from adacomed.report.source import Source
from adacomed.schema import Predictions, RunFiles


def section(source: Source) -> Section:
    """Settings, seeds, versions and the hashes of what was read."""
    settings = read_settings(source.config)
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
    return Section("reproduce", "To rerun", tables=[table], files=shown, missing=missing)


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
