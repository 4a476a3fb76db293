"""What `adacomed evaluate` adds where it is asked for: subgroups, sets, stress, a second cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from adacomed.cohort.table import read_table
from adacomed.errors import InputError
from adacomed.evaluation import tables
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.gaps import sentences
from adacomed.evaluation.levels import group_names, with_groups
from adacomed.evaluation.refit import coverage_table
from adacomed.evaluation.robustness import stress_table
from adacomed.evaluation.subgroups import MEASURED, gaps, subgroups
from adacomed.evaluation.tables import NONE, Grid, estimate, number
from adacomed.schema import Predictions, RunFiles, Samples


class Part(NamedTuple):
    """One more table: its name in --json and as a csv file, its numbers, and how it reads."""

    name: str
    table: pl.DataFrame
    text: str


def join_groups(predictions: pl.DataFrame, file: Path) -> pl.DataFrame:
    """The table with every column of `file` as a group, joined by sample_id, else subject_id.

    Raises:
        InputError: unreadable, without either id, with one twice, or with no other column.
    """
    frame = read_table(file, ids=[Samples.SAMPLE_ID, Samples.SUBJECT_ID])
    keys = [k for k in (Samples.SAMPLE_ID, Samples.SUBJECT_ID) if k in frame.columns]
    names = [c for c in frame.columns if c not in (Samples.SAMPLE_ID, Samples.SUBJECT_ID)]
    if not keys or not names:
        raise InputError(
            f"{file}: expected a column {Samples.SAMPLE_ID} or {Samples.SUBJECT_ID} and a column "
            f"for each group; it has {', '.join(frame.columns)}"
        )
    frame = frame.with_columns(pl.col(keys[0]).cast(pl.String))
    twice = frame.filter(pl.col(keys[0]).is_duplicated())[keys[0]].to_list()
    if twice:
        raise InputError(f"{file}: {keys[0]} {twice[0]} occurs twice; a group needs one value each")
    if keys[0] == Samples.SUBJECT_ID:
        whose = predictions.select(Samples.SAMPLE_ID, Samples.SUBJECT_ID).unique()
        frame = whose.join(frame.select(Samples.SUBJECT_ID, *names), on=keys[0], how="left")
    return with_groups(predictions, frame, names)


def by_group(
    predictions: pl.DataFrame, by: Sequence[str], reference: str, *, split: str, n: int
) -> tuple[Part, Part]:
    """Subgroups and the gaps between their levels, of every method; printed for the reference.

    Args:
        by: columns; "all" is every group that the table has.
    """
    names = group_names(predictions) if list(by) == ["all"] else list(by)
    if not names:
        raise InputError("--by all: the table has no group_… column and no column present")
    levels = subgroups(predictions, by=names, split=split, metrics=MEASURED, n=n)
    apart = gaps(predictions, by=names, split=split, n=n)
    mine, who = _shown(levels, reference)
    grid = tables.aligned(*_subgroup_grid(mine))
    gap_lines = sentences(_shown(apart, reference)[0])
    return (
        Part("subgroups", levels, f"By subgroup, 95 % intervals in brackets{who}\n{grid}"),
        Part("gaps", apart, "\n".join(gap_lines)),
    )


def _shown(table: pl.DataFrame, reference: str) -> tuple[pl.DataFrame, str]:
    """The rows that are printed, the reference's or else the first method's, and what to say."""
    methods = table[Predictions.METHOD].unique(maintain_order=True).to_list()
    if len(methods) < 2:
        return table, ""
    one = reference if reference in methods else methods[0]
    rest = f": {one} (--out and --json have all {len(methods)} methods)"
    return table.filter(pl.col(Predictions.METHOD) == one), rest


def _subgroup_grid(levels: pl.DataFrame) -> Grid:
    """A level that is too small says so where its AUROC would be."""
    header = ["task", "group", "level", "n", "events", *(METRICS[m].label for m in MEASURED[:2])]
    rows = []
    for row in levels.iter_rows(named=True):
        events = NONE if row["n_events"] is None else str(row["n_events"])
        found = [estimate(row[m], row[f"{m}_low"], row[f"{m}_high"]) for m in MEASURED[:2]]
        if found[0] == NONE:
            found[0] = row["note"]
        who = [row[c] for c in header[:3]]
        rows.append([*who, str(row["n"]), events, *found])
    return tables.without_one_task(header, rows)


def of_sets(predictions: pl.DataFrame, reference: str, *, split: str) -> Part | None:
    """How often prediction sets hold the true class; None where the table has none."""
    table = coverage_table(predictions, split=split)
    if table.is_empty():
        return None
    mine, who = _shown(table, reference)
    header = ["task", "method", "class", "n", "coverage", "mean size", "abstains", "note"]
    rows = [
        [
            row[Predictions.TASK],
            row[Predictions.METHOD],
            "all" if row["class"] is None else str(row["class"]),
            str(row["n"]),
            estimate(row["coverage"], row["low"], row["high"]),
            number(row["size"], 2),
            number(row["abstain"], 2),
            row["note"],
        ]
        for row in mine.iter_rows(named=True)
    ]
    shown = tables.aligned(*tables.without_one_task(header, rows))
    return Part("sets", table, f"Prediction sets, 95 % Wilson intervals{who}\n{shown}")


def of_stress(folder: Path, reference: str, *, split: str, n: int) -> Part:
    """AUROC under every set of modalities, from the stress.parquet of a run or a comparison.

    Raises:
        InputError: no such file.
    """
    file = (folder if folder.is_dir() else folder.parent) / RunFiles.STRESS
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; adacomed train and compare write it unless evidence.stress is "
            f"false"
        )
    table = stress_table(pl.read_parquet(file), split=split, n=n)
    header = ["task", "method", "kept", "noise", "n", "with none", "AUROC", "against intact"]
    rows = []
    mine, who = _shown(table, reference)
    for row in mine.iter_rows(named=True):
        apart = (row["difference"], row["difference_low"], row["difference_high"])
        rows.append(
            [
                row[Predictions.TASK],
                row[Predictions.METHOD],
                " + ".join(row[Predictions.KEPT]) or "none",
                number(row[Predictions.NOISE], 1),
                str(row["n"]),
                str(row["n_nothing"]),
                estimate(row["value"], row["low"], row["high"]),
                estimate(*apart, 3, " to "),
            ]
        )
    shown = tables.aligned(*tables.without_one_task(header, rows))
    flat = table.with_columns(pl.col(Predictions.KEPT).list.join(" + "))
    return Part("stress", flat, f"With modalities taken away, or noise added{who}\n{shown}")
