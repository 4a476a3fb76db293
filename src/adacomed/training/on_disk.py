"""What a cohort larger than memory gives a training: vectors on disk, ids in little room."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.matrix import Mapped, Vector
from adacomed.cohort.split import numbered
from adacomed.cohort.stored import FOLDER, kept
from adacomed.embed import Load, embedded_items
from adacomed.schema import SPLITS, EmbeddingCard, Samples

KEPT = (Samples.SAMPLE_ID, Samples.SUBJECT_ID, Samples.SPLIT)
MANY = 200_000  # samples above which vectors stay on disk
ROOM = 2_000_000_000  # bytes of vectors, likewise: a training holds them about three times


def is_large(cohort: Cohort, store: Path) -> bool:
    """Whether the cohort's vectors had better stay on disk."""
    if len(cohort) > MANY:
        return True
    cards = cohort.card.modalities
    roots = (
        cohort.root / card.root if isinstance(card, EmbeddingCard) else store / name
        for name, card in cards.items()
    )
    return sum(map(_bytes, roots)) > ROOM


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


class Ids:
    """(N,) names in little room; those of some rows are an array, as of a cohort in memory."""

    def __init__(self, names: pl.Series) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, rows: Any) -> NDArray[np.str_]:
        names: NDArray[np.str_] = self.names[rows].to_numpy().astype(str)
        return names

    def tolist(self) -> list[str]:
        """All of them."""
        found: list[str] = self.names.to_list()
        return found

    def numbers(self) -> NDArray[np.int64]:
        """(N,): the same for the same name, in the order of the names."""
        return numbered(self.names)


def ids_of(
    cohort: Cohort, *, stream: bool
) -> tuple[NDArray[np.str_] | Ids, NDArray[np.str_] | Ids]:
    """Sample and subject of every sample, (N,) each."""
    samples, subjects = cohort.samples[Samples.SAMPLE_ID], cohort.samples[Samples.SUBJECT_ID]
    if stream:
        first = Ids(samples)
        return first, first if subjects.equals(samples) else Ids(subjects)
    return samples.to_numpy().astype(str), subjects.to_numpy().astype(str)


def slim(cohort: Cohort) -> Cohort:
    """The cohort without what its inputs have been made of: ids, split and groups stay.

    What a training keeps of each patient is what limits how many there may be.
    """
    frame = cohort.samples
    samples, subjects = frame[Samples.SAMPLE_ID], frame[Samples.SUBJECT_ID]
    if subjects.equals(samples):
        subjects = samples.alias(Samples.SUBJECT_ID)  # one text for both
    split = frame[Samples.SPLIT].cast(pl.Enum(SPLITS))
    groups = [frame[name] for name in dict.fromkeys(cohort.card.groups) if name not in KEPT]
    rest = pl.DataFrame([samples, subjects, split, *groups])
    return replace(cohort, samples=rest, labels=cohort.labels.clear())


def hand_back() -> None:
    """Give memory that was freed back to the system, which the C library may keep (glibc does).

    What reading a large cohort took for a moment would else count as the training's.
    """
    with suppress(AttributeError, TypeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def copies(store: Path, cohort: Cohort) -> Path:
    """Where in a store the matrices of a cohort are."""
    return store / FOLDER / quote(cohort.card.name, safe=" ")


def embedded_on_disk(
    cohort: Cohort,
    modality: str,
    store: Path,
    progress: Callable[[int, int], None] | None,
    load: Load,
) -> tuple[Mapped, str]:
    """The vectors of an embedding store as a matrix, and their encoder's fingerprint."""
    made, items, mark = embedded_items(cohort, modality, store, progress, load=load)
    ids = cohort.samples[Samples.SAMPLE_ID]
    row = {sample: i for i, sample in enumerate(ids)}
    owners = np.array([row[item.sample_id] for item in items], np.int64)
    absent = made.absent(items)
    told = [mark, *(f"{'|'.join(item)} {absent.get(i, '')}" for i, item in enumerate(items))]

    def pieces() -> Iterator[tuple[NDArray[np.int64], Vector]]:
        for positions, vectors in made.by_shard(items):
            yield owners[positions], vectors

    return kept(copies(store, cohort), modality, ids, told, pieces), mark
