"""What runs in the workers of a Ray cluster that embeds, and what travels to them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import FileSource, Item, Source
from adacomed.embed import Shard
from adacomed.encoders.ahead import pieces_ahead
from adacomed.encoders.base import Encoder, EncoderCard, Staged, fingerprint
from adacomed.encoders.choice import load_for
from adacomed.errors import InputError
from adacomed.scale.cluster import DEATHS
from adacomed.store import GOLDEN_TOLERANCE

SHOWN = 5  # samples that a message names

WORK = "work"  # column of what a worker is given
RETURNED = ROW, VECTOR, REASON = "row", "vector", "reason"  # columns of what it gives back


@dataclass(frozen=True)
class Loading:
    """How a worker makes the encoder.

    Attributes:
        cohort: nobody's: where it lies, and the modality's card.
        device: None: CUDA where there is one.
        place: the folder that a relative path in `spec` starts from.
    """

    cohort: Cohort
    modality: str
    spec: str
    device: str | None
    place: Path

    def load(self) -> Encoder:
        """The encoder, weights and all, on one thread of the CPU."""
        torch.set_num_threads(1)  # workers scale, threads do not
        with suppress(OSError):
            os.chdir(self.place)
        return load_for(self.cohort, self.modality, self.spec, self.device)


def measure(loading: Loading) -> dict[str, Any] | str:
    """In a worker: the encoder's card as JSON, or why it cannot be loaded."""
    try:
        return loading.load().card.model_dump(mode="json")
    except InputError as error:
        return str(error)


@dataclass(frozen=True)
class Work:
    """One shard as it travels.

    Attributes:
        rows: of its items, in order.
        parts: the same, counted within the shard, in the pieces that are computed together.
        source: of these items only.
    """

    rows: list[int]
    parts: list[list[int]]
    source: Carried | FileSource

    @classmethod
    def of(cls, source: Source, shard: Shard) -> Work:
        """A shard of a source. Files are read where they are embedded, anything else here."""
        rows = [row for part in shard for row in part]
        counted = iter(range(len(rows)))
        parts = [[next(counted) for _ in part] for part in shard]
        items = [source.items[row] for row in rows]
        if isinstance(source, FileSource):
            return cls(rows, parts, replace(source, items=items))
        return cls(rows, parts, Carried(items, source.read(rows)))

    def deadly(self) -> str:
        """What is wrong if every process that takes this dies."""
        samples = list(dict.fromkeys(item.sample_id for item in self.source.items))
        more = " …" if len(samples) > SHOWN else ""
        return (
            f"--engine ray: {DEATHS} processes died, one after another, of the items of "
            f"{len(samples)} samples ({', '.join(samples[:SHOWN])}{more}), perhaps for want of "
            f"memory; try fewer --workers, or --engine local to see which item it is"
        )


@dataclass
class Carried:
    """Items that travel with their shard (a `Source`)."""

    items: list[Item]
    values: list[Any]

    def size(self, i: int) -> int:
        """One: they are neighbours already."""
        return 1

    def read(self, rows: Sequence[int]) -> list[Any]:
        """The items."""
        return [self.values[i] for i in rows]


class Worker:
    """What runs in each process of the cluster: the encoder, loaded once.

    Args:
        loading: how.
        card: that its vectors must fit.
        starts: the one `Starts` of all workers, an actor of Ray's.
    """

    def __init__(self, loading: Loading, card: EncoderCard, starts: Any) -> None:
        self.width, self.problem, self.starts = card.width or 0, "", starts
        try:
            encoder = loading.load()
            _check_same(encoder.card, card)
            self.encoder: Encoder = _OneAtATime(encoder) if isinstance(encoder, Staged) else encoder
        except InputError as error:
            self.problem = str(error)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A row for each item of the shards in the batch; row −1 says what is wrong here."""
        import ray

        for work in batch[WORK]:
            if not self.problem and ray.get(self.starts.count.remote(work.rows[0])) > DEATHS:
                self.problem = work.deadly()
            if self.problem:
                nothing = np.zeros((1, self.width), np.float32)
                yield {ROW: np.array([-1]), VECTOR: nothing, REASON: np.array([self.problem])}
                return
            pieces = list(pieces_ahead(self.encoder, work.source, work.parts, 0))
            broken = {i: reason for piece in pieces for i, reason in piece.broken.items()}
            yield {
                ROW: np.array(work.rows),
                VECTOR: np.concatenate([piece.vectors for piece in pieces]),
                REASON: np.array([broken.get(i, "") for i in range(len(work.rows))]),
            }


class _OneAtATime:
    """The same encoder for several threads: they read side by side and compute in turn."""

    def __init__(self, encoder: Staged) -> None:
        self.card, self.prepare, self.encode = encoder.card, encoder.prepare, encoder.encode
        self._forward, self._turn = encoder.forward, threading.Lock()

    def forward(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        with self._turn:
            return self._forward(prepared)


def _check_same(here: EncoderCard, wanted: EncoderCard) -> None:
    """Raise an InputError where a worker's encoder would give vectors that do not fit."""
    if fingerprint(here) != fingerprint(wanted):
        raise InputError(
            f"a worker of the Ray cluster has another {wanted.name} ({fingerprint(here)}) than the "
            f"store ({fingerprint(wanted)}); give every machine the same weights and packages"
        )
    golden, now = np.asarray(wanted.golden), np.asarray(here.golden)
    error = np.linalg.norm(golden - now) / np.linalg.norm(golden)
    if not error <= GOLDEN_TOLERANCE:
        raise InputError(
            f"a worker of the Ray cluster gives a golden vector {error:.0%} away with the same "
            f"{wanted.name} (its packages: {here.libraries}, expected {wanted.libraries})"
        )
