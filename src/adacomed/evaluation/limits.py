"""Which 95 % interval each figure of a row gets; `docs/evaluation.md` says why, with coverages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from adacomed.evaluation.intervals import LEVEL, delong, percentile, wilson
from adacomed.evaluation.newcombe import newcombe
from adacomed.evaluation.predictions import Cells
from adacomed.evaluation.scored import Floats, Scored
from adacomed.schema import Predictions

DELONG, NEWCOMBE, BOOTSTRAP, CONSTANT = "DeLong", "Newcombe", "bootstrap", "constant scores"
POSITIVE = ("brier", "log_loss", "ece")  # interval on the log scale
FREE = ("net_benefit",)  # symmetric interval
HEAVY = ("calibration_slope", "calibration_intercept")  # percentiles: resamples may be far out
SHARES = ("acc", "sensitivity", "specificity", "ppv", "npv")


class Limits(NamedTuple):
    """(M,) lower and upper limits of M metrics, and where the AUROC's come from."""

    low: Floats
    high: Floats
    auroc: str


def limits(cells: Cells, names: list[str], value: Floats, draws: Floats) -> Limits:
    """95 % intervals of the metrics of one task and method.

    Args:
        names: M metrics of METRICS.
        value: (M,) their values, `cells.value(names)`.
        draws: (n, M) them in n resamples, `cells.resampled(names, n, seed)`.
    Returns:
        NaN where there is no interval. `auroc` is one of the constants of this file.
    """
    low, high = bootstrap_limits(names, value, draws, _rarest(cells) - 1)
    source = BOOTSTRAP
    for i, name in enumerate(names):
        if cells.K != 2:
            continue
        if name == "auroc":
            low[i], high[i], source = _auroc(cells, value[i], (low[i], high[i]))
        elif name in SHARES:
            low[i], high[i] = _share(cells, name, value[i], (low[i], high[i]))
    return Limits(low, high, source)


def bootstrap_limits(
    names: list[str], value: Floats, draws: Floats, degrees: float
) -> tuple[Floats, Floats]:
    """Intervals from resampled values: value ± t · deviation, on a scale that suits the metric.

    Shares and areas on the logit scale, losses on the log scale, the net benefit as it is; the
    deviation is brought to that scale by the delta method. The percentiles are taken instead for
    the calibration line, and for a value at the end of its scale. Where every resample gives the
    same value it says nothing about the uncertainty, and there is no interval.

    Args:
        names: M metrics.
        value: (M,) their values.
        draws: (n, M) their values in n resamples; NaN is left out, more than half of it is NaN.
        degrees: of freedom of t: subjects of the rarest class less 1; below 1 is taken for 1.
    """
    low, high = percentile(draws)
    t = float(student.isf((1 - LEVEL) / 2, max(1.0, degrees)))
    sd = np.nanstd(np.where(np.isnan(low), 0.0, draws), axis=0)
    none = np.isnan(low) | np.isnan(value) | (sd < 1e-12)
    for i, name in enumerate(names):
        v, half = value[i], t * sd[i]
        if none[i] or name in HEAVY:
            continue
        if name in FREE:
            low[i], high[i] = v - half, v + half
        elif name in POSITIVE and v > 0:
            low[i], high[i] = v * np.exp(-half / v), v * np.exp(half / v)
        elif name not in POSITIVE and 0 < v < 1:
            scaled = half / (v * (1 - v))
            low[i], high[i] = expit(logit(v) - scaled), expit(logit(v) + scaled)
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def _auroc(cells: Cells, value: float, found: tuple[float, float]) -> tuple[float, float, str]:
    """Limits of a binary AUROC, and where they come from."""
    if np.isnan(value):
        return np.nan, np.nan, BOOTSTRAP
    label, prob = cells.columns["label"], cells.columns["prob"]
    if len(np.unique(prob)) == 1:
        return value, value, CONSTANT
    if cells.independent:
        _, low, high = delong(label, prob, logit_scale=True, student=True)
        if not np.isnan(low):
            return low, high, DELONG
    if cells.independent or value in (0, 1):
        _, low, high = newcombe(value, *(_subjects(cells, k) for k in (1, 0)))
        return low, high, NEWCOMBE
    return *found, BOOTSTRAP


def _share(
    cells: Cells, name: str, value: float, found: tuple[float, float]
) -> tuple[float, float]:
    """Wilson's limits of a share where subjects have one row each, or where all or none is right.

    A resample of none wrong has none wrong: the bootstrap would give an interval of no width.
    """
    if np.isnan(value) or not (cells.independent or value in (0, 1)):
        return found
    columns = cells.columns
    scored = Scored.of(columns["label"], columns["prob"], columns["threshold"])
    among = {
        "acc": np.ones(len(scored.label), dtype=bool),
        "sensitivity": scored.label == 1,
        "specificity": scored.label == 0,
        "ppv": scored.decision == 1,
        "npv": scored.decision == 0,
    }[name]
    size = cells.rows.filter(among)[Predictions.SUBJECT_ID].n_unique()
    low, high = wilson(value * size, size)
    return float(low), float(high)


def _subjects(cells: Cells, label: int) -> int:
    rows = cells.rows
    return rows.filter(rows[Predictions.LABEL] == label)[Predictions.SUBJECT_ID].n_unique()


def _rarest(cells: Cells) -> int:
    """Subjects of the rarest class that occurs."""
    found = [_subjects(cells, k) for k in range(cells.K)]
    return min((m for m in found if m), default=0)
