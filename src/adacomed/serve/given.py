"""What is given of one modality, whatever way it came: one of five things that a cohort can hold.

A table's row is a dict, notes are a list of texts, vectors an array (n, D), files a tuple of paths,
a series a table of measurements. Errors say what would work and hold no value of the patient's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.table import NOT_RECORDED
from adacomed.cohort.vectors import flatten
from adacomed.errors import InputError, nearest
from adacomed.schema import EmbeddingCard, SeriesCard, TabularCard
from adacomed.training.checkpoint import Run

HOURS, VARIABLE, VALUE = "hours", "variable", "value"
Content = dict[str, Any] | list[str] | NDArray[np.float32] | tuple[Path, ...] | pl.DataFrame


@dataclass(frozen=True)
class Given:
    """One modality of one new patient.

    Attributes:
        content: as the module says.
        digest: sha256 of it in one canonical form, 64 hex digits.
        items: vectors, notes, files or measurements; of a table the cells that are recorded.
        unknown: variables of a series that the run does not know and leaves out.
    """

    content: Content
    digest: str
    items: int
    unknown: tuple[str, ...] = ()


def takes_vectors(run: Run, name: str) -> bool:
    """Whether a ready vector does for a modality: the run reads nothing else of it."""
    encoded = name in run.meta.get("encoders", {}) and name not in run.trained.fitted.tables
    return isinstance(run.card.modalities[name], EmbeddingCard) or encoded


def known_variables(run: Run, name: str) -> tuple[str, ...]:
    """Variables of a series that the run has met; empty where it does not keep them."""
    card, fitted = run.card.modalities[name], run.trained.fitted
    if not isinstance(card, SeriesCard):
        return ()
    if card.columns:
        return tuple(card.columns)
    known = list(fitted.raw.series[name].names) if name in fitted.raw.series else []
    for table, encoder in fitted.tables.items():
        if getattr(run.card.modalities[table], "summarise", None) == name:
            known += [column.name.rpartition(" ")[0] for column in encoder.columns]
    return tuple(dict.fromkeys(known))


def wanted(run: Run, name: str) -> str:
    """In words, what a modality takes."""
    card = run.card.modalities[name]
    ways = {
        "tabular": 'an object of columns, {"column": value, …}, or a .csv or .parquet file of one '
        "row",
        "text": "a text, a list of texts, or .txt files",
        "embedding": "",
        "series": "a list of measurements (hours, variable, value), a FHIR Bundle, or a .csv or "
        ".parquet file",
    }.get(card.kind, f"files of the {card.kind} itself (multipart)")
    if not takes_vectors(run, name):
        return ways
    width = run.trained.fitted.native.get(name)
    vector = f"a vector of {width} numbers (a list, .npy, .npz or .parquet)"
    return f"{ways}, or {vector}" if ways else vector


def vectors(run: Run, name: str, found: Sequence[NDArray[Any]]) -> Given:
    """Items' vectors, (n, D) float32, of the width that the run was trained on."""
    width = run.trained.fitted.native[name]
    rows = [flatten(v, f"modality {name!r}") for v in found]
    for row in rows:
        if len(row) != width:
            raise InputError(
                f"modality {name!r}: a vector of {len(row)} numbers arrived, the run was trained "
                f"on vectors of {width}{_maker(run, name)}; embed with the same model"
            )
    stacked = np.stack(rows)
    digest = hashlib.sha256(f"{stacked.shape}".encode() + stacked.tobytes()).hexdigest()
    return Given(stacked, digest, len(rows))


def measured(
    run: Run, name: str, rows: Sequence[tuple[float, str, float]], *, strict: bool
) -> Given:
    """Measurements (hours, variable, value) as the table of a series.

    Args:
        strict: a variable that the run does not know is an error, else it is left out and told.
    """
    known = known_variables(run, name)
    unknown = tuple(sorted({v for _, v, _ in rows if known and v not in known}))
    kept = [row for row in rows if row[1] not in unknown]
    if unknown and (strict or not kept):
        hint = nearest(unknown[0], known[:50])
        raise InputError(f"modality {name!r}: no variable {unknown[0]!r} in the run{hint}")
    if not kept:
        raise InputError(f"modality {name!r}: not one measurement in it")
    types = {HOURS: pl.Float64, VARIABLE: pl.String, VALUE: pl.Float64}
    frame = pl.DataFrame(kept, schema=types, orient="row")
    digest = _json_digest(sorted(kept))
    return Given(frame, digest, len(kept), unknown)


def row_of(run: Run, name: str, cells: Mapping[str, Any]) -> Given:
    """A table's row: every column that the run reads, None where it is not recorded."""
    card = run.card.modalities[name]
    assert isinstance(card, TabularCard)
    encoder = run.trained.fitted.tables.get(name)
    columns = card.columns if encoder is None else [c.name for c in encoder.columns]
    columns = list(dict.fromkeys([*card.columns, *columns]))
    for column in cells:
        if column not in columns:
            hint = nearest(column, columns)
            raise InputError(f"modality {name!r}: no column {column!r} in the run{hint}")
    row = {column: _recorded(cells.get(column)) for column in columns}
    return Given(row, _json_digest(row), sum(v is not None for v in row.values()))


def _recorded(cell: Any) -> Any:
    return None if isinstance(cell, str) and cell.strip() in NOT_RECORDED else cell


def notes(texts: Sequence[str]) -> Given:
    """Texts; a blank one is none."""
    kept = [text for text in texts if text.strip()]
    return Given(kept, _json_digest(kept), len(kept))


def raw_files(files: Sequence[Path]) -> Given:
    """Files or folders that the run's readers will open."""
    digests = [_file_digest(file) for file in files]
    digest = digests[0] if len(digests) == 1 else _json_digest(digests)
    return Given(tuple(files), digest, len(files))


def _maker(run: Run, name: str) -> str:
    """Which model made the training vectors, where the run knows."""
    encoder = getattr(run.card.modalities[name], "encoder", None)
    return f" by {encoder}" if encoder else ""


def _json_digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _file_digest(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return _json_digest([[p.name, _file_digest(p)] for p in sorted(path.iterdir())])
