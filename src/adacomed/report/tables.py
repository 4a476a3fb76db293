"""The headline table, and what may be said of it in words."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.tables import notes as few
from adacomed.report.facts import FEW_EVENTS
from adacomed.report.figures import Difference
from adacomed.report.page import NONE, Row, Table, finite, interval, number
from adacomed.report.source import Source
from adacomed.schema import CEILING, Predictions

COLUMNS = ("auroc", "auprc", "acc", "mAP", "mAR", "mF1", "brier")
FAMILY_ERROR = 0.05  # of Holm's p, over all rivals


def estimate(row: dict[str, object], metric: str) -> str:
    """One metric of one row of the summary, its interval on a second line."""
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    return interval(finite(row.get(metric)), finite(low), finite(high), "\n")


def differences(paired: pl.DataFrame | None, headline: str) -> list[Difference]:
    """Differences headline − rival, from `evaluation.compare.paired`; the ceiling is no rival."""
    if paired is None:
        return []
    found = []
    for row in paired.iter_rows(named=True):
        value, low, high = (finite(row[c]) for c in ("difference", "low", "high"))
        if row["method"] in (headline, CEILING) or value is None or low is None or high is None:
            continue
        found.append(Difference(str(row["method"]), value, low, high, finite(row.get("p_holm"))))
    return found


def best_rival(table: pl.DataFrame, headline: str) -> str | None:
    """The method of highest AUROC (survival: C-index) beside the headline and the ceiling."""
    metric = "auroc" if "auroc" in table.columns else "c_index"
    rivals = table.filter(
        ~pl.col(Predictions.METHOD).is_in([headline, CEILING]) & pl.col(metric).is_finite()
    ).sort(metric, descending=True)
    return str(rivals[Predictions.METHOD][0]) if len(rivals) else None


def headline_table(source: Source, table: pl.DataFrame, paired: Sequence[Difference]) -> Table:
    """Methods × metrics, each with its 95 % interval; the ceiling last and apart.

    A winner is marked only where `wins` says so.
    """
    against = {d.method: d for d in paired}
    shown = {metric: METRICS[metric].label for metric in COLUMNS if metric in table.columns}
    has_paired = bool(against)
    rows = []
    ordered = sorted(
        table.iter_rows(named=True),
        key=lambda r: (r[Predictions.METHOD] == CEILING, -(finite(r["auroc"]) or -1)),
    )
    won = wins(source, paired, [str(r[Predictions.METHOD]) for r in ordered])
    for row in ordered:
        method = str(row[Predictions.METHOD])
        name = f"{method} (Bayes ceiling)" if method == CEILING else method
        name += " ★" if won and method == source.headline else ""
        cells = [name, *(estimate(row, metric) for metric in shown)]
        if has_paired:
            cells.append(verdict(against.get(method)))
        kind = "headline" if method == source.headline else ""
        rows.append(Row(cells, "ceiling" if method == CEILING else kind))
    columns = ["method", *shown.values()] + ([f"against {source.headline}"] * has_paired)
    caption = "Test patients, 95 % intervals in brackets"
    return Table(caption, columns, rows, _notes(source, table, won), table)


def wins(source: Source, paired: Sequence[Difference], methods: Sequence[str]) -> bool:
    """Whether the headline is above every other method: each paired interval clear of 0, and p too
    where it was adjusted for all of them (Holm)."""
    rivals = set(methods) - {source.headline, CEILING}
    above = {
        d.method for d in paired if d.low > 0 and (d.p_holm is None or d.p_holm < FAMILY_ERROR)
    }
    return bool(rivals) and rivals <= above


def verdict(difference: Difference | None) -> str:
    """The rival's place against the headline, as far as the paired interval tells."""
    if difference is None:
        return NONE
    if not difference.clear:
        return "no clear\ndifference"
    return "below" if difference.value > 0 else "above"


def _notes(source: Source, table: pl.DataFrame, won: bool) -> list[str]:
    several = len(source.prob_columns) > 1
    decision = "the most probable class" if several else "the method's own threshold (else .5)"
    notes = [
        "mAP, mAR and mF1 are macro precision, recall and F1, as in the paper; they and Acc decide "
        f"by {decision}. Brier: lower is better."
        + (" AUROC and AUPRC are means over the classes, each against the rest." * several)
    ]
    if CEILING in table[Predictions.METHOD]:
        notes.append(
            "Bayes ceiling: the score of the true probability that the simulation drew the labels "
            "from. No method can be expected to pass it."
        )
    if won:
        notes.append(
            "★ AUROC above every other method, each paired 95 % interval clear of 0 and p < .05 "
            "after Holm's adjustment."
        )
    return [*notes, *few(table)] if "note" in table.columns else notes


def summary(source: Source, table: pl.DataFrame, paired: Sequence[Difference]) -> list[str]:
    """The result in plain language; it claims a win only where the paired interval excludes 0."""
    found = table.filter(pl.col(Predictions.METHOD) == source.headline)
    if found.is_empty():
        return ["There are no labelled test patients, so this report has no measure of quality."]
    row = found.row(0, named=True)
    n, events = int(row["n"]), row["n_events"]
    counted = f"{n} test patients"
    if events is not None:
        counted += f", {int(events)} of them with the event"
    if source.every is not None:
        counted += f" ({source.task})"
    auroc = finite(row["auroc"])
    if auroc is None:
        reason = "AUROC is not defined, as it needs test patients of both classes"
        return [f"{source.headline} was tested on {counted}; {reason}."]
    low, high = finite(row.get("auroc_low")), finite(row.get("auroc_high"))
    within = f" (95 % interval {number(low)} to {number(high)})" if low is not None else ""
    lines = [f"On {counted}, {source.headline} reaches an AUROC of {number(auroc)}{within}."]
    lines.append(" ".join(_comparison(source, table, paired)))
    if events is not None and min(events, n - events) < FEW_EVENTS:
        rarer = int(min(events, n - events))
        lines.append(
            f"With {rarer} patients in the rarer class the numbers are imprecise: read the "
            f"intervals before the point estimates (a validation wants about {FEW_EVENTS})."
        )
    return [text for text in lines if text]


def _comparison(source: Source, table: pl.DataFrame, paired: Sequence[Difference]) -> list[str]:
    rival = best_rival(table, source.headline)
    if rival is None:
        return []

    row = table.filter(pl.col(Predictions.METHOD) == rival).row(0, named=True)
    said = [f"The best other method is {rival} with {number(finite(row['auroc']))}."]
    difference = next((d for d in paired if d.method == rival), None)
    if difference is None:
        said.append("The two were not compared on the same patients, so no winner is named.")
    else:
        gap = f"{interval(difference.value, difference.low, difference.high)} in AUROC"
        if not difference.clear:
            said.append(
                f"The paired difference is {gap}; the interval includes 0: no clear winner."
            )
        elif difference.value > 0:
            said.append(f"{source.headline} is above it by {gap} on the same patients.")
        else:
            said.append(f"{source.headline} is below it: {gap} on the same patients.")
    ceiling = table.filter(pl.col(Predictions.METHOD) == CEILING)
    if len(ceiling):
        said.append(
            f"The Bayes ceiling of this simulated cohort is {number(finite(ceiling['auroc'][0]))}."
        )
    return said
