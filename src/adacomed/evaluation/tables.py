"""Summaries and paired differences as text for a terminal and as markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from adacomed.evaluation.discrimination import METRICS
from adacomed.schema import Predictions

SHOWN = ("auroc", "auprc", "acc", "mAP", "mAR", "mF1")  # the paper's six
FURTHER = (  # the second table: rows, as they are too many for columns
    "brier",
    "log_loss",
    "calibration_slope",
    "calibration_intercept",
    "ece",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "sensitivity_at_90_specificity",
    "specificity_at_90_sensitivity",
    "net_benefit",
)
FURTHER_TITLE = "Probabilities and decisions"
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
    return without_one_task(["task", *header], rows)


def further_grids(table: pl.DataFrame, width: int = 80) -> list[Grid]:
    """`Probabilities and decisions`: metrics down, methods across, as many as the width holds.

    Args:
        table: `compare.summarise`'s.
        width: columns of the terminal, ≥ 60.
    Returns:
        A grid per task and handful of methods, the metric's name first; none where the table has
        none of the metrics.
    """
    names = [name for name in FURTHER if name in table.columns]
    if not names or table.is_empty():
        return []
    label = max(len(METRICS[name].label) for name in names)
    several, grids = table[Predictions.TASK].n_unique() > 1, []
    for part in table.partition_by(Predictions.TASK, maintain_order=True):
        cells = {m: _column(row, names) for m, row in _by_method(part)}
        across = max(1, (width - label) // (2 + max(map(len, sum(cells.values(), [*cells])))))
        head = part[Predictions.TASK][0] if several else "metric"
        methods = list(cells)
        for start in range(0, len(methods), across):
            some = methods[start : start + across]
            rows = zip(*(cells[m] for m in some), strict=True)
            lines = [[METRICS[name].label, *row] for name, row in zip(names, rows, strict=True)]
            grids.append(([head, *some], lines))
    return grids


def _by_method(part: pl.DataFrame) -> list[tuple[str, dict[str, object]]]:
    return [(str(row[Predictions.METHOD]), row) for row in part.iter_rows(named=True)]


def _column(row: dict[str, object], names: list[str]) -> list[str]:
    """The metrics of one method; an interval that can be negative has `to` in it."""
    signed = ("calibration_intercept", "net_benefit", "calibration_slope")
    return [
        estimate(row[n], row[f"{n}_low"], row[f"{n}_high"], between=" to " if n in signed else "–")
        for n in names
    ]


TESTED = {"p_delong_holm": "DeLong (Holm)", "p_corrected_holm": "folds (Holm)"}


def paired_grid(table: pl.DataFrame) -> Grid:
    """`compare.paired`'s table as text, in its order; a test made nowhere has no column."""
    tested = {c: head for c, head in TESTED.items() if c in table and table[c].count()}
    judged = "winner" in table.columns
    header = ["task", "comparison", "n", "metric", "difference (95 % CI)", "p", "p (Holm)"]
    header += [*tested.values(), *(["winner"] * judged)]
    rows = []
    for row in table.iter_rows(named=True):
        gap = estimate(row["difference"], row["low"], row["high"], 3, " to ")
        what = f"{row['reference']} − {row[Predictions.METHOD]}"
        ps = [p_value(row[c]) for c in ("p", "p_holm", *tested)]
        won = [row["winner"] or NONE] if judged else []
        metric = METRICS[row["metric"]].label
        rows.append([row[Predictions.TASK], what, str(row["n"]), metric, gap, *ps, *won])
    return without_one_task(header, rows)


def notes(table: pl.DataFrame) -> list[str]:
    """The notes of a summary, one line each; methods and tasks with the same note share a line."""
    said: dict[str, list[str]] = {}
    rows = list(table.select(Predictions.METHOD, Predictions.TASK, "note").iter_rows())
    methods, tasks = (len({row[i] for row in rows}) for i in (0, 1))
    for method, task, note in rows:
        if note:
            both = f"{method} ({task})" if tasks > 1 else method
            said.setdefault(note, []).append(both if methods > 1 else task)
    everyone = methods * tasks
    return [
        note if len(set(who)) == everyone else f"{', '.join(dict.fromkeys(who))}: {note}"
        for note, who in said.items()
    ]


def text_table(table: pl.DataFrame) -> str:
    """`compare.summarise`'s table for a terminal: the paper's six, AUROC and AUPRC with 95 % CI."""
    lines = [aligned(*summary_grid(table, WITH_INTERVAL)), *notes(table)]
    return "\n".join(lines)


def text_further(table: pl.DataFrame, width: int = 80) -> str:
    """`further_grids` for a terminal, one below the other under their heading; "" without any."""
    grids = further_grids(table, width)
    heading = f"{FURTHER_TITLE}, 95 % intervals in brackets"
    return "\n".join([heading, *(aligned(*grid, left=1) for grid in grids)]) if grids else ""


def text_paired(table: pl.DataFrame) -> str:
    """`compare.paired`'s table for a terminal."""
    return aligned(*paired_grid(table))


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


def without_one_task(header: list[str], rows: list[list[str]]) -> Grid:
    """Drop the task column where it says the same in every row."""
    if len({row[0] for row in rows}) > 1:
        return header, rows
    return header[1:], [row[1:] for row in rows]


def aligned(header: list[str], rows: list[list[str]], left: int | None = None) -> str:
    """Columns side by side: the first `left` [default: those before n] to the left, rest right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = header.index("n") if left is None else left
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )
