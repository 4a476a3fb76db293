"""Measurements over time: from one table of a cohort to one `Series` per sample.

The table is read once, in pieces, and sorted by sample into a temporary file. So memory is bounded
by one piece and the list of samples, and any sample is found at once, in whatever order the rows
lie and the samples are asked for.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.table import LARGEST, NOT_RECORDED, as_text
from adacomed.errors import InputError, nearest
from adacomed.schema import SeriesCard

PIECE = 2_000_000  # cells read at a time
MAX_VARIABLES = 10_000  # more are not names of variables: the wrong column was named
RECORD = np.dtype([("sample", "<i4"), ("variable", "<i4"), ("hours", "<f8"), ("value", "<f8")])


@dataclass(frozen=True)
class Series:
    """Irregular measurements of one sample: N of them, in time order."""

    hours: NDArray[np.float64]  # (N,) hours from the index time, non-decreasing
    variable: NDArray[np.int64]  # (N,) index into `names`
    value: NDArray[np.float64]  # (N,)
    names: tuple[str, ...]  # every variable of the cohort's series, also those this sample lacks

    def sha256(self) -> str:
        """Of names, times, variables and values; 64 hex digits, the same on every machine."""
        digest = hashlib.sha256(json.dumps([*self.names, len(self.hours)]).encode())
        for column, dtype in ((self.hours, "<f8"), (self.variable, "<i8"), (self.value, "<f8")):
            digest.update((column + 0).astype(dtype).tobytes())  # −0 and 0 are one number
        return digest.hexdigest()


class SeriesTable:
    """The series of a cohort, by sample.

    Args:
        path: .parquet, .csv or .tsv (`,` `;` or tab); the file of `card.table`.
        card: names of the columns, window in hours (both ends belong to it), possible values.
    Attributes:
        names: every variable of the table: sorted (long), or in the order of `columns` (wide).
        dropped: variable → values left out because they lie outside its limits.
        outside: values left out because they lie outside the window.
    Raises:
        InputError: unreadable or empty table, a missing column, a cell that is no number, a time
            that is missing or infinite, limits or units of an unknown variable.
    """

    def __init__(self, path: Path, card: SeriesCard) -> None:
        self.path, self.card = path, card
        self._samples, self._variables = _Codes(), _Codes()
        for name in card.columns or ():
            self._variables.code(name)
        self.dropped: dict[str, int] = {}
        self.outside = 0
        self._folder = tempfile.TemporaryDirectory(prefix="adacomed-series-")
        folder = Path(self._folder.name)
        with (folder / "as-read").open("wb") as file:
            for piece, first in self._pieces(folder / "rows.parquet"):
                self._measurements(piece, first).tofile(file)
        (folder / "rows.parquet").unlink()
        found = list(self._variables.known)
        self.names = tuple(found if card.columns else sorted(found))
        self._check_names()
        final = np.array([self.names.index(name) for name in found], np.int32)
        self._start = _by_sample(folder, final, len(self._samples.known))

    def read(self, sample_ids: Sequence[object]) -> list[Series | None]:
        """The series of n samples, in their order; None where a sample has no observed value.

        Args:
            sample_ids: compared as text: 3, 3.0 and "3" are one sample.
        """
        with (Path(self._folder.name) / "by-sample").open("rb") as file:
            return [self._read(sample, file) for sample in sample_ids]

    def content(self, sample_ids: Sequence[object]) -> list[str | None]:
        """sha256 of each sample's series, for telling whether a measurement has changed."""
        return [found.sha256() if found else None for found in self.read(sample_ids)]

    def _read(self, sample: object, file: BinaryIO) -> Series | None:
        text = as_text(pl.Series([sample], strict=False))[0]
        code = self._samples.known.get(text, -1)
        if code < 0 or self._start[code] == self._start[code + 1]:
            return None
        file.seek(int(self._start[code]) * RECORD.itemsize)
        mine = np.fromfile(file, RECORD, int(self._start[code + 1] - self._start[code]))
        mine = mine[np.lexsort((mine["value"], mine["variable"], mine["hours"]))]
        variable = mine["variable"].astype(np.int64)
        return Series(mine["hours"].copy(), variable, mine["value"].copy(), self.names)

    def _pieces(self, copy: Path) -> Iterator[tuple[pl.DataFrame, int]]:
        """The needed columns, some rows at a time, each with its first row's number (from 0)."""
        card, scan = self.card, _scan(self.path)
        needed = [card.sample, card.time, *(card.columns or (card.variable, card.value))]
        try:
            schema = scan.collect_schema()
            _check_columns(self.path, schema, needed)
            rows = max(PIECE // len(needed), 1)
            scan.select(needed).sink_parquet(copy, row_group_size=rows, statistics=False)
            total = pl.scan_parquet(copy, glob=False).select(pl.len()).collect().item()
            if not total:
                raise InputError(f"{self.path}: no row of measurements in it")
            for first in range(0, total, rows):
                yield pl.scan_parquet(copy, glob=False).slice(first, rows).collect(), first
        except (pl.exceptions.PolarsError, OSError) as error:
            why = "a row has more cells than the header" if "more fields" in str(error) else ""
            why = why or type(error).__name__  # the error's own text may quote a patient's values
            raise InputError(f"{self.path}: not a readable table ({why})") from None

    def _measurements(self, piece: pl.DataFrame, first: int) -> NDArray[np.void]:
        """The observed values of some rows inside window and limits, a RECORD each."""
        card, sample = self.card, as_text(piece[self.card.sample])
        columns = card.columns or [card.value]
        cells = np.column_stack([self._numbers(piece[c], sample, first) for c in columns])
        row, column = np.nonzero(~np.isnan(cells))
        found = np.zeros(len(row), RECORD)
        found["value"] = cells[row, column]
        found["hours"] = self._numbers(piece[card.time], sample, first)[row]
        found["sample"] = self._samples.codes(sample)[row]
        if card.columns:
            found["variable"] = column
        else:
            found["variable"] = self._variables.codes(as_text(piece[card.variable]))[row]
        if len(self._variables.known) > MAX_VARIABLES:
            raise InputError(
                f"{self.path}: more than {MAX_VARIABLES} variables in {card.variable!r}; give the "
                f"column that names what was measured as variable:"
            )
        for bad, what in (
            (found["sample"] < 0, f"no {card.sample!r}"),
            (found["variable"] < 0, f"no {card.variable!r}"),
            (~np.isfinite(found["hours"]), f"no finite time in {card.time!r}"),
            (np.abs(found["value"]) > LARGEST, f"infinite value (beyond {LARGEST:g})"),
        ):
            if bad.any():
                raise InputError(f"{self.path}: {what} in {_row(row[bad][0], sample, first)}")
        return self._possible(found)

    def _numbers(self, column: pl.Series, sample: pl.Series, first: int) -> NDArray[np.float64]:
        """A column as numbers, (rows,), NaN where not recorded; a duration as hours."""
        if column.dtype == pl.Duration:
            hours = column.dt.total_microseconds().cast(pl.Float64) / 3.6e9
            return hours.fill_null(np.nan).to_numpy()
        if column.dtype == pl.String:
            text = as_text(column)
            text = text.set(text.is_in(NOT_RECORDED).fill_null(False), None)
            numbers = text.cast(pl.Float64, strict=False)
            bad = (numbers.is_null() & text.is_not_null()).arg_true()
            if len(bad):
                where = _row(bad[0], sample, first)
                raise InputError(
                    f"{self.path}: text in the column {column.name!r}, in {where}; expected a "
                    f"number (3.5), or an empty cell where nothing was recorded"
                )
        else:
            numbers = column.cast(pl.Float64)
        return numbers.fill_null(np.nan).to_numpy()

    def _possible(self, found: NDArray[np.void]) -> NDArray[np.void]:
        """Without what lies outside the window or a variable's limits; counts what goes."""
        low, high = self.card.window or (-np.inf, np.inf)
        inside = (found["hours"] >= low) & (found["hours"] <= high)
        self.outside += int((~inside).sum())
        found = found[inside]
        kept = np.ones(len(found), bool)
        for name, (low, high) in self.card.limits.items():
            mine = found["variable"] == self._variables.known.get(name, -1)
            bad = mine & ((found["value"] < low) | (found["value"] > high))
            self.dropped[name] = self.dropped.get(name, 0) + int(bad.sum())
            kept &= ~bad
        return found[kept]

    def _check_names(self) -> None:
        for key in ("limits", "units", "bins"):
            for name in getattr(self.card, key):
                if name not in self.names:
                    hint = nearest(name, self.names[:50])
                    raise InputError(f"{self.path}: {key} for {name!r}, no such variable{hint}")


class _Codes:
    """Texts ↔ integers, in the order in which the texts are met."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def code(self, text: str) -> int:
        """Code of one text, the next free one where it is new."""
        return self.known.setdefault(text, len(self.known))

    def codes(self, column: pl.Series) -> NDArray[np.int64]:
        """Code of each text, (rows,); −1 for null."""
        distinct = column.drop_nulls().unique(maintain_order=True).to_list()
        known = [self.code(text) for text in distinct]
        codes = column.replace_strict(distinct, known, default=-1, return_dtype=pl.Int64)
        return codes.fill_null(-1).to_numpy()


def _by_sample(folder: Path, final: NDArray[np.int32], samples: int) -> NDArray[np.int64]:
    """Sort on disk: `as-read` becomes `by-sample`, with about PIECE records in memory.

    Args:
        folder: holds `as-read`, RECORDs in the table's order.
        final: (variables,) number of each variable in `names`.
        samples: how many there are.
    Returns:
        Where each sample's records start, and their total, (samples + 1,).
    """
    counts = np.zeros(samples, np.int64)
    for records in _chunks(folder / "as-read"):
        counts += np.bincount(records["sample"], minlength=samples)
    start = np.concatenate([[0], np.cumsum(counts)])
    bucket_of = start[:-1] // PIECE  # samples that are sorted together
    for records in _chunks(folder / "as-read"):
        records["variable"] = final[records["variable"]]
        bucket = bucket_of[records["sample"]]
        for b in np.unique(bucket):
            with (folder / f"bucket-{b}").open("ab") as file:
                records[bucket == b].tofile(file)
    (folder / "as-read").unlink()
    with (folder / "by-sample").open("wb") as file:
        for b in np.unique(bucket_of[counts > 0]):
            records = np.fromfile(folder / f"bucket-{b}", RECORD)
            records[np.argsort(records["sample"], kind="stable")].tofile(file)
            (folder / f"bucket-{b}").unlink()
    return start


def _chunks(path: Path) -> Iterator[NDArray[np.void]]:
    with path.open("rb") as file:
        while len(records := np.fromfile(file, RECORD, PIECE)):
            yield records


def _scan(path: Path) -> pl.LazyFrame:
    """The table, lazily; every cell of a text file as text.

    Raises:
        InputError: no such file, another format, or a header that cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table; expected a .parquet or .csv file")
    if path.suffix == ".parquet":
        return pl.scan_parquet(path, glob=False)
    if path.suffix not in (".csv", ".tsv", ".txt"):
        raise InputError(f"{path}: expected a .parquet or .csv table, found {path.suffix!r}")
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline(1 << 20)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save it as CSV UTF-8") from None
    separator = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=separator), [])
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"{path}: the header names the column {twice[0]!r} twice; rename one")
    return pl.scan_csv(
        path, infer_schema=False, separator=separator, null_values=NOT_RECORDED, glob=False
    )


def _check_columns(path: Path, schema: pl.Schema, needed: Sequence[str]) -> None:
    """Raise an InputError where a column is missing, asked for twice, or holds no numbers."""
    for name in needed:
        if name not in schema:
            raise InputError(f"{path}: no column {name!r}{nearest(name, schema.names())}")
        if needed.count(name) > 1:
            raise InputError(f"{path}: the column {name!r} is asked for twice; name it once")
    time = needed[1]
    if schema[time].is_temporal() and schema[time] != pl.Duration:
        raise InputError(
            f"{path}: the column {time!r} holds {schema[time]}; expected a number of hours from "
            f"the index time, or a duration"
        )
    for name in needed:
        dtype = schema[name]
        temporal = dtype.is_temporal() and name != time
        if dtype.is_nested() or dtype == pl.Binary or temporal:
            raise InputError(f"{path}: the column {name!r} holds {dtype}; expected numbers")


def _row(row: int, sample: pl.Series, first: int) -> str:
    """`row 3 (sample P1)`; rows count from 1 below the header."""
    return f"row {first + int(row) + 1} (sample {sample[int(row)]})"
