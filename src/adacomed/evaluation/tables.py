"""Summaries and paired differences as text for a terminal and as markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from adacomed.evaluation.discrimination import METRICS
from adacomed.schema import Predictions

SHOWN = ("auroc", "auprc", "acc", "mAP", "mAR", "mF1")  # the paper's six
WITH_INTERVAL = ("auroc", "auprc")  # in a terminal, where six intervals are too wide
NONE = "–"
Grid = tuple[list[str], list[list[str]]]  # header, rows


def number(value: object, digits: int = 3) -> str:
    """A number as text, `–` where there is none.

    >>> number(0.8476), number(float("nan")), number(-0.0004)
    ('0.848', '–', '0.000')
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text.replace("-", "−")


def estimate(value: object, low: object, high: object, digits: int = 2, between: str = "–") -> str:
    """A value with its interval, if it has one.

    >>> estimate(0.848, 0.8104, 0.8812), estimate(0.848, None, None)
    ('0.848 (0.81–0.88)', '0.848')
    """
    limits = [number(x, digits) for x in (low, high)]
    if NONE in limits:
        return number(value)
    return f"{number(value)} ({between.join(limits)})"


def p_value(p: object) -> str:
    """A p as text.

    >>> p_value(0.0312), p_value(0.0002)
    ('0.031', '<0.001')
    """
    return "<0.001" if isinstance(p, int | float) and p < 0.001 else number(p)


def summary_grid(table: pl.DataFrame, intervals: Sequence[str] = SHOWN) -> Grid:
    """`compare.summarise`'s table as text, the best of the first metric on top of its task.

    Args:
        intervals: metrics that are shown with their interval.
    """
    every = [m for m in METRICS if m in table.columns]
    shown = [m for m in SHOWN if m in table.columns] or every
    header = ["method", "n", "events", *(METRICS[m].label for m in shown)]
    rows = []
    for row in _ordered(table, shown).iter_rows(named=True):
        events = NONE if row["n_events"] is None else str(row["n_events"])
        cells = [row[Predictions.METHOD], str(row["n"]), events]
        for m in shown:
            limits = (row[f"{m}_low"], row[f"{m}_high"]) if m in intervals else (None, None)
            cells.append(estimate(row[m], *limits))
        rows.append([row[Predictions.TASK], *cells])
    return _without_one_task(["task", *header], rows)


def paired_grid(table: pl.DataFrame) -> Grid:
    """`compare.paired`'s table as text, in its order."""
    header = ["task", "comparison", "n", "metric", "difference (95 % CI)", "p", "p (Holm)"]
    rows = []
    for row in table.iter_rows(named=True):
        gap = estimate(row["difference"], row["low"], row["high"], 3, " to ")
        what = f"{row['reference']} − {row[Predictions.METHOD]}"
        ps = [p_value(row["p"]), p_value(row["p_holm"])]
        metric = METRICS[row["metric"]].label
        rows.append([row[Predictions.TASK], what, str(row["n"]), metric, gap, *ps])
    return _without_one_task(header, rows)


def notes(table: pl.DataFrame) -> list[str]:
    """The notes of a summary, one line each; methods with the same note share a line."""
    said: dict[str, list[str]] = {}
    for method, note in table.select(Predictions.METHOD, "note").iter_rows():
        if note:
            said.setdefault(note, []).append(method)
    everyone = table[Predictions.METHOD].n_unique()
    return [
        note if len(set(who)) == everyone else f"{', '.join(dict.fromkeys(who))}: {note}"
        for note, who in said.items()
    ]


def text_table(table: pl.DataFrame) -> str:
    """`compare.summarise`'s table for a terminal: the paper's six, AUROC and AUPRC with 95 % CI."""
    lines = [_aligned(*summary_grid(table, WITH_INTERVAL)), *notes(table)]
    return "\n".join(lines)


def text_paired(table: pl.DataFrame) -> str:
    """`compare.paired`'s table for a terminal."""
    return _aligned(*paired_grid(table))


def markdown(table: pl.DataFrame) -> str:
    """A summary or paired table as markdown; every number with its 95 % CI."""
    is_paired = "difference" in table.columns
    header, rows = paired_grid(table) if is_paired else summary_grid(table)
    rule = ["---" if i == 0 else "--:" for i in range(len(header))]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    below = [] if is_paired else notes(table)
    return "\n".join([*lines, *([""] if below else []), *below])


def frame_markdown(table: pl.DataFrame) -> str:
    """Any frame as a markdown table; no value is `–`."""
    rows = [[_markdown_cell(value) for value in row] for row in table.iter_rows()]
    head = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * table.width]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)])


def _markdown_cell(value: object) -> str:
    if value is None:
        return NONE
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _ordered(table: pl.DataFrame, shown: list[str]) -> pl.DataFrame:
    if not shown:
        return table
    first = pl.col(shown[0])
    worth = pl.when(first.is_nan()).then(None).otherwise(first)
    return table.sort(
        Predictions.TASK,
        worth,
        descending=[False, METRICS[shown[0]].higher_is_better],
        nulls_last=True,
        maintain_order=True,
    )


def _without_one_task(header: list[str], rows: list[list[str]]) -> Grid:
    """Drop the task column where it says the same in every row."""
    if len({row[0] for row in rows}) > 1:
        return header, rows
    return header[1:], [row[1:] for row in rows]


def _aligned(header: list[str], rows: list[list[str]]) -> str:
    """Columns side by side: text to the left, the rest to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = header.index("n")
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )
