"""adacomed embed: run the encoders of a cohort, once."""

from __future__ import annotations

import json as jsonlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.commands.console import claim_folder, embedding_progress, note
from adacomed.embed import STORE, Embedded, fill_store, fill_with
from adacomed.encoders.base import Encoder, Staged, fingerprint
from adacomed.encoders.choice import choose_encoder, embeddable, load_for, remember_encoder
from adacomed.errors import InputError, nearest
from adacomed.readers.tissue import save_overview
from adacomed.scale.cluster import Engine, check_engine, joined
from adacomed.scale.embedding import RayEncoder, open_encoder

SHOWN = 5  # skipped items named one by one

Open = Callable[[str, str], Encoder]  # (modality, its encoder's spec)


def embed(
    cohort: Path,
    out: Path | None = None,
    modality: list[str] | None = None,
    encoder: list[str] | None = None,
    device: str | None = None,
    workers: int | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    retry: bool = False,
    overviews: Path | None = None,
    engine: Engine = "local",
    address: str | None = None,
    json: bool = False,
) -> None:
    """Turn a cohort's images, volumes, slides, series, texts and prompted tables into vectors.

    What the store already has is not redone. Safe to interrupt at any moment: run it again and it
    goes on where it stopped.

    Example:
        adacomed embed cohort.yaml --encoder xray=dinov2-small --encoder note=minilm
        adacomed embed cohort.yaml --engine ray --address auto

    Args:
        cohort: the cohort's folder or YAML.
        out: the store [default: store/ beside the cohort's YAML].
        modality: only these [default: all but vectors, and tables without prompt: or encoder:].
        encoder: MODALITY=ENCODER instead of the card's (`adacomed encoders` lists them); for other
            weights of its kind MODALITY=ENCODER:FOLDER_OR_HUB_ID; one without MODALITY= is for all.
        device: cpu, cuda, cuda:1, mps [default: cuda where there is one].
        workers: processes that read files ahead of the encoder [default: one less than cores, ≤ 8];
            with --engine ray, processes that embed [default: one per GPU, else one per core].
        on_error: skip records an item that cannot be read as absent, with the reason.
        retry: try again what was skipped before.
        overviews: folder for a PNG of every slide with the patches that were kept drawn on it.
        engine: ray embeds in the workers of a Ray cluster (docs/scale.md); the store is the same.
        address: of the cluster, auto or HOST:PORT [default: a cluster of this machine's cores].
        json: one JSON object per modality instead of sentences.
    """
    data = load_cohort(cohort, labels=False)
    wanted = modality or embeddable(data)
    if not wanted:
        raise InputError(
            f"{data.card.name}: nothing to embed; a modality of kind text, image, volume, slide or "
            f"series, or a table with prompt: or encoder:, would be"
        )
    root = out or data.root / STORE
    specs = _specs(data, wanted, encoder or [], root)
    if overviews is not None and engine == "ray":
        raise InputError("--overviews: drawn here; ask for them afterwards, without --engine ray")
    claim_folder(root)
    ahead = min(max((os.cpu_count() or 2) - 1, 1), 8) if workers is None else workers
    loaded: dict[tuple[str, str], Encoder] = {}
    with _opener(data, root, engine, address, device, workers) as load:
        for name, spec in specs.items():
            key = (spec, data.card.modalities[name].kind if ":" in spec else "")
            if key not in loaded:
                loaded[key] = load(name, spec)
            done = _embed_one(data, name, loaded[key], root, ahead, on_error == "skip", retry)
            remember_encoder(root, name, spec, loaded[key])
            row = _row(data, name, loaded[key], root, done)
            print(jsonlib.dumps(row) if json else _sentence(row), flush=True)
            _name_absent(done)
            if overviews is not None and data.card.modalities[name].kind == "slide":
                _draw_overviews(done, loaded[key], overviews / name)


def encoder_words(words: list[str]) -> dict[str, str]:
    """`MODALITY=ENCODER` words as a dict; a word without `=` stands under "" (for all).

    Raises:
        InputError: a modality named twice, or nothing behind `=`.
    """
    found: dict[str, str] = {}
    for word in words:
        name, sign, spec = word.partition("=")
        name, spec = (name, spec) if sign else ("", word)
        if not spec or name in found:
            raise InputError(f"--encoder {word!r}: expected MODALITY=ENCODER, once per modality")
        found[name] = spec
    return found


def _specs(cohort: Cohort, wanted: list[str], words: list[str], root: Path) -> dict[str, str]:
    """Modality → its encoder."""
    asked = encoder_words(words)
    for name in asked:
        if name and name not in wanted:
            raise InputError(f"--encoder {name}=…: no such modality here{nearest(name, wanted)}")
    everyone = asked.get("")
    return {
        name: asked.get(name) or everyone or choose_encoder(cohort, name, root) for name in wanted
    }


@contextmanager
def _opener(
    cohort: Cohort,
    root: Path,
    engine: Engine,
    address: str | None,
    device: str | None,
    workers: int | None,
) -> Iterator[Open]:
    """What opens encoders: here, or in the workers of a cluster that is joined meanwhile."""
    if engine == "local":
        check_engine(engine, address)
        yield lambda modality, spec: load_for(cohort, modality, spec, device)
        return
    with joined(address) as devices:
        yield partial(
            open_encoder, cohort, root=root, devices=devices, device=device, workers=workers
        )


def _embed_one(
    cohort: Cohort,
    modality: str,
    encoder: Encoder,
    root: Path,
    workers: int,
    skip: bool,
    retry: bool,
) -> Embedded:
    fill: Callable[..., Embedded] = partial(fill_store, workers=workers)
    if isinstance(encoder, RayEncoder):
        fill = partial(fill_with, encoder.pieces)
    with embedding_progress() as update:
        return fill(
            cohort,
            modality,
            encoder.card if isinstance(encoder, RayEncoder) else encoder,
            root,
            lambda done, total: update(f"{modality} · {encoder.card.name}", done, total),
            skip_broken=skip,
            retry=retry,
            on_wait=note,
        )


def _draw_overviews(done: Embedded, encoder: Encoder, folder: Path) -> None:
    """One PNG per slide that has a vector, named by sample and file."""
    assert isinstance(encoder, Staged)
    claim_folder(folder)
    for i, item in enumerate(done.source.items):
        if i not in done.absent:
            patches = encoder.prepare(done.source.read([i])[0])
            name = re.sub(r"[^\w.-]+", "_", f"{item.sample_id}-{item.item}")
            save_overview(patches, folder / f"{name}.png")
    note(f"  slides with their patches: {folder}")


def _row(
    cohort: Cohort, modality: str, encoder: Encoder, root: Path, done: Embedded
) -> dict[str, Any]:
    items = done.source.items
    have = {item.sample_id for i, item in enumerate(items) if i not in done.absent}
    return {
        "modality": modality,
        "encoder": f"{encoder.card.name}@{fingerprint(encoder.card)}",
        "samples": len(cohort),
        "present": len(have),
        "items": len(items),
        "width": encoder.card.width,
        "new": done.new,
        "skipped": len(done.absent),
        "store": str(root),
    }


def _sentence(row: dict[str, Any]) -> str:
    skipped = ", {skipped} skipped" if row["skipped"] else ""
    return (
        "{modality}: {present} of {samples} samples have a vector of width {width} ({items} items, "
        "{new} new" + skipped + ") in {store}/{modality}/{encoder}"
    ).format(**row)


def _name_absent(done: Embedded) -> None:
    """Say which items have no vector, and why."""
    for i in list(done.absent)[:SHOWN]:
        item = done.source.items[i]
        note(f"  skipped: sample {item.sample_id} ({item.item}): {done.absent[i]}")
    if len(done.absent) > SHOWN:
        why = Counter(reason.rpartition(":")[2].strip() for reason in done.absent.values())
        rest = "; ".join(f"{n} × {reason}" for reason, n in why.most_common(SHOWN))
        note(f"  … {len(done.absent)} skipped in all: {rest}")
