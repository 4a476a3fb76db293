"""A predictions table: read and checked, and cut into the sets that a metric is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.errors import InputError, nearest
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import Columns, bootstrap
from adacomed.evaluation.scored import HALF, Floats, Scored
from adacomed.schema import Predictions, RunFiles, prob_column

NAMES = (
    Predictions.SAMPLE_ID,
    Predictions.SUBJECT_ID,
    Predictions.SPLIT,
    Predictions.TASK,
    Predictions.METHOD,
)  # text, whatever the file says


def read_predictions(path: Path) -> pl.DataFrame:
    """Read any predictions table: a parquet or csv file, or a run folder that holds one.

    Returns:
        The table as it is, with ids, split, task and method as text, label as integer.
    Raises:
        InputError: no such file, another format, a required column is missing (schema.Predictions),
            no rows, a row without id or method, a label that is not an integer ≥ 0, or a
            probability that is missing, NaN or outside [0, 1].
    """
    file = path / RunFiles.PREDICTIONS if path.is_dir() else path
    if not file.is_file():
        around = file.parent.iterdir() if file.parent.is_dir() else ()
        raise InputError(f"{file}: no such file{nearest(file.name, (f.name for f in around))}")
    frame = _read(file)
    lacking = [c for c in Predictions.REQUIRED if c not in frame.columns]
    if lacking:
        raise InputError(
            f"{file}: column {', '.join(map(repr, lacking))} is missing; "
            f"it has {', '.join(frame.columns)}"
        )
    if frame.is_empty():
        raise InputError(f"{file}: has no rows")
    frame = frame.with_columns(pl.col(NAMES).cast(pl.String))
    for column in (
        Predictions.SAMPLE_ID,
        Predictions.SUBJECT_ID,
        Predictions.TASK,
        Predictions.METHOD,
    ):
        if frame[column].null_count():
            raise InputError(f"{file}: {frame[column].null_count()} rows have no {column}")
    return _checked_labels(_checked_probabilities(frame, file), file)


def _read(file: Path) -> pl.DataFrame:
    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv}
    if file.suffix not in readers:
        raise InputError(f"{file}: predictions are read from .parquet or .csv")
    try:
        if file.suffix == ".csv":
            return pl.read_csv(file, infer_schema_length=None)
        return pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError):
        raise InputError(f"{file}: not a readable {file.suffix[1:]} file") from None


def _checked_probabilities(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    for column in [Predictions.PROB, *prob_columns(frame), Predictions.THRESHOLD]:
        if column not in frame.columns:
            continue
        value = frame[column].cast(pl.Float64, strict=False)
        unread = value.is_null() & (
            frame[column].is_not_null() | pl.lit(column == Predictions.PROB)
        )
        wrong = frame.select(unread | value.is_nan() | ((value < 0) | (value > 1))).to_series()
        ids = frame.filter(wrong.fill_null(False))[Predictions.SAMPLE_ID].to_list()
        if ids:
            raise InputError(
                f"{file}: {column} of {len(ids)} rows is not a number in [0, 1]: {listed(ids)}"
            )
        frame = frame.with_columns(value)
    return frame


def _checked_labels(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Integer labels below the number of classes; null stays: a new patient."""
    given = frame[Predictions.LABEL]
    value = given.cast(pl.Float64, strict=False)
    K = max(2, len(prob_columns(frame)))
    fits = (value >= 0) & (value < K) & (value == value.floor())
    ids = frame.filter(given.is_not_null() & ~fits.fill_null(False))[
        Predictions.SAMPLE_ID
    ].to_list()
    if ids:
        raise InputError(
            f"{file}: label of {len(ids)} rows is not a class 0 … {K - 1} ({listed(ids)}); more "
            f"classes need the columns {prob_column(0)}, {prob_column(1)}, …"
        )
    return frame.with_columns(value.cast(pl.Int64))


def prob_columns(frame: pl.DataFrame) -> list[str]:
    """prob_0 … prob_{K−1} of a table with a task of K > 2 classes, else none."""
    k = 0
    while prob_column(k) in frame.columns:
        k += 1
    return [prob_column(i) for i in range(k)] if k > 2 else []


def listed(ids: Iterable[str], most: int = 5) -> str:
    """Some ids for a message: `p1, p2 and 3 more`."""
    every = list(dict.fromkeys(ids))
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


@dataclass(frozen=True)
class Cells:
    """The labelled rows of one task and method, in cells that hold every sample once.

    A cell is a repeat × seed: the test patients of all its folds together. A metric is computed in
    each cell and averaged over them.
    """

    rows: pl.DataFrame

    @property
    def task(self) -> str:
        """The task of every row."""
        return str(self.rows[Predictions.TASK][0])

    @property
    def method(self) -> str:
        """The method of every row."""
        return str(self.rows[Predictions.METHOD][0])

    @cached_property
    def keys(self) -> list[str]:
        """Columns that tell the cells apart.

        Raises:
            InputError: a sample occurs twice in a cell.
        """
        keys = [c for c in (Predictions.REPEAT, Predictions.SEED) if c in self.rows.columns]
        if Predictions.FOLD in self.rows.columns and len(self._twice(keys)):
            keys = [
                *keys,
                Predictions.FOLD,
            ]  # validation patients: each fold has its own set of them
        twice = self._twice(keys)
        if len(twice):
            raise InputError(
                f"task {self.task!r}, method {self.method!r}: {listed(twice)} twice; a sample "
                f"may have one row per repeat, seed and fold"
            )
        return keys

    def _twice(self, keys: list[str]) -> pl.Series:
        return self.rows.filter(pl.struct(Predictions.SAMPLE_ID, *keys).is_duplicated())[
            Predictions.SAMPLE_ID
        ]

    @cached_property
    def columns(self) -> dict[str, NDArray[np.generic]]:
        """label (N,), prob (N,) or (N, K), threshold (N,) and cell (N,) as arrays."""
        rows = self.rows
        classes = [c for c in prob_columns(rows) if rows[c].null_count() == 0]
        cut = (
            rows[Predictions.THRESHOLD].fill_null(HALF)
            if Predictions.THRESHOLD in rows.columns
            else None
        )
        cell = rows.select(pl.struct(self.keys).rank("dense")) if self.keys else None
        return {
            "label": rows[Predictions.LABEL].to_numpy(),
            "prob": rows.select(classes).to_numpy()
            if classes
            else rows[Predictions.PROB].to_numpy(),
            "threshold": np.full(len(rows), HALF) if cut is None else cut.to_numpy(),
            "cell": np.zeros(len(rows), int) if cell is None else cell.to_series().to_numpy(),
        }

    @property
    def K(self) -> int:
        """Number of classes."""
        shape = self.columns["prob"].shape
        return int(shape[1]) if len(shape) == 2 else 2

    @property
    def independent(self) -> bool:
        """Whether every subject has one row."""
        return self.rows[Predictions.SUBJECT_ID].n_unique() == len(self.rows)

    def value(self, metrics: list[str]) -> Floats:
        """(M,) the metrics, each averaged over the cells."""
        value: Floats = _averaged(metrics)(self.columns, np.ones((1, len(self.rows))))[0]
        return value

    def resampled(self, metrics: list[str], n: int, seed: int) -> Floats:
        """(n, M) the metrics in n resamples of the subjects, stratified by label."""
        subjects = self.rows[Predictions.SUBJECT_ID].to_numpy()
        strata = self.columns["label"]
        return bootstrap(_averaged(metrics), self.columns, subjects, strata, n, seed)


def _averaged(metrics: list[str]) -> Callable[[Columns, Floats], Floats]:
    """The statistic (columns, weight (R, N)) → (R, M): metrics per cell, mean over the cells."""

    def statistic(columns: Columns, weight: Floats) -> Floats:
        total: Floats = np.zeros((len(weight), len(metrics)))
        cells = np.unique(columns["cell"])
        for cell in cells:
            i = np.flatnonzero(columns["cell"] == cell)
            label, prob, cut = (columns[name][i] for name in ("label", "prob", "threshold"))
            scored = Scored.of(label, prob, cut, weight[:, i])
            total += np.stack([METRICS[m].function(scored) for m in metrics], axis=1)
        return total / len(cells)

    return statistic
