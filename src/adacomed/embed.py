"""Cohort × encoder → vectors: what the large side of the model reads, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import Item, Source
from adacomed.cohort.sources import in_pieces, modality_source, sharded
from adacomed.cohort.vectors import mean_by_sample
from adacomed.encoders.ahead import Piece, pieces_ahead
from adacomed.encoders.base import Encoder, EncoderCard, fingerprint
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

Shard = list[list[int]]  # rows of a source, in the pieces that are computed together
Compute = Callable[[Source, Sequence[Shard]], Iterator[Piece]]  # the vectors of shards, in order
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
    """Embed every item of a modality that the store does not have, in this process.

    Args:
        workers: processes that read and prepare items ahead of the encoder.
        root, progress, skip_broken, retry, on_wait, raises: as in `fill_with`.
    """

    def compute(source: Source, shards: Sequence[Shard]) -> Iterator[Piece]:
        return pieces_ahead(encoder, source, [part for shard in shards for part in shard], workers)

    return fill_with(
        compute,
        cohort,
        modality,
        encoder.card,
        root,
        progress,
        skip_broken=skip_broken,
        retry=retry,
        on_wait=on_wait,
    )


def fill_with(
    compute: Compute,
    cohort: Cohort,
    modality: str,
    card: EncoderCard,
    root: Path,
    progress: Progress | None = None,
    *,
    skip_broken: bool = False,
    retry: bool = False,
    on_wait: Callable[[str], None] = lambda message: None,
) -> Embedded:
    """Have every item of a modality embedded that the store does not have.

    Args:
        compute: gives the vectors, wherever they are computed; this process alone writes them.
        card: of the encoder that computes, measured.
        root: of the store.
        progress: called before the first item and after every shard.
        skip_broken: an item that cannot be read is recorded as absent, with the reason, instead of
            stopping here.
        retry: try again what was recorded as absent.
        on_wait: told that another process is writing into the same folder.
    Raises:
        InputError: a kind that the encoder does not read, a broken item, a damaged store.
    """
    kind = _check_kind(cohort, modality, card)
    mark = fingerprint(card)
    folder = store_folder(root, modality, card.name, mark)
    source = modality_source(cohort, modality, root)
    store = EmbeddingStore(folder, card=card.model_dump(mode="json"), fingerprint=mark)
    with store.writing(on_wait):
        if retry:
            store.forget_absent()
        shards = sharded(source, store.missing(source.items), SHARDS[kind])
        total, done = sum(len(rows) for shard in shards for rows in shard), 0
        _report(progress, 0, total)
        split = [in_pieces(source, shard, PIECES[kind]) for shard in shards]
        firsts = [[[same[0] for same in piece] for piece in pieces] for pieces in split]
        found = compute(source, firsts)
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
    """Every sample's vector, (N, D) float32, NaN where absent; and its encoder's fingerprint.

    Args:
        root: of the store; None: nothing is kept.
        load: gives the encoder of a modality; a service keeps those that it has loaded.
    """
    if root is not None:
        store, items, mark = embedded_items(cohort, modality, root, progress, load=load)
        return pool_items(cohort, items, store.load(items)), mark
    encoder = load(cohort, modality, choose_encoder(cohort, modality, None))
    return embed_modality(cohort, modality, encoder, None, progress), fingerprint(encoder.card)


def embedded_items(
    cohort: Cohort,
    modality: str,
    root: Path,
    progress: Progress | None = None,
    *,
    load: Load = load_for,
) -> tuple[EmbeddingStore, Sequence[Item], str]:
    """A store that has every item of a modality, the items, and the encoder's fingerprint.

    The encoder itself is loaded only where the store lacks an item, or its weights have changed.
    """
    spec = choose_encoder(cohort, modality, root)
    before = recall_encoders(root, modality).get(spec)
    if before and before["signature"] == weights_signature(spec):
        mark = before["fingerprint"]
        folder = store_folder(root, modality, before["name"], mark)
        if folder.is_dir():
            store = EmbeddingStore(folder, card=None, fingerprint=mark)
            items = modality_source(cohort, modality, root).items
            if not store.missing(items):
                return store, items, mark
    encoder = load(cohort, modality, spec)
    done = fill_store(cohort, modality, encoder, root, progress)
    remember_encoder(root, modality, spec, encoder)
    return done.store, done.source.items, fingerprint(encoder.card)


def embed_modality(
    cohort: Cohort,
    modality: str,
    encoder: Encoder,
    store_root: Path | None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Every sample's vector of one modality, computed where the store does not have it.

    Args:
        store_root: None: nothing is kept, as for one new patient.
        progress: called before the first item and as items are done.
    Returns:
        (N, D) float32, the mean of a sample's items; NaN where a sample has none.
    Raises:
        InputError: another kind, a prompt that asks for a label, a broken item, a damaged store.
    """
    if store_root is not None:
        done = fill_store(cohort, modality, encoder, store_root, progress)
        return pool_items(cohort, done.source.items, done.store.load(done.source.items))
    kind = _check_kind(cohort, modality, encoder.card)
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


def _check_kind(cohort: Cohort, modality: str, card: EncoderCard) -> str:
    kind = readable(cohort, modality).kind
    if kind not in card.kinds:
        raise InputError(
            f"modality {modality!r} is of kind {kind}; the encoder {card.name!r} reads "
            f"{', '.join(card.kinds)}"
        )
    return kind


def _collect(
    source: Source, shard: list[list[int]], found: Iterator[Piece], width: int
) -> tuple[list[Item], NDArray[np.float32], dict[int, str]]:
    """Items, vectors and reasons of one shard, from the pieces that it was split into."""
    group_of = {group[0]: group for group in shard}
    items: list[Item] = []
    vectors: list[NDArray[np.float32]] = []
    absent: dict[int, str] = {}
    while group_of:
        piece = next(found)
        for row, vector in zip(piece.rows, piece.vectors, strict=True):
            for i in group_of.pop(row):
                if row in piece.broken:
                    absent[len(items)] = piece.broken[row]
                items.append(source.items[i])
                vectors.append(vector)
    return items, np.stack(vectors) if vectors else np.zeros((0, width), np.float32), absent


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress(done, total)
