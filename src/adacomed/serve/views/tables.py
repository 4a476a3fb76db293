"""A table as rows of column and value, beside what the training patients had."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from adacomed.readers.tabular import Amount, Category, TableEncoder

USUAL = 2.0  # training deviations from the mean; what lies beyond is marked


@dataclass(frozen=True)
class Cell:
    """One column of a patient's table.

    Attributes:
        value: as text; empty where nothing was recorded.
        usual: of the training patients, in words: mean ± standard deviation, or the values seen.
        mark: "high", "low" or "new" (no training patient had it), else empty.
    """

    column: str
    value: str
    usual: str = ""
    mark: str = ""

    @property
    def recorded(self) -> bool:
        """Whether there is a value."""
        return self.value != ""


def cells(table: pl.DataFrame, fitted: TableEncoder | None) -> list[Cell]:
    """The columns of a one-row table, in its order.

    Args:
        fitted: what training learnt of the columns; None: the run reads them in another way.
    """
    known = {} if fitted is None else {column.name: column for column in fitted.columns}
    return [_cell(column, known.get(column.name)) for column in table]


def _cell(column: pl.Series, fitted: Amount | Category | None) -> Cell:
    value = column[0]
    if isinstance(value, float) and value != value:
        value = None
    text = "" if value is None else _text(value)
    if isinstance(fitted, Category):
        seen = fitted.values
        mark = "new" if value is not None and _code(value) not in seen else ""
        more = ", …" if len(seen) > 6 else ""
        return Cell(column.name, text, f"one of {', '.join(seen[:6])}{more}" if seen else "", mark)
    if fitted is None:
        return Cell(column.name, text)
    if not fitted.scale:
        return Cell(column.name, text, f"always {fitted.mean:.4g}, so it is not used")
    deviation = 1 / fitted.scale
    low, high = fitted.mean - USUAL * deviation, fitted.mean + USUAL * deviation
    mark = ""
    if value is not None and isinstance(value, int | float):
        mark = "low" if value < low else "high" if value > high else ""
    return Cell(column.name, text, f"{fitted.mean:.4g} ± {deviation:.3g}", mark)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _code(value: object) -> str:
    """A category as it is spelt in training: 3.0 is "3"."""
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)
