"""Vectors of very many patients: a matrix in a file, of which only the rows asked for are read.

Rows are read into small buffers (pread), not mapped into memory: pages of a mapped file count as
the process's own, and a shuffled epoch would touch all of them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.table import LARGEST
from adacomed.errors import InputError

AT_ONCE = 4 << 20  # bytes of vectors that are in memory, where all are gone through
KINDS = ("<f2", "<f4", "<f8")
Vector = NDArray[np.float32]


class Reading:
    """A file opened where it is first read, in every process that it is sent to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None}

    @property
    def fd(self) -> int:
        """The open file's descriptor.

        Raises:
            InputError: the file is gone.
        """
        if self._file is None:
            try:
                self._file = self.path.open("rb", buffering=0)  # closed with the last reader
            except OSError as error:
                raise InputError(f"{self.path}: {error.strerror}") from None
        return self._file.fileno()


@dataclass(frozen=True)
class Mapped:
    """(N, D) vectors in a file, row after row.

    Attributes:
        file: where they are, from byte `offset` on.
        kind: of its numbers, one of `KINDS`; they are given as float32.
        width: D.
        here: (N,), who has a vector; the rows of others are given as NaN, whatever the file holds.
        index: (N,) row in the file; None: they are in its order.
    """

    file: Reading
    offset: int
    kind: str
    width: int
    here: NDArray[np.bool_] = field(repr=False)
    index: NDArray[np.int64] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.here)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.here), self.width

    def take(self, rows: NDArray[np.int64]) -> Mapped:
        """The samples at `rows`, in that order; nothing is read."""
        index = rows if self.index is None else self.index[rows]
        return Mapped(self.file, self.offset, self.kind, self.width, self.here[rows], index)

    def loaded(self) -> Vector:
        """All of them, (N, D) float32.

        Raises:
            InputError: the file is gone, or has become shorter.
        """
        wanted = np.flatnonzero(self.here)
        at = wanted if self.index is None else self.index[wanted]
        size = np.dtype(self.kind).itemsize * self.width
        starts = np.flatnonzero(np.diff(at, prepend=-2) != 1)  # of rows that lie together
        lengths = np.diff(starts, append=len(at)) * size
        offsets = self.offset + at[starts] * size
        parts = map(self._read, lengths.tolist(), offsets.tolist())
        found = np.frombuffer(b"".join(parts), self.kind).reshape(len(at), self.width)
        out = np.full(self.shape, np.nan, np.float32)
        out[wanted] = found
        return out

    def _read(self, length: int, offset: int) -> bytes:
        found = os.pread(self.file.fd, length, offset)
        while len(found) < length:  # a long read may stop early
            more = os.pread(self.file.fd, length - len(found), offset + len(found))
            if not more:
                raise InputError(f"{self.file.path}: has become shorter than it was; run again")
            found += more
        return found

    def chunks(self) -> Iterator[Vector]:
        """All of them in order, (≤ rows_at_once, D) float32 each."""
        size = rows_at_once(self.width)
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self)))).loaded()


def rows_at_once(width: int) -> int:
    """Rows of float32 that make `AT_ONCE` bytes, at least one."""
    return max(1, AT_ONCE // (4 * width))


def has_vector(x: Vector | Mapped) -> NDArray[np.bool_]:
    """(N,): whose row is a vector; nothing is read of a file."""
    return x.here if isinstance(x, Mapped) else np.asarray(~np.isnan(x).any(axis=1))


def in_memory(x: Vector | Mapped) -> Vector:
    """(N, D) float32, read where it is in a file."""
    return x.loaded() if isinstance(x, Mapped) else x


def read_header(path: Path) -> tuple[int, str, tuple[int, int]]:
    """Offset, kind and shape of the matrix in a .npy file.

    Raises:
        InputError: no .npy file of one (rows, width) matrix of floats, row after row, or cut short.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            reads = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, by_column, kind = reads[version[0]](file)
            offset = file.tell()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable .npy file ({type(error).__name__})") from None
    if len(shape) != 2 or by_column or kind.str not in KINDS or not shape[1]:
        order = " in column order" if by_column else ""
        raise InputError(
            f"{path}: expected a (rows, width) matrix of floats in row order, found {kind} of "
            f"shape {shape}{order}; np.save(file, np.ascontiguousarray(x, np.float32)) writes one"
        )
    if path.stat().st_size < offset + shape[0] * shape[1] * kind.itemsize:
        raise InputError(f"{path}: cut short; its header says {shape[0]} rows of {shape[1]}")
    return offset, kind.str, shape


def open_matrix(path: Path, where: str, index: NDArray[np.int64] | None = None) -> Mapped:
    """The vectors of a .npy matrix, each checked once; a row of NaN is a sample without one.

    Args:
        where: the modality, for messages.
        index: (N,) row of each sample, −1 for one without; None: row i is sample i's.
    Raises:
        InputError: as `read_header`, or a row with a value that is not finite, or beyond 1e18.
    """
    found, _ = checked_matrix(path, where)
    if index is None:
        return found
    return replace(found, here=found.here[index] & (index >= 0), index=index)


def checked_matrix(path: Path, where: str) -> tuple[Mapped, int]:
    """`open_matrix` in the file's own order, and the CRC-32 of its numbers as float32."""
    offset, kind, (n, width) = read_header(path)
    every = Mapped(Reading(path), offset, kind, width, np.ones(n, bool))
    here, crc, row = [np.empty(0, bool)], 0, 0
    for x in every.chunks():
        crc = zlib.crc32(x.data, crc)
        there = np.asarray(~np.isnan(x).all(axis=1))
        here.append(there)
        wrong = there & ~(np.abs(x) <= LARGEST).all(axis=1)
        if wrong.any():
            at = row + int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{where}: {path.name}, row {at}, has values that are not finite, or beyond "
                f"{LARGEST:g}; a sample without a vector is a row of NaN only"
            )
        row += len(x)
    return replace(every, here=np.concatenate(here)), crc
