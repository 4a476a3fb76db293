"""Reads the folder that a report is about: a run, or the folder of a comparison."""

from __future__ import annotations

import hashlib
import json
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
from adacomed.schema import CEILING, TEST, Predictions, RunFiles, group_column

HEADLINE = "adacomed"
CELL = [Predictions.REPEAT, Predictions.SEED]  # one cell holds every test patient at most once


@dataclass(frozen=True)
class Source:
    """Everything a report reads; what the folder does not have is None or empty.

    Attributes:
        predictions: schema.Predictions of the task that the report is about.
        history: schema.History.
        config: the text of config.yaml.
        metrics, environment, inputs, flow: the JSON files.
        hashes: file name → SHA-256 of what was read.
        every: schema.Predictions of all tasks, where the folder has several.
        stress: predictions of the task with modalities taken away or noise added.
        explanations: schema.Explanations.
    """

    folder: Path
    predictions: pl.DataFrame
    history: pl.DataFrame | None = None
    config: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    flow: dict[str, Any] = field(default_factory=dict)
    every: pl.DataFrame | None = None
    stress: pl.DataFrame | None = None
    explanations: pl.DataFrame | None = None

    @cached_property
    def test(self) -> pl.DataFrame:
        """Labelled test rows: what every number and curve is made from."""
        known = pl.col(Predictions.LABEL).is_not_null()
        return self.predictions.filter((pl.col(Predictions.SPLIT) == TEST) & known)

    @property
    def task(self) -> str:
        """The task that the report is about."""
        return str(self.predictions[Predictions.TASK][0])

    @property
    def tasks(self) -> list[str]:
        """Every task of the folder, that one among them."""
        frame = self.predictions if self.every is None else self.every
        return [str(t) for t in frame[Predictions.TASK].unique(maintain_order=True)]

    @cached_property
    def survival(self) -> bool:
        """Whether the task is time to an event: its rows have times and survival curves."""
        needed = (Predictions.TIME, Predictions.SURVIVAL, Predictions.INTERVALS)
        frame = self.predictions
        return all(c in frame.columns and frame[c].null_count() < len(frame) for c in needed)

    @property
    def groups(self) -> list[str]:
        """Columns with a cohort's groups, such as `group_sex`, that hold a value."""
        frame, start = self.predictions, group_column("")
        return [c for c in frame.columns if c.startswith(start) and frame[c].drop_nulls().len()]

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


def read_source(folder: Path, task: str | None = None) -> Source:
    """Read a run or a comparison folder; only predictions.parquet must be there.

    Files that a comparison folder lacks are taken from its `run/`.

    Args:
        task: whose charts are shown, where there are several tasks or findings; default: the one
            with the most test patients in its rarer class.
    Raises:
        InputError: no folder, no predictions, missing columns, no such task, unreadable file.
    """
    if not folder.is_dir():
        siblings = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"{folder}: no such run folder{nearest(folder.name, siblings)}")
    found = _files(folder)
    every = _predictions(folder)
    shown = _shown(every, task, folder)
    predictions = every.filter(pl.col(Predictions.TASK) == shown)
    metrics = _json(found.get(RunFiles.METRICS))  # a comparison keeps its settings in here
    environment = _json(found.get(RunFiles.ENVIRONMENT)) or metrics.get("environment") or {}
    settings = metrics.get("experiment")
    config = yaml.safe_dump(settings, sort_keys=False) if isinstance(settings, dict) else ""
    return Source(
        folder=folder,
        predictions=predictions,
        history=_parquet(found.get(RunFiles.HISTORY)),
        config=_text(found.get(RunFiles.CONFIG)) or config,
        metrics=metrics,
        environment=environment if isinstance(environment, dict) else {},
        inputs=_json(found.get(RunFiles.INPUTS)),
        hashes={
            name: hashlib.sha256(found[name].read_bytes()).hexdigest()
            for name in (RunFiles.PREDICTIONS, RunFiles.MODEL)
            if name in found
        },
        flow=_json(found.get(RunFiles.FLOW)),
        every=every if len(predictions) < len(every) else None,
        stress=_stress(found.get(RunFiles.STRESS), shown),
        explanations=_parquet(found.get(RunFiles.EXPLANATIONS)),
    )


def _files(folder: Path) -> dict[str, Path]:
    """The files of schema.RunFiles that are there; the folder's own come before its run's."""
    return {
        name: path
        for name in vars(RunFiles).values()
        if isinstance(name, str)
        for path in (folder / "run" / name, folder / name)
        if path.is_file()
    }


def _predictions(folder: Path) -> pl.DataFrame:
    if not (folder / RunFiles.PREDICTIONS).is_file():
        raise InputError(
            f"{folder}: no {RunFiles.PREDICTIONS} in it; a report needs a finished run "
            "(adacomed train) or comparison (adacomed compare)"
        )
    return read_predictions(folder)


def _shown(frame: pl.DataFrame, task: str | None, folder: Path) -> str:
    """The task to show: the one asked for, else that with the largest rarer class."""
    tasks = [str(t) for t in frame[Predictions.TASK].unique(maintain_order=True)]
    if task is not None:
        if task not in tasks:
            raise InputError(f"{folder}: no task {task!r}{nearest(task, tasks)}")
        return task
    test = frame.filter(pl.col(Predictions.SPLIT) == TEST).unique(
        [Predictions.TASK, Predictions.SAMPLE_ID], maintain_order=True
    )
    event, none = pl.col(Predictions.LABEL) > 0, pl.col(Predictions.LABEL) == 0
    rarer = test.group_by(Predictions.TASK).agg(pl.min_horizontal(event.sum(), none.sum()))
    counts = dict(rarer.iter_rows())
    return max(tasks, key=lambda name: int(counts.get(name, -1)))


def _stress(path: Path | None, task: str) -> pl.DataFrame | None:
    """The stress table of one task; None where there is none, or it is of an older layout."""
    frame = _parquet(path)
    needed = (*Predictions.REQUIRED, Predictions.KEPT, Predictions.NOISE)
    if frame is None or any(column not in frame.columns for column in needed):
        return None
    mine = frame.filter(pl.col(Predictions.TASK) == task, pl.col(Predictions.LABEL).is_not_null())
    return mine if len(mine) else None


def _parquet(path: Path | None) -> pl.DataFrame | None:
    if path is None:
        return None
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
