"""Reads the folder that a report is about: a run, or the folder of a comparison."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from adacomed.errors import InputError, nearest
from adacomed.evaluation.predictions import prob_columns, read_predictions
from adacomed.schema import TEST, Predictions, RunFiles

HEADLINE, CEILING = "adacomed", "bayes"
CELL = [Predictions.REPEAT, Predictions.SEED]  # one cell holds every test patient at most once


@dataclass(frozen=True)
class Source:
    """Everything a report reads; what the folder does not have is None or empty.

    Attributes:
        predictions: schema.Predictions, one task.
        history: schema.History.
        config: the text of config.yaml.
        metrics, environment, inputs: the JSON files.
        hashes: file name → SHA-256 of what was read.
    """

    folder: Path
    predictions: pl.DataFrame
    history: pl.DataFrame | None = None
    config: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @cached_property
    def test(self) -> pl.DataFrame:
        """Labelled test rows: what every number and curve is made from."""
        known = pl.col(Predictions.LABEL).is_not_null()
        return self.predictions.filter((pl.col(Predictions.SPLIT) == TEST) & known)

    @cached_property
    def methods(self) -> list[str]:
        """Methods in the order of the file."""
        names = self.predictions[Predictions.METHOD].unique(maintain_order=True)
        return [str(name) for name in names]

    @property
    def headline(self) -> str:
        """The method that the report is about: AdaCoMed, else the first."""
        return HEADLINE if HEADLINE in self.methods else self.methods[0]

    @property
    def simulated(self) -> bool:
        """Whether the cohort is simulated; only a simulated one has a Bayes ceiling."""
        return bool(self.metrics.get("simulated")) or CEILING in self.methods

    @property
    def prob_columns(self) -> list[str]:
        """`prob`, or `prob_0 … prob_{K−1}` for K > 2 classes."""
        return prob_columns(self.predictions) or [Predictions.PROB]

    @property
    def repeated(self) -> bool:
        """Whether a patient is tested more than once (repeats or seeds)."""
        keys = [c for c in CELL if c in self.test.columns]
        return bool(keys) and len(self.test.select(keys).unique()) > 1

    def rows(self, method: str) -> pl.DataFrame:
        """Labelled test rows of one method."""
        return self.test.filter(pl.col(Predictions.METHOD) == method)

    def patients(self, method: str) -> pl.DataFrame:
        """Test rows of one method in its first repeat and seed: each patient once."""
        rows = self.rows(method)
        for column in CELL:
            if column in rows.columns and len(rows):
                first = rows[column].min()
                rows = rows.filter(pl.col(column).eq_missing(pl.lit(first)))
        return rows


def one_vs_rest(
    source: Source, rows: pl.DataFrame
) -> list[tuple[str, NDArray[np.int64], NDArray[np.float64]]]:
    """Binary problems inside `rows`: (class name, y (N,), p (N,)).

    The name is "" for a binary task, else "class k" for each of the K classes against the rest.
    """
    label = rows[Predictions.LABEL].to_numpy().astype(np.int64)
    columns = source.prob_columns
    if len(columns) == 1:
        return [("", label, rows[columns[0]].to_numpy().astype(np.float64))]
    return [
        (f"class {k}", (label == k).astype(np.int64), rows[column].to_numpy().astype(np.float64))
        for k, column in enumerate(columns)
    ]


def read_source(folder: Path) -> Source:
    """Read a run or a comparison folder; only predictions.parquet must be there.

    Files that a comparison folder lacks are taken from its `run/`.

    Raises:
        InputError: no folder, no predictions, missing columns, more than one task, unreadable file.
    """
    if not folder.is_dir():
        siblings = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"{folder}: no such run folder{nearest(folder.name, siblings)}")
    found = {
        name: path
        for name in vars(RunFiles).values()
        if isinstance(name, str)
        for path in (folder / "run" / name, folder / name)
        if path.is_file()
    }
    predictions = _predictions(folder)
    metrics = _json(found.get(RunFiles.METRICS))  # a comparison keeps its settings in here
    environment = _json(found.get(RunFiles.ENVIRONMENT)) or metrics.get("environment") or {}
    settings = metrics.get("experiment")
    config = yaml.safe_dump(settings, sort_keys=False) if isinstance(settings, dict) else ""
    return Source(
        folder=folder,
        predictions=predictions,
        history=_parquet(found[RunFiles.HISTORY]) if RunFiles.HISTORY in found else None,
        config=_text(found.get(RunFiles.CONFIG)) or config,
        metrics=metrics,
        environment=environment if isinstance(environment, dict) else {},
        inputs=_json(found.get(RunFiles.INPUTS)),
        hashes={
            name: hashlib.sha256(found[name].read_bytes()).hexdigest()
            for name in (RunFiles.PREDICTIONS, RunFiles.MODEL)
            if name in found
        },
    )


def _predictions(folder: Path) -> pl.DataFrame:
    if not (folder / RunFiles.PREDICTIONS).is_file():
        raise InputError(
            f"{folder}: no {RunFiles.PREDICTIONS} in it; a report needs a finished run "
            "(adacomed train) or comparison (adacomed compare)"
        )
    frame = read_predictions(folder)
    tasks = frame[Predictions.TASK].unique().sort().to_list()
    if len(tasks) > 1:
        raise InputError(
            f"{folder}: holds {len(tasks)} tasks ({', '.join(tasks)}), a report is about one; "
            "write each task's rows to a folder of its own"
        )
    return frame


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError):
        raise InputError(f"{path}: not a readable parquet file; run the step again") from None


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        data = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON at line {error.lineno}") from None
    return data if isinstance(data, dict) else {}


def _text(path: Path | None) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path else ""


def finite(value: object) -> float | None:
    """A float that can be shown, else None.

    >>> finite(0.5), finite(None), finite(float("nan"))
    (0.5, None, None)
    """
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
