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
from rich.table import Table

from adacomed.cohort.check import check as check_cohort
from adacomed.cohort.problems import CheckReport
from adacomed.errors import InputError, nearest

BUILDERS = ("mmist-ccrcc", "simulated")


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
) -> None:
    """Build a cohort folder from a raw release, or simulate one whose best AUROC is known.

    Args:
        name: mmist-ccrcc or simulated.
        out: folder to write [default: cohorts/NAME].
        source: folder of the raw release.
        samples: simulated: patients.
        modalities: simulated: vector modalities.
        seed: simulated: decides everything.
        missing: simulated: chance that a vector modality is absent, 0 to 0.9, completely at random
          [default: each its own chance, some the likelier the less sick the patient].
        items: mmist-ccrcc: all scans and slides of a patient, or the chosen one.
        task: simulated: outcome (a class), findings (several) or survival.

    Example:
        adacomed cohort build simulated --samples 1000 --seed 0 --out cohorts/simulated
    """
    out = out or Path("cohorts") / name
    if name == "simulated":
        from adacomed.datasets import simulated

        simulated.build(
            out, samples=samples, modalities=modalities, seed=seed, missing=missing, task=task
        )
    elif name == "mmist-ccrcc":
        build_mmist_ccrcc(source, out, items)
    else:
        raise InputError(f"cohort build: no cohort {name!r}{nearest(name, BUILDERS)}")
    typer.echo(f"wrote {out}")


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
