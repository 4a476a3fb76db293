"""Reading and preparing items in worker processes, ahead of the encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from adacomed.encoders.base import Encoder, Staged
from adacomed.errors import InputError

WORTH = 10.0  # seconds of reading; starting processes takes some three
TIMED = 3  # parts


class Readable(Protocol):
    """Whatever items can be read from, a few at a time (`cohort.items.Source`)."""

    def read(self, rows: Sequence[int]) -> list[Any]:
        """The items at `rows`; an InputError in place of a broken one."""
        ...


@dataclass(frozen=True)
class Piece:
    """Some items' vectors.

    Attributes:
        rows: positions of the items.
        vectors: (len(rows), D); a broken item's row is NaN.
        broken: row → why there is no vector.
    """

    rows: list[int]
    vectors: NDArray[np.float32]
    broken: dict[int, str]


class _Prepared(Dataset[tuple[list[Any], dict[int, str]]]):
    """Piece k → its prepared items and what is broken; this is what a worker process runs."""

    def __init__(
        self, source: Readable, parts: Sequence[list[int]], prepare: Callable[[Any], Any] | None
    ) -> None:
        self.source, self.parts, self.prepare = source, parts, prepare

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, k: int) -> tuple[list[Any], dict[int, str]]:
        rows = self.parts[k]
        kept, broken = [], {}
        for row, item in zip(rows, self._read(rows), strict=True):
            if not isinstance(item, InputError) and self.prepare is not None:
                item = _guarded(self.prepare, item)
            if isinstance(item, InputError):
                broken[row] = str(item)
            else:
                kept.append(item)
        return kept, broken

    def _read(self, rows: list[int]) -> list[Any]:
        found = _guarded(self.source.read, rows)
        if isinstance(found, InputError) and len(rows) > 1:  # one of them: find out which
            return [one[0] if isinstance(one, list) else one for one in map(self._one, rows)]
        return [found] if isinstance(found, InputError) else list(found)

    def _one(self, row: int) -> Any:
        return _guarded(self.source.read, [row])


def _guarded(function: Callable[[Any], Any], argument: Any) -> Any:
    """The function's result; any exception becomes an InputError that is returned."""
    try:
        return function(argument)
    except InputError as error:
        return error
    except Exception as error:  # a file can break a library in any way; it is that file's error
        return InputError(f"cannot be read ({type(error).__name__})")


def pieces_ahead(
    encoder: Encoder,
    source: Readable,
    parts: Sequence[list[int]],
    workers: int,
    *,
    worth: float = WORTH,
) -> Iterator[Piece]:
    """The vectors of every part, in order, while the next parts are being read.

    The first parts are read here, and timed; processes are started for the rest only if its reading
    would take long, since starting one takes seconds of a core that the encoder could have.

    Args:
        parts: rows of the source that are read and prepared together.
        workers: processes; 0 reads in this one. Items that need no preparing are always read here.
        worth: seconds of reading still to come that are worth starting processes.
    """
    prepare = encoder.prepare if isinstance(encoder, Staged) else None
    forward = encoder.forward if isinstance(encoder, Staged) else encoder.encode
    width = encoder.card.width or 0
    reading, done = 0.0, 0
    here = _Prepared(source, parts, prepare)
    for k in range(len(parts)):
        started = time.perf_counter()
        prepared = here[k]
        reading += time.perf_counter() - started
        yield _piece(parts[k], prepared, forward, width)
        done += 1
        if done >= TIMED and workers and prepare and reading / done * (len(parts) - done) > worth:
            break
    if done == len(parts):
        return
    loader = DataLoader(
        _Prepared(source, parts[done:], prepare),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=2,
        multiprocessing_context="spawn",  # threads (torch's, polars') do not survive a fork
    )
    for rows, prepared in zip(parts[done:], loader, strict=True):
        yield _piece(rows, prepared, forward, width)


def _piece(
    rows: list[int],
    prepared: tuple[list[Any], dict[int, str]],
    forward: Callable[[Any], Any],
    width: int,
) -> Piece:
    items, broken = prepared
    vectors = np.full((len(rows), width), np.nan, np.float32)
    here = [i for i, row in enumerate(rows) if row not in broken]
    for i, vector in zip(here, _forward(forward, items), strict=True):
        if isinstance(vector, InputError):
            broken[rows[i]] = str(vector)
        elif np.isfinite(vector).all():
            vectors[i] = vector
        else:
            broken[rows[i]] = "its vector is not finite"
    return Piece(list(rows), vectors, broken)


def _as_it_is(prepared: Any) -> Any:
    """In place of torch's own, which would turn arrays into tensors."""
    return prepared


def _forward(forward: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """A vector or an InputError for each item; damage deep in a slide shows only here."""
    try:
        return list(forward(items)) if items else []
    except InputError as error:
        if len(items) == 1:
            return [error]
        return [one for item in items for one in _forward(forward, [item])]
