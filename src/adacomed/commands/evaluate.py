"""`adacomed evaluate`: metrics with intervals of any predictions table, and paired comparisons."""

from __future__ import annotations

import json as jsonlib
import math
import sys
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from adacomed.errors import InputError, nearest
from adacomed.evaluation import tables
from adacomed.evaluation.compare import paired_headlines, read_predictions, summarise
from adacomed.evaluation.reliability import CORRELATIONS, weight_reliability
from adacomed.schema import Predictions, RunFiles

PAIRED = "paired.csv"
WIDE = 118  # columns of a terminal that holds six metrics with their intervals


def evaluate(
    file: Path,
    reference: str = "adacomed",
    split: str = "test",
    out: Path | None = None,
    json: bool = False,
    resamples: int = 1000,
) -> None:
    """Print metrics with 95 % intervals of a predictions table, and compare its methods.

    The intervals resample patients, all rows of a patient together; AUROC of one row per patient
    has DeLong's. mAP, mAR and mF1 are macro precision, recall and F1. With more than one method
    each is compared with the reference on the same patients. Where w_large differs between
    patients, it is compared with the branch that was right.

    Args:
        file: predictions.parquet or .csv, or a run folder that holds one; columns sample_id,
            subject_id, split, task, label, prob, method (and threshold, repeat, fold, seed).
        reference: the method that the others are compared with.
        split: which rows to evaluate: train, val or test, as the table calls them.
        out: folder to write table.csv and paired.csv to.
        json: one JSON object on stdout instead of the tables.
        resamples: bootstrap resamples of the patients.

    Example:
        adacomed evaluate runs/demo/predictions.parquet --reference small --out results
    """
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out takes a folder")
    predictions = _labelled(read_predictions(file), file, split)
    differences = _compared(predictions, reference, split, resamples)
    table = summarise(predictions, split=split, n=resamples)
    weights = weight_reliability(predictions, split=split, n=resamples)
    if out is not None:
        _write(out, table, differences)
    if json:
        found = {"table": _rows(table), "paired": _rows(differences), "weights": _rows(weights)}
        print(jsonlib.dumps(found, allow_nan=False))
        return
    _print(table, differences)
    for line in _weights(weights):
        print(line)


def _print(table: pl.DataFrame, differences: pl.DataFrame) -> None:
    wide = tables.SHOWN if Console().width >= WIDE else tables.WITH_INTERVAL
    grid = tables.summary_grid(table, wide)
    _show("Metrics, 95 % intervals in brackets", grid, tables.text_table(table))
    if len(differences):
        text = tables.text_paired(differences)
        _show("Paired differences on the same patients", tables.paired_grid(differences), text)
    if Console().is_terminal:
        print("\n".join(tables.notes(table)))


def _weights(table: pl.DataFrame) -> list[str]:
    """A sentence per method whose weights differ between patients; a heading above them."""
    lines = []
    for row in table.filter("adapts").iter_rows(named=True):
        right, loss = (
            tables.estimate(row[c], row[f"{c}_low"], row[f"{c}_high"], 3, " to ")
            for c in CORRELATIONS
        )
        note = f" ({row['note']})" if row["note"] else ""
        lines.append(
            f"{row['task']}, {row['method']}: {right} with the branch that is right, on "
            f"{row['n_discordant']} patients on whom exactly one is (the large one on "
            f"{row['n_large_right']}); {loss} with how much lower the large branch's log loss is, "
            f"on {row['n']} patients{note}"
        )
    heading = "Weights: rank correlation of w_large with the better branch, 95 % intervals"
    return [heading, *lines] if lines else []


def _labelled(predictions: pl.DataFrame, file: Path, split: str) -> pl.DataFrame:
    """The labelled rows of the split; there are some."""
    splits = predictions[Predictions.SPLIT].drop_nulls().unique().to_list()
    if split not in splits:
        raise InputError(f"{file}: no rows of split {split!r}{nearest(split, splits)}")
    rows = predictions.filter(
        pl.col(Predictions.LABEL).is_not_null(), pl.col(Predictions.SPLIT) == split
    )
    if rows.is_empty():
        raise InputError(f"{file}: no row of split {split!r} has a label, so nothing can be scored")
    return rows


def _compared(rows: pl.DataFrame, reference: str, split: str, n: int) -> pl.DataFrame:
    """The paired table; empty with one method, or where there is no adacomed and none was named."""
    methods = rows[Predictions.METHOD].unique().to_list()
    if reference not in methods and (reference == "adacomed" or len(methods) == 1):
        if len(methods) > 1:
            known = ", ".join(sorted(methods))
            print(f"no paired comparison: name its --reference, one of {known}", file=sys.stderr)
        rows = rows.clear()
    return paired_headlines(rows, reference=reference, split=split, n=n)


def _write(out: Path, table: pl.DataFrame, differences: pl.DataFrame) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table.write_csv(out / RunFiles.TABLE)
    if len(differences):
        differences.write_csv(out / PAIRED)


def _rows(table: pl.DataFrame) -> list[dict[str, object]]:
    """Rows for JSON, which has no NaN: null."""
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in table.iter_rows(named=True)
    ]


def _show(title: str, grid: tables.Grid, text: str) -> None:
    """A rich table on a terminal, the text where piped."""
    console = Console()
    if not console.is_terminal:
        print(f"{text}\n")
        return
    header, rows = grid
    left = header.index("n")
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        shown.add_column(name, justify="left" if i < left else "right", no_wrap=i < left)
    for row in rows:
        shown.add_row(*(cell.replace(" (", "\n(") for cell in row))
    console.print(shown)
