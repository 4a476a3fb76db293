"""The first screen: the headline method's figures, each with its interval."""

from __future__ import annotations

import polars as pl

from adacomed.evaluation import survival_tables
from adacomed.report.facts import Facts
from adacomed.report.page import NONE, Card, finite, number
from adacomed.report.source import Source
from adacomed.schema import TEST, Predictions

SHOWN = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "calibration_slope": "Calibration slope",
}


def cards(source: Source, table: pl.DataFrame, known: Facts) -> list[Card]:
    """Test patients first, then the figures that are defined; no figure without test patients."""
    mine = table.filter(pl.col(Predictions.METHOD) == source.headline)
    if mine.is_empty():
        return []
    row = mine.row(0, named=True)
    shown = survival_tables.METRICS if source.survival else SHOWN
    found = [_card(row, metric, name) for metric, name in shown.items() if metric in row]
    return [_patients(known), *(card for card in found if card.value != NONE)]


def _patients(known: Facts) -> Card:
    subjects, samples, events = known.counts[TEST]
    below = [] if events is None else [f"{events} with the event"]
    if samples != subjects:
        below.append(f"{samples} samples")
    return Card("Test patients", f"{subjects:,}", ", ".join(below))


def _card(row: dict[str, object], metric: str, name: str) -> Card:
    value, low, high = (finite(row.get(f"{metric}{end}")) for end in ("", "_low", "_high"))
    below = f"95 % interval {number(low)} to {number(high)}" if low is not None else "no interval"
    return Card(name[:1].upper() + name[1:], number(value), below)
