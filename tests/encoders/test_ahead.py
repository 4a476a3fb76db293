"""Items read ahead in real worker processes: order, broken items, non-finite vectors."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adacomed.encoders.ahead import pieces_ahead
from adacomed.encoders.base import EncoderCard, Staged
from adacomed.errors import InputError

N = 96


class Numbers:
    """Items 0 … N−1; the seventh is broken, the ninth breaks a library."""

    def read(self, rows: Sequence[int]) -> list[Any]:
        if 9 in rows:
            raise OSError("secret content of the file")
        return [InputError("truncated") if i == 7 else i for i in rows]


def prepare(item: int) -> int:
    if item == 20:
        raise InputError("one value everywhere")
    return item * 10


class Tens:
    """Vector (item · 10, 1); item 30 is not finite, item 31 shows its damage only here."""

    card = EncoderCard(
        name="tens",
        kinds=("text",),
        id="",
        licence="",
        gated=False,
        pooling="",
        input="",
        trained_on="",
        width=2,
    )
    prepare = staticmethod(prepare)

    def forward(self, prepared: Sequence[int]) -> NDArray[np.float32]:
        if 310 in prepared:
            raise InputError("damaged in its middle")
        values = [np.nan if p == 300 else p for p in prepared]
        return np.array([[v, 1] for v in values], np.float32).reshape(-1, 2)

    def encode(self, items: Sequence[int]) -> NDArray[np.float32]:
        return self.forward([prepare(i) for i in items])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_has_its_vector_or_its_reason(workers: int) -> None:
    """With workers, processes are started after the first parts (`worth` is nothing)."""
    encoder = Tens()
    assert isinstance(encoder, Staged)
    parts = [list(range(i, min(i + 5, N))) for i in range(0, N, 5)]
    pieces = list(pieces_ahead(encoder, Numbers(), parts, workers, worth=0))
    assert [piece.rows for piece in pieces] == parts
    broken = {row: reason for piece in pieces for row, reason in piece.broken.items()}
    assert broken == {
        7: "truncated",
        9: "cannot be read (OSError)",  # its message may quote a patient
        20: "one value everywhere",
        30: "its vector is not finite",
        31: "damaged in its middle",
    }
    vectors = np.concatenate([piece.vectors for piece in pieces])
    good = [i for i in range(N) if i not in broken]
    assert np.array_equal(vectors[good, 0], np.array(good) * 10)
    assert np.isnan(vectors[list(broken)]).all()


class Slow(Numbers):
    """Takes a while to read, and says in which process."""

    def read(self, rows: Sequence[int]) -> list[Any]:
        time.sleep(0.02)
        return [os.getpid()] * len(rows)


class Echo(Tens):
    """The item itself."""

    prepare = staticmethod(int)


def test_processes_are_started_where_reading_takes_long() -> None:
    parts = [[i] for i in range(10)]

    def readers(worth: float) -> set[float]:
        pieces = pieces_ahead(Echo(), Slow(), parts, 1, worth=worth)
        return {float(piece.vectors[0, 0]) for piece in pieces}

    assert readers(worth=10) == {float(os.getpid())}
    assert len(readers(worth=0.05)) == 2
