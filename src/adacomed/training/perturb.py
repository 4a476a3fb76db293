"""The same patients with less or worse inputs: a modality taken away, noise added."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.matrix import Mapped, has_vector
from adacomed.training.loader import Inputs
from adacomed.training.scaling import moments

Floats = NDArray[np.float64]


def modalities(inputs: Inputs) -> list[str]:
    """Names of everything that some method may read of these patients, large side first."""
    return list(dict.fromkeys([*inputs.vectors, *inputs.tables, *inputs.raw]))


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every subset of the modalities, from none to all: 2^M."""
    for size in range(len(names) + 1):
        yield from combinations(names, size)


def without(inputs: Inputs, names: Collection[str]) -> Inputs:
    """The same N patients, as if nobody had the modalities `names`: absent, not zero."""
    return replace(
        inputs,
        vectors={
            m: np.full_like(x, np.nan) if m in names else x for m, x in inputs.vectors.items()
        },
        tables={m: t.clear(len(t)) if m in names else t for m, t in inputs.tables.items()},
        raw={m: r for m, r in inputs.raw.items() if m not in names},
    )


def presence(inputs: Inputs) -> NDArray[np.bool_]:
    """(N, M): who has any of a modality, as a vector, as cells of a table or as raw items."""
    columns = []
    for name in modalities(inputs):
        here = np.zeros(len(inputs), bool)
        if name in inputs.vectors:
            here |= has_vector(inputs.vectors[name])
        if name in inputs.tables and inputs.tables[name].width:
            cells = inputs.tables[name].select(pl.any_horizontal(pl.all().is_not_null()))
            here |= cells.to_series().to_numpy().astype(bool)
        if name in inputs.raw:
            here |= ~np.isnan(inputs.raw[name].placeholder()[:, 0])
        columns.append(here)
    return np.stack(columns, axis=1)


def left(inputs: Inputs) -> list[list[str]]:
    """The modalities that each of the N patients has, tables and raw inputs included."""
    names = modalities(inputs)
    return [[m for m, h in zip(names, row, strict=True) if h] for row in presence(inputs)]


@dataclass(frozen=True)
class Spread:
    """Standard deviation of every input over the training patients.

    Attributes:
        vectors: modality → (D,).
        tables: modality → column → deviation; a category has none.
    """

    vectors: dict[str, Floats]
    tables: dict[str, dict[str, float]]

    @classmethod
    def of(cls, train: Inputs) -> Spread:
        """From the training patients alone; an input that none of them has does not vary."""
        vectors = {}
        for name, x in train.vectors.items():
            here = np.flatnonzero(has_vector(x))
            if not len(here):
                vectors[name] = np.zeros(x.shape[1])
            elif isinstance(x, Mapped):
                vectors[name] = moments(x.take(here))[1]
            else:
                vectors[name] = x[here].astype(np.float64).std(axis=0)
        tables = {
            name: {
                c.name: float(c.cast(pl.Float64).fill_nan(None).std(ddof=0) or 0.0)  # type: ignore[arg-type]
                for c in table
                if c.dtype.is_numeric()
            }
            for name, table in train.tables.items()
        }
        return cls(vectors, tables)


def noisy(inputs: Inputs, amount: float, spread: Spread) -> Inputs:
    """The same patients with Gaussian noise on vectors and on numbers in tables.

    Categories, series, images and notes stay as they are. A patient's noise depends on the patient
    alone, so that every method is given the same and another batch changes nothing.

    Args:
        amount: deviation of the noise, in training deviations of each input.
    """
    tables, vectors = {}, {}
    for name, x in inputs.vectors.items():
        noise = _noise(inputs, name, x.shape[1]) * spread.vectors[name] * amount
        own = name in inputs.own  # a placeholder that says who has one: its table is disturbed
        vectors[name] = x if own else (x + noise).astype(np.float32)
    for name, table in inputs.tables.items():
        deviation = spread.tables[name]
        noise = _noise(inputs, name, len(deviation)) * amount
        tables[name] = table.with_columns(
            (pl.col(c) + pl.Series(noise[:, i] * d)).alias(c)
            for i, (c, d) in enumerate(deviation.items())
        )
    return replace(inputs, vectors=vectors, tables=tables)


def _noise(inputs: Inputs, modality: str, width: int) -> Floats:
    """(N, width) standard normal, each row by its sample's and the modality's name."""
    rows = np.empty((len(inputs), width))
    for row, sample in zip(rows, inputs.sample_id, strict=True):
        digest = hashlib.sha256(f"{modality}\0{sample}".encode()).digest()
        row[:] = np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(size=width)
    return rows
