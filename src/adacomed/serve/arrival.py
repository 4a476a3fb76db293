"""One new patient, in JSON and uploaded files, as a cohort of one that the run's intake can read.

Tables and texts become columns of the cohort's samples, vectors stay in memory, a series is written
beside the uploads. The cards are the run's own, so missing codes, prompts, encoders, the window and
the limits of a series apply as they did in training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort, new_patients
from adacomed.cohort.vectors import mean_by_sample
from adacomed.errors import InputError, nearest
from adacomed.readers.tabular import Category
from adacomed.schema import (
    EmbeddingCard,
    FileCard,
    ModalityCard,
    Samples,
    SeriesCard,
    TabularCard,
    TextCard,
)
from adacomed.serve.arrived import from_files, from_json
from adacomed.serve.given import HOURS, VALUE, VARIABLE, Given
from adacomed.serve.home import home
from adacomed.serve.requests import NewPatient
from adacomed.training.checkpoint import Run

SAMPLE = Samples.SAMPLE_ID
TAKEN = (SAMPLE, Samples.SUBJECT_ID, Samples.SPLIT)  # columns of every cohort


@dataclass(frozen=True)
class Upload:
    """A file of one modality, safely on disk.

    Attributes:
        name: what the client called it, checked plain; for messages only.
        path: under a name of ours; of a zipped DICOM series the folder that it was unpacked to.
    """

    modality: str
    name: str
    path: Path


@dataclass(frozen=True)
class Arrival:
    """What arrived of one patient.

    Attributes:
        folder: where the uploads lie; whoever made it also removes it.
    """

    patient: NewPatient
    uploads: tuple[Upload, ...] = ()
    folder: Path | None = None


def asked_for(run: Run) -> list[str]:
    """Modalities that a new patient may bring: those that the run reads, or makes a table of."""
    fitted, cards = run.trained.fitted, run.card.modalities
    names = list(dict.fromkeys([*fitted.native, *fitted.small]))
    series = [getattr(cards[name], "summarise", None) for name in names]
    return list(dict.fromkeys([*names, *(s for s in series if s)]))


def received(run: Run, arrival: Arrival) -> dict[str, Given]:
    """What arrived of every modality, in the run's order.

    Raises:
        InputError: an unknown modality, one that came twice, or something it does not take.
    """
    values = arrival.patient.modalities
    files: dict[str, list[Path]] = {}
    for upload in arrival.uploads:
        files.setdefault(upload.modality, []).append(upload.path)
    known = asked_for(run)
    for name in (*values, *files):
        if name not in known:
            raise InputError(f"no modality {name!r} in the run{nearest(name, known)}")
        if name in values and name in files:
            raise InputError(f"modality {name!r} arrived twice, as a value and as a file; send one")
    found = {}
    for name in known:
        if name in values:
            found[name] = from_json(run, name, values[name], arrival.patient.index_time)
        elif name in files:
            found[name] = from_files(run, name, files[name])
    if not any(given.items for given in found.values()):
        raise InputError(
            f"nothing is recorded of patient {arrival.patient.sample_id}: every modality is empty; "
            f"the run reads {', '.join(known)}"
        )
    return found


def cohort_of(run: Run, arrival: Arrival, folder: Path) -> Cohort:
    """The patient as a cohort of one.

    Args:
        folder: where series and lists are written, made if need be; it must outlive the cohort.
    Raises:
        InputError: as `received`.
    """
    return placed(run, arrival.patient.sample_id, received(run, arrival), folder)


def placed(run: Run, sample_id: str, found: Mapping[str, Given], folder: Path) -> Cohort:
    """`cohort_of`, of what has been received."""
    place = _Place(run, sample_id, folder)
    for name, given in found.items():
        place.put(name, given)
    card = run.card.model_copy(update={"modalities": place.cards, "groups": []})
    samples = pl.DataFrame([pl.Series(SAMPLE, [sample_id]), *place.columns.values()])
    return new_patients(card, home(run.folder) or folder, samples, place.vectors)


class _Place:
    """Where a patient's modalities go: cards, columns of the samples, vectors in memory."""

    def __init__(self, run: Run, sample_id: str, folder: Path) -> None:
        self.run, self.sample_id, self.folder = run, sample_id, folder
        self.cards: dict[str, ModalityCard] = {}
        self.columns: dict[str, pl.Series] = {}
        self.vectors: dict[str, NDArray[np.float32]] = {}

    def put(self, name: str, given: Given) -> None:
        """Add one modality."""
        card, content = self.run.card.modalities[name], given.content
        if isinstance(content, dict):
            assert isinstance(card, TabularCard)
            self._table(name, card, content)
        elif isinstance(content, np.ndarray):
            mean = mean_by_sample([self.sample_id] * len(content), content, [self.sample_id])
            self.cards[name] = EmbeddingCard(kind="embedding", root=self.folder)
            self.vectors[name] = mean
        elif isinstance(content, pl.DataFrame):
            assert isinstance(card, SeriesCard)
            self._series(name, card, content)
        elif isinstance(content, tuple):
            assert isinstance(card, FileCard | TextCard)
            root = Path(os.path.commonpath([file.parent for file in content]))
            self._cells(name, card, [str(f.relative_to(root)) for f in content], root)
        else:
            assert isinstance(card, TextCard)
            self._texts(name, card, content)

    def _table(self, name: str, card: TabularCard, row: dict[str, Any]) -> None:
        """A table whose columns another one has too gets a file of its own."""
        series = [pl.Series(column, [value], strict=False) for column, value in row.items()]
        encoder = self.run.trained.fitted.tables.get(name)
        fitted = () if encoder is None else encoder.columns
        # one patient's "3.50" must not become an amount where training met a category
        categories = {*card.categorical, *(c.name for c in fitted if isinstance(c, Category))}
        card = TabularCard(
            kind="tabular",
            columns=list(row),
            categorical=[c for c in row if c in categories],
            missing=card.missing,
            prompt=card.prompt,
            encoder=card.encoder,
        )
        if any(column in self.columns or column in TAKEN for column in row):
            file = self._write(name, pl.DataFrame([pl.Series(SAMPLE, [self.sample_id]), *series]))
            card = card.model_copy(update={"table": file})
        else:
            self.columns |= {s.name: s for s in series}
        self.cards[name] = card

    def _series(self, name: str, card: SeriesCard, rows: pl.DataFrame) -> None:
        rows = rows.with_columns(pl.lit(self.sample_id).alias(SAMPLE))
        update: dict[str, Any] = {"sample": SAMPLE, "time": HOURS}
        if card.columns:  # their order is the order of the variables
            wide = [
                pl.when(pl.col(VARIABLE) == c).then(pl.col(VALUE)).alias(f"value of {c}")
                for c in card.columns
            ]
            rows = rows.select(SAMPLE, HOURS, *wide)
            rows = rows.rename({f"value of {c}": c for c in card.columns})
            there = set(card.columns)
        else:
            update |= {"variable": VARIABLE, "value": VALUE}
            there = set(rows[VARIABLE])
        for key in ("limits", "units"):  # of a variable that nobody has they would be an error
            update[key] = {v: x for v, x in getattr(card, key).items() if v in there}
        update["table"] = self._write(name, rows)
        self.cards[name] = card.model_copy(update=update)

    def _texts(self, name: str, card: TextCard, texts: Sequence[str]) -> None:
        """Texts in a column; as files where training read files, which keep every blank."""
        if card.root is None:
            self._cells(name, card, list(texts), None)
            return
        place = self.folder / f"texts-{len(self.cards)}"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for n, text in enumerate(texts):
            (place / f"{n}.txt").write_text(text, "utf-8", newline="")
        self._cells(name, card, [f"{n}.txt" for n in range(len(texts))], place)

    def _cells(
        self, name: str, card: FileCard | TextCard, cells: Sequence[str], root: Path | None
    ) -> None:
        """Texts or files: one is a column of the samples, several a table of their own."""
        column = f"cell of {name}"
        update: dict[str, Any] = {"column": column, "table": None, "time": None}
        if root is not None:
            update["root"] = root
        if isinstance(card, FileCard):
            update["view"] = None
        if len(cells) > 1:
            ids = [self.sample_id] * len(cells)
            rows = pl.DataFrame({SAMPLE: ids, column: list(cells)})
            update["table"] = self._write(name, rows)
        else:
            self.columns[column] = pl.Series(column, list(cells) or [None], dtype=pl.String)
        self.cards[name] = card.model_copy(update=update)

    def _write(self, name: str, rows: pl.DataFrame) -> Path:
        """A table below the folder, under a name of ours: the modality's may be no file name."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.folder / f"table-{list(self.run.card.modalities).index(name)}.parquet"
        rows.write_parquet(file)
        return file.resolve()
