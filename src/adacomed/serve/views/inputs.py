"""Every modality of one patient as the page shows it, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.sources import modality_source
from adacomed.errors import InputError
from adacomed.readers.series import Series
from adacomed.report.page import Figure, Table
from adacomed.schema import (
    EmbeddingCard,
    FileCard,
    ModalityCard,
    SeriesCard,
    TabularCard,
    TextCard,
)
from adacomed.serve.views.images import Look, Pictures, files, looks
from adacomed.serve.views.notes import Note, as_prompted, notes
from adacomed.serve.views.series import CHARTS, charts, overview
from adacomed.serve.views.tables import Cell, cells
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

KINDS = {
    "tabular": "table",
    "text": "text",
    "embedding": "vector",
    "image": "images",
    "volume": "volumes",
    "slide": "slides",
    "series": "series",
}


@dataclass(frozen=True)
class View:
    """One modality of a patient; what is of another kind is empty.

    Attributes:
        id: of its section on the page.
        kind: in a word.
        source: where its vector came from, or "".
        missing: a sentence where nothing can be shown.
        more: items that the page does not show.
        prompt: a table as the text that the language model was given.
    """

    modality: str
    id: str
    kind: str
    source: str = ""
    missing: str = ""
    looks: list[Look] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    table: Table | None = None
    prompt: str = ""
    words: str = ""
    more: int = 0

    @property
    def recorded(self) -> list[Cell]:
        """Cells that have a value."""
        return [cell for cell in self.cells if cell.recorded]

    @property
    def blank(self) -> list[Cell]:
        """Cells that have none."""
        return [cell for cell in self.cells if not cell.recorded]


def views(
    run: Run, cohort: Cohort, inputs: Inputs, record: Mapping[str, Any], pictures: Pictures
) -> list[View]:
    """What the page shows of every modality that the run reads; blocking.

    Args:
        cohort: of the one patient, with raw items; inputs: what the run reads of it.
        record: its prediction record.
    """
    used = {one["modality"]: one for one in record["used"]}
    names = dict.fromkeys([*used, *record["absent"]])
    found = []
    for i, name in enumerate(names):
        card = cohort.card.modalities.get(name)
        kind = KINDS[(card or run.card.modalities[name]).kind]
        source = str(used.get(name, {}).get("source") or "")
        if name not in used or card is None:
            missing = "absent: the prediction does without it"
            found.append(View(name, f"input-{i}", kind, missing=missing))
            continue
        shown: dict[str, Any]
        try:
            shown = _shown(run, cohort, inputs, name, card, pictures, f"chart-{i}")
        except InputError as error:
            shown = {"missing": f"It was used, but cannot be shown: {error}"}
        found.append(View(name, f"input-{i}", kind, source, **shown))
    return found


def _shown(
    run: Run,
    cohort: Cohort,
    inputs: Inputs,
    name: str,
    card: ModalityCard,
    pictures: Pictures,
    prefix: str,
) -> dict[str, Any]:
    """The fields of a `View` that this kind of modality fills."""
    if isinstance(card, EmbeddingCard):
        return {"words": _vector(inputs, name)}
    if isinstance(card, FileCard):
        found = looks(cohort, name, pictures)
        return {"looks": found, "more": len(files(cohort, name)) - len(found)}
    if isinstance(card, TextCard):
        texts, count = notes(cohort, name)
        return {"notes": texts, "more": count - len(texts)}
    if isinstance(card, SeriesCard):
        (series,) = modality_source(cohort, name).read([0])
        assert isinstance(series, Series)
        drawn = charts(series, card.units, prefix)
        several = len(np.unique(series.variable))
        table = overview(series, card.units)
        return {"figures": drawn, "table": table, "more": max(0, several - CHARTS)}
    return _table(run, cohort, inputs, name, card)


def _table(
    run: Run, cohort: Cohort, inputs: Inputs, name: str, card: TabularCard
) -> dict[str, Any]:
    table = inputs.tables[name] if name in inputs.tables else cohort.table(name)
    prompt = None
    if name in run.meta["encoders"]:
        before = run.card.modalities[name]
        prompt = as_prompted(cohort, name, before if isinstance(before, TabularCard) else card)
    return {"cells": cells(table, run.trained.fitted.tables.get(name)), "prompt": prompt or ""}


def _vector(inputs: Inputs, name: str) -> str:
    vector = inputs.vectors[name][0]
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    return (
        f"{len(vector):,} numbers were given (length of the vector {norm:.4g}); "
        f"there is no picture of them."
    )
