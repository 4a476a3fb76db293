"""adacomed embed: run the encoders of a cohort, once."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

import numpy as np

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.commands.console import embedding_progress
from adacomed.embed import STORE, choose_encoder, embed_modality, embeddable
from adacomed.encoders.base import Encoder, fingerprint, load_encoder
from adacomed.errors import InputError


def embed(
    cohort: Path,
    store: Path | None = None,
    modality: list[str] | None = None,
    encoder: str | None = None,
    json: bool = False,
) -> None:
    """Embed a cohort's texts and prompted tables; what the store already has is not redone.

    Safe to interrupt: run it again and it goes on where it stopped.

    Example:
        adacomed embed cohort.yaml --modality note --encoder minilm

    Args:
        cohort: the cohort's folder or YAML.
        store: where the vectors go; default: store/ beside the cohort's YAML.
        modality: only these; default: every text, and every table with a prompt or an encoder.
        encoder: for all of them, instead of the card's: a name (`adacomed encoders`), or
            text-encoder:FOLDER_OR_HUB_ID.
        json: one JSON object per modality instead of sentences.
    """
    data = load_cohort(cohort)
    wanted = modality or embeddable(data)
    if not wanted:
        raise InputError(
            f"{data.card.name}: nothing to embed; a modality of kind text, or a table with prompt: "
            f"or encoder:, would be"
        )
    names = {name: encoder or choose_encoder(data, name) for name in wanted}
    loaded = {source: load_encoder(source) for source in dict.fromkeys(names.values())}
    root = store or data.root / STORE
    for name in wanted:
        row = _embed_one(data, name, loaded[names[name]], root)
        print(jsonlib.dumps(row) if json else _sentence(row), flush=True)


def _embed_one(cohort: Cohort, modality: str, encoder: Encoder, root: Path) -> dict[str, Any]:
    """Embed one modality, and say what was done."""
    new = 0
    with embedding_progress() as update:

        def progress(done: int, total: int) -> None:
            nonlocal new
            new = total
            update(f"{modality} · {encoder.card.name}", done, total)

        vectors = embed_modality(cohort, modality, encoder, root, progress)
    return {
        "modality": modality,
        "encoder": f"{encoder.card.name}@{fingerprint(encoder.card)}",
        "samples": len(vectors),
        "present": int((~np.isnan(vectors).all(axis=1)).sum()),
        "width": vectors.shape[1],
        "new": new,
        "store": str(root),
    }


def _sentence(row: dict[str, Any]) -> str:
    return (
        "{modality}: {present} of {samples} samples have a vector of width {width} ({new} new) in "
        "{store}/{modality}/{encoder}".format(**row)
    )
