"""New patients × run → inputs, as the run's model takes them: for `predict`, `explain`, `serve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.cohort.cohort import Cohort
from adacomed.embed import Load
from adacomed.encoders.base import is_code
from adacomed.encoders.choice import load_for
from adacomed.errors import InputError, nearest
from adacomed.schema import EmbeddingCard, ModalityCard
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs, gather


def gather_for(
    run: Run,
    cohort: Cohort,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    encoders: Mapping[str, str] | None = None,
    store: Path | None = None,
    load: Load = load_for,
) -> Inputs:
    """What a cohort of new patients offers to a run's model, under the model's own names.

    A modality that the cohort does not list is absent for everyone. The others are embedded as they
    were in training: by the run's encoder, wherever its weights are now. Vectors of that encoder
    that were made elsewhere (`kind: embedding`) are taken as they are.

    Args:
        encoders: modality → where its encoder is here, if not where it was in training.
        store: embedding store; None keeps new embeddings in memory.
        load: gives the encoder of a modality; a service keeps those that it has loaded.
    Raises:
        InputError: nothing that the model reads is there, another kind, encoder or width.
    """
    fitted, cards = run.trained.fitted, cohort.card.modalities
    wanted = list(dict.fromkeys([*fitted.native, *fitted.small]))
    there = [m for m in wanted if m in cards]
    if not there:
        raise InputError(
            f"{cohort.card.name} has none of the run's modalities: "
            f"the run reads {', '.join(wanted)}, the cohort has {', '.join(cards)}"
        )
    same = {m: _as_trained(run, m, cards[m]) for m in there}
    for name, encoder in fitted.tables.items():  # a variable that the new series lack is null
        if getattr(same.get(name), "summarise", None):
            columns = [c.name for c in encoder.columns]
            same[name] = same[name].model_copy(update={"columns": columns})
    for name, spec in (encoders or {}).items():
        if name not in same or isinstance(same[name], EmbeddingCard):
            raise InputError(f"no modality {name!r} with an encoder{nearest(name, same)}")
        same[name] = same[name].model_copy(update={"encoder": spec})
    for name, mine in same.items():
        if name not in (encoders or {}):
            refuse_code(run, name, getattr(mine, "encoder", None))
    card = cohort.card.model_copy(update={"modalities": {**cards, **same}})
    cohort = replace(cohort, card=card)
    labelled = cohort.class_names.get(run.task) == run.classes
    inputs = gather(
        cohort,
        run.task if labelled else None,
        load=load,
        large=[m for m in fitted.native if m in there],
        small=[m for m in fitted.small if m in there],
        store=store,
        progress=progress,
        raw=bool(fitted.raw.shapes),
        unread=[m for m in fitted.native if m not in run.meta.get("encoders", {})],
    )
    _check_encoders(run, cohort, inputs.encoders)
    n = len(inputs)
    nothing = np.full((n, 1), np.nan, np.float32)
    null = pl.Series([None] * n)
    empty = {
        m: pl.DataFrame([null.alias(c.name) for c in encoder.columns])
        for m, encoder in fitted.tables.items()
        if m not in inputs.tables
    }
    return replace(
        inputs,
        vectors={m: inputs.vectors.get(m, nothing) for m in fitted.native},
        tables={m: empty[m] if m in empty else inputs.tables[m] for m in fitted.tables},
    )


def refuse_code(run: Run, modality: str, encoder: str | None) -> None:
    """Raise an InputError where a run in one file, perhaps from elsewhere, names code to run."""
    if run.bundled and encoder and is_code(encoder):
        raise InputError(
            f"modality {modality!r}: the bundle names the encoder {encoder!r}, code that would be "
            f"run here; if you know it, say so with --encoder {modality}={encoder}"
        )


def _check_encoders(run: Run, cohort: Cohort, found: Mapping[str, str]) -> None:
    """Raise an InputError where vectors were made by other weights than in training."""
    for name, mark in found.items():
        trained = run.meta.get("encoders", {}).get(name, mark)
        if trained != mark:
            before, now = run.card.modalities[name], cohort.card.modalities[name]
            raise InputError(
                f"modality {name!r}: the encoder {getattr(now, 'encoder', '')} here is {mark}, the "
                f"run was trained with {getattr(before, 'encoder', '')}, {trained}: other weights, "
                f"settings or precision (bfloat16 on a graphics card; ?device=cpu behind the "
                f"encoder's name computes in float32) give other vectors"
            )


def _as_trained(run: Run, name: str, new: ModalityCard) -> ModalityCard:
    """The new patients' modality with the encoder and prompt that the model was trained with."""
    trained, fitted = run.card.modalities[name], run.trained.fitted
    if trained.kind != new.kind:
        told = f"modality {name!r} is of kind {new.kind}, the run's of {trained.kind}"
        width = f"vectors of width {fitted.native.get(name)} (kind: embedding)"
        if isinstance(trained, EmbeddingCard):
            raise InputError(
                f"{told}: the run was trained on ready vectors and has no encoder that makes them; "
                f"give {width} by the same model"
            )
        if not isinstance(new, EmbeddingCard):
            raise InputError(told)
        if name in fitted.tables or name not in run.meta.get("encoders", {}):
            raise InputError(
                f"{told}: the run reads more of it than a vector; give the {trained.kind} itself"
            )
        return new
    update = {}
    for key in ("encoder", "prompt"):
        before, now = getattr(trained, key, None), getattr(new, key, None)
        if now not in (None, before):
            raise InputError(
                f"modality {name!r}: {key} {now!r}, the run was trained with {before!r}"
            )
        if before is not None:
            update[key] = before
    return new.model_copy(update=update)
