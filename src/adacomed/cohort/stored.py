"""A modality's vectors as one matrix on disk, in the samples' order: made once, in little memory.

A .npy matrix of the user's own is read where it is. Anything else is copied, piece by piece, into
`<modality>-<digest>.npy` in a folder of copies. The digest is of what it was made from (names,
sizes, times of the files) and of the samples' ids, so that a changed file or table makes a new one;
a CRC-32 beside it finds out a damaged one, which is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import numpy as np
import polars as pl
from filelock import FileLock
from numpy.typing import NDArray

from adacomed.cohort.matrix import Mapped, Reading, checked_matrix, open_matrix, rows_at_once
from adacomed.cohort.table import LARGEST, as_text, require_columns
from adacomed.cohort.vectors import (
    MATRIX,
    Item,
    Vector,
    list_items,
    matrix_rows,
    mean_by_row,
    wrong_width,
)
from adacomed.errors import InputError, room_for
from adacomed.schema import EmbeddingCard, Samples, Vectors

FOLDER = "matrices"  # in an embedding store
FIRST = 16  # rows of a parquet file, or files, that are read before the width is known
Piece = tuple[NDArray[np.int64], Vector]  # row of each vector's sample, and the vectors (k, D)


def stored_vectors(
    card: EmbeddingCard, root: Path, samples: pl.DataFrame, *, folder: Path, modality: str
) -> Mapped:
    """An embedding modality, (N, D): the mean of a sample's items, NaN where it has none.

    Args:
        root: the card's root, resolved.
        samples: N rows: sample_id and, where the card names one, its column.
        folder: for the copy, where one is needed.
    Raises:
        InputError: as `Cohort.vectors`, or the disk is full.
    """
    where = f"modality {modality!r}"
    if root.is_file() and root.suffix == MATRIX:
        found = open_matrix(root, where, matrix_rows(card, root, samples, where))
        if not found.here.any():
            raise InputError(f"{where}: no vector in {root}: every row is NaN, or no sample's")
        return found
    ids = samples[Samples.SAMPLE_ID]
    if root.is_file():
        told = [*_about([root])]
        return kept(folder, modality, ids, told, lambda: _table_pieces(root, ids, where))
    items, strangers = list_items(card, root, samples, where)
    if not items:
        seen = f"; found {strangers[0]!r}, expected names such as" if strangers else ", for"
        raise InputError(f"{where}: no vector in {root}{seen} {ids[0]!r}")
    told = [*(item.sample_id for item in items), *_about(i.file for i in items if i.file)]
    return kept(folder, modality, ids, told, lambda: _file_pieces(items, ids, where))


def _about(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from None
        yield f"{file.name} {stat.st_size} {stat.st_mtime_ns}"


# ---- where vectors come from --------------------------------------------------------------------
def _file_pieces(items: Sequence[Item], ids: pl.Series, where: str) -> Iterator[Piece]:
    """From a .npz or .npy file for each item."""
    row = {sample: i for i, sample in enumerate(ids)}
    width, start, size = None, 0, FIRST
    while start < len(items):
        part = items[start : start + size]
        vectors = []
        for item in part:
            vectors.append(item.read())
            width = width or len(vectors[0])
            if len(vectors[-1]) != width:
                raise InputError(f"{where}: {wrong_width(item.name, len(vectors[-1]), width)}")
        yield np.array([row[item.sample_id] for item in part]), np.stack(vectors)
        start, size = start + size, rows_at_once(len(vectors[0]))


def _table_pieces(path: Path, ids: pl.Series, where: str) -> Iterator[Piece]:
    """From a parquet file, which is never in memory whole: a row group of it at most."""
    try:
        table = pl.scan_parquet(path)
        known = pl.DataFrame(schema=table.collect_schema())
        require_columns(known, [Vectors.SAMPLE_ID, Vectors.VECTOR], f"{where} ({path.name})")
        owners = _owners(as_text(table.select(Vectors.SAMPLE_ID).collect().to_series()), ids)
        width, start, size = None, 0, FIRST
        while start < len(owners):
            column = table.select(Vectors.VECTOR).slice(start, size).collect().to_series()
            rows = owners[start : start + len(column)]
            here = (rows >= 0) & column.is_not_null().to_numpy()
            part = column.filter(pl.Series(here))
            if len(part):
                vectors = _numbers(part, width, path, where)
                width = vectors.shape[1]
                yield rows[here], _finite(vectors, rows[here], ids, path)
            start, size = start + size, rows_at_once(width) if width else size
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not a readable table ({type(error).__name__})") from None


def _owners(found: pl.Series, ids: pl.Series) -> NDArray[np.int64]:
    """Row of each item's sample, −1 for a stranger."""
    if found.equals(ids):
        return np.arange(len(ids))
    known = pl.DataFrame({"id": ids}).with_row_index("row")
    mine = pl.DataFrame({"id": found}).join(known, on="id", how="left", maintain_order="left")
    return mine["row"].cast(pl.Int64).fill_null(-1).to_numpy()


def _numbers(column: pl.Series, width: int | None, path: Path, where: str) -> Vector:
    """(k,) lists of numbers → (k, D) float32."""
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else None
    if inner is None or not inner.is_numeric():
        raise InputError(f"{path}: column 'vector' must hold lists of numbers")
    lengths = column.list.len()
    width = width or int(lengths[0])
    other = (lengths != width).arg_true()
    if len(other):
        raise InputError(f"{where}: {wrong_width(str(path), int(lengths[other[0]]), width)}")
    return column.explode().to_numpy().astype(np.float32).reshape(len(column), width)


def _finite(x: Vector, rows: NDArray[np.int64], ids: pl.Series, path: Path) -> Vector:
    wrong = np.flatnonzero(~(np.abs(x) <= LARGEST).all(axis=1))
    if len(wrong):
        sample = ids[int(rows[wrong[0]])]
        raise InputError(
            f"{path}: the vector of {sample} has values that are not finite, or beyond {LARGEST:g}"
        )
    return x


# ---- the copy -----------------------------------------------------------------------------------
def kept(
    folder: Path,
    modality: str,
    ids: pl.Series,
    told: Iterable[str],
    pieces: Callable[[], Iterator[Piece]],
) -> Mapped:
    """The copy of a modality's vectors, made where it is not there, stale or damaged.

    Args:
        folder: of copies; those of this modality that are stale go.
        ids: (N,) samples, whose order the copy has.
        told: what decides the vectors: another text, another copy.
        pieces: gives every vector; those of one sample become their mean.
    Raises:
        InputError: no vector at all, or the disk is full.
    """
    digest = hashlib.sha256()
    for text in chain(told, [""], ids):
        digest.update(f"{text}\n".encode())
    start = quote(modality, safe="") + "-"
    path = folder / f"{start}{digest.hexdigest()[:16]}{MATRIX}"
    lock = FileLock(folder / f".{start}lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); give --store") from None
    try:
        found = _checked(path)
        return _made(path, start, len(ids), pieces(), modality) if found is None else found
    finally:
        lock.release()


def _made(path: Path, start: str, n: int, pieces: Iterator[Piece], modality: str) -> Mapped:
    """A new copy; what was stale, or left by a process that was killed, goes."""
    where = f"modality {modality!r}"
    for left in path.parent.glob(f".{start}*.tmp"):
        left.unlink(missing_ok=True)
    _write(path, n, pieces, where)
    found, crc = checked_matrix(path, where)
    _note(path).write_text(json.dumps({"crc32": crc}), "utf-8")
    for old in path.parent.glob(f"{start}{'?' * 16}{MATRIX}"):
        if old != path:
            old.unlink(missing_ok=True)
            _note(old).unlink(missing_ok=True)
    return found


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _checked(path: Path) -> Mapped | None:
    """The copy, if it is there and what was written."""
    try:
        crc = json.loads(_note(path).read_text("utf-8"))["crc32"]
        found, now = checked_matrix(path, path.name)
    except (OSError, ValueError, KeyError, InputError):
        return None
    return found if crc == now else None


def _write(path: Path, n: int, pieces: Iterator[Piece], where: str) -> None:
    """Write n samples' vectors in order; the file is there whole or not at all."""
    items, means = (path.with_name(f".{path.name}.{os.getpid()}.{k}.tmp") for k in (1, 2))
    try:
        with room_for(path):
            with items.open("wb") as file:
                owners = _collect(file, n, pieces, where)
            whole = items
            if not np.array_equal(owners, np.arange(n)):
                with means.open("wb") as file:
                    _pool(file, n, items, owners)
                whole = means
            with whole.open("rb") as file:
                os.fsync(file.fileno())
            whole.replace(path)
    finally:
        items.unlink(missing_ok=True)
        means.unlink(missing_ok=True)


def _collect(file: BinaryIO, n: int, pieces: Iterator[Piece], where: str) -> NDArray[np.int64]:
    """Write every vector as it comes; the row of each one's sample."""
    owners: list[NDArray[np.int64]] = []
    for rows, vectors in pieces:
        if not owners:
            _header(file, n, vectors.shape[1])  # right where each sample has one vector
        owners.append(rows)
        file.write(np.ascontiguousarray(vectors, "<f4").data)
    if not owners:
        raise InputError(f"{where}: no vector of any sample")
    return np.concatenate(owners)


def _pool(file: BinaryIO, n: int, items: Path, owners: NDArray[np.int64]) -> None:
    """Write the mean of each sample's vectors."""
    with items.open("rb") as head:
        np.lib.format.read_magic(head)
        (_, width), _, _ = np.lib.format.read_array_header_1_0(head)
        offset = head.tell()
    every = Mapped(Reading(items), offset, "<f4", width, np.ones(len(owners), bool))
    order = np.argsort(owners, kind="stable")
    size = rows_at_once(width)
    bounds = np.searchsorted(owners, np.arange(0, n + size, size), sorter=order)
    _header(file, n, width)
    for i, start in enumerate(range(0, n, size)):
        mine = order[bounds[i] : bounds[i + 1]]
        here = min(size, n - start)
        mean = mean_by_row(owners[mine] - start, every.take(mine).loaded(), here)
        file.write(mean.data)


def _header(file: BinaryIO, n: int, width: int) -> None:
    about = {"descr": "<f4", "fortran_order": False, "shape": (n, width)}
    np.lib.format.write_array_header_1_0(file, about)
