"""What a run is and what it takes, for programs: `/v1/model`; and a patient that it would take."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from adacomed import __version__
from adacomed.readers.tabular import Category, TableEncoder
from adacomed.schema import RunFiles, SeriesCard, TabularCard, TextCard
from adacomed.serve.arrival import asked_for
from adacomed.serve.given import known_variables, takes_vectors, wanted
from adacomed.serve.service import Service
from adacomed.training.checkpoint import Run

NOTICE = "Research use only: not a medical device."


def run_card(service: Service) -> dict[str, Any]:
    """The run's task, inputs, measured quality and model card, as JSON values."""
    run = service.run
    trained, meta = run.trained, run.meta
    metrics = run.folder / RunFiles.METRICS
    words = run.folder / RunFiles.MODEL_CARD
    return {
        "title": meta["title"],
        "simulated": bool(meta["simulated"]),
        "research_use": NOTICE,
        "task": run.task,
        "kind": trained.outcome.kind,
        "classes": list(run.classes),
        "method": run.method,
        "model_hash": run.model_hash,
        "adacomed": {"trained": meta["adacomed"], "serves": __version__},
        "threshold": trained.threshold,
        "calibration": None if trained.calibrator is None else trained.calibrator.to_dict(),
        "sets": None if trained.sets is None else trained.sets.to_dict(),
        "modalities": {name: modality_card(run, name) for name in asked_for(run)},
        "unavailable": dict(service.unavailable),
        "metrics": json.loads(metrics.read_text("utf-8")) if metrics.is_file() else None,
        "model_card": words.read_text("utf-8") if words.is_file() else None,
    }


def modality_card(run: Run, name: str) -> dict[str, Any]:
    """What one modality is, and what a caller may send of it."""
    card, fitted = run.card.modalities[name], run.trained.fitted
    told: dict[str, Any] = {"kind": card.kind, "takes": wanted(run, name)}
    if takes_vectors(run, name):
        told["width"] = fitted.native[name]
    if (encoder := getattr(card, "encoder", None)) is not None:
        mark = run.meta.get("encoders", {}).get(name)
        # a path behind the encoder's name is the maker's own
        told["encoder"] = encoder.partition(":")[0] + (f"@{mark}" if mark else "")
    if isinstance(card, TabularCard):
        told["columns"] = _columns(card, fitted.tables.get(name))
    if isinstance(card, SeriesCard):
        names = known_variables(run, name) or tuple(card.units)
        told["variables"] = {v: {"unit": card.units.get(v)} for v in names}
        told["window_hours"] = card.window
    return told


def _columns(card: TabularCard, fitted: TableEncoder | None) -> dict[str, Any]:
    """Column → how it is written; of a table that is only put into words any value will do."""
    columns: dict[str, Any] = {name: {"type": "number or text"} for name in card.columns}
    for column in fitted.columns if fitted else ():
        if isinstance(column, Category):
            columns[column.name] = {"type": "category", "values": list(column.values)}
        else:
            deviation = 1 / column.scale if column.scale else 0.0
            columns[column.name] = {
                "type": "number",
                "training_mean": round(column.mean, 4),
                "training_deviation": round(deviation, 4),
            }
    return columns


def example_patient(run: Run) -> dict[str, Any]:
    """A made-up patient that the run takes, with a value of every modality that JSON can hold."""
    found = {name: example_value(run, name) for name in asked_for(run)}
    there = {name: value for name, value in found.items() if value is not None}
    return {"sample_id": "example-1", "modalities": there}


def example_value(run: Run, name: str) -> Any:
    """A modality's value in the middle of what was seen in training; None: JSON cannot hold one."""
    card, fitted = run.card.modalities[name], run.trained.fitted
    if isinstance(card, TabularCard):
        if card.summarise:
            return None  # made of its series
        return _example_row(card, fitted.tables.get(name))
    if isinstance(card, TextCard):
        return "Short of breath for two days."
    if isinstance(card, SeriesCard):
        variables = known_variables(run, name) or tuple(card.units) or ("heart rate",)
        return [
            {"hours": float(hour), "variable": variable, "value": 1.0}
            for variable in variables[:2]
            for hour in (0, 6)
        ]
    if not takes_vectors(run, name):
        return None
    mean = np.nan_to_num(np.asarray(fitted.large[name].mean, dtype=np.float64)).reshape(-1)
    return [round(float(x), 3) for x in mean[: fitted.native[name]]]


def _example_row(card: TabularCard, fitted: TableEncoder | None) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(card.columns)
    for column in fitted.columns if fitted else ():
        if isinstance(column, Category):
            row[column.name] = column.values[0] if column.values else None
        else:
            row[column.name] = round(column.mean, 1)
    return row
