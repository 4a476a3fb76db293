"""What a predictions table can be split by: sex, age band, site, modality pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl

from adacomed.errors import InputError, nearest
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.schema import Predictions, Samples, group_column

MODALITIES = "modalities"  # the group that every table has: what a patient came with
UNKNOWN, NOTHING = "unknown", "none"
FEW_VALUES = 6  # a number with more distinct values than this is banded
AGES = (40, 65, 80)
AGE_BANDS = ("< 40", "40–64", "65–79", "≥ 80")
LEAST = 20  # samples of a level below which it has no metric
LEAST_OF_A_CLASS = 5
GROUP, LEVEL = "group", "level"
_ROW = "row of the whole table"
_PREFIX = group_column("")
_AGE = re.compile(r"(^|_)age(_|$)", re.IGNORECASE)


class Levels(NamedTuple):
    """What a table's rows are split by: each row's level, and all levels in their order."""

    of_row: pl.Series
    order: list[str]


def with_groups(
    predictions: pl.DataFrame, samples: pl.DataFrame, names: Sequence[str]
) -> pl.DataFrame:
    """Predictions with a column `group_<name>` for each of a cohort's `groups:`.

    Args:
        samples: the cohort's table, one row per sample_id; a sample that it lacks gets null.
        names: columns of `samples`.
    Raises:
        InputError: no such column.
    """
    for name in names:
        if name not in samples.columns:
            raise InputError(f"groups: no column {name!r}{nearest(name, samples.columns)}")
    columns = [pl.col(name).alias(group_column(name)) for name in names]
    old = [c for c in map(group_column, names) if c in predictions.columns]
    if not columns or Samples.SAMPLE_ID not in predictions.columns:
        return predictions
    return predictions.drop(old).join(
        samples.select(Samples.SAMPLE_ID, *columns),
        on=Samples.SAMPLE_ID,
        how="left",
        maintain_order="left",
    )


def group_names(predictions: pl.DataFrame) -> list[str]:
    """What a table can be split by without being told: its group columns, then the modalities."""
    names = [shown(c) for c in predictions.columns if c.startswith(_PREFIX)]
    return [*names, *([MODALITIES] if Predictions.PRESENT in predictions.columns else [])]


def shown(name: str) -> str:
    """What a group is called: its column without `group_`."""
    return name.removeprefix(_PREFIX)


def levels_of(predictions: pl.DataFrame, name: str) -> Levels:
    """Split the rows of a table by a group.

    A number with more than 6 distinct values is banded: an age into < 40, 40–64, 65–79 and ≥ 80
    years, another by the quartiles of the table's samples. No value is `unknown`.

    Args:
        name: `sex` or `group_sex` for the column `group_sex`, any other column, or `modalities`:
            the pattern of `present`, such as `ct + wsi`.
    Raises:
        InputError: no such column, or one that holds lists.
    """
    short = shown(name)
    if short == MODALITIES and Predictions.PRESENT in predictions.columns:
        return _patterns(predictions[Predictions.PRESENT])
    found = [c for c in (group_column(short), name) if c in predictions.columns]
    if not found:
        known = [*group_names(predictions), *predictions.columns]
        raise InputError(f"no column to split by for {name!r}{nearest(name, known)}")
    column = predictions[found[0]]
    if column.dtype.is_nested():
        raise InputError(f"column {found[0]!r} holds lists, expected one value per row")
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if column.dtype.is_numeric() and column.n_unique() - bool(column.null_count()) > FEW_VALUES:
        return _banded(column, predictions[Predictions.SAMPLE_ID], _AGE.search(short) is not None)
    return _named(column)


def _patterns(present: pl.Series) -> Levels:
    """Patterns with more modalities first."""
    text = present.list.join(" + ").replace("", NOTHING)
    seen = pl.DataFrame({"text": text, "size": present.list.len()}).drop_nulls().unique()
    order = seen.sort(pl.col("size"), "text", descending=[True, False])["text"].to_list()
    return _with_unknown(text, order)


def _banded(column: pl.Series, sample: pl.Series, is_age: bool) -> Levels:
    values = column.cast(pl.Float64).to_numpy()
    if is_age:
        cuts, names = np.array(AGES, float), list(AGE_BANDS)
        band = np.searchsorted(cuts, values, side="right")
    else:
        once = pl.DataFrame({"s": sample, "x": column}).unique("s", maintain_order=True)["x"]
        cuts = np.unique(np.quantile(once.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
        ends = [f"{cut:.6g}" for cut in cuts]
        between = [f"> {a} to {b}" for a, b in pairwise(ends)]
        names = [f"≤ {ends[0]}", *between, f"> {ends[-1]}"]
        band = np.searchsorted(cuts, values, side="left")
    known = column.is_not_null().to_numpy()
    text = pl.Series([names[b] if k else None for b, k in zip(band, known, strict=True)])
    return _with_unknown(text.cast(pl.String), names)


def _named(column: pl.Series) -> Levels:
    if column.dtype == pl.Boolean:
        text = column.replace_strict({True: "yes", False: "no"}, return_dtype=pl.String)
    elif column.dtype.is_float() and bool((column.drop_nulls() % 1 == 0).all()):
        text = column.cast(pl.Int64).cast(pl.String)
    else:
        text = column.cast(pl.String)
    both = pl.DataFrame({"value": column, "text": text}).drop_nulls()
    order = both.unique("text").sort("value")["text"].to_list()
    return _with_unknown(text, order)


def _with_unknown(text: pl.Series, order: list[str]) -> Levels:
    """The levels that occur, `unknown` last."""
    filled = text.fill_null(UNKNOWN)
    there = set(filled.to_list())
    return Levels(filled, [x for x in dict.fromkeys([*order, UNKNOWN]) if x in there])


# ---- rows of a level ----------------------------------------------------------------------------
def split_rows(
    predictions: pl.DataFrame, by: str | Sequence[str], split: str
) -> Iterator[tuple[pl.DataFrame, str, list[str]]]:
    """Each method's labelled rows of a split with their level of a group, and all its levels.

    The whole table decides what the levels are, so that all methods have the same quartiles. Of
    survival, the label is the event by the horizon.
    """
    names = [by] if isinstance(by, str) else list(by)
    levels: dict[str, Levels] = {name: levels_of(predictions, name) for name in names}
    rows = (
        at_horizon(predictions)
        .with_row_index(_ROW)
        .filter((pl.col(Predictions.SPLIT) == split) & pl.col(Predictions.LABEL).is_not_null())
    )
    for part in rows.partition_by(Predictions.TASK, Predictions.METHOD, maintain_order=True):
        for name, (of_row, order) in levels.items():
            mine = part.with_columns(of_row[part[_ROW]].alias(LEVEL)).drop(_ROW)
            yield mine, shown(name), order


def too_few(rows: pl.DataFrame, least: int = LEAST) -> str:
    """Why a level's rows of one method are too few for a metric, or "".

    Subjects count as well as samples: many rows of few patients say little.
    """
    K = Cells(rows).K
    for unit, what in ((Predictions.SAMPLE_ID, "samples"), (Predictions.SUBJECT_ID, "subjects")):
        whole = rows[unit].n_unique()
        if whole < least:
            return f"too few: {_count(whole, what)}"
        for k in range(K):
            here = rows.filter(pl.col(Predictions.LABEL) == k)[unit].n_unique()
            if here < LEAST_OF_A_CLASS:
                return f"too few: {_class_words(here, k, K, what)}"
    return ""


def _class_words(n: int, k: int, K: int, what: str) -> str:
    if K > 2:
        return f"{_count(n, what)} of class {k}"
    named = ("non-events", "events")[k]
    return _count(n, named) if what == "samples" else f"{named} of {_count(n, what)}"


def _count(n: int, what: str) -> str:
    return f"{n or 'no'} {what[:-1] if n == 1 else what}"
