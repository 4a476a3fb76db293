"""Cohort × encoder → vectors: what the large side of the model reads, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import Item, Source
from adacomed.cohort.sources import modality_source
from adacomed.cohort.vectors import mean_by_sample
from adacomed.encoders.ahead import Piece, pieces_ahead
from adacomed.encoders.base import Encoder, fingerprint
from adacomed.encoders.choice import (
    choose_encoder,
    load_for,
    readable,
    recall_encoders,
    remember_encoder,
    weights_signature,
)
from adacomed.errors import InputError
from adacomed.schema import Samples
from adacomed.store import EmbeddingStore, store_folder

STORE = "store"  # beside the cohort's YAML, unless said otherwise
# Items per shard, the most that an interruption has to redo, and per piece that is read at once.
SHARDS = {"text": 256, "tabular": 256, "series": 256, "image": 128, "volume": 8, "slide": 2}
PIECES = {"text": 256, "tabular": 256, "series": 64, "image": 16, "volume": 1, "slide": 1}

ADVICE = "; mend or remove it, or leave it out with `adacomed embed --on-error skip`"
LONGEST = 50_000  # characters (bytes in files) of the texts that are read at once

Progress = Callable[[int, int], None]  # (items embedded now, items to embed now)
Load = Callable[[Cohort, str, str], Encoder]  # (cohort, modality, its encoder's spec)


def known_store(cohort: Cohort, asked: Path | None) -> Path | None:
    """Where to look for vectors of new patients: as asked, else the cohort's own if it has one."""
    own = cohort.root / STORE
    return asked or (own if own.is_dir() else None)


@dataclass(frozen=True)
class Embedded:
    """What an embedding run did.

    Attributes:
        store: with a vector, or a reason for none, of every item.
        source: the modality's items.
        new: items embedded now.
        absent: position of every item that has no vector → why.
    """

    store: EmbeddingStore
    source: Source
    new: int
    absent: dict[int, str]


def fill_store(
    cohort: Cohort,
    modality: str,
    encoder: Encoder,
    root: Path,
    progress: Progress | None = None,
    *,
    skip_broken: bool = False,
    retry: bool = False,
    workers: int = 0,
    on_wait: Callable[[str], None] = lambda message: None,
) -> Embedded:
    """Embed every item of a modality that the store does not have.

    Args:
        root: of the store.
        progress: called before the first item and after every shard.
        skip_broken: an item that cannot be read is recorded as absent, with the reason, instead of
            stopping here.
        retry: try again what was recorded as absent.
        workers: processes that read and prepare items ahead of the encoder.
        on_wait: told that another process is writing into the same folder.
    Raises:
        InputError: a kind that the encoder does not read, a broken item, a damaged store.
    """
    card = encoder.card
    kind = _check_kind(cohort, modality, encoder)
    mark = fingerprint(card)
    folder = store_folder(root, modality, card.name, mark)
    source = modality_source(cohort, modality, root)
    store = EmbeddingStore(folder, card=card.model_dump(mode="json"), fingerprint=mark)
    with store.writing(on_wait):
        if retry:
            store.forget_absent()
        shards = _shards(source, store.missing(source.items), SHARDS[kind])
        total, done = sum(len(rows) for shard in shards for rows in shard), 0
        _report(progress, 0, total)
        pieces = [part for shard in shards for part in _split(source, shard, PIECES[kind])]
        found = pieces_ahead(encoder, source, [[same[0] for same in p] for p in pieces], workers)
        for shard in shards:
            items, vectors, absent = _collect(source, shard, found, card.width or 0)
            if absent and not skip_broken:
                first = min(absent)
                raise broken_item(modality, items[first], absent[first])
            store.add(items, vectors, absent)
            done += len(items)
            _report(progress, done, total)
    return Embedded(store, source, total, store.absent(source.items))


def embedded(
    cohort: Cohort,
    modality: str,
    root: Path | None,
    progress: Progress | None = None,
    *,
    load: Load = load_for,
) -> tuple[NDArray[np.float32], str]:
    """Every sample's vector, and the fingerprint of the encoder that made it.

    The encoder itself is loaded only where the store lacks an item, or its weights have changed.

    Args:
        root: of the store; None: nothing is kept.
        load: gives the encoder of a modality; a service keeps those that it has loaded.
    Returns:
        (N, D) float32, NaN where absent; 12 hex digits.
    """
    spec = choose_encoder(cohort, modality, root)
    before = recall_encoders(root, modality).get(spec)
    if root is not None and before and before["signature"] == weights_signature(spec):
        folder = store_folder(root, modality, before["name"], before["fingerprint"])
        if folder.is_dir():
            store = EmbeddingStore(folder, card=None, fingerprint=before["fingerprint"])
            items = modality_source(cohort, modality, root).items
            if not store.missing(items):
                return pool_items(cohort, items, store.load(items)), before["fingerprint"]
    encoder = load(cohort, modality, spec)
    vectors = embed_modality(cohort, modality, encoder, root, progress)
    if root is not None:
        remember_encoder(root, modality, spec, encoder)
    return vectors, fingerprint(encoder.card)


def embed_modality(
    cohort: Cohort,
    modality: str,
    encoder: Encoder,
    store_root: Path | None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Every sample's vector of one modality, computed where the store does not have it.

    Args:
        cohort: N samples.
        store_root: the embedding store; None: nothing is kept, as for one new patient.
        progress: called before the first item and as items are done.
    Returns:
        (N, D) float32, the mean of a sample's items; an absent sample is a row of NaN.
    Raises:
        InputError: another kind, a prompt that asks for a label, a broken item, a damaged store.
    """
    if store_root is not None:
        done = fill_store(cohort, modality, encoder, store_root, progress)
        return pool_items(cohort, done.source.items, done.store.load(done.source.items))
    kind = _check_kind(cohort, modality, encoder)
    source = modality_source(cohort, modality, None)
    n = len(source.items)
    vectors = np.zeros((n, encoder.card.width or 0), np.float32)
    _report(progress, 0, n)
    parts = [list(range(i, min(i + PIECES[kind], n))) for i in range(0, n, PIECES[kind])]
    for piece in pieces_ahead(encoder, source, parts, 0):
        for i, reason in piece.broken.items():
            raise broken_item(modality, source.items[i], reason)
        vectors[np.array(piece.rows)] = piece.vectors
        _report(progress, piece.rows[-1] + 1, n)
    return pool_items(cohort, source.items, vectors)


def pool_items(
    cohort: Cohort, items: Sequence[Item], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(n, D) vectors of items → (N, D) of samples: the mean; a sample without any is all NaN."""
    owners = [item.sample_id for item in items]
    return mean_by_sample(owners, vectors, cohort.samples[Samples.SAMPLE_ID].to_list())


def broken_item(modality: str, item: Item, reason: str) -> InputError:
    """The error that names whose item it is."""
    named = f" ({item.item})" if item.item not in reason else ""
    return InputError(f"modality {modality!r}, sample {item.sample_id}{named}: {reason}{ADVICE}")


def _check_kind(cohort: Cohort, modality: str, encoder: Encoder) -> str:
    kind = readable(cohort, modality).kind
    if kind not in encoder.card.kinds:
        raise InputError(
            f"modality {modality!r} is of kind {kind}; the encoder {encoder.card.name!r} reads "
            f"{', '.join(encoder.card.kinds)}"
        )
    return kind


def _shards(source: Source, rows: list[int], size: int) -> list[list[list[int]]]:
    """Items to embed, as shards of groups of items with equal content: one is computed for all.

    Items of like size are neighbours. The order is a property of all missing items, so a run that
    was stopped goes on with the shard at which it stopped.
    """
    same: dict[str, list[int]] = {}
    for i in sorted(rows, key=source.size):
        content = source.items[i].content
        same.setdefault(content or f"unreadable {i}", []).append(i)
    groups = list(same.values())
    return [groups[i : i + size] for i in range(0, len(groups), size)]


def _split(source: Source, shard: list[list[int]], most: int) -> list[list[list[int]]]:
    """A shard in pieces of at most `most` groups and, where items differ in size, `LONGEST`."""
    pieces: list[list[list[int]]] = []
    room = 0
    for group in shard:
        size = source.size(group[0])
        if not pieces or len(pieces[-1]) == most or size > room:
            pieces.append([])
            room = LONGEST
        pieces[-1].append(group)
        room -= size
    return pieces


def _collect(
    source: Source, shard: list[list[int]], found: Iterator[Piece], width: int
) -> tuple[list[Item], NDArray[np.float32], dict[int, str]]:
    """Items, vectors and reasons of one shard, from the pieces that it was split into."""
    group_of = {group[0]: group for group in shard}
    items: list[Item] = []
    vectors: list[NDArray[np.float32]] = []
    absent: dict[int, str] = {}
    while len(group_of):
        piece = next(found)
        for row, vector in zip(piece.rows, piece.vectors, strict=True):
            for i in group_of.pop(row):
                if row in piece.broken:
                    absent[len(items)] = piece.broken[row]
                items.append(source.items[i])
                vectors.append(vector)
    return items, np.stack(vectors) if vectors else np.zeros((0, width), np.float32), absent


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
