"""Several tasks in one folder, such as the findings of a multi-label task: a table for all."""

from __future__ import annotations

import polars as pl

from adacomed.evaluation import compare
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.findings import summarise_findings
from adacomed.report.page import NONE, Row, Section, Table
from adacomed.report.source import Source
from adacomed.report.tables import estimate
from adacomed.schema import CEILING, TEST, Predictions, finding_task

RESAMPLES = 300
SHOWN = ("auroc", "auprc")


def section(source: Source) -> Section | None:
    """AUROC and AUPRC of every task and method, and the mean of findings; None for one task."""
    if source.every is None:
        return None
    known = pl.col(Predictions.LABEL).is_not_null()
    rows = source.every.filter(known, pl.col(Predictions.SPLIT) == TEST)
    found = compare.summarise(rows, metrics=list(SHOWN), n=RESAMPLES)
    base, findings = _findings(source.tasks)
    mean = None
    if findings and len(rows):
        mean = summarise_findings(rows, base, findings, metrics=SHOWN, n=RESAMPLES)
    lead = (
        f"The folder holds {len(source.tasks)} tasks. The charts below are about {source.task!r}; "
        "`adacomed report --task` shows another."
    )
    tables = [_grid(found, mean, source, metric) for metric in SHOWN]
    return Section("findings", "Findings", lead, tables=tables)


def _findings(tasks: list[str]) -> tuple[str, list[str]]:
    """The multi-label task and its findings; none where the tasks are not those of one."""
    base = tasks[0].partition(": ")[0]
    names = [task.removeprefix(finding_task(base, "")) for task in tasks]
    return base, names if all(len(n) < len(t) for n, t in zip(names, tasks, strict=True)) else []


def _grid(found: pl.DataFrame, mean: pl.DataFrame | None, source: Source, metric: str) -> Table:
    """Tasks × methods of one metric; the last row is the mean over the findings."""
    methods = [m for m in source.methods if m != CEILING]
    cells = {(r[Predictions.TASK], r[Predictions.METHOD]): r for r in found.iter_rows(named=True)}
    rows = []
    for task in source.tasks:
        mine = [cells.get((task, m)) for m in methods]
        one = next((c for c in mine if c), None)
        events = NONE if one is None or one["n_events"] is None else str(one["n_events"])
        texts = [estimate(c, metric) if c else NONE for c in mine]
        kind = "headline" if task == source.task else ""
        rows.append(Row([task, str(one["n"] if one else 0), events, *texts], kind))
    notes = ["The task that the charts are about is marked."]
    if mean is not None:
        of = {r[Predictions.METHOD]: r for r in mean.iter_rows(named=True)}
        texts = [estimate(of[m], metric) if m in of else NONE for m in methods]
        row = mean.row(0, named=True)
        name = f"mean over {row['findings']} findings"
        rows.append(Row([name, str(row["n"]), "", *texts], "ceiling"))
        notes += [note for note in dict.fromkeys(mean["note"]) if note]
    columns = ["task", "patients", "events", *methods]
    keep = [Predictions.TASK, Predictions.METHOD, metric, f"{metric}_low", f"{metric}_high"]
    frame = found.select(*keep[:2], "n", "n_events", *keep[2:], "note")
    if mean is not None:
        of_mean = mean.select(*keep[:2], "n", *keep[2:], "note")
        frame = pl.concat([frame, of_mean], how="diagonal_relaxed")
    caption = f"{METRICS[metric].label} by task, 95 % intervals"
    return Table(caption, columns, rows, notes, frame)
