"""Run × patients → predictions, one row per patient, for `predict` and `compare` alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from adacomed import __version__
from adacomed.evaluation.conformal import Sets, as_lists
from adacomed.evaluation.recalibration import NONE, Calibrator
from adacomed.models.batch import Batch, Output, Outputs
from adacomed.schema import Predictions, prob_column
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Classes, Findings, Outcome, Threshold
from adacomed.training.rows import finding_rows, survival_rows
from adacomed.training.trained import Trained, correct_prior

CHUNK = 1024  # patients whose vectors are on disk that are in memory at a time
ROWS = 20_000  # of a predictions table that are made at a time


def in_double(trained: Trained) -> Trained:
    """The same method with its model in double precision and evaluation mode, for `forward`.

    In single precision a matrix product's rounding depends on the batch's shape (2–4e−7 seen); in
    double precision what is left is far below 1e−6, so a patient's numbers are the patient's own.
    """
    weights = [p for p in trained.model.parameters() if p.is_floating_point()]
    if weights and all(p.dtype == torch.float64 for p in weights) and not trained.model.training:
        return trained
    return replace(trained, model=copy.deepcopy(trained.model).double().eval())


def forward(trained: Trained, inputs: Inputs, *, batch_size: int = 256) -> Output:
    """Output for N patients, prior corrected, in double precision.

    Of patients whose vectors are on disk `CHUNK` are in memory at a time, and the joint space
    (z_large, z_small) is left out.

    Raises:
        InputError: a modality of another width than in training.
    """
    double = in_double(trained)
    if not inputs.streamed:
        return forward_batch(double, trained.fitted.batch(inputs), batch_size=batch_size)
    outputs = Outputs(len(inputs))
    for rows in np.split(np.arange(len(inputs)), range(CHUNK, len(inputs), CHUNK)):
        batch = trained.fitted.batch(inputs.take(rows))
        output = forward_batch(double, batch, batch_size=batch_size)
        outputs.add(replace(output, z_large=None, z_small=None))
    return outputs.output()


@torch.no_grad()
def forward_batch(trained: Trained, batch: Batch, *, batch_size: int = 256) -> Output:
    """`forward` for N patients that are tensors already, by a model in double precision."""
    rows = torch.split(torch.arange(len(batch)), batch_size)
    parts = [trained.model(batch.rows(index).to("cpu", torch.float64)) for index in rows]
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
    output = forward(run.trained, inputs, batch_size=batch_size)
    return predicted_rows(run, inputs, output, split=split)


def predicted_rows(run: Run, inputs: Inputs, output: Output, *, split: str = "new") -> pl.DataFrame:
    """The rows of `predict` for what `forward` has said of N patients."""
    trained = run.trained
    frame = prediction_frame(
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
    names = list(inputs.vectors)
    told = provenance(run, inputs)
    has = frame["present"].to_list()
    made = [[told[m] for m in names if m in told and m in mine] for mine in has]
    return frame.with_columns(
        pl.lit(run.model_hash).alias(Predictions.MODEL),
        pl.Series(Predictions.ENCODERS, made, dtype=pl.List(pl.String)),
        pl.lit(__version__).alias(Predictions.VERSION),
    )


def provenance(run: Run, inputs: Inputs) -> dict[str, str]:
    """Where each modality's vectors came from, of those that are vectors: modality → in words.

    `xray: dinov2-small@0f3a…` was embedded by that encoder; `ct: as given` came as a vector.
    """
    told = {}
    for name in inputs.vectors:
        if name in inputs.encoders:
            encoder = str(getattr(run.card.modalities[name], "encoder", "")).partition(":")[0]
            told[name] = f"{name}: {encoder}@{inputs.encoders[name]}"
        elif name not in inputs.own and name not in run.trained.fitted.raw.shapes:
            told[name] = f"{name}: as given"
    return told


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
    if len(inputs) > ROWS:
        same = partial(prediction_frame, sets=sets, calibrator=calibrator, outcome=outcome)
        same = partial(same, task=task, method=method, split=split, threshold=threshold)
        return _in_parts(partial(same, repeat=repeat, fold=fold, seed=seed), inputs, prob, output)
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


def _in_parts(
    make: Callable[..., pl.DataFrame],
    inputs: Inputs,
    prob: NDArray[np.float64],
    output: Output | None,
) -> pl.DataFrame:
    """Rows of many patients: as lists of Python's numbers they would take ten times the room."""
    frames = []
    for rows in np.split(np.arange(len(inputs)), range(ROWS, len(inputs), ROWS)):
        there = {f.name: getattr(output, f.name) for f in fields(Output)} if output else {}
        mine = {name: x[rows] for name, x in there.items() if x is not None}
        one = Output(**mine) if output else None
        frames.append(make(inputs.take(rows), prob[rows], output=one))
    return pl.concat(frames)


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
