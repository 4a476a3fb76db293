"""Cohort × encoder → vectors: what the large side of the model reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.encoders.base import Encoder, fingerprint
from adacomed.encoders.prompt import load_template, render
from adacomed.errors import InputError, nearest
from adacomed.schema import EmbeddingCard, ModalityCard, Samples, TabularCard, TextCard
from adacomed.store import EmbeddingStore, text_item

STORE = "store"  # beside the cohort's YAML, unless said otherwise
DEFAULT_ENCODER = "minilm"
DEFAULT_PROMPT = "generic-v1"
CHUNK = 64  # items per shard: the most that an interruption has to redo

Progress = Callable[[int, int], None]  # (items embedded now, items to embed now)


def embeddable(cohort: Cohort) -> list[str]:
    """Modalities that the cohort wants embedded: texts, and tables with a prompt or an encoder."""
    return [
        name
        for name, card in cohort.card.modalities.items()
        if isinstance(card, TextCard)
        or (isinstance(card, TabularCard) and (card.prompt or card.encoder))
    ]


def choose_encoder(cohort: Cohort, modality: str) -> str:
    """Name of the modality's encoder: the card's, else MiniLM, which needs no hub.

    Raises:
        InputError: the modality is unknown, or of a kind that cannot be embedded.
    """
    card = _readable(cohort, modality)
    return getattr(card, "encoder", None) or DEFAULT_ENCODER


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
        modality: of kind text, or tabular (its rows are written as text by the card's prompt).
        encoder: reads that kind.
        store_root: the embedding store; None: nothing is kept, as for one new patient.
        progress: called before the first item and after every chunk.
    Returns:
        (N, D) float32; an absent sample is a row of NaN.
    Raises:
        InputError: another kind, a prompt that asks for a label, a damaged store.
    """
    texts = modality_texts(cohort, modality)
    kind = cohort.card.modalities[modality].kind
    if kind not in encoder.card.kinds:
        raise InputError(
            f"modality {modality!r} is of kind {kind}; the encoder {encoder.card.name!r} reads "
            f"{', '.join(encoder.card.kinds)}"
        )
    rows = [i for i, text in enumerate(texts) if text is not None]
    found = [text for text in texts if text is not None]
    vectors = np.full((len(texts), encoder.card.width or 0), np.nan, np.float32)
    if store_root is None:
        vectors[rows] = _encode(encoder, found, progress)
    else:
        samples = cohort.samples[Samples.SAMPLE_ID].to_list()
        named = [(str(samples[row]), text) for row, text in zip(rows, found, strict=True)]
        vectors[rows] = _encode_stored(encoder, named, store_root, modality, progress)
    return vectors


def modality_texts(cohort: Cohort, modality: str) -> list[str | None]:
    """What the encoder reads of every sample, N texts; None where absent.

    Raises:
        InputError: the kind is not text or tabular, or the prompt asks for a label.
    """
    card = _readable(cohort, modality)
    if isinstance(card, TextCard):
        return [text if text and text.strip() else None for text in cohort.texts(modality)]
    assert isinstance(card, TabularCard)
    labels = {task.column or name for name, task in cohort.card.tasks.items()}
    template = load_template(card.prompt or DEFAULT_PROMPT, cohort.root)
    return render(cohort.table(modality).select(card.columns), template, forbidden=labels)


def _encode(encoder: Encoder, texts: list[str], progress: Progress | None) -> NDArray[np.float32]:
    parts = [np.zeros((0, encoder.card.width or 0), np.float32)]
    _report(progress, 0, len(texts))
    for start in range(0, len(texts), CHUNK):
        parts.append(encoder.encode(texts[start : start + CHUNK]))
        _report(progress, min(start + CHUNK, len(texts)), len(texts))
    return np.concatenate(parts)


def _encode_stored(
    encoder: Encoder,
    named: list[tuple[str, str]],
    root: Path,
    modality: str,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Vectors of (sample_id, text) pairs, from the store where it has them."""
    card = encoder.card.model_dump(mode="json")
    store = EmbeddingStore(root, modality, card=card, fingerprint=fingerprint(encoder.card))
    items = [text_item(*pair) for pair in named]
    todo = store.missing(items)
    _report(progress, 0, len(todo))
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        store.add([items[i] for i in chunk], encoder.encode([named[i][1] for i in chunk]))
        _report(progress, min(start + CHUNK, len(todo)), len(todo))
    if todo:
        store.write_index()
    return store.load(items)


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _readable(cohort: Cohort, modality: str) -> ModalityCard:
    """The card of a text or tabular modality."""
    cards = cohort.card.modalities
    if modality not in cards:
        raise InputError(f"no modality {modality!r}{nearest(modality, cards)}")
    card = cards[modality]
    if isinstance(card, TextCard | TabularCard):
        return card
    if isinstance(card, EmbeddingCard):
        raise InputError(
            f"modality {modality!r} is of kind embedding: its vectors are ready to use"
        )
    raise InputError(
        f"modality {modality!r} is of kind {card.kind}, which no encoder here reads yet; vectors "
        f"of your own can be given meanwhile as kind: embedding"
    )
