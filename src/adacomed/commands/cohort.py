"""`adacomed cohort`: look at a cohort before training, or build one from a raw release."""

from __future__ import annotations

import json as json_
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from adacomed.cohort.check import check as check_cohort
from adacomed.cohort.problems import CheckReport
from adacomed.errors import InputError, nearest

BUILDERS = ("meds", "mimic-iv-mm", "mmist-ccrcc", "simulated", "simulated-mimic")


def check(path: Path, json: bool = False) -> None:
    """Print what a cohort holds, and every problem in it; exit with 2 where one stops training.

    Args:
        path: a cohort YAML, or a folder with cohort.yaml.
        json: print the report as JSON.

    Example:
        adacomed cohort check my-cohort.yaml
    """
    report = check_cohort(path)
    if json:
        typer.echo(json_.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(report)
    if report.errors:
        raise typer.Exit(2)


def build(
    name: str,
    out: Path | None = None,
    source: Path | None = None,
    samples: int = 1000,
    modalities: int = 3,
    seed: int = 0,
    missing: float | None = None,
    items: str = "all",
    task: str = "outcome",
    stays: int = 400,
    release: str = "3.1",
    gzip: bool = True,
    rows: int = 0,
    mimic_iv: Path | None = None,
    mimic_cxr_jpg: Path | None = None,
    mimic_iv_note: Path | None = None,
    preset: str = "default",
    split: str = "grouped",
    database: str | None = None,
    meds: Path | None = None,
    labels: Path | None = None,
    window: float | None = None,
) -> None:
    """Build a cohort folder from a raw release, or simulate one whose best AUROC is known.

    Args:
        name: mimic-iv-mm, mmist-ccrcc, meds (any MEDS dataset), simulated, or simulated-mimic (a
          fake release to build a cohort from).
        out: folder to write [default: cohorts/NAME].
        source: mmist-ccrcc: folder of the raw release; meds: of the MEDS dataset.
        samples: simulated: patients.
        modalities: simulated: vector modalities.
        seed: simulated, simulated-mimic: decides everything.
        missing: simulated: chance that a vector modality is absent, 0 to 0.9, completely at random
          [default: each its own chance, some the likelier the less sick the patient].
        items: mmist-ccrcc: all scans and slides of a patient, or the chosen one.
        task: simulated: outcome (a class), findings (several) or survival; meds: any name.
        stays: simulated-mimic: stays in intensive care, at least 80.
        release: simulated-mimic: layout 3.1, 2.2 or 1.0.
        gzip: simulated-mimic: tables as csv.gz, or as csv.
        rows: simulated-mimic: further rows of chartevents, none of which counts.
        mimic_iv: mimic-iv-mm: folder of MIMIC-IV 1.0, 2.x or 3.x, with hosp/ and icu/.
        mimic_cxr_jpg: mimic-iv-mm: folder of MIMIC-CXR-JPG, with its metadata and files/.
        mimic_iv_note: mimic-iv-mm: folder of MIMIC-IV-Note, with note/radiology.csv.gz.
        preset: mimic-iv-mm: default, or paper (abnormal vitals erased, scales of all data, a split
          by sample, readmission inside the cohort).
        split: mimic-iv-mm: grouped (by patient), or time (by patient, the last seen are tested).
        database: mimic-iv-mm: postgresql://user@host/name, or a DuckDB file, that holds the tables
          instead of --mimic-iv (and of --mimic-iv-note, where that is not given).
        meds: mimic-iv-mm: folder to write the events into as a MEDS dataset, too.
        labels: meds: label file, or folder of them, made by ACES (subject_id, prediction_time,
          boolean_value).
        window: meds: hours before the prediction time that are looked at [default: all].

    Example:
        adacomed cohort build simulated --samples 1000 --seed 0 --out cohorts/simulated
    """
    out = out or Path("cohorts") / name
    if name == "simulated":
        from adacomed.datasets import simulated

        simulated.build(
            out, samples=samples, modalities=modalities, seed=seed, missing=missing, task=task
        )
    elif name == "simulated-mimic":
        build_simulated_mimic(out, stays, release, seed, gzip, rows)
    elif name == "mimic-iv-mm":
        from adacomed.commands.mimic import build_mimic_iv_mm

        folders = (mimic_iv, mimic_cxr_jpg, mimic_iv_note)
        told = build_mimic_iv_mm(folders, out, preset, split, database=database, meds=meds)
        for listing in told:
            _table(*listing)
    elif name == "meds":
        from adacomed.commands.meds import build_meds

        for listing in build_meds(source, labels, out, task, window):
            _table(*listing)
    elif name == "mmist-ccrcc":
        build_mmist_ccrcc(source, out, items)
    else:
        raise InputError(f"cohort build: no cohort {name!r}{nearest(name, BUILDERS)}")
    typer.echo(f"wrote {out}")


def build_simulated_mimic(
    out: Path, stays: int, release: str, seed: int, gzip: bool, rows: int
) -> None:
    """Write a fake MIMIC-IV release, with a progress bar where many rows are asked for."""
    from adacomed.datasets.mimic_release import build as simulated_mimic

    console = Console(stderr=True)
    with Progress(console=console, disable=not (rows and console.is_terminal)) as progress:
        bar = progress.add_task("rows of chartevents", total=rows)
        simulated_mimic.build(
            out,
            stays=stays,
            release=release,
            seed=seed,
            compress=gzip,
            rows=rows,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    typer.echo(f"simulated: {stays} ICU stays in the layout of MIMIC-IV {release}, no real data")


def build_mmist_ccrcc(source: Path | None, out: Path, items: str = "all") -> None:
    """Build the MMIST cohort and print the counts found beside those expected."""
    from adacomed.datasets import mmist_ccrcc

    if source is None:
        raise InputError("mmist-ccrcc needs --source, the folder of the published release")
    if items not in ("all", "chosen"):
        raise InputError(f"--items {items!r}: expected all or chosen")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        mmist_ccrcc.build(source, out, items="all" if items == "all" else "chosen")
    _table("MMIST ccRCC", ["", "expected", "found"], mmist_ccrcc.built_counts(out).rows())
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)


def _print(report: CheckReport) -> None:
    typer.echo(f"{report.name}: {report.samples} samples of {report.patients} patients")
    patterns = sorted(report.patterns.items(), key=lambda pair: -pair[1])
    _table("Modalities", ["present together", "samples"], patterns)
    keys = ["task", "split", "class", "samples", "share"]
    _table("Labels", keys, [[row[k] for k in keys] for row in report.tasks])
    keys = ["modality", "column", "type", "distinct", "missing"]
    _table("Columns", keys, [[row[k] for k in keys] for row in report.columns])
    for kind, messages in (("error", report.errors), ("warning", report.warnings)):
        for message in messages:
            typer.echo(f"{kind}: {message}")
    errors, warned = len(report.errors), len(report.warnings)
    typer.echo(f"{errors} errors, {warned} warnings" if errors or warned else "no problem found")


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table with rules on a terminal; aligned plain text when piped."""
    if not rows:
        return
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(header):
            numeric = not isinstance(rows[0][number], str)
            table.add_column(name, justify="right" if numeric else "left")
        for row in cells:
            table.add_row(*map(escape, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    typer.echo(f"\n{title}")
    for row in [list(header), *cells]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(f"  {line.rstrip()}")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if isinstance(value, float) else str(value)
