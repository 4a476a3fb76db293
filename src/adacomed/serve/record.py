"""One prediction as JSON: what the model says, of what, made by which model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from adacomed import __version__
from adacomed.cohort.cohort import Cohort
from adacomed.errors import InputError
from adacomed.explain.patient import class_names, leads
from adacomed.inference import provenance
from adacomed.readers.tabular import Category, TableEncoder
from adacomed.schema import Predictions, prob_column
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Outcome, Survival
from adacomed.training.perturb import left

RESEARCH_USE = "For research use only: not a medical device, not for diagnosis or treatment."


@dataclass(frozen=True)
class Case:
    """One patient as a run reads them.

    Attributes:
        cohort: raw items, for people to look at.
        inputs: what the model reads; both of one patient.
        hashes: modality → sha256 of what arrived, 64 hex digits, for the audit log.
        items: modality → vectors, notes, files or measurements that arrived.
        unknown: series → its variables that the run does not know, left out.
        keep: what must live as long as the case, such as the folder that its series lies in.
    """

    sample_id: str
    cohort: Cohort
    inputs: Inputs
    label: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keep: object = field(default=None, repr=False, compare=False)


def record(
    run: Run, case: Case, rows: Sequence[Mapping[str, Any]], without: Collection[str] = ()
) -> dict[str, Any]:
    """The prediction record of one patient, JSON values only.

    Args:
        rows: of `inference.predicted_rows` for the patient, one, or one a finding.
        without: modalities that the caller took away.
    Raises:
        InputError: the model gives no number for what is left of the patient.
    """
    first = rows[0]
    said = [_said(run, row, n) for n, row in enumerate(rows)]
    if not all(math.isfinite(p) for one in said for p in one["prob"].values()):
        raise InputError(
            f"the model gives no number for patient {case.sample_id} with what is left of it; "
            f"leave at least one modality in"
        )
    mine = left(case.inputs)[0]
    has = [m for m in _names(run, case) if m in mine]
    away = [m for m in _names(run, case) if m in without]
    return {
        "sample_id": case.sample_id,
        "task": run.task,
        "kind": run.trained.outcome.kind,
        "predictions": said,
        "s": _number(first[Predictions.S]),
        "w_large": _number(first[Predictions.W_LARGE]),
        "w_small": _number(first[Predictions.W_SMALL]),
        "leads": leads(first[Predictions.W_LARGE], first[Predictions.W_SMALL]),
        "spread": _number(first[Predictions.SPREAD]),
        "router": _router(run, first[Predictions.ROUTER]),
        "used": [_used(run, case, m) for m in has if m not in away],
        "absent": [m for m in _names(run, case) if m not in has],
        "without": [m for m in away if m in has],
        "provenance": {
            "model_hash": run.model_hash,
            "adacomed": __version__,
            "method": run.method,
            "title": str(run.meta["title"]),
            "simulated": bool(run.meta["simulated"]),
            "research_use": RESEARCH_USE,
        },
    }


def _names(run: Run, case: Case) -> list[str]:
    """What the run reads, in the order of its cohort's card."""
    read = {*case.inputs.vectors, *case.inputs.tables, *case.inputs.raw}
    return [m for m in run.card.modalities if m in read]


def _said(run: Run, row: Mapping[str, Any], n: int) -> dict[str, Any]:
    """One row of predictions.parquet, in words."""
    outcome = run.trained.outcome
    classes = classes_of(run, n)
    if len(classes) > 2:
        probabilities = [float(row[prob_column(k)]) for k in range(len(classes))]
    else:
        probabilities = [1 - float(row[Predictions.PROB]), float(row[Predictions.PROB])]
    inside = row[Predictions.SET]
    threshold = float(row[Predictions.THRESHOLD])
    return {
        "task": row[Predictions.TASK],
        "classes": classes,
        "prob": dict(zip(classes, probabilities, strict=True)),
        "threshold": None if len(classes) > 2 else threshold,
        "positive": None if len(classes) > 2 else probabilities[1] >= threshold,
        "prediction_set": None if inside is None else [classes[k] for k in inside],
        "logit_large": _number(row[Predictions.LOGIT_LARGE]),
        "logit_small": _number(row[Predictions.LOGIT_SMALL]),
        **_when(outcome, row),
    }


def classes_of(run: Run, n: int = 0) -> list[str]:
    """Names of the classes of a record's n-th prediction; of two the second is the positive one."""
    if run.trained.outcome.kind == "findings":
        return [f"no {run.classes[n]}", run.classes[n]]
    return list(class_names(run))


def _when(outcome: Outcome, row: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(outcome, Survival):
        return dict.fromkeys(("horizon", "unit", "survival", "intervals"))
    return {
        "horizon": float(row[Predictions.HORIZON]),
        "unit": outcome.unit,
        "survival": [float(p) for p in row[Predictions.SURVIVAL]],
        "intervals": [float(end) for end in row[Predictions.INTERVALS]],
    }


def _number(x: Any) -> float | None:
    return float(x) if x is not None and math.isfinite(x) else None


def _router(run: Run, weights: Sequence[float] | None) -> dict[str, float]:
    """Expert → weight, the largest first, those above 0."""
    pairs = zip(run.meta["experts"], weights or (), strict=False)
    return {name: float(w) for name, w in sorted(pairs, key=lambda p: -p[1]) if w > 0}


def _used(run: Run, case: Case, name: str) -> dict[str, Any]:
    """What was read of one modality, without a value of it."""
    inputs, told = case.inputs, provenance(run, case.inputs)
    found: dict[str, Any] = {"modality": name, "kind": run.card.modalities[name].kind}
    found["items"] = int(case.items.get(name, 1))
    if name in told:
        found["source"] = told[name].removeprefix(f"{name}: ")
    else:
        found["source"] = "table" if name in inputs.tables else "raw"
    if name in inputs.tables and name in run.trained.fitted.tables:
        found |= cells_of(run.trained.fitted.tables[name], inputs.tables[name])
    if case.unknown.get(name):
        found["unknown"] = list(case.unknown[name])
    return found


def cells_of(encoder: TableEncoder, row: pl.DataFrame) -> dict[str, Any]:
    """Of one row: the cells that are recorded, columns that are not, categories never seen."""
    missing, unseen = [], []
    for column in encoder.columns:
        cell = row[column.name][0]
        if cell is None:
            missing.append(column.name)
        elif isinstance(column, Category) and not column.encode(row[column.name]).any():
            unseen.append(column.name)
    return {"cells": len(encoder.columns) - len(missing), "missing": missing, "unseen": unseen}
