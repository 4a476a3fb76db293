"""The user's own table: reading it, and giving each input column its type."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.errors import InputError, nearest
from adacomed.schema import TabularCard

NOT_RECORDED = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]
MAX_CATEGORIES = 20  # a text column with more distinct values (and > 5 % of the rows) is free text
LARGEST = 1e18  # in single precision the square of anything larger is infinite
NAMED = 5  # rows and patients named in one message


def read_table(path: Path, ids: Iterable[str] = ()) -> pl.DataFrame:
    """Read a csv (`,` `;` or tab) or parquet table, (N, columns).

    Args:
        path: .csv, .tsv or .parquet.
        ids: columns that are names of patients or samples: read as text, so that `007` stays `007`.
    Raises:
        InputError: no such file, another format, or unreadable.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table; expected a .csv or .parquet file")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix in (".csv", ".tsv", ".txt"):
            return _read_csv(path, set(ids))
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save it as CSV UTF-8") from None
    except pl.exceptions.NoDataError:
        raise InputError(f"{path}: is empty; expected a header and one row per sample") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        why = "a row has more cells than the header" if "more fields" in str(error) else ""
        why = why or type(error).__name__  # the error's own text may quote a patient's values
        raise InputError(f"{path}: not a readable {path.suffix} table ({why})") from None
    raise InputError(f"{path}: expected a .csv or .parquet table, found {path.suffix!r}")


def _read_csv(path: Path, ids: set[str]) -> pl.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    separator = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=separator), [])
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"{path}: the header names the column {twice[0]!r} twice; rename one")
    frame = pl.read_csv(
        path,
        infer_schema=False,
        separator=separator,
        null_values=NOT_RECORDED,
    )
    return frame.with_columns(_typed(frame[c]) for c in frame.columns if c not in ids)


def _typed(column: pl.Series) -> pl.Series:
    """Numbers as numbers where every cell is one; codes such as 007 stay text."""
    if column.null_count() == len(column) or column.str.contains(r"^0\d").any():
        return column
    for dtype in (pl.Int64, pl.Float64):
        numbers = column.str.strip_chars().cast(dtype, strict=False)
        if numbers.null_count() == column.null_count():
            return numbers
    return column


def as_text(column: pl.Series) -> pl.Series:
    """Values as text in one spelling: 3, 3.0 and `"3"` are `"3"`; NaN and blank are null."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.is_finite() & (column == column.round())
        as_int = column.set(~whole.fill_null(False), None).cast(pl.Int64, strict=False)
        return as_int.cast(pl.String).fill_null(column.cast(pl.String))
    if column.dtype == pl.String:
        stripped = column.str.strip_chars()
        return stripped.set(stripped == "", None)
    return column.cast(pl.String)


def require_columns(frame: pl.DataFrame, names: Sequence[str], where: str) -> None:
    """Raise an InputError that names the first of `names` that `frame` lacks, and the nearest."""
    for name in names:
        if name not in frame.columns:
            raise InputError(f"{where}: no column {name!r}{nearest(name, frame.columns)}")


def name_rows(rows: Sequence[int], ids: Sequence[str]) -> str:
    """`row 3 (patient P3), row 9 (patient P9) and 4 more`; rows count from 1 below the header."""
    named = ", ".join(f"row {r + 1} (patient {ids[r]})" for r in rows[:NAMED])
    more = len(rows) - NAMED
    return f"{named} and {more} more" if more > 0 else named


def code_column(column: pl.Series, card: TabularCard, ids: Sequence[str], where: str) -> pl.Series:
    """One input column as the models see it: Float64 (an amount) or String (a category), (N,).

    A column is a category where the card says so, or where it holds text with few distinct values;
    a yes/no column is 0/1. Codes under `missing` become null.

    Args:
        column: (N,), named.
        ids: (N,) sample ids, for messages.
        where: the modality, for messages.
    Raises:
        InputError: text in a numeric column, free text, dates, infinite values.
    """
    name = column.name
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Float64)
    if column.dtype in (pl.Float64, pl.Int64) and name not in card.categorical:
        return _amount(column, _missing(tuple(card.missing)), ids, where)
    if column.dtype.is_temporal() or column.dtype.is_nested():
        raise InputError(f"{where}: column {name!r} holds {column.dtype}; write it as a number")
    text = as_text(column)
    if card.missing:
        text = text.set(text.is_in(list(_missing(tuple(card.missing)))), None)
    if name in card.categorical:
        return _one_spelling(text).alias(name)
    numbers = text.cast(pl.Float64, strict=False).fill_nan(None)
    bad = (numbers.is_null() & text.is_not_null()).arg_true().to_list()
    if numbers.count() < len(bad):
        return _category(text, name, where)
    if bad:
        raise InputError(
            f"{where}: text in the numeric column {name!r}, at {name_rows(bad, ids)}; list the "
            f"code under missing: if it means not recorded, or the column under categorical:"
        )
    return _amount(numbers.alias(name), (), ids, where)


def _amount(column: pl.Series, missing: Iterable[str], ids: Sequence[str], where: str) -> pl.Series:
    """A column of numbers as Float64, missing codes as null; quick where rows are few."""
    numbers = column.to_numpy().astype(np.float64) + 0.0  # −0 and 0 are one number
    codes = [float(c) for c in missing if _is_number(c)]
    if codes:
        numbers[np.isin(numbers, codes)] = np.nan
    too_large = np.flatnonzero(np.abs(numbers) > LARGEST).tolist()
    if too_large:
        rows = name_rows(too_large, ids)
        raise InputError(
            f"{where}: infinite value (beyond {LARGEST:g}) in {column.name!r}, at {rows}"
        )
    return pl.Series(column.name, numbers, nan_to_null=True)


@lru_cache(maxsize=256)
def _missing(codes: tuple[str | int | float, ...]) -> frozenset[str]:
    """The codes as text in every spelling that a column may have: −1, "-1", "-1.0"."""
    text = as_text(pl.Series([str(c) for c in codes], dtype=pl.String))
    floats = as_text(text.cast(pl.Float64, strict=False))
    return frozenset(c for c in (*text, *floats) if c is not None)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _one_spelling(text: pl.Series) -> pl.Series:
    """`"3.0"` read as text is the category `"3"`."""
    numbers = as_text(text.cast(pl.Float64, strict=False))
    whole = numbers.str.contains(r"^-?\d+$") & text.str.contains(r"\.0*$")
    return text.zip_with(~whole.fill_null(False), numbers)


def _category(text: pl.Series, name: str, where: str) -> pl.Series:
    distinct = text.drop_nulls().n_unique()
    if distinct > max(MAX_CATEGORIES, len(text) // 20):
        raise InputError(
            f"{where}: column {name!r} holds text with {distinct} distinct values; list it under "
            f"categorical: if they are categories, or make it a modality of its own with kind: text"
        )
    return text.alias(name)
