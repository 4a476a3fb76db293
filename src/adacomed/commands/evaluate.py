"""`adacomed evaluate`: metrics with intervals of any predictions table, and paired comparisons."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from adacomed.commands.scrutiny import Part, by_group, join_groups, of_sets, of_stress
from adacomed.errors import InputError, nearest
from adacomed.evaluation import tables
from adacomed.evaluation.compare import paired_headlines, read_predictions, summarise
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.other_tasks import multi_label_tasks, other_tables, text_other
from adacomed.evaluation.refit import recalibrated, with_sets
from adacomed.evaluation.reliability import CORRELATIONS, weight_reliability
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.evaluation.verdict import best
from adacomed.schema import BUNDLE, Predictions, RunFiles
from adacomed.strict_json import dumps

PAIRED = "paired.csv"
WIDE = 118  # columns of a terminal that holds six metrics with their intervals


def evaluate(
    file: Path,
    reference: str = "adacomed",
    split: str = "test",
    out: Path | None = None,
    json: bool = False,
    resamples: int = 1000,
    by: str = "",
    groups: Path | None = None,
    calibrate: str = "",
    coverage: float | None = None,
    stress: bool = False,
    second: Path | None = None,
) -> None:
    """Print metrics with 95 % intervals of a predictions table, and compare its methods.

    The intervals resample patients, all rows of a patient together; of one row per patient AUROC
    has DeLong's and shares Wilson's. mAP, mAR and mF1 are macro precision, recall and F1. With more
    than one method each is compared with the reference on the same patients; a winner is named
    where the interval is clear of 0 and every Holm-adjusted p is below 0.05. Where w_large differs
    between patients, it is compared with the branch that was right.

    Args:
        file: predictions.parquet or .csv, or a run folder that holds one; columns sample_id,
            subject_id, split, task, label, prob, method (and threshold, repeat, fold, seed).
        reference: the method that the others are compared with.
        split: which rows to evaluate: train, val or test, as the table calls them.
        out: folder to write table.csv, paired.csv and a csv file for each further table to.
        json: one JSON object on stdout instead of the tables.
        resamples: bootstrap resamples of the patients.
        by: comma-separated groups to break the metrics down by: columns of the table, those of
          --groups, or modalities (which of them a patient has); all: every one it has.
        groups: csv or parquet with sample_id or subject_id and a column for each group.
        calibrate: none, temperature, platt, isotonic or auto, fitted here on the rows of split val;
          the thresholds are chosen anew on them.
        coverage: make prediction sets here, fitted on the rows of split val, such as 0.9.
        stress: AUROC with modalities taken away or noise added, from stress.parquet beside FILE.
        second: cohort YAML or folder to compare a run's own with: do its patients differ (a shift
          test), and does the model do as well there?

    Example:
        adacomed evaluate runs/demo/predictions.parquet --reference small --by sex --out results
    """
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out takes a folder")
    whole = _predictions(file)
    if calibrate:
        whole = recalibrated(whole, calibrate)
    if coverage is not None:
        whole = with_sets(whole, coverage)
    if groups is not None:
        whole = join_groups(whole, groups)
    labelled = _labelled(whole, file, split)
    predictions = at_horizon(labelled)
    differences = _compared(predictions, reference, split, resamples)
    table = summarise(predictions, split=split, n=resamples)
    parts = _parts(labelled, reference, split, resamples)
    names = [name.strip() for name in by.split(",") if name.strip()]
    if names:
        parts += by_group(predictions, names, reference, split=split, n=resamples)
    if stress:
        parts.append(of_stress(file, reference, split=split, n=resamples))
    if second is not None:
        from adacomed.commands.second_cohort import second_cohort  # the only part that needs torch

        parts += second_cohort(file, predictions, second, split=split, n=resamples)
    if out is not None:
        _write(out, table, differences, parts)
    if json:
        found = {"table": table.to_dicts(), "paired": differences.to_dicts()}
        found |= {part.name: part.table.to_dicts() for part in parts}
        print(dumps(found))
        return
    _print(table, differences)
    print("\n\n".join(part.text for part in parts if part.text))


def _predictions(file: Path) -> pl.DataFrame:
    """The table itself, a run folder's, or a bundle's."""
    if file.suffix != BUNDLE or not file.is_file():
        return read_predictions(file)
    from adacomed.training.bundle import unpacked  # needs torch, which a table alone does not

    with unpacked(file) as folder:
        if not (folder / RunFiles.PREDICTIONS).is_file():
            raise InputError(
                f"{file}: holds no predictions, it was made without --with-predictions; give the "
                f"run folder or a predictions table"
            )
        return read_predictions(folder)


def _parts(rows: pl.DataFrame, reference: str, split: str, n: int) -> list[Part]:
    """What is said of a table unasked: weights, prediction sets, findings together, survival."""
    weights = weight_reliability(at_horizon(rows), split=split, n=n)
    parts = [Part("weights", weights, "\n".join(_weights(weights)))]
    sets = of_sets(rows, reference, split=split)
    if sets is not None:
        parts.append(sets)
    methods = rows[Predictions.METHOD].unique().to_list()
    against = reference if reference in methods else None
    for task in multi_label_tasks(rows) or [str(rows[Predictions.TASK][0])]:
        found = other_tables(rows, task, reference=against, split=split, n=n)
        texts = [text_other(found), *[""] * len(found)]  # one text for all of them
        parts += [
            Part(name.replace(" ", "_"), frame, text)
            for (name, frame), text in zip(found.items(), texts, strict=False)
        ]
    return parts


def _print(table: pl.DataFrame, differences: pl.DataFrame) -> None:
    wide = tables.SHOWN if Console().width >= WIDE else tables.WITH_INTERVAL
    grid = tables.summary_grid(table, wide)
    _show("Metrics, 95 % intervals in brackets", grid, tables.text_table(table))
    if Console().is_terminal:
        for grid in tables.further_grids(table, Console().width):
            _show(f"{tables.FURTHER_TITLE}, 95 % intervals in brackets", grid, "", left=1)
    else:
        print(f"{tables.text_further(table)}\n")
    if len(differences):
        text = tables.text_paired(differences)
        _show("Paired differences on the same patients", tables.paired_grid(differences), text)
        print("\n".join(_winners(differences)))
    if Console().is_terminal:
        print("\n".join(tables.notes(table)))


def _winners(differences: pl.DataFrame) -> list[str]:
    """A sentence per task and metric: whether the reference is above all, some or none."""
    lines = []
    for row in best(differences).iter_rows(named=True):
        metric, rivals = METRICS[row["metric"]].label, row["rivals"]
        won = "every rival" if row["best"] else f"{row['wins']} of {rivals} rivals"
        lines.append(
            f"{row[Predictions.TASK]}, {metric}: {row['reference']} is better than {won} "
            "by every test"
        )
    return lines


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


def _write(
    out: Path, table: pl.DataFrame, differences: pl.DataFrame, parts: Sequence[Part]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if len(part.table):
            part.table.write_csv(out / f"{part.name}.csv")
    table.write_csv(out / RunFiles.TABLE)
    if len(differences):
        differences.write_csv(out / PAIRED)


def _show(title: str, grid: tables.Grid, text: str, left: int | None = None) -> None:
    """A rich table on a terminal, the text where piped; `left` columns are set to the left."""
    console = Console()
    if not console.is_terminal:
        print(f"{text}\n")
        return
    header, rows = grid
    left = header.index("n") if left is None else left
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        shown.add_column(name, justify="left" if i < left else "right", no_wrap=i < left)
    for row in rows:
        shown.add_row(*(cell.replace(" (", "\n(") for cell in row))
    console.print(shown)
