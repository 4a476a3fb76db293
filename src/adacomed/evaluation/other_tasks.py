"""What tasks beyond classes have on top of a row per task: survival's table, the findings' mean."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.findings import MACRO, paired_findings, summarise_findings
from adacomed.evaluation.survival_tables import (
    is_survival,
    paired_survival,
    summarise_survival,
    text_paired_survival,
    text_survival,
)
from adacomed.evaluation.tables import estimate, p_value
from adacomed.schema import TEST, Predictions, finding_task


def findings_of(predictions: pl.DataFrame, task: str) -> list[str]:
    """The findings of a multi-label task that a table has rows of; none for another task."""
    tasks = predictions[Predictions.TASK].unique(maintain_order=True).to_list()
    start = finding_task(task, "")
    return [name.removeprefix(start) for name in tasks if name.startswith(start)]


def multi_label_tasks(predictions: pl.DataFrame) -> list[str]:
    """Names before the colon that several tasks of a table share: each is one multi-label task."""
    starts = [str(t).partition(": ") for t in predictions[Predictions.TASK].unique().sort()]
    names = [name for name, colon, _ in starts if colon]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def other_tables(
    predictions: pl.DataFrame,
    task: str,
    *,
    reference: str | None = None,
    split: str = TEST,
    n: int = 1000,
) -> dict[str, pl.DataFrame]:
    """Tables by name: "survival", or "findings", each with "… paired"; none for a class task.

    Args:
        task: as the cohort calls it.
        reference: method that the others are compared with; None: no paired table.
    """
    methods = predictions[Predictions.METHOD].n_unique()
    paired = reference is not None and methods > 1
    findings: Sequence[str] = findings_of(predictions, task)
    if findings:
        out = {"findings": summarise_findings(predictions, task, findings, split=split, n=n)}
        if paired:
            out["findings paired"] = paired_findings(
                predictions, task, findings, reference=str(reference), split=split, n=n
            )
        return out
    if not is_survival(predictions):
        return {}
    out = {"survival": summarise_survival(predictions, split=split, n=n)}
    if paired:
        out["survival paired"] = paired_survival(
            predictions, reference=str(reference), split=split, n=n
        )
    return out


def text_other(tables: dict[str, pl.DataFrame]) -> str:
    """The tables for a terminal; "" where there are none."""
    texts = []
    if "survival" in tables:
        note = (
            "Survival, 95 % intervals in brackets; AUROC and the other metrics of classes are of "
            "the event by the horizon, of whom that is known"
        )
        texts += [f"\n{note}", text_survival(tables["survival"])]
    if "survival paired" in tables:
        texts.append(text_paired_survival(tables["survival paired"]))
    if "findings" in tables:
        texts += [
            "\nMean over the findings, 95 % intervals in brackets",
            *_means(tables["findings"]),
        ]
    if "findings paired" in tables:
        for row in tables["findings paired"].iter_rows(named=True):
            gap = estimate(row["difference"], row["low"], row["high"], 3, " to ")
            what = f"{row['reference']} − {row[Predictions.METHOD]}, mean AUROC"
            texts.append(f"{what}: {gap}, p {p_value(row['p'])}, Holm {p_value(row['p_holm'])}")
    return "\n".join(texts)


def _means(table: pl.DataFrame) -> list[str]:
    lines = []
    for row in table.sort("auroc", descending=True, nulls_last=True).iter_rows(named=True):
        shown = (
            f"{METRICS[m].label} {estimate(row[m], row[f'{m}_low'], row[f'{m}_high'])}"
            for m in MACRO
        )
        note = f"; {row['note']}" if row["note"] else ""
        counted = f"{row['findings']} findings, n {row['n']}"
        lines.append(f"{row[Predictions.METHOD]}: {', '.join(shown)} ({counted}){note}")
    return lines
