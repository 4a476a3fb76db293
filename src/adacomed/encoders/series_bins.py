"""Irregular series → an hourly grid, as encoders of regular series read it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.readers.series import Series

LONGEST = 8192  # hours: the longest context of any model here


def bin_hourly(series: Series, hours: int, step: float = 1.0) -> NDArray[np.float64]:
    """Mean of each variable's values within each bin, (V, T), NaN where nothing was observed.

    Args:
        series: V = len(series.names).
        hours: from the index time; bin t holds [t · step, (t + 1) · step) hours, and what lies
            before 0 or from `hours` on is left out.
        step: width of a bin in hours; T = ceil(hours / step).
    """
    variables, bins = len(series.names), int(np.ceil(hours / step))
    bin_of = np.floor(series.hours / step)
    inside = (bin_of >= 0) & (series.hours < hours)
    cell = series.variable[inside] * bins + bin_of[inside].astype(np.int64)
    total = np.bincount(cell, series.value[inside], minlength=variables * bins)
    count = np.bincount(cell, minlength=variables * bins)
    mean: NDArray[np.float64] = np.full(len(total), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.reshape(variables, bins)


def observed_grid(series: Series, hours: int) -> NDArray[np.float64]:
    """`bin_hourly` of a series that has something to read, (V, hours).

    Raises:
        InputError: no observed value in these hours, or one that is not a finite number.
    """
    if not (np.isfinite(series.value).all() and np.isfinite(series.hours).all()):
        raise InputError("a value or a time of the series is not a finite number")
    grid = bin_hourly(series, hours)
    if np.isnan(grid).all():
        raise InputError(
            f"no observed value within {hours} hours from the index time "
            f"({len(series.hours)} measurements lie outside); the encoder's option is hours"
        )
    return grid


def check_hours(hours: int, longest: int = LONGEST) -> None:
    """Raise an InputError where `hours` is no whole number of 1 … `longest`."""
    if isinstance(hours, bool) or not isinstance(hours, int) or not 1 <= hours <= longest:
        raise InputError(f"hours {hours!r}: expected a whole number from 1 to {longest}")
