"""Raw inputs of a cohort for the methods that read them: series, images and notes, unscaled.

What is fitted on them (ranges, document vectors) is in `raw_fit.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.items import Source
from adacomed.cohort.sources import modality_source
from adacomed.cohort.table import LARGEST
from adacomed.errors import InputError
from adacomed.models.raw import NONE
from adacomed.schema import FileCard, Samples, SeriesCard, TextCard

SAMPLE = Samples.SAMPLE_ID
IMAGE_SIZE = 224  # pixels: an X-ray of the paper's experiments
READ_AT_ONCE = 64  # items


@dataclass(frozen=True)
class RawSeries:
    """Measurements of N samples, one row each, in the order of samples and times.

    Attributes:
        names: of the V variables.
        start: (N + 1,) first measurement of every sample, and their number.
        hours, value: (E,) float32; variable: (E,) int64 index into `names`.
        bins: variable → (low, high) that its values are scaled by, where the cohort says so.
    """

    names: tuple[str, ...]
    start: NDArray[np.int64]
    hours: NDArray[np.float32]
    variable: NDArray[np.int64]
    value: NDArray[np.float32]
    bins: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.int64]) -> RawSeries:
        """The samples at `rows`."""
        counts = np.diff(self.start)[rows]
        start = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(start[-1]) - np.repeat(start[:-1], counts)
        index = np.repeat(self.start[:-1][rows], counts) + within
        picked = (self.hours[index], self.variable[index], self.value[index])
        return RawSeries(self.names, start, *picked, self.bins)

    def placeholder(self) -> NDArray[np.float32]:
        """(N, 1): NaN where a sample has no measurement."""
        return _placeholder(np.diff(self.start) > 0)

    def fingerprint(self) -> bytes:
        """Digest of everything."""
        told = [*self.names, len(self.start), *([dict(self.bins)] if self.bins else [])]
        digest = hashlib.sha256(json.dumps(told).encode())
        for part in (self.start, self.hours, self.variable, self.value):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.digest()


@dataclass(frozen=True)
class RawItems:
    """Images or notes of N samples.

    Attributes:
        pixels: (items, S, S) uint8 grey, of images; texts: of notes; the other one is empty.
        view: kind of view of every image, "" where unknown.
        item: (N, I) row of the item, `NONE` after a sample's last one; in time order.
        hours: (N, I) float32 from the index time, 0 where unknown, NaN where there is no item.
    """

    pixels: NDArray[np.uint8]
    texts: tuple[str, ...]
    view: tuple[str, ...]
    item: NDArray[np.int64]
    hours: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> RawItems:
        """The samples at `rows`; the items stay shared."""
        return replace(self, item=self.item[rows], hours=self.hours[rows])

    def placeholder(self) -> NDArray[np.float32]:
        """(N, 1): NaN where a sample has no item."""
        return _placeholder(self.item[:, 0] != NONE)

    def fingerprint(self) -> bytes:
        """Digest of everything."""
        words = [self.texts, self.view, self.item.shape]
        digest = hashlib.sha256(json.dumps(words).encode())
        for part in (self.pixels, self.item, self.hours):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.digest()


def _placeholder(here: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(here, 0.0, np.nan).astype(np.float32)[:, None]


RawModality = RawSeries | RawItems


def gather_raw(cohort: Cohort, names: Iterable[str]) -> dict[str, RawModality]:
    """The raw inputs of those of `names` that have any: series, images and notes.

    A broken file is an error here too; volumes and slides are read as their encoder's vectors.

    Raises:
        InputError: whatever the cohort's files get wrong.
    """
    found: dict[str, RawModality] = {}
    for name in names:
        card = cohort.card.modalities[name]
        if isinstance(card, SeriesCard):
            found[name] = _series(cohort, name, card)
        elif isinstance(card, TextCard) or (isinstance(card, FileCard) and card.kind == "image"):
            found[name] = _items(cohort, name, card)
    return found


def _series(cohort: Cohort, name: str, card: SeriesCard) -> RawSeries:
    source = modality_source(cohort, name)
    place = {s: i for i, s in enumerate(cohort.samples[SAMPLE].to_list())}
    found = [
        (place[item.sample_id], series)
        for item, series in zip(source.items, _read(source, name), strict=True)
    ]
    found.sort(key=lambda pair: pair[0])
    counts = np.zeros(len(place), np.int64)
    for row, series in found:
        counts[row] = len(series.hours)
    nothing = np.zeros(0)
    columns = [
        np.concatenate([nothing, *(getattr(series, column) for _, series in found)])
        for column in ("hours", "variable", "value")
    ]
    return RawSeries(
        found[0][1].names if found else (),
        np.concatenate([[0], np.cumsum(counts)]),
        columns[0].astype(np.float32),
        columns[1].astype(np.int64),
        columns[2].astype(np.float32),
        card.bins,
    )


def _items(cohort: Cohort, name: str, card: FileCard | TextCard) -> RawItems:
    """The items of a modality with their hours and views, each sample's in time order."""
    beside = [c for c in (card.time, getattr(card, "view", None)) if c]
    listed = cohort.cells_with(name, card.column, *beside)
    source = modality_source(cohort, name)
    rows = _rows_by_sample(source)
    most = max((len(r) for r in rows.values()), default=0) or 1
    item = np.full((len(listed), most), NONE, np.int64)
    hours = np.full((len(listed), most), np.nan, np.float32)
    view = [""] * len(source.items)
    for i, (sample, cells) in enumerate(zip(cohort.samples[SAMPLE].to_list(), listed, strict=True)):
        told = zip(rows.get(sample, []), _told(cells, name, card, sample), strict=True)
        for k, (row, (hour, kind)) in enumerate(sorted(told, key=lambda pair: pair[1][0])):
            item[i, k], hours[i, k], view[row] = row, hour, kind
    if isinstance(card, TextCard):
        texts = tuple(str(t) for t in _read(source, name))
        return RawItems(np.zeros((0, 1, 1), np.uint8), texts, (), item, hours)
    pixels = [_grey(image) for image in _read(source, name)]
    stack = np.stack(pixels) if pixels else np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    return RawItems(stack, (), tuple(view), item, hours)


def _told(
    cells: Sequence[tuple[str | None, ...]], name: str, card: FileCard | TextCard, sample: str
) -> list[tuple[float, str]]:
    """(hours, view) of each of a sample's items, in the order of its source.

    A file that is listed twice is one item, of the earliest of its times.
    """
    found: dict[object, tuple[float, str]] = {}
    for n, row in enumerate(cells):
        hour = _hour(row[1], name, sample) if card.time else 0.0
        kind = (row[-1] or "") if getattr(card, "view", None) else ""
        key = n if card.root is None else row[0]
        if key not in found or hour < found[key][0]:
            found[key] = (hour, kind)
    return list(found.values())


def _rows_by_sample(source: Source) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for position, item in enumerate(source.items):
        rows.setdefault(item.sample_id, []).append(position)
    return rows


def _read(source: Source, name: str) -> Iterator[Any]:
    for first in range(0, len(source.items), READ_AT_ONCE):
        rows = range(first, min(first + READ_AT_ONCE, len(source.items)))
        for position, value in zip(rows, source.read(rows), strict=True):
            if isinstance(value, InputError):
                sample = source.items[position].sample_id
                raise InputError(f"modality {name!r}, sample {sample}: {value}")
            yield value


def _hour(text: str | None, name: str, sample: str) -> float:
    try:
        hour = float(text) if text is not None else 0.0
    except ValueError:
        hour = float("nan")
    if not abs(hour) <= LARGEST:
        raise InputError(f"modality {name!r}, sample {sample}: its time is not a number of hours")
    return hour


def _grey(image: object) -> NDArray[np.uint8]:
    """(H, W, C) in [0, 1] → (S, S) uint8: the mean channel, the whole image in a square."""
    grey = torch.from_numpy(np.asarray(image, np.float32).mean(axis=2))[None, None]
    shape = (IMAGE_SIZE, IMAGE_SIZE)
    square = F.interpolate(grey, shape, mode="bicubic", antialias=True).clamp(0, 1)
    return np.asarray((square[0, 0] * 255).round().to(torch.uint8).numpy())
