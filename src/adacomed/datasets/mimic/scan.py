"""csv and csv.gz of any size → the needed rows and columns as Parquet, in bounded memory.

Polars reads, filters and writes as a stream. Against a count of the rows it costs the parsing of
the needed columns; DuckDB took more than twice as long on the same files (docs/mimic.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from adacomed.datasets.mimic.release import COLUMNS, Files, Kind, read_header
from adacomed.errors import InputError

TIME = "%Y-%m-%d %H:%M:%S"
LOOK = 1 << 20  # bytes from which a file's rows are estimated
READ_AS: dict[Kind, Any] = {
    "id": pl.Int64,
    "number": pl.Float64,
    "text": pl.String,
    "time": pl.String,
}
Progress = Callable[[str, int, int], None]  # file, bytes done (estimated), its bytes


class CsvTables:
    """The tables of a release that lies in csv files; see `release.Tables`.

    Args:
        files: where they lie (`release.find_files`).
        progress: called as a file is read, from several threads.
    """

    def __init__(self, files: Files, progress: Progress | None = None) -> None:
        self.layout, self.simulated = files.layout, files.simulated
        self._files, self._progress = files, progress or (lambda name, done, total: None)

    def read(
        self, table: str, into: Path, *, among: Mapping[str, Sequence[int]] | None = None
    ) -> pl.LazyFrame:
        """Some rows of a table; see `release.Tables.read`."""
        path, names = self._files.paths[table], self._files.names[table]
        kinds = COLUMNS[table]
        _assert_whole(path)
        rows = _scan(path, {names[c]: READ_AS[kind] for c, kind in kinds.items()})
        rows = rows.select(pl.col(names[c]).alias(c) for c in kinds)
        counted, finish = self._counted(path, rows)
        for column, ids in (among or {}).items():
            wanted = pl.Series(ids, dtype=pl.Int64).implode()
            counted = counted.filter(pl.col(column).is_in(wanted))
        out = into / f"{table}.parquet"
        try:
            parsed = counted.with_columns(_parsed(kinds))
            parsed.sink_parquet(out, compression="lz4", statistics=False)  # read once, then gone
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(_why(path, names, kinds, error)) from None
        finish()
        return pl.scan_parquet(out, glob=False)

    def _counted(self, path: Path, rows: pl.LazyFrame) -> tuple[pl.LazyFrame, Callable[[], None]]:
        """The same rows, which tell the progress as they pass; and what tells its end."""
        total, each = path.stat().st_size, _bytes_per_row(path)
        seen = [0.0]

        def tick(piece: pl.DataFrame) -> pl.DataFrame:
            seen[0] += len(piece) * each
            self._progress(path.name, min(int(seen[0]), total), total)
            return piece

        told = rows.map_batches(
            tick,
            predicate_pushdown=False,  # every row is counted
            slice_pushdown=False,
            streamable=True,
        )
        return told, lambda: self._progress(path.name, total, total)


def pieces(frame: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """A table, that many rows at a time."""
    total = frame.select(pl.len()).collect().item()
    for first in range(0, total, rows):
        yield frame.slice(first, rows).collect()


def _scan(path: Path, types: Mapping[str, Any]) -> pl.LazyFrame:
    """Every column as text but those whose type is given."""
    return pl.scan_csv(path, infer_schema=False, schema_overrides=dict(types), glob=False)


def _parsed(kinds: Mapping[str, Kind]) -> list[pl.Expr]:
    """Times as times; an empty text in quotes is no text."""
    times = [
        pl.col(c).str.to_datetime(TIME, time_unit="us") for c, k in kinds.items() if k == "time"
    ]
    texts = [c for c, k in kinds.items() if k == "text"]
    return [*times, *(pl.when(pl.col(c) != "").then(pl.col(c)).alias(c) for c in texts)]


def _assert_whole(path: Path) -> None:
    """Raise an InputError where a plain csv stops inside a row; a .gz tells that itself."""
    if path.suffix == ".gz" or not path.stat().st_size:
        return
    with path.open("rb") as file:
        file.seek(-1, 2)
        if file.read(1) != b"\n":
            raise InputError(
                f"{path}: ends without a line end, so it is cut off; copy the file again"
            )


def _bytes_per_row(path: Path) -> float:
    """Estimated from the file's beginning, as it lies on the disk."""
    with path.open("rb") as file:
        start = file.read(LOOK)
    text = start
    if path.suffix == ".gz":
        try:
            text = zlib.decompressobj(31).decompress(start)
        except zlib.error:
            return 0.0  # told by the reading itself
    codes = np.frombuffer(text, np.uint8)
    outside = np.cumsum(codes == ord('"')) % 2 == 0  # a note's lines are one row
    return len(start) / max(int(((codes == ord("\n")) & outside).sum()), 1)


def _why(path: Path, names: Mapping[str, str], kinds: Mapping[str, Kind], error: Exception) -> str:
    """What is wrong with a file, without a patient's value: polars quotes one."""
    if "more fields" in str(error):
        return f"{path}: a row has more cells than the header's {len(read_header(path))}"
    try:
        bad = None if isinstance(error, OSError) else _first_bad(path, names, kinds)
    except OSError as other:
        bad, error = None, other
    if isinstance(error, OSError):
        if error.strerror is not None:
            return f"{path}: cannot be read ({error.strerror})"
        return f"{path}: cut off, or its compressed data are broken; copy the file again"
    if bad is None:
        return f"{path}: not a readable csv file ({type(error).__name__})"
    row, column, kind = bad
    wanted = {"id": "a whole number", "number": "a number (3.5)", "time": "2180-05-06 22:23:00"}
    what = "time" if kind == "time" else "number"
    return (
        f"{path}: row {row} has no {what} in {column!r}; expected {wanted[kind]}, or an empty cell "
        f"where nothing was recorded"
    )


def _first_bad(
    path: Path, names: Mapping[str, str], kinds: Mapping[str, Kind]
) -> tuple[int, str, Kind] | None:
    """(row from 1 below the header, column, kind) of the first cell that is not of its kind."""
    found: list[tuple[int, str, Kind]] = []
    for column, kind in kinds.items():
        if kind == "text":
            continue
        cell = pl.col(names[column])
        if kind == "time":
            read = cell.str.to_datetime(TIME, strict=False)
        else:
            read = cell.cast(READ_AS[kind], strict=False)
        bad = _scan(path, {}).select(cell).with_row_index("row", offset=1)
        row = bad.filter(cell.is_not_null() & read.is_null()).head(1).collect()["row"]
        if len(row):
            found.append((int(row[0]), names[column], kind))
    return min(found, default=None)
