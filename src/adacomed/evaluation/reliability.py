"""Whether per-patient weights keep their promise: where w_large is high, is the large branch right?

Binary tasks only: a predictions table keeps each branch's log-odds of the positive class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from adacomed.errors import InputError
from adacomed.evaluation.intervals import Columns, bootstrap, percentile, wilson
from adacomed.evaluation.predictions import Cells, listed
from adacomed.evaluation.scored import Floats, Ints, ratio
from adacomed.schema import TEST, Predictions

SAME = "w_large is the same for every patient of a model, so it promises nothing about one patient"
FEW = 20  # patients on whom exactly one branch is right, below which a row gets a note
STEADY = 1e-6  # a spread of w_large within a model below this is rounding
MODEL = (Predictions.REPEAT, Predictions.FOLD, Predictions.SEED)  # one value of each is one model
READ = (Predictions.W_LARGE, Predictions.LOGIT_LARGE, Predictions.LOGIT_SMALL)
NEEDED = (Predictions.LABEL, *READ)
TEXT = (Predictions.TASK, Predictions.METHOD)
CORRELATIONS = ("correlation", "loss_correlation")


@dataclass(frozen=True)
class Branches:
    """N weighted rows of one task and method, and how each branch did on them.

    A branch decides positive where its own probability, expit(log-odds), reaches the row's
    `threshold` (else 0.5), which was chosen for the fused probability. Log-odds > 0 would not do:
    where events are rare, a good branch that decides at 0.5 never says yes.

    Attributes:
        w_large: (N,) as in the table.
        rank: (N,) mid-rank of w_large among the rows of the same model (repeat, fold and seed) as
            a share in (0, 1); 0.5 for all rows of a model that weighs everyone alike. A model whose
            weights all lie higher thus says nothing about a patient.
        large_right, small_right: (N,) whether the branch decides for the label.
        large_loss, small_loss: (N,) log loss in nats.
        subject: (N,) subject_id.
    """

    w_large: Floats
    rank: Floats
    large_right: NDArray[np.bool_]
    small_right: NDArray[np.bool_]
    large_loss: Floats
    small_loss: Floats
    subject: NDArray[Any]

    @property
    def sign(self) -> Ints:
        """(N,) +1 where only the large branch is right, −1 where only the small one, else 0."""
        return self.large_right.astype(np.int64) - self.small_right.astype(np.int64)

    @property
    def gain(self) -> Floats:
        """(N,) log loss small − large: positive where the large branch is the better one."""
        return self.small_loss - self.large_loss

    @property
    def adapts(self) -> bool:
        """Whether any model gives two patients different weights."""
        return bool((self.rank != 0.5).any())

    def patients(self, rows: NDArray[np.bool_]) -> int:
        """Subjects that have one of the rows (N,)."""
        return len(np.unique(self.subject[rows]))


def branches(rows: pl.DataFrame) -> Branches:
    """Read the branches' log-odds and weights; rows without a label, weight or log-odds are left.

    Args:
        rows: schema.Predictions, one binary task and one method.
    Raises:
        InputError: the task has more than two classes, there are no weights or log-odds, one is
            not a finite number, or a sample is twice in one repeat, fold and seed.
    """
    cells = Cells(rows)
    reason = _lacking(cells)
    if reason:
        raise InputError(f"task {cells.task!r}, method {cells.method!r}: {reason}")
    cells = Cells(_numbers(cells).drop_nulls(NEEDED))
    event, cut = cells.rows[Predictions.LABEL].to_numpy() == 1, cells.columns["threshold"]
    w, large, small = (cells.rows[c].to_numpy() for c in READ)
    side = np.where(event, -1.0, 1.0)
    return Branches(
        w_large=w,
        rank=_rank(cells.rows),
        large_right=(expit(large) >= cut) == event,
        small_right=(expit(small) >= cut) == event,
        large_loss=np.logaddexp(0, side * large),
        small_loss=np.logaddexp(0, side * small),
        subject=cells.rows[Predictions.SUBJECT_ID].to_numpy(),
    )


def weight_reliability(
    predictions: pl.DataFrame, *, split: str = TEST, n: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """How w_large goes with the better branch, one row per task and method that has w_large.

    Both are Spearman's: `correlation` of w_large with the branch that is right, over the patients
    on whom exactly one is (+1 the large, −1 the small); `loss_correlation` of w_large with the
    log-loss difference small − large, over all patients. 1 is a promise kept, 0 none, below 0 one
    broken. w_large is ranked within its model (`Branches.rank`) and the models' rows are pooled;
    with one model that is Spearman's of w_large itself. The 95 % intervals are percentiles over
    resampled subjects, all rows of a subject together.

    Args:
        predictions: schema.Predictions; threshold, repeat, fold, seed may be absent.
        n: resamples, ≥ 1.
        seed: of the resampling.
    Returns:
        task, method, n (subjects), n_discordant (those on whom exactly one branch is right, in any
        repeat or seed), n_large_right (those on whom it is the large one), adapts (weights differ
        between the patients of a model), correlation and loss_correlation, each with _low and
        _high, and note: why one is null, or what makes it weak. Empty where no method has w_large.
    Raises:
        InputError: n < 1, or as `branches`; too many classes or no log-odds are a note instead.
    Source: ours; the paper does not test what the weights of its Table 1 promise.
    """
    if n < 1:
        raise InputError(f"{n} resamples: expected 1 or more")
    if Predictions.W_LARGE not in predictions.columns:
        return pl.DataFrame(schema=_schema())
    rows = predictions.filter(pl.col(Predictions.SPLIT) == split).drop_nulls(NEEDED[:2])
    methods = rows.partition_by(*TEXT, maintain_order=True)
    return pl.DataFrame([_row(part, n, seed) for part in methods], schema=_schema())


def _schema() -> dict[str, type[pl.DataType]]:
    schema: dict[str, type[pl.DataType]] = dict.fromkeys(TEXT, pl.String)
    schema |= dict.fromkeys(("n", "n_discordant", "n_large_right"), pl.Int64)
    schema |= {"adapts": pl.Boolean}
    schema |= {f"{c}{end}": pl.Float64 for c in CORRELATIONS for end in ("", "_low", "_high")}
    return schema | {"note": pl.String}


def reliability_table(found: Branches, bins: int = 5) -> pl.DataFrame:
    """The patients in bins of w_large: how often the large branch is the right one of the two.

    Args:
        bins: quantile bins at most; equal weights stay together. Weights that do not differ
            between the patients of a model make one bin.
    Returns:
        Ascending: w_large (mean), n (subjects), n_discordant (subjects on whom exactly one branch
        is right), large_right (share of these on whom it is the large one) with its 95 % Wilson
        interval large_right_low and _high, null without such patients, and gain (mean log loss
        small − large, nats). With repeats the rows of a subject count for one in the interval.
    """
    place = (rankdata(found.w_large) - 0.5) / max(1, len(found.w_large))
    index = np.floor(place * (bins if found.adapts else 1)).astype(np.int64)
    rows = []
    for b in np.unique(index):
        here = index == b
        only_one = here & (found.sign != 0)
        row = {"w_large": found.w_large[here].mean(), "n": found.patients(here)}
        row |= {"n_discordant": found.patients(only_one)}
        if only_one.any():
            share, m = float((found.sign[only_one] > 0).mean()), row["n_discordant"]
            low, high = wilson(share * m, m)
            row |= {"large_right": share, "large_right_low": float(low)}
            row |= {"large_right_high": float(high)}
        rows.append(row | {"gain": found.gain[here].mean()})
    shares = ("large_right", "large_right_low", "large_right_high")
    schema = {"w_large": pl.Float64, "n": pl.Int64, "n_discordant": pl.Int64}
    return pl.DataFrame(rows, schema=schema | dict.fromkeys((*shares, "gain"), pl.Float64))


def _row(rows: pl.DataFrame, n: int, seed: int) -> dict[str, object]:
    """One row of `weight_reliability`; a null always has its reason in the note."""
    cells = Cells(rows)
    row: dict[str, object] = {Predictions.TASK: cells.task, Predictions.METHOD: cells.method}
    reason = _lacking(cells)
    if reason:
        return row | {"note": reason}
    found = branches(rows)
    discordant = found.patients(found.sign != 0)
    row |= {"n": len(np.unique(found.subject)), "n_discordant": discordant}
    row |= {"n_large_right": found.patients(found.sign > 0), "adapts": found.adapts}
    columns = {"rank": found.rank, "sign": found.sign, "gain": found.gain}
    values = _correlations(columns, np.ones((1, len(found.rank))))[0]
    limits = percentile(bootstrap(_correlations, columns, found.subject, None, n, seed))
    for name, value, low, high in zip(CORRELATIONS, values, *limits, strict=True):
        ends = {name: value, f"{name}_low": low, f"{name}_high": high}
        row |= {k: float(v) if math.isfinite(v) else None for k, v in ends.items()}
    return row | {"note": _note(found, row, discordant)}


def _note(found: Branches, row: dict[str, object], discordant: int) -> str:
    """Why a correlation or an interval is missing, or that few patients stand behind it."""
    if not found.adapts:
        return SAME
    plural = "" if discordant == 1 else "s"
    only_one = f"{discordant or 'no'} patient{plural} on whom exactly one branch is right"
    sides = np.unique(found.sign[found.sign != 0])
    said = ""
    if row["correlation"] is None and len(sides) == 1:
        said = f"{only_one}, always the {'large' if sides[0] > 0 else 'small'} one"
    elif row["correlation"] is None:
        said = f"{only_one}, all of the same w_large" if discordant else only_one
    elif row["correlation_low"] is None:
        said = f"{only_one}: too few for an interval"
    elif discordant < FEW:
        said = f"{only_one}: the interval is wide"
    alike = "the branches' log losses hardly differ" if row["loss_correlation_low"] is None else ""
    return "; ".join(filter(None, (said, alike)))


def _correlations(columns: Columns, weight: Floats) -> Floats:
    """(R, 2) the two correlations under each weighting (R, N)."""
    rank, sign, gain = (columns[name] for name in ("rank", "sign", "gain"))
    one = sign != 0
    found = (_spearman(rank[one], sign[one], weight[:, one]), _spearman(rank, gain, weight))
    return np.stack(found, axis=1)


def _spearman(x: NDArray[Any], y: NDArray[Any], weight: Floats) -> Floats:
    """(R,) Spearman's correlation of (N,) and (N,) with rows repeated as weight (R, N) says."""
    if not len(x):
        return np.full(len(weight), np.nan)
    total = weight.sum(axis=1, keepdims=True)
    a, b = (_midranks(v, weight) for v in (x, y))  # exact: so a constant has a variance of 0
    a -= ratio((weight * a).sum(axis=1, keepdims=True), total)
    b -= ratio((weight * b).sum(axis=1, keepdims=True), total)
    spread = (weight * a**2).sum(axis=1) * (weight * b**2).sum(axis=1)
    return ratio((weight * a * b).sum(axis=1), np.sqrt(spread))


def _midranks(x: NDArray[Any], weight: Floats) -> Floats:
    """(R, N) mid-rank of each value (less a half), where each row counts `weight` times."""
    _, group, size = np.unique(x, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    count = np.add.reduceat(weight[:, order], np.cumsum(size) - size, axis=1)
    ranks: Floats = (np.cumsum(count, axis=1) - count / 2)[:, group]
    return ranks


def _rank(rows: pl.DataFrame) -> Floats:
    """`Branches.rank`."""
    model = pl.struct(Predictions.METHOD, *(c for c in MODEL if c in rows.columns))
    w = pl.col(Predictions.W_LARGE)
    spread = (w.max() - w.min()).over(model)
    settled = pl.when(spread < STEADY).then(w.min().over(model)).otherwise(w)
    share = (settled.rank("average").over(model) - 0.5) / pl.len().over(model)
    return rows.select(share).to_series().to_numpy()


def _lacking(cells: Cells) -> str:
    """Why the branches of a method cannot be compared, "" if they can."""
    if cells.K > 2:
        return f"{cells.K} classes: a table keeps the log-odds of the branches for two only"
    known = set(NEEDED) <= set(cells.rows.columns) and len(cells.rows.drop_nulls(NEEDED))
    return "" if known else f"no row has all of {', '.join(NEEDED)}"


def _numbers(cells: Cells) -> pl.DataFrame:
    """The rows with weights and log-odds as numbers; a csv may hold anything."""
    rows = cells.rows
    for column in READ:
        value = rows[column].cast(pl.Float64, strict=False)
        wrong = rows[column].is_not_null() & ~value.is_finite().fill_null(False)
        ids = rows.filter(wrong)[Predictions.SAMPLE_ID].to_list()
        if ids:
            raise InputError(
                f"task {cells.task!r}, method {cells.method!r}: {column} of {len(ids)} rows is "
                f"not a finite number: {listed(ids)}"
            )
        rows = rows.with_columns(value)
    return rows
