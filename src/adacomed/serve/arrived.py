"""One modality of a new patient, from its JSON value or its uploaded files, as the run takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.table import as_text, read_table, require_columns
from adacomed.cohort.vectors import SUFFIXES, read_vector
from adacomed.errors import InputError
from adacomed.readers.text import read_text
from adacomed.schema import FileCard, Samples, SeriesCard, TabularCard, TextCard, Vectors
from adacomed.serve.given import (
    Given,
    known_variables,
    measured,
    notes,
    raw_files,
    row_of,
    takes_vectors,
    vectors,
    wanted,
)
from adacomed.serve.requests import Bundle, Measurement
from adacomed.training.checkpoint import Run

TABLES = (".csv", ".tsv", ".parquet")


def from_json(run: Run, name: str, value: Any, index_time: datetime | None) -> Given:
    """One modality's JSON value (`requests.Value`).

    Raises:
        InputError: a shape that the modality does not take, an unknown column or variable, vectors
            of another width, a FHIR bundle that cannot be read.
    """
    card = run.card.modalities[name]
    if isinstance(card, TabularCard) and isinstance(value, dict):
        return row_of(run, name, value)
    if isinstance(card, TextCard) and (texts := _texts(value)) is not None:
        return notes(texts)
    if isinstance(card, SeriesCard) and isinstance(value, Bundle):
        return _from_fhir(run, name, card, value, index_time)
    if isinstance(card, SeriesCard) and isinstance(value, list) and _all(value, Measurement):
        rows = [(m.hours, m.variable, m.value) for m in value]
        return measured(run, name, rows, strict=True)
    if takes_vectors(run, name) and isinstance(value, list) and not _all(value, str | Measurement):
        lists = value if isinstance(value[0], list) else [value]
        return vectors(run, name, [np.asarray(v) for v in lists])
    raise InputError(
        f"modality {name!r} ({card.kind}) wants {wanted(run, name)}; {_arrived(value)} arrived"
    )


def from_files(run: Run, name: str, files: Sequence[Path]) -> Given:
    """One modality's uploaded files.

    Raises:
        InputError: a file of another format, or one that cannot be read.
    """
    card, first = run.card.modalities[name], files[0]
    suffix = first.suffix.lower()
    as_vectors = suffix in SUFFIXES or (suffix == ".parquet" and _holds_vectors(first))
    if as_vectors and takes_vectors(run, name):
        return vectors(run, name, [v for file in files for v in _read_vectors(file)])
    if isinstance(card, FileCard) and suffix not in (*SUFFIXES, *TABLES, ".txt"):
        return raw_files(files)
    if isinstance(card, TextCard) and suffix == ".txt":
        return raw_files(files) if card.root else notes([read_text(file) for file in files])
    if isinstance(card, SeriesCard | TabularCard) and suffix in TABLES and len(files) == 1:
        if isinstance(card, SeriesCard):
            return _series_file(run, name, card, first)
        return row_of(run, name, _one_row(first))
    said = "several files" if len(files) > 1 else f"a {suffix or 'file without an ending'} file"
    raise InputError(f"modality {name!r} ({card.kind}) wants {wanted(run, name)}; {said} arrived")


def _from_fhir(
    run: Run, name: str, card: SeriesCard, bundle: Bundle, index_time: datetime | None
) -> Given:
    from adacomed.serve.fhir import series_of

    found = series_of(bundle.model_dump(), card, index_time, variables=known_variables(run, name))
    rows = [(m.hours, m.variable, m.value) for m in found]
    given = measured(run, name, rows, strict=False)
    return replace(given, unknown=tuple(sorted({*given.unknown, *found.unknown})))


def _series_file(run: Run, name: str, card: SeriesCard, file: Path) -> Given:
    """A table of one patient's measurements, long or wide as the run's card says."""
    frame = read_table(file, ids=[card.sample])
    _assert_one(frame, card.sample, name)
    needed = [card.time, *(card.columns or (card.variable, card.value))]
    require_columns(frame, needed, f"modality {name!r}")
    if frame[card.time].dtype == pl.Duration:
        hours = frame[card.time].dt.total_microseconds().cast(pl.Float64) / 3.6e9
    else:
        hours = _numbers(frame[card.time], name)
    if card.columns:
        columns = [(c, _numbers(frame[c], name)) for c in card.columns]
        found = [(hours, pl.Series([c] * len(hours)), x) for c, x in columns]
    else:
        found = [(hours, as_text(frame[card.variable]), _numbers(frame[card.value], name))]
    rows = [row for part in found for row in zip(*part, strict=True) if None not in row]
    return measured(run, name, rows, strict=False)


def _numbers(column: pl.Series, name: str) -> pl.Series:
    numbers = column.cast(pl.Float64, strict=False).fill_nan(None)
    if numbers.null_count() > as_text(column).null_count():
        raise InputError(f"modality {name!r}: text in the column {column.name!r}, numbers expected")
    return numbers


def _one_row(file: Path) -> dict[str, Any]:
    frame = read_table(file)
    if len(frame) != 1:
        raise InputError(f"{file}: {len(frame)} rows arrived, one patient's row is wanted")
    return frame.row(0, named=True)


def _assert_one(frame: pl.DataFrame, key: str, name: str) -> None:
    """One patient's rows alone: another one's may not be mixed in."""
    if key in frame.columns and frame[key].n_unique() > 1:
        raise InputError(
            f"modality {name!r}: rows of {frame[key].n_unique()} samples arrived ({key!r}), one "
            f"patient's are wanted"
        )


def _holds_vectors(file: Path) -> bool:
    return Vectors.VECTOR in read_table(file).columns


def _read_vectors(file: Path) -> list[NDArray[Any]]:
    if file.suffix.lower() in SUFFIXES:
        return [read_vector(file)]
    frame = read_table(file)
    _assert_one(frame, Samples.SAMPLE_ID, file.name)
    require_columns(frame, [Vectors.VECTOR], file.name)
    if not frame[Vectors.VECTOR].dtype.is_nested():
        raise InputError(f"{file}: column 'vector' must hold lists of numbers")
    return [row.to_numpy() for row in frame[Vectors.VECTOR] if row is not None]


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, list) and _all(value, str) else None


def _all(value: Sequence[Any], kind: Any) -> bool:
    return isinstance(value[0], kind) if value else False


def _arrived(value: Any) -> str:
    if isinstance(value, list) and value:
        if isinstance(value[0], str):
            return "a list of texts"
        return "measurements" if isinstance(value[0], Measurement) else "a list of numbers"
    if isinstance(value, Bundle):
        return "a FHIR Bundle"
    return "a text" if isinstance(value, str) else "an object of columns"
