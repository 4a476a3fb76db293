"""Rows of predictions.parquet for tasks beyond classes, made of the rows of two-class tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from adacomed.models.batch import Output
from adacomed.schema import Predictions, finding_task
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Classes, Findings, Survival, Threshold

Floats = NDArray[np.float64]
Make = Callable[..., pl.DataFrame]  # `inference.prediction_frame` of a class task
BRANCHES = ("logits", "logits_large", "logits_small")


def finding_rows(
    make: Make,
    inputs: Inputs,
    prob: Floats,
    output: Output | None,
    outcome: Findings,
    task: str,
    threshold: Threshold,
) -> pl.DataFrame:
    """One row per sample and finding: its own label, probability, threshold and branches.

    s, the weights and the router are the patient's, and so the same in all of a patient's rows.

    Args:
        prob: (N, J).
    """
    cuts = threshold if isinstance(threshold, list) else [threshold] * outcome.width
    parts = []
    for j, (name, cut) in enumerate(zip(outcome.names, cuts, strict=True)):
        one = None if output is None else _branches(output, lambda x, j=j: _pair(x[:, j]))  # type: ignore[misc]
        label = None if inputs.truth is None else inputs.truth[:, j]
        said = np.stack([1 - prob[:, j], prob[:, j]], axis=1)
        of = _labelled(inputs, label)
        parts.append(make(of, said, output=one, task=finding_task(task, name), threshold=cut))
    return pl.concat(parts)


def survival_rows(
    make: Make,
    inputs: Inputs,
    prob: Floats,
    output: Output | None,
    outcome: Survival,
    task: str,
    threshold: Threshold,
) -> pl.DataFrame:
    """One row per sample: `prob` is the risk by the horizon, `label` says what came at `time`.

    The branches' columns are log-odds of that risk.

    Args:
        prob: (N, 2).
        output: None leaves the curves empty.
        outcome: fitted, where there is an output.
    """
    one = None
    if output is not None:
        one = _branches(output, lambda x: torch.from_numpy(np.log(_inside(outcome, x))))
    seen = inputs.truth
    frame = make(
        _labelled(inputs, None if seen is None else seen[:, 1]),
        prob,
        output=one,
        task=task,
        threshold=threshold,
    )
    nothing: list[Any] = [None] * len(inputs)
    time = pl.Series(Predictions.TIME, nothing if seen is None else seen[:, 0], dtype=pl.Float64)
    curves = nothing if output is None else outcome.curves(output.logits).tolist()
    ends = nothing if output is None else [list(outcome.ends)] * len(inputs)
    lists = pl.List(pl.Float64)
    return frame.with_columns(
        time.fill_nan(None),
        pl.Series(Predictions.SURVIVAL, curves, dtype=lists),
        pl.Series(Predictions.INTERVALS, ends, dtype=lists),
        pl.lit(outcome.horizon).alias(Predictions.HORIZON),
    )


def _labelled(inputs: Inputs, label: Floats | None) -> Inputs:
    """The samples with 0/1 labels (N,), NaN where unknown, as those of a class task."""
    target = np.full(len(inputs), -1)
    if label is not None:
        target = np.where(np.isnan(label), -1, label).astype(np.int64)
    return replace(inputs, target=target, truth=None, asked=Classes(("0", "1")))


def _branches(output: Output, pair: Callable[[Tensor], Tensor]) -> Output:
    """An output whose logits (N, J) are made logits of two classes, (N, 2)."""
    there = {name: x for name in BRANCHES if (x := getattr(output, name)) is not None}
    return replace(output, **{name: pair(x) for name, x in there.items()})


def _pair(log_odds: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(log_odds), log_odds], dim=1)


def _inside(outcome: Survival, logits: Tensor) -> Floats:
    """Risks and their complements, none of them 0, so that their log-odds are finite."""
    tiny = float(np.finfo(np.float64).tiny)
    return np.maximum(outcome.probabilities(logits), tiny)
