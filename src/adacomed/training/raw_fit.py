"""What is fitted on raw inputs, on training patients only: ranges, document vectors, views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adacomed.models.raw import (
    NONE,
    Events,
    Images,
    ImageShape,
    Notes,
    Raw,
    SeriesShape,
    Shape,
    TextShape,
)
from adacomed.readers.doc2vec import DocumentVectors
from adacomed.training.raw import IMAGE_SIZE, RawItems, RawModality, RawSeries

MAX_STEPS = 256  # distinct time stamps of a series that a model reads, the last ones
MAX_WORDS = 256  # words of a note that a model reads as tokens
RANGE = (1.0, 99.0)  # percentiles of a variable in training that become 0 and 1


@dataclass(frozen=True)
class SeriesRange:
    """Per variable the training range that becomes [0, 1]; values beyond it are clipped.

    A variable that no training patient has is none: a model could not have learned from it.
    """

    names: tuple[str, ...]
    low: NDArray[np.float32]  # (V,)
    high: NDArray[np.float32]

    @classmethod
    def fit(cls, series: RawSeries) -> SeriesRange:
        """From the training patients' measurements; the cohort's own bins where it gives them."""
        seen = np.unique(series.variable)
        names = tuple(series.names[v] for v in seen)
        ends = [
            series.bins.get(series.names[v])
            or np.percentile(series.value[series.variable == v], RANGE)
            for v in seen
        ]
        low, high = np.array(ends, np.float32).reshape(-1, 2).T.copy()
        return cls(names, low, high)

    def events(self, series: RawSeries | None, n: int) -> Events:
        """The series of n samples on their own time stamps; another variable is left out."""
        V = len(self.names)
        if series is None:
            return Events(torch.full((n, 1), torch.nan), torch.full((n, 1, V), torch.nan))
        number = {name: v for v, name in enumerate(self.names)}
        known = np.array([number.get(name, -1) for name in series.names], np.int64)
        steps = [self._steps(series, i, known) for i in range(n)]
        T = max((len(hours) for hours, _ in steps), default=0) or 1
        hours, value = np.full((n, T), np.nan, np.float32), np.full((n, T, V), np.nan, np.float32)
        for i, (mine, values) in enumerate(steps):
            hours[i, : len(mine)], value[i, : len(mine)] = mine, values
        return Events(torch.from_numpy(hours), torch.from_numpy(value))

    def _steps(
        self, series: RawSeries, i: int, known: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sample i's distinct hours (T,) and scaled values (T, V); the last value of a time."""
        part = slice(series.start[i], series.start[i + 1])
        variable = known[series.variable[part]]
        keep = variable >= 0
        hours, step = np.unique(series.hours[part][keep], return_inverse=True)
        value = np.full((len(hours), len(self.names)), np.nan, np.float32)
        value[step, variable[keep]] = series.value[part][keep]
        spread = np.where(self.high > self.low, self.high - self.low, 1)
        scaled: NDArray[np.float32] = np.clip((value - self.low) / spread, 0, 1)
        return hours[-MAX_STEPS:], scaled[-MAX_STEPS:]


@dataclass(frozen=True)
class FittedRaw:
    """Ranges, document vectors and views of the training patients.

    Attributes:
        series: modality → range of every variable.
        notes: modality → Doc2Vec of the training notes.
        views: image modality → kinds of view seen in training, at least one.
    """

    series: dict[str, SeriesRange] = field(default_factory=dict)
    notes: dict[str, DocumentVectors] = field(default_factory=dict)
    views: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def fit(cls, raw: Mapping[str, RawModality], *, seed: int) -> FittedRaw:
        """From the raw inputs of the training patients alone."""
        fitted = cls()
        for name, mine in raw.items():
            if isinstance(mine, RawSeries):
                fitted.series[name] = SeriesRange.fit(mine)
                continue
            used = mine.item[mine.item != NONE]  # of each patient in time order
            if mine.texts:
                texts = [mine.texts[i] for i in used]
                fitted.notes[name] = DocumentVectors.fit(texts, seed=seed)
            else:
                seen = {mine.view[i] for i in used}
                fitted.views[name] = tuple(sorted(seen)) or ("",)
        return fitted

    @property
    def shapes(self) -> dict[str, Shape]:
        """Modality → what a model must be built for."""
        shapes: dict[str, Shape] = {m: SeriesShape(len(s.names)) for m, s in self.series.items()}
        shapes |= {m: TextShape(d.vocabulary, d.width) for m, d in self.notes.items()}
        return shapes | {m: ImageShape(len(v), IMAGE_SIZE) for m, v in self.views.items()}

    def tensors(self, raw: Mapping[str, RawModality], n: int) -> dict[str, Raw]:
        """The raw inputs of n samples; a modality that `raw` lacks is absent for all of them."""
        found: dict[str, Raw] = {}
        for name, scale in self.series.items():
            mine = raw.get(name)
            found[name] = scale.events(mine if isinstance(mine, RawSeries) else None, n)
        for name in (*self.notes, *self.views):
            mine = raw.get(name)
            mine = mine if isinstance(mine, RawItems) else _nothing(n)
            found[name] = (
                self._notes(name, mine) if name in self.notes else self._images(name, mine)
            )
        return found

    def _notes(self, name: str, mine: RawItems) -> Notes:
        used, item = _compact(mine.item)
        texts, vectors = [mine.texts[i] for i in used], self.notes[name]
        return Notes(
            torch.from_numpy(vectors.vectors(texts)),
            torch.from_numpy(vectors.tokens(texts, MAX_WORDS)),
            torch.from_numpy(item),
        )

    def _images(self, name: str, mine: RawItems) -> Images:
        """A view that training never saw is read as the first one."""
        used, item = _compact(mine.item)
        views = self.views[name]
        kind = [views.index(v) if (v := mine.view[i]) in views else 0 for i in used]
        return Images(
            torch.from_numpy(mine.pixels[used]),
            torch.tensor(kind, dtype=torch.int64),
            torch.from_numpy(item),
            torch.from_numpy(mine.hours),
        )

    def save(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """(tensors, JSON values) from which `load` makes the same again."""
        tensors: dict[str, torch.Tensor] = {}
        state: dict[str, Any] = {"views": {m: list(v) for m, v in self.views.items()}}
        state["series"] = {m: list(s.names) for m, s in self.series.items()}
        for name, scale in self.series.items():
            tensors[f"raw.{name}.low"] = torch.from_numpy(scale.low)
            tensors[f"raw.{name}.high"] = torch.from_numpy(scale.high)
        state["notes"] = {}
        for name, vectors in self.notes.items():
            arrays, state["notes"][name] = vectors.to_arrays()
            tensors |= {f"raw.{name}.{k}": torch.from_numpy(v.copy()) for k, v in arrays.items()}
        return tensors, state

    @classmethod
    def load(cls, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> FittedRaw:
        """What `save` gave."""

        def mine(name: str, *parts: str) -> dict[str, NDArray[Any]]:
            return {part: tensors[f"raw.{name}.{part}"].numpy() for part in parts}

        return cls(
            {
                m: SeriesRange(tuple(v), **mine(m, "low", "high"))
                for m, v in state["series"].items()
            },
            {
                m: DocumentVectors.from_arrays(mine(m, "input", "output", "count"), s)
                for m, s in state["notes"].items()
            },
            {m: tuple(v) for m, v in state["views"].items()},
        )


def _compact(item: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the items that occur, and `item` (n, I) with their new numbers."""
    used = np.unique(item[item != NONE])
    return used, np.where(item == NONE, NONE, np.searchsorted(used, item))


def _nothing(n: int) -> RawItems:
    """n samples without any item."""
    item = np.full((n, 1), NONE, np.int64)
    pixels = np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    return RawItems(pixels, (), (), item, np.full((n, 1), np.nan, np.float32))
