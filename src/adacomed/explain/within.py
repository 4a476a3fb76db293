"""Inside a modality: which way of explaining it is possible, for a run and its patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import Source
from adacomed.cohort.sources import modality_source
from adacomed.encoders.base import Encoder
from adacomed.encoders.choice import choose_encoder, load_for
from adacomed.errors import InputError, nearest
from adacomed.explain.encoded import patch_gradients, token_gradients
from adacomed.explain.gradients import has_gradient, series_gradients, table_gradients
from adacomed.explain.inside import Inside, captum_attr
from adacomed.explain.modalities import predicted
from adacomed.explain.patient import explained_class
from adacomed.explain.removal import Cells, Measurements, by_removal
from adacomed.readers.series import Series
from adacomed.schema import EmbeddingCard, ModalityCard, SeriesCard, TabularCard, TextCard
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.perturb import modalities, presence
from adacomed.training.trained import Trained

One = Callable[[Inputs, int, int], list[Inside]]  # one patient, its row, the class explained


def explain_within(
    run: Run,
    cohort: Cohort,
    inputs: Inputs,
    modality: str,
    *,
    encoders: Mapping[str, str] | None = None,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Inside]:
    """What the parts of a modality did to the log-odds of each patient who has it.

    Tables and series: integrated gradients where the model has a gradient from them to the
    prediction; otherwise Shapley values of taking parts away. Texts and images: integrated
    gradients through the frozen encoder to tokens and patches.

    Args:
        cohort: the N patients; inputs: theirs, as `intake.gather_for` gives them.
        encoders: modality → where its encoder is here, if not where it was in training.
        seed: of sampled Shapley values.
        tick: called with patients done, and how many there are to do.
    Returns:
        In the order of the patients; a series may have two of one patient, by variable and by time.
    Raises:
        InputError: no such modality, one that cannot be looked into, or captum is not installed.
    """
    names = modalities(inputs)
    if modality not in names:
        raise InputError(
            f"--within: the run reads no modality {modality!r}{nearest(modality, names)}"
        )
    if run.trained.outcome.kind == "survival":
        raise InputError(
            f"--within {modality}: a survival task has a hazard for every interval of time and no "
            f"single log-odds to explain; the Shapley value of the whole modality holds"
        )
    captum_attr()
    card = _as_trained(run, cohort, modality, encoders or {})
    cohort = replace(
        cohort,
        card=cohort.card.model_copy(
            update={"modalities": {**cohort.card.modalities, modality: card}}
        ),
    )
    prob = predicted(run.trained, inputs)[1]
    several = run.trained.outcome.kind == "findings" or prob.shape[1] > 2
    shown = range(prob.shape[1]) if several else (1,)
    here = np.flatnonzero(presence(inputs)[:, names.index(modality)])
    way = _way(run, cohort, inputs, modality, card, seed) if len(here) else None
    found: list[Inside] = []
    for done, i in enumerate(here):
        assert way is not None
        found += way(inputs.take(np.array([i])), int(i), explained_class(prob[i].tolist(), shown))
        tick(done + 1, len(here))
    return found


def _as_trained(
    run: Run, cohort: Cohort, modality: str, encoders: Mapping[str, str]
) -> ModalityCard:
    """The modality's card here, with the encoder and prompt of the run."""
    before = run.card.modalities[modality]
    card = cohort.card.modalities.get(modality, before)
    names = ("encoder", "prompt")
    same: dict[str, Any] = {n: v for n in names if (v := getattr(before, n, None)) is not None}
    if modality in encoders:
        same["encoder"] = encoders[modality]
    return card.model_copy(update=same)


def _way(
    run: Run, cohort: Cohort, inputs: Inputs, modality: str, card: ModalityCard, seed: int
) -> One:
    """How this modality of this run is explained."""
    if isinstance(card, EmbeddingCard):
        raise InputError(
            f"--within {modality}: its vectors were made elsewhere, so there is nothing inside to "
            f"explain; the Shapley value of the whole modality holds"
        )
    trained = run.trained
    if isinstance(card, TabularCard) and modality in inputs.tables:
        if has_gradient(trained, inputs, modality):
            return lambda one, i, k: [table_gradients(trained, one, modality, k)]
        return lambda one, i, k: [by_removal(trained, Cells(one, modality), modality, k, seed=seed)]
    if isinstance(card, SeriesCard):
        if has_gradient(trained, inputs, modality) and modality in inputs.raw:
            return lambda one, i, k: [series_gradients(trained, one, modality, k)]
        return partial(_series, run, cohort, modality, seed, _encoder(cohort, inputs, modality))
    return _through_encoder(trained, cohort, inputs, modality, card)


def _through_encoder(
    trained: Trained, cohort: Cohort, inputs: Inputs, modality: str, card: ModalityCard
) -> One:
    """Tokens of texts, or patches of images, through the frozen encoder."""
    encoder = _encoder(cohort, inputs, modality)
    if encoder is None:
        raise InputError(
            f"--within {modality}: this run reads each {card.kind} itself, in a way that has no "
            f"gradient; the Shapley value of the whole modality holds"
        )
    source = modality_source(cohort, modality)
    if isinstance(card, TextCard | TabularCard):
        return lambda one, i, k: [
            token_gradients(
                trained, one, modality, k, texts=_items(source, one, modality), encoder=encoder
            )
        ]
    if card.kind == "image":
        return lambda one, i, k: [
            patch_gradients(
                trained, one, modality, k, images=_items(source, one, modality), encoder=encoder
            )
        ]
    raise InputError(
        f"--within {modality}: there is no gradient through the encoder of a {card.kind}; the "
        f"Shapley value of the whole modality holds"
    )


def _encoder(cohort: Cohort, inputs: Inputs, modality: str) -> Encoder | None:
    """The encoder that made the modality's vectors; None where the run reads none."""
    if modality not in inputs.encoders:
        return None
    return load_for(cohort, modality, choose_encoder(cohort, modality))


def _items(source: Source, one: Inputs, modality: str) -> list[Any]:
    """A patient's items, as encoders take them."""
    rows = [i for i, item in enumerate(source.items) if item.sample_id == one.sample_id[0]]
    items = source.read(rows)
    for item in items:
        if isinstance(item, InputError):
            raise InputError(f"modality {modality!r}, sample {one.sample_id[0]}: {item}")
    return items


def _series(
    run: Run,
    cohort: Cohort,
    modality: str,
    seed: int,
    encoder: Encoder | None,
    one: Inputs,
    i: int,
    explained: int,
) -> list[Inside]:
    (series,) = _items(modality_source(cohort.take(np.array([i])), modality), one, modality)
    assert isinstance(series, Series)
    embed = None if encoder is None else encoder.encode
    return [
        by_removal(
            run.trained,
            Measurements(one, modality, series, level, embed),
            modality,
            explained,
            seed=seed,
        )
        for level in ("variable", "time")
    ]
