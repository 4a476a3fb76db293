"""A table as numbers that models take: fitted on training rows, kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.errors import InputError, nearest

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Amount:
    """A numeric column: (x − mean) · scale, `scale` = 1 / std, or 0 for a constant column."""

    name: str
    mean: float
    scale: float

    @property
    def columns_out(self) -> list[str]:
        """One column."""
        return [self.name]

    def encode(self, column: pl.Series) -> Array:
        """(N,) → (N, 1) float32; NaN = not observed."""
        if column.dtype in (pl.Float64, pl.Null):  # nothing to look for: a null comes out as NaN
            return self._scaled(column.to_numpy().astype(np.float64))
        numbers = column.cast(pl.Float64, strict=False).fill_nan(None)
        bad = (numbers.is_null() & column.is_not_null() & ~_is_nan(column)).arg_true().to_list()
        if bad:
            rows = ", ".join(str(row + 1) for row in bad[:5])
            raise InputError(
                f"text in the numeric column {self.name!r}, row {rows}; a number or an empty cell "
                f"would work"
            )
        return self._scaled(numbers.fill_null(float("nan")).to_numpy())

    def _scaled(self, values: NDArray[np.float64]) -> Array:
        scaled: Array = ((values - self.mean) * self.scale).astype(np.float32)
        return scaled[:, None]


@dataclass(frozen=True)
class Category:
    """A categorical column, one-hot over the values seen in training."""

    name: str
    values: tuple[str, ...]

    @property
    def columns_out(self) -> list[str]:
        """One column per value."""
        return [f"{self.name}={value}" for value in self.values]

    def encode(self, column: pl.Series) -> Array:
        """(N,) → (N, values) float32; a new value is all zeros, a missing one all NaN."""
        text = np.array(_as_categories(column), dtype=object)
        hot: Array = (text[:, None] == np.array(self.values, dtype=object)).astype(np.float32)
        hot[text == None] = np.nan  # noqa: E711 (elementwise)
        return hot


@dataclass(frozen=True)
class TableEncoder:
    """A fitted table: amounts standardised, categories one-hot, NaN where not observed.

    What is not observed stays NaN: imputing, or a mask, is the model's choice.
    """

    columns: tuple[Amount | Category, ...]

    @classmethod
    def fit(cls, frame: pl.DataFrame) -> TableEncoder:
        """Learn means, deviations (population) and vocabularies from training rows only.

        Args:
            frame: (N, columns) of numbers (amounts) and text (categories); null = not observed.
        Raises:
            InputError: no rows.
        """
        if not len(frame):
            raise InputError("a table needs at least one training row")
        return cls(tuple(_fit(column) for column in frame))

    @property
    def columns_out(self) -> list[str]:
        """Names of the P output columns: `age`, `sex=F`, `sex=M`, …"""
        return [name for column in self.columns for name in column.columns_out]

    def transform(self, frame: pl.DataFrame) -> Array:
        """(N, columns) → (N, P) float32, NaN = not observed; extra columns are ignored.

        Raises:
            InputError: a column is missing, or holds text where training had numbers.
        """
        for column in self.columns:
            if column.name not in frame.columns:
                hint = nearest(column.name, frame.columns)
                raise InputError(f"the table lacks the column {column.name!r}{hint}")
        parts = [column.encode(frame[column.name]) for column in self.columns]
        empty = np.empty((len(frame), 0), dtype=np.float32)
        return np.concatenate([empty, *parts], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """The fitted state as plain JSON values."""
        return {
            "columns": [
                {"name": c.name, "mean": c.mean, "scale": c.scale}
                if isinstance(c, Amount)
                else {"name": c.name, "values": list(c.values)}
                for c in self.columns
            ]
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> TableEncoder:
        """The encoder that `to_dict` wrote."""
        return cls(
            tuple(
                Category(c["name"], tuple(c["values"]))
                if "values" in c
                else Amount(c["name"], float(c["mean"]), float(c["scale"]))
                for c in state["columns"]
            )
        )


def _fit(column: pl.Series) -> Amount | Category:
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        values = {value for value in _as_categories(column) if value is not None}
        return Category(column.name, tuple(sorted(values)))
    observed = column.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
    if not len(observed):
        return Amount(column.name, 0.0, 0.0)
    mean, std = float(observed.mean()), float(observed.std())
    constant = std <= 1e-12 * abs(mean)  # rounding alone can leave a constant column such a std
    return Amount(column.name, mean, 0.0 if constant else 1.0 / std)


def _is_nan(column: pl.Series) -> pl.Series:
    if column.dtype.is_float():
        return column.is_nan().fill_null(False)
    return pl.Series([False] * len(column), dtype=pl.Boolean)


def _as_categories(column: pl.Series) -> list[str | None]:
    """Text as it is; a code read as a number in the spelling of an integer: 3.0 → "3"."""
    if column.dtype.is_numeric():
        numbers = column.cast(pl.Float64).fill_nan(None).to_list()
        return [None if n is None else f"{n:.15g}" for n in numbers]
    if column.dtype in (pl.String, pl.Null):
        return column.to_list()
    return column.cast(pl.String).to_list()
