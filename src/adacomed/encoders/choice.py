"""Which encoder embeds a modality: the card's, the one that the store was made with, or a default.

Beside a modality's vectors the store notes how each encoder was asked for, so that a finished store
is read without loading a model.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from adacomed import __version__
from adacomed.cohort.cohort import Cohort
from adacomed.encoders.base import ENCODERS, Encoder, fingerprint, load_encoder, split_spec
from adacomed.encoders.weights import signature
from adacomed.errors import InputError, nearest
from adacomed.schema import EmbeddingCard, FileCard, SeriesCard, TabularCard, TextCard
from adacomed.store import write_durably

ENCODERS_USED = "encoders.json"  # in <store>/<modality>/
DEFAULTS = {
    "text": "minilm",  # needs no hub
    "tabular": "minilm",
    "image": "dinov2",  # the others are the paper's
    "volume": "merlin",
    "slide": "uni",
    "series": "chronos-2",  # MOIRAI's licence forbids commercial use
}


def embeddable(cohort: Cohort) -> list[str]:
    """Modalities that want an encoder: all but vectors, and tables without prompt or encoder."""
    return [
        name
        for name, card in cohort.card.modalities.items()
        if not isinstance(card, EmbeddingCard | TabularCard)
        or (isinstance(card, TabularCard) and (card.prompt or card.encoder))
    ]


def choose_encoder(cohort: Cohort, modality: str, root: Path | None = None) -> str:
    """The modality's encoder: the card's, else the only one in the store, else its kind's default.

    Weights in a folder beside the cohort's YAML are given with their whole path.

    Raises:
        InputError: the modality is unknown, needs no encoder, or the store has several encoders.
    """
    card = readable(cohort, modality)
    if card.encoder:
        source = split_spec(card.encoder).source
        beside = cohort.root / source
        whole = f":{beside.resolve()}" if source and beside.is_dir() else f":{source}"
        return card.encoder.replace(f":{source}", whole, 1) if source else card.encoder
    used = list(recall_encoders(root, modality))
    if len(used) > 1:
        raise InputError(
            f"modality {modality!r}: {root} has vectors of {' and of '.join(used)}; write "
            f"encoder: with one of them in the cohort's YAML"
        )
    return used[0] if used else DEFAULTS[card.kind]


def settle_encoders(cohort: Cohort, root: Path | None) -> Cohort:
    """The same cohort, its card naming the encoder of every modality that wants one."""
    cards = dict(cohort.card.modalities)
    for name in embeddable(cohort):
        chosen = choose_encoder(cohort, name, root)
        cards[name] = cards[name].model_copy(update={"encoder": chosen})
    return replace(cohort, card=cohort.card.model_copy(update={"modalities": cards}))


def load_for(cohort: Cohort, modality: str, spec: str, device: str | None = None) -> Encoder:
    """The encoder `spec`, for a modality of the cohort.

    Args:
        device: default: CUDA where there is one.
    Raises:
        InputError: no such encoder, device or weights.
    """
    kind = readable(cohort, modality).kind
    where = choose_device(device)
    try:
        return load_encoder(spec, kind=kind, folder=cohort.root, device=where)
    except InputError as error:
        raise InputError(f"modality {modality!r} ({kind}): {error}") from None


def choose_device(asked: str | None) -> str:
    """A device that is here: `asked`, else CUDA where there is one, else the CPU."""
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=asked)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device {asked!r} is not here; `adacomed doctor` lists those that are"
        ) from None
    return asked


def remember_encoder(root: Path, modality: str, spec: str, encoder: Encoder) -> None:
    """Note which folder of the store `spec` filled, so that it can be read without the encoder."""
    known = recall_encoders(root, modality)
    known[spec] = {
        "name": encoder.card.name,
        "fingerprint": fingerprint(encoder.card),
        "signature": weights_signature(spec),
    }
    write_durably(root / modality / ENCODERS_USED, json.dumps(known, indent=1).encode())


def recall_encoders(root: Path | None, modality: str) -> dict[str, dict[str, str]]:
    """Encoders that filled the modality's store, as they were asked for."""
    file = Path() if root is None else root / modality / ENCODERS_USED
    try:
        known: dict[str, dict[str, str]] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def weights_signature(spec: str) -> str:
    """Changes when the weights that `spec` names may have changed; never twice the same for code
    of the user's, which is quickly loaded."""
    name, source, _ = split_spec(spec)
    return f"{__version__} {signature(source)}" if name in ENCODERS else f"{time.time_ns()}"


def readable(cohort: Cohort, modality: str) -> TextCard | TabularCard | FileCard | SeriesCard:
    """The card of a modality that an encoder reads."""
    cards = cohort.card.modalities
    if modality not in cards:
        raise InputError(f"no modality {modality!r}{nearest(modality, cards)}")
    card = cards[modality]
    if isinstance(card, EmbeddingCard):
        raise InputError(
            f"modality {modality!r} is of kind embedding: its vectors are ready to use"
        )
    return card
