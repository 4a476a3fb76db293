"""The form for a new patient, made from the run's card, and what someone has typed into it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from adacomed.readers.tabular import Amount
from adacomed.schema import (
    EmbeddingCard,
    FileCard,
    ModalityCard,
    SeriesCard,
    TabularCard,
    TextCard,
)
from adacomed.serve.uploads import FILES, VECTOR_FILES
from adacomed.training.checkpoint import Run

WANTED = {
    "image": "A PNG, JPEG or DICOM file; several are averaged.",
    "volume": "A NIfTI file, or one DICOM series as a zip.",
    "slide": "A slide that OpenSlide reads.",
    "text": "Type it, or choose a .txt file.",
}
Kind = Literal["number", "choice", "line", "long", "file"]


@dataclass(frozen=True)
class Field:
    """One field: `name` is what it is sent as."""

    name: str
    label: str
    kind: Kind
    hint: str = ""
    options: tuple[str, ...] = ()
    accept: str = ""

    @property
    def id(self) -> str:
        """For labels: the name and the kind, since a file may share its name with a text."""
        plain = "".join(c if c.isalnum() else "-" for c in self.name)
        return f"{'file' if self.kind == 'file' else 'in'}-{plain}"


@dataclass(frozen=True)
class Group:
    """The fields of one modality, and what the run makes of it."""

    modality: str
    kind: str
    hint: str
    fields: tuple[Field, ...]


def groups(run: Run) -> list[Group]:
    """The modalities that the run reads, in its order; summaries of a series are not asked for."""
    fitted, cards = run.trained.fitted, run.card.modalities
    read = dict.fromkeys([*fitted.native, *fitted.small, *fitted.raw.shapes])
    for name in list(read):
        source = getattr(cards.get(name), "summarise", None)
        if source:
            read[source] = None
    return [
        _group(run, name, cards[name])
        for name in cards
        if name in read and getattr(cards[name], "summarise", None) is None
    ]


def _group(run: Run, name: str, card: ModalityCard) -> Group:
    width = run.trained.fitted.native.get(name)
    if isinstance(card, TabularCard):
        hint = "Every field may stay blank: blank is not recorded."
        return Group(name, card.kind, hint, tuple(_columns(run, name, card)))
    accept = ",".join(e for e in (*FILES[card.kind], *VECTOR_FILES) if e)
    file = Field(name, "File", "file", accept=accept)
    hint = WANTED.get(card.kind, "")
    if isinstance(card, EmbeddingCard):
        hint = f"A file with a vector of {width} numbers, by the model that made the training's."
    elif isinstance(card, FileCard):
        hint += f" Or a file with its vector of {width} numbers." if width else ""
    elif isinstance(card, SeriesCard):
        columns = [card.time, *(card.columns or (card.variable, card.value))]
        hint = (
            f"Paste a table with the columns {', '.join(columns)}, their names first and commas "
            f"between, or choose a .csv or .parquet file with them. Time is in hours. A FHIR "
            f"Bundle of Observations can be pasted too."
        )
        named = [f"{v} ({unit})" for v, unit in card.units.items()]
        hint += f" Variables with units: {', '.join(named)}." if named else ""
    if isinstance(card, TextCard):
        return Group(name, card.kind, hint, (Field(name, "Text", "long"), file))
    if isinstance(card, SeriesCard):
        return Group(name, card.kind, hint, (Field(name, "Measurements", "long"), file))
    return Group(name, card.kind, hint, (file,))


def _columns(run: Run, name: str, card: TabularCard) -> list[Field]:
    """A field a column: what the fitted table knows of it, else any text."""
    encoder = run.trained.fitted.tables.get(name)
    known = {c.name: c for c in encoder.columns} if encoder else {}
    found = []
    for column in card.columns:
        field, fitted = f"{name}.{column}", known.get(column)
        if fitted is None:
            found.append(Field(field, column, "line"))
        elif isinstance(fitted, Amount):
            found.append(Field(field, column, "number", _usual(fitted)))
        else:
            found.append(Field(field, column, "choice", options=fitted.values))
    return found


def _usual(column: Amount) -> str:
    """Mean and deviation in training: whoever types another unit can see it."""
    if column.scale == 0:
        return ""
    return f"in training {column.mean:.3g} ± {1 / column.scale:.2g}"


# ---- what was typed -----------------------------------------------------------------------------
def problems(made: Sequence[Group], typed: Mapping[str, str]) -> dict[str, str]:
    """Id of each field that cannot be used → why; a blank field is not recorded, so never wrong.

    Args:
        typed: field name → text.
    """
    found = {}
    for field in (field for group in made for field in group.fields):
        text = typed.get(field.name, "").strip()
        if text and field.kind == "number" and not _is_number(text):
            found[field.id] = "Expected a number such as 1.5, or nothing."
        elif text and field.kind == "choice" and text not in field.options:
            found[field.id] = f"Expected one of {', '.join(field.options)}."
    return found


def blamed(made: Sequence[Group], sentence: str) -> str:
    """Id of the field that a sentence is about: the one it names, else its modality's first."""
    by_name = {f.name: f for group in made for f in group.fields if "." in f.name}
    for name in sorted(by_name, key=len, reverse=True):
        if name in sentence:
            return by_name[name].id
    for group in sorted(made, key=lambda g: -len(g.modality)):
        if re.search(rf"(?<![\w.-]){re.escape(group.modality)}(?![\w-])", sentence):
            columns = [f for f in group.fields if f"{f.label!r}" in sentence]
            files = [f for f in group.fields if f.kind == "file"]
            return (columns or files or list(group.fields))[0].id
    return ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text  # Python reads 1_000, people do not
    except ValueError:
        return False
