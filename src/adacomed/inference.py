"""Run × patients → predictions, one row per patient, for `predict` and `compare` alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.errors import InputError, nearest
from adacomed.evaluation.conformal import Sets, as_lists
from adacomed.evaluation.recalibration import NONE, Calibrator
from adacomed.models.batch import Output
from adacomed.schema import EmbeddingCard, ModalityCard, Predictions, prob_column
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs, gather
from adacomed.training.outcome import Classes, Findings, Outcome, Threshold
from adacomed.training.rows import finding_rows, survival_rows
from adacomed.training.trained import Trained, correct_prior


@torch.no_grad()
def forward(trained: Trained, inputs: Inputs, *, batch_size: int = 256) -> Output:
    """Output for N patients, prior corrected, in double precision.

    In single precision a matrix product's rounding depends on the batch's shape (2–4e−7 seen); in
    double precision what is left is far below 1e−6, so a patient's numbers are the patient's own.

    Raises:
        InputError: a modality of another width than in training.
    """
    model = copy.deepcopy(trained.model).double().eval()
    batch = trained.fitted.batch(inputs).to("cpu", torch.float64)
    rows = torch.split(torch.arange(len(inputs)), batch_size)
    parts = [model(batch.rows(index)) for index in rows]
    return correct_prior(Output.concatenate(parts).detach(), trained.log_prior)


def probabilities(output: Output, trained: Trained | None = None) -> NDArray[np.float64]:
    """(N, K) class probabilities of an output's logits.

    Of findings (N, J), each of its own; of survival (N, 2), no event and the event by the horizon.

    Args:
        trained: the method that the output is of: what its logits say, and its calibrator is
            applied, as it is in every predictions table. None: classes, as the logits say.
    """
    outcome = Classes() if trained is None else trained.outcome
    prob = outcome.probabilities(output.logits)
    if trained is None or trained.calibrator is None:
        return prob
    return trained.calibrator.apply(prob)


def predict(run: Run, inputs: Inputs, *, split: str = "new", batch_size: int = 256) -> pl.DataFrame:
    """The rows of predictions.parquet for N patients by a finished run.

    Raises:
        InputError: as `forward`.
    """
    trained = run.trained
    output = forward(trained, inputs, batch_size=batch_size)
    return prediction_frame(
        inputs,
        probabilities(output, trained),
        output=output,
        outcome=trained.outcome,
        sets=trained.sets,
        calibrator=trained.calibrator,
        task=run.task,
        method=run.method,
        split=split,
        threshold=trained.threshold,
        seed=int(run.meta["seed"]),
    )


def prediction_frame(
    inputs: Inputs,
    prob: NDArray[np.float64],
    *,
    output: Output | None = None,
    sets: Sets | None = None,
    outcome: Outcome | None = None,
    calibrator: Calibrator | None = None,
    task: str,
    method: str,
    split: str,
    threshold: Threshold,
    repeat: int = 0,
    fold: int = 0,
    seed: int = 0,
) -> pl.DataFrame:
    """The rows of predictions.parquet for N patients (schema.Predictions).

    Args:
        inputs: who they are and what each has.
        prob: (N, K), calibrated.
        output: the branches, s, weights and router of a neural method.
        sets: fitted prediction sets of such probabilities; None leaves the column empty.
        outcome: what the method's head says (`Trained.outcome`); None: what the task of `inputs`
            asks. Findings give a row each, N · J rows; survival adds times and curves.
        calibrator: that made `prob`; the branches' log-odds are put on the same scale, so that a
            threshold cuts them where it cuts `prob`. For temperature and platt their mixture by w
            is then still the log-odds of `prob`.
    """
    outcome = outcome or inputs.outcome
    if not isinstance(outcome, Classes):
        make = partial(prediction_frame, method=method, split=split, repeat=repeat, fold=fold)
        make = partial(make, seed=seed)
        if isinstance(outcome, Findings):
            return finding_rows(make, inputs, prob, output, outcome, task, threshold)
        return survival_rows(make, inputs, prob, output, outcome, task, threshold)
    K = prob.shape[1]
    names = np.array(list(inputs.vectors))
    columns: dict[str, object] = {
        Predictions.SAMPLE_ID: inputs.sample_id.tolist(),
        Predictions.SUBJECT_ID: inputs.subject_id.tolist(),
        Predictions.SPLIT: [split] * len(inputs),
        Predictions.TASK: [task] * len(inputs),
        Predictions.LABEL: [int(y) if y >= 0 else None for y in inputs.target],
        Predictions.PROB: prob[:, -1] if K == 2 else prob.max(axis=1),
    }
    if K > 2:
        columns |= {prob_column(k): prob[:, k] for k in range(K)}
    columns |= _branches(output, K, len(inputs), calibrator)
    columns |= {
        Predictions.PRESENT: [names[row].tolist() for row in inputs.present],
        Predictions.THRESHOLD: [threshold] * len(inputs),
        Predictions.REPEAT: [repeat] * len(inputs),
        Predictions.FOLD: [fold] * len(inputs),
        Predictions.SEED: [seed] * len(inputs),
        Predictions.METHOD: [method] * len(inputs),
        Predictions.SET: [None] * len(inputs) if sets is None else as_lists(sets.sets(prob)),
    }
    return pl.DataFrame(columns, schema_overrides=_TYPES, strict=False)


_TYPES: dict[str, Any] = {
    Predictions.LABEL: pl.Int64,
    Predictions.LOGIT_LARGE: pl.Float64,
    Predictions.LOGIT_SMALL: pl.Float64,
    Predictions.S: pl.Float64,
    Predictions.W_LARGE: pl.Float64,
    Predictions.W_SMALL: pl.Float64,
    Predictions.ROUTER: pl.List(pl.Float64),
    Predictions.SPREAD: pl.Float64,
    Predictions.PRESENT: pl.List(pl.String),
    Predictions.SET: pl.List(pl.Int64),
}


def _branches(
    output: Output | None, K: int, n: int, calibrator: Calibrator | None
) -> dict[str, object]:
    """Branch columns; a method without a branch leaves nulls, so that all methods stack."""
    nothing = [None] * n

    def log_odds(logits: torch.Tensor | None) -> object:
        if logits is None or K > 2:
            return nothing
        if calibrator is not None and calibrator.kind != NONE:
            prob = calibrator.apply(torch.softmax(logits.double(), dim=-1).numpy())
            return np.log(prob[:, 1]) - np.log(prob[:, 0])
        return (logits[:, 1] - logits[:, 0]).double().numpy()

    def values(x: torch.Tensor | None) -> object:
        return nothing if x is None else x.double().numpy()

    o = output
    router = nothing if o is None or o.router is None else o.router.double().tolist()
    return {
        Predictions.LOGIT_LARGE: log_odds(o.logits_large if o else None),
        Predictions.LOGIT_SMALL: log_odds(o.logits_small if o else None),
        Predictions.S: values(o.s if o else None),
        Predictions.W_LARGE: values(o.w_large if o else None),
        Predictions.W_SMALL: values(o.w_small if o else None),
        Predictions.ROUTER: router,
        Predictions.SPREAD: values(o.spread if o else None),
    }


def gather_for(
    run: Run,
    cohort: Cohort,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    encoders: Mapping[str, str] | None = None,
    store: Path | None = None,
) -> Inputs:
    """What a cohort of new patients offers to a run's model, under the model's own names.

    A modality that the cohort does not list is absent for everyone. The others are embedded as they
    were in training: by the run's encoder, wherever its weights are now.

    Args:
        encoders: modality → where its encoder is here, if not where it was in training.
        store: embedding store; None keeps new embeddings in memory.
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
    same = {m: _as_trained(m, run.card.modalities[m], cards[m]) for m in there}
    for name, encoder in fitted.tables.items():  # a variable that the new series lack is null
        if getattr(same.get(name), "summarise", None):
            columns = [c.name for c in encoder.columns]
            same[name] = same[name].model_copy(update={"columns": columns})
    for name, spec in (encoders or {}).items():
        if name not in same or isinstance(same[name], EmbeddingCard):
            raise InputError(f"no modality {name!r} with an encoder{nearest(name, same)}")
        same[name] = same[name].model_copy(update={"encoder": spec})
    card = cohort.card.model_copy(update={"modalities": {**cards, **same}})
    cohort = replace(cohort, card=card)
    labelled = cohort.class_names.get(run.task) == run.classes
    inputs = gather(
        cohort,
        run.task if labelled else None,
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
    empty = {
        m: pl.DataFrame({c.name: [None] * n for c in encoder.columns})
        for m, encoder in fitted.tables.items()
    }
    return replace(
        inputs,
        vectors={m: inputs.vectors.get(m, nothing) for m in fitted.native},
        tables={m: inputs.tables.get(m, table) for m, table in empty.items()},
    )


def _check_encoders(run: Run, cohort: Cohort, found: Mapping[str, str]) -> None:
    """Raise an InputError where vectors were made by other weights than in training."""
    for name, mark in found.items():
        trained = run.meta.get("encoders", {}).get(name, mark)
        if trained != mark:
            before, now = run.card.modalities[name], cohort.card.modalities[name]
            raise InputError(
                f"modality {name!r}: the encoder {getattr(now, 'encoder', '')} here is {mark}, the "
                f"run was trained with {getattr(before, 'encoder', '')}, {trained}: other weights "
                f"or settings give other vectors"
            )


def _as_trained(name: str, trained: ModalityCard, new: ModalityCard) -> ModalityCard:
    """The new patients' modality with the encoder and prompt that the model was trained with."""
    if trained.kind != new.kind:
        raise InputError(f"modality {name!r} is of kind {new.kind}, the run's of {trained.kind}")
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
