"""What the JSON API takes: new patients in plain JSON, bounded and finite before anything is read.

A modality's value is written as people would: a table as an object, a note as text, vectors and
measurements as lists. Which of them a modality wants is for `arrival.py`, which knows the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    StringConstraints,
    Tag,
)

MOST_PATIENTS = 64  # in one request
LONGEST_TEXT = 10_000_000  # characters, as `readers.text` takes from a file
WIDEST = 65_536  # numbers in a vector
MOST_ITEMS = 4_096  # vectors, notes or columns of one modality
MOST_MEASUREMENTS = 1_000_000
LONGEST_PLACE = 200  # characters of where an error is

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(strict=True, max_length=LONGEST_TEXT)]
SampleId = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._:-]+$")
]
Cell = Annotated[StrictStr, Field(max_length=10_000)] | StrictBool | Number | None
Vector = Annotated[list[Number], Field(min_length=1, max_length=WIDEST)]


class _Strict(BaseModel):
    """A JSON object: an unknown key, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Measurement(_Strict):
    """One measurement of a series: hours from the index time, what was measured, and its value."""

    hours: Number
    variable: Name
    value: Number


class Bundle(BaseModel):
    """A FHIR Bundle of Observations; `fhir.series_of` reads what is in it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    resourceType: Literal["Bundle"]  # noqa: N815 (FHIR's name)
    entry: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_MEASUREMENTS)


def _shape(value: Any) -> str | None:
    """Which kind of value arrived, by its outermost shape; None: none that any modality takes."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, Bundle):
        return "bundle"
    if isinstance(value, dict):
        return "bundle" if "resourceType" in value else "table"
    if not isinstance(value, (list, tuple)) or not len(value):
        return None
    first = value[0]
    if isinstance(first, str):
        return "texts"
    if isinstance(first, (dict, Measurement)):
        return "series"
    if isinstance(first, (list, tuple)):
        return "vectors"
    return "vector" if isinstance(first, (int, float)) and not isinstance(first, bool) else None


Table = Annotated[dict[Name, Cell], Field(min_length=1, max_length=MOST_ITEMS)]
Value = Annotated[
    Annotated[Table, Tag("table")]
    | Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_ITEMS), Tag("texts")]
    | Annotated[Vector, Tag("vector")]
    | Annotated[list[Vector], Field(min_length=1, max_length=MOST_ITEMS), Tag("vectors")]
    | Annotated[list[Measurement], Field(min_length=1, max_length=MOST_MEASUREMENTS), Tag("series")]
    | Annotated[Bundle, Tag("bundle")],
    Discriminator(
        _shape,
        custom_error_type="modality_value",
        custom_error_message="Input should be an object of columns (a table), text or a list of "
        "texts, a list of numbers (a vector) or of vectors, a list of measurements, or a FHIR "
        "Bundle",
    ),
]


class NewPatient(_Strict):
    """One new patient: what is known, by modality; what is left out is absent."""

    sample_id: SampleId = "new"
    modalities: dict[Name, Value] = Field(
        min_length=1,
        max_length=MOST_ITEMS,
        description="By the modality's name. A table: an object of columns, null where not "
        "recorded. Text: a string, or several. Vectors: a list of numbers, or several lists, whose "
        "mean is taken. A series: measurements, or a FHIR Bundle of Observations.",
    )
    index_time: datetime | None = Field(
        None, description="Hour 0 of FHIR observations, with its offset from UTC."
    )


class PredictRequest(_Strict):
    """Up to 64 new patients."""

    patients: list[NewPatient] = Field(min_length=1, max_length=MOST_PATIENTS)


def in_words(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first of pydantic's errors as one sentence: where and what, never the value itself.

    Args:
        errors: of `ValidationError.errors(include_input=False)`, or of FastAPI; not empty.
    """
    first = errors[0]
    place, what = list(first["loc"]), str(first["msg"]).removeprefix("Value error, ")
    if "table" in place and place[-1] in _CELLS:
        place.pop()
        what = "should be a number, text, true, false or null"
    parts = [f"[{p}]" if isinstance(p, int) else f".{p}" for p in place if p not in _TAGS]
    path = "".join(parts).lstrip(".")[:LONGEST_PLACE] or "the request"
    path = "".join(c if c.isprintable() else "?" for c in path)
    what = {"extra_forbidden": "no such key", "missing": "is missing"}.get(first["type"], what)
    return f"{path}: {what[:1].lower()}{what[1:]}"


# what pydantic puts into the place of an error, of the union of values and of that of cells
_TAGS = ("table", "text", "texts", "vector", "vectors", "series", "bundle", "body")
_CELLS = ("constrained-str", "bool", "float")
