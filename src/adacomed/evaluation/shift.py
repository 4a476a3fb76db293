"""Whether a second cohort looks like the first, and whether a model does as well there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedGroupKFold

from adacomed.errors import InputError
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import Columns, bootstrap, percentile
from adacomed.evaluation.scored import Floats, Ints, Scored, ratio

FOLDS = 5
EXCHANGES = 499
TINY = 1e-6  # of an input's deviation over both cohorts: less is rounding
_SCHEMA: dict[str, Any] = {
    "input": pl.String,
    **dict.fromkeys(("mean_a", "mean_b"), pl.Float64),
    **dict.fromkeys(("smd", "smd_low", "smd_high"), pl.Float64),
    **dict.fromkeys(("missing_a", "missing_b"), pl.Float64),
    **dict.fromkeys(("missing_difference", "missing_low", "missing_high"), pl.Float64),
    "note": pl.String,
}


@dataclass(frozen=True)
class Shift:
    """How well two cohorts can be told apart, and by what.

    Attributes:
        auroc: of a classifier that says which cohort a patient is from; 0.5: it cannot.
        low, high: its 95 % interval.
        p: one-sided, that the AUROC is above 0.5 by chance alone.
        n_a, n_b: samples.
        inputs: one row per input, the most different first; see `shift`.
    """

    auroc: float
    low: float
    high: float
    p: float
    n_a: int
    n_b: int
    inputs: pl.DataFrame


def shift(
    x_a: ArrayLike,
    x_b: ArrayLike,
    names: Sequence[str],
    subjects_a: ArrayLike,
    subjects_b: ArrayLike,
    *,
    n: int = 1000,
    seed: int = 0,
) -> Shift:
    """Compare the inputs of two cohorts: a classifier two-sample test, and input by input.

    The classifier is a ridge discriminant (least squares on which cohort it is) of standardised
    inputs and missing indicators, cross-fitted over 5 folds by subject (an id in both cohorts is on
    one side). AUROC is computed in each fold and averaged. p comes from 499 exchanges of the
    subjects' cohorts inside their fold, the classifier fitted anew each time, so that it is exact.
    The interval resamples subjects; that leaves out what other training patients would have
    changed, so it is stretched by as much as refitting widens the exchanges.

    Args:
        x_a: (N, P), NaN = not observed.
        x_b: (M, P), the same inputs.
        names: of the P inputs.
        subjects_a: (N,) subject of each row.
        subjects_b: (M,)
        n: resamples of the subjects behind each interval.
        seed: of folds, resamples and exchanges.
    Returns:
        A `Shift`; `inputs` has input, mean_a, mean_b, smd (mean of b less mean of a, in pooled
        standard deviations) with its interval, missing_a, missing_b (shares),
        missing_difference (b less a) with its interval, and a note where there is no smd. Sorted by
        the larger of |smd| and |missing_difference|; a constant that changes comes first.
    Raises:
        InputError: shapes that do not fit, or fewer than 10 subjects in a cohort.
    Source: Lopez-Paz & Oquab, ICLR 2017 (classifier two-sample tests); Austin, Stat. Med. 2009
        (standardised differences).
    """
    a, b = np.asarray(x_a, dtype=np.float64), np.asarray(x_b, dtype=np.float64)
    who_a, who_b = np.asarray(subjects_a).astype(str), np.asarray(subjects_b).astype(str)
    _check(a, b, names, who_a, who_b)
    x, is_b = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    who = np.concatenate([who_a, who_b])
    value, low, high, p = _told_apart(_design(x), is_b, who, n, seed)
    return Shift(
        auroc=value,
        low=low,
        high=high,
        p=p,
        n_a=len(a),
        n_b=len(b),
        inputs=_inputs(a, b, list(names), who_a, who_b, n, seed),
    )


def _check(a: Floats, b: Floats, names: Sequence[str], who_a: Any, who_b: Any) -> None:
    P = len(names)
    for which, x, who in (("first", a, who_a), ("second", b, who_b)):
        if x.ndim != 2 or x.shape[1] != P or who.shape != x.shape[:1]:
            raise InputError(
                f"the {which} cohort's inputs are {x.shape} with {len(who)} subjects, expected one "
                f"row per sample, a subject for each and {P} columns"
            )
        if len(np.unique(who)) < 2 * FOLDS:
            raise InputError(
                f"the {which} cohort has {len(np.unique(who))} subjects, a comparison needs "
                f"{2 * FOLDS}"
            )


# ---- the classifier -----------------------------------------------------------------------------
def _design(x: Floats) -> Floats:
    """(N, Q): standardised columns, the mean where missing, and indicators of what is missing.

    Nothing here looks at which cohort a row is from.
    """
    gone = np.isnan(x)
    mean, _ = _scale(x)
    both = np.concatenate([np.where(gone, mean, x), gone.astype(np.float64)], axis=1)
    centre, deviation = _scale(both)
    varies = both.std(axis=0) > 0
    return np.asarray(((both - centre) / deviation)[:, varies])


def _scale(x: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation (P,) of what is there; 0 and 1 where nothing is, or nothing varies."""
    here = ~np.isnan(x)
    count = np.maximum(here.sum(axis=0), 1)
    mean = np.where(here, x, 0.0).sum(axis=0) / count
    deviation = np.sqrt((np.where(here, x - mean, 0.0) ** 2).sum(axis=0) / count)
    return mean, np.where(deviation > 0, deviation, 1.0)


def _told_apart(
    x: Floats, is_b: Ints, who: NDArray[np.str_], n: int, seed: int
) -> tuple[float, float, float, float]:
    """Mean AUROC over the folds of cross-fitted scores, its interval, and p."""
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    fold = np.zeros(len(x), np.int64)
    for k, (_, test) in enumerate(folds.split(x, is_b, who)):
        fold[test] = k
    label = _exchanged(is_b, who, fold, seed)  # (N, 1 + E); column 0 as it is
    score = np.zeros(label.shape)
    for k in range(FOLDS):
        here = fold == k
        score[here] = x[here] @ _ridge(x[~here], label[~here])
    refitted = _mean_area(label, score, fold)
    fixed = _mean_area(label, np.repeat(score[:, :1], label.shape[1], axis=1), fold)
    value = float(refitted[0])
    columns = {"is_b": is_b, "score": score[:, 0], "fold": fold}
    low, high = percentile(bootstrap(_fold_auroc, columns, who, is_b, n, seed))
    still = fixed[1:].std()
    stretch = max(1.0, float(refitted[1:].std() / still)) if still > 0 else 1.0
    limits = value - stretch * (value - low), value + stretch * (high - value)
    p = float((refitted >= value - 1e-9).mean())
    return value, max(0.0, float(limits[0])), min(1.0, float(limits[1])), p


def _ridge(x: Floats, y: Floats) -> Floats:
    """Coefficients (Q, R) of least squares on R columns of labels; penalty Q, an intercept apart.

    Solved among rows or columns, whichever are fewer.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    N, Q = x.shape
    if Q <= N:
        return np.asarray(np.linalg.solve(x.T @ x + Q * np.eye(Q), x.T @ y))
    return np.asarray(x.T @ np.linalg.solve(x @ x.T + Q * np.eye(N), y))


def _exchanged(is_b: Ints, who: NDArray[np.str_], fold: Ints, seed: int) -> Floats:
    """(N, 1 + E): each row's cohort, and after exchanges between the patients of a fold."""
    label = np.zeros((len(is_b), 1 + EXCHANGES))
    for k in range(FOLDS):
        i = np.flatnonzero(fold == k)
        # an id in both cohorts is two patients here: each has a cohort to exchange
        _, unit = np.unique(np.char.add(is_b[i].astype(str), who[i]), return_inverse=True)
        cohort = np.zeros(unit.max() + 1)
        cohort[unit] = is_b[i]
        drawn = np.tile(cohort, (1 + EXCHANGES, 1))
        drawn[1:] = np.random.default_rng([seed, k]).permuted(drawn[1:], axis=1)
        label[i] = drawn[:, unit].T
    return label


def _mean_area(label: Floats, score: Floats, fold: Ints) -> Floats:
    """(R,): AUROC of R columns of scores in each fold, averaged."""
    total = np.zeros(label.shape[1])
    for k in range(FOLDS):
        y, rank = label[fold == k], rankdata(score[fold == k], axis=0)
        m = y.sum(axis=0)
        total += ((y * rank).sum(axis=0) - m * (m + 1) / 2) / (m * (len(y) - m))
    return total / FOLDS


def _fold_auroc(columns: Columns, weight: Floats) -> Floats:
    """(R,): the same for one column of scores under R weightings of the rows."""
    total: Floats = np.zeros(len(weight))
    for k in range(FOLDS):
        i = np.flatnonzero(columns["fold"] == k)
        scored = Scored.of(columns["is_b"][i], columns["score"][i], weight=weight[:, i])
        total += METRICS["auroc"].function(scored)
    return total / FOLDS


# ---- input by input -----------------------------------------------------------------------------
def _inputs(
    a: Floats,
    b: Floats,
    names: list[str],
    who_a: NDArray[np.str_],
    who_b: NDArray[np.str_],
    n: int,
    seed: int,
) -> pl.DataFrame:
    centre, scale = _scale(np.concatenate([a, b]))  # on one scale, rounding is rounding
    moments, draws = [], []
    for i, (x, who) in enumerate(((a, who_a), (b, who_b))):
        columns = {
            "x": np.nan_to_num((x - centre) / scale),
            "here": (~np.isnan(x)).astype(np.float64),
        }
        moments.append(_moments(columns, np.ones((1, len(x)))))
        draws.append(bootstrap(_moments, columns, who, None, n, seed + i))  # independent cohorts
    smd, missing = (x[0] for x in _differences(*moments))
    limits = [percentile(x) for x in _differences(*draws)]
    rows = []
    for j, name in enumerate(names):
        means = [float(m[0, 0, j] * scale[j] + centre[j]) for m in moments]
        gone = [float(m[0, 2, j]) for m in moments]
        row: dict[str, object] = {"input": name, "note": _input_note(moments, j)}
        row |= dict(zip(("mean_a", "mean_b"), map(_number, means), strict=True))
        row |= {"missing_a": gone[0], "missing_b": gone[1]}
        for ends, value, (low, high) in zip(
            (("smd", "smd_low", "smd_high"), ("missing_difference", "missing_low", "missing_high")),
            (smd[j], missing[j]),
            limits,
            strict=True,
        ):
            row |= dict(zip(ends, map(_number, (value, low[j], high[j])), strict=True))
        rows.append(row)
    far = np.where(np.isnan(smd), 0.0, np.abs(smd))
    moved = [bool(row["note"] == _MOVED) for row in rows]
    order = np.lexsort([-np.maximum(far, np.abs(missing)), ~np.array(moved)])
    return pl.DataFrame([rows[j] for j in order], schema=_SCHEMA)


def _moments(columns: Columns, weight: Floats) -> Floats:
    """(R, 3, P): mean, variance and share missing of every input."""
    x, here = columns["x"], columns["here"]
    count = weight @ here
    mean = ratio(weight @ x, count)
    variance = np.maximum(ratio(weight @ (x * x), count) - mean**2, 0)
    return np.stack([mean, variance, 1 - count / weight.sum(axis=1, keepdims=True)], axis=1)


def _differences(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Standardised and missingness differences (R, P), b less a, of moments (R, 3, P)."""
    pooled = np.sqrt((a[:, 1] + b[:, 1]) / 2)
    apart = b[:, 0] - a[:, 0]
    varies = pooled > TINY
    smd = ratio(apart, np.where(varies, pooled, 0.0))
    smd = np.where(~varies & (np.abs(apart) < TINY), 0.0, smd)
    return smd, b[:, 2] - a[:, 2]


_MOVED = "one value in each cohort, and not the same"


def _input_note(moments: list[Floats], j: int) -> str:
    never = [which for which, m in zip("ab", moments, strict=True) if np.isnan(m[0, 0, j])]
    if never:
        return f"never recorded in {' and '.join(never)}"
    (mean_a, var_a, _), (mean_b, var_b, _) = (m[0, :, j] for m in moments)
    constant = np.sqrt((var_a + var_b) / 2) <= TINY
    return _MOVED if constant and abs(mean_a - mean_b) >= TINY else ""


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
