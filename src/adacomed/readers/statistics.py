"""Summary statistics of measurements over time: a series as a row of a table.

Source: what Soenksen et al., npj Digital Medicine 2022 (HAIM), and most clinical scores make of
vital signs and laboratory values before a model of tables reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.table import LARGEST
from adacomed.errors import InputError, nearest
from adacomed.readers.series import Series, SeriesTable

STATISTICS = ("mean", "std", "min", "max", "first", "last", "slope", "count")
READ_AT_ONCE = 256  # samples


def summarise(series: Series) -> NDArray[np.float64]:
    """Every variable's statistics over one sample's measurements.

    In the variable's own unit: mean, std (population: 0 for a single value), min, max, first and
    last (of values at one time the smallest is the first, the largest the last); slope of the
    least-squares line, per hour, NaN where all values have one time; count of the values.

    Returns:
        (V, 8) in the order of `series.names` and `STATISTICS`; NaN for a variable not observed.
    """
    found = np.full((len(series.names), len(STATISTICS)), np.nan)
    if not len(series.hours):
        return found
    order = np.argsort(series.variable, kind="stable")  # each variable's values stay in time order
    hours, value = series.hours[order], series.value[order]
    seen, start, count = np.unique(series.variable[order], return_index=True, return_counts=True)
    end = start + count - 1
    mean = np.add.reduceat(value, start) / count
    away = value - np.repeat(mean, count)
    later = hours - np.repeat(np.add.reduceat(hours, start) / count, count)
    slope = np.full(len(seen), np.nan)
    moves = hours[end] > hours[start]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # times next to each other
        line = np.add.reduceat(later * away, start) / np.add.reduceat(later**2, start)
    moves &= np.abs(line) <= LARGEST
    slope[moves] = line[moves]
    found[seen] = np.column_stack(
        [
            mean,
            np.sqrt(np.add.reduceat(away**2, start) / count),
            np.minimum.reduceat(value, start),
            np.maximum.reduceat(value, start),
            value[start],
            value[end],
            slope,
            count,
        ]
    )
    return found


def statistics_table(
    series: SeriesTable, samples: Sequence[str], columns: Sequence[str] = (), *, strict: bool = True
) -> pl.DataFrame:
    """The statistics of n samples as a table: `hr mean`, `hr std`, … `hr count`, `map mean`, ….

    Memory is bounded by the table and `READ_AT_ONCE` series.

    Args:
        samples: sample ids.
        columns: which statistics, in this order; none: all, by variable (sorted) and statistic.
        strict: False for new patients: a column may name a variable that nobody's series has.
    Returns:
        n rows of Float64; null where the variable was not observed, or its slope is not defined.
    Raises:
        InputError: a column that is no statistic, or (strict) of an unknown variable; no value.
    """
    place = {
        f"{name} {statistic}": (v, k)
        for v, name in sorted(enumerate(series.names), key=lambda pair: pair[1])
        for k, statistic in enumerate(STATISTICS)
    }
    wanted = list(columns) or list(place)
    if not wanted:
        raise InputError(f"{series.path}: not one value in it to summarise")
    for column in wanted:
        _check(column, series, strict)
    found = np.full((len(samples), len(wanted)), np.nan)
    at = [(c, *place[column]) for c, column in enumerate(wanted) if column in place]
    into, variable_of, statistic_of = np.array(at, np.int64).reshape(-1, 3).T
    for first in range(0, len(samples), READ_AT_ONCE):
        for n, mine in enumerate(series.read(samples[first : first + READ_AT_ONCE])):
            if mine is not None:
                found[first + n, into] = summarise(mine)[variable_of, statistic_of]
    types = dict.fromkeys(wanted, pl.Float64)
    return pl.DataFrame(found, schema=types, orient="row").fill_nan(None)


def _check(column: str, series: SeriesTable, strict: bool) -> None:
    """Raise an InputError where a column names no statistic, or (strict) no variable there."""
    variable, _, statistic = column.rpartition(" ")
    if statistic not in STATISTICS:
        raise InputError(
            f"column {column!r} names no summary statistic such as 'hr mean'"
            f"{nearest(statistic, STATISTICS)}"
        )
    if strict and variable not in series.names:
        hint = nearest(variable, series.names[:50])
        raise InputError(f"column {column!r}: no variable {variable!r} in {series.path}{hint}")
