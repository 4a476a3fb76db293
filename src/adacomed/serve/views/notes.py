"""Notes as text: line breaks kept, nothing read into them."""

from __future__ import annotations

from dataclasses import dataclass

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.sources import modality_source, prompted
from adacomed.errors import InputError
from adacomed.schema import TabularCard

MOST = 20  # notes on a page
LONGEST = 20_000  # characters of one note on a page


@dataclass(frozen=True)
class Note:
    """One text of a patient.

    Attributes:
        title: which of them it is.
        text: as it arrived, up to `LONGEST` characters.
        rest: characters that are not shown.
        missing: why there is no text, if it could not be read.
    """

    title: str
    text: str = ""
    rest: int = 0
    missing: str = ""


def notes(cohort: Cohort, modality: str) -> tuple[list[Note], int]:
    """The one patient's texts, at most `MOST`, and how many there are."""
    source = modality_source(cohort, modality)
    rows = range(min(MOST, len(source.items)))
    several = len(source.items) > 1
    found = []
    for n, text in zip(rows, source.read(rows), strict=True):
        title = f"{modality}, {n + 1} of {len(source.items)}" if several else modality
        if isinstance(text, InputError):
            why = str(text).replace(source.items[n].item, f"text {n + 1}")
            found.append(Note(title, missing=why))
        else:
            found.append(Note(title, text[:LONGEST], max(0, len(text) - LONGEST)))
    return found, len(source.items)


def as_prompted(cohort: Cohort, modality: str, card: TabularCard) -> str | None:
    """A table as the sentence that the language model was given; None where nothing is recorded."""
    (text,) = prompted(cohort, modality, card)
    return None if text is None else text[:LONGEST]
