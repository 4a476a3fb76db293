"""A paired test for cross-validation: the folds of one cohort train on much the same patients."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy.stats import t as student

from adacomed.errors import InputError, nearest
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.intervals import holm
from adacomed.evaluation.predictions import Cells
from adacomed.schema import TEST, Predictions

FOLD = [Predictions.REPEAT, Predictions.FOLD]


def corrected_resampled_p(differences: ArrayLike, train: float, test: float) -> float:
    """Two-sided p of the corrected resampled t-test that a mean difference over folds is 0.

    The plain t-test takes folds for independent and is too sure; here their variance is raised by
    test/train: t = mean / √((1/J + test/train) · variance), with J − 1 degrees of freedom.

    Args:
        differences: (J,), one per fold of every repeat; NaN (a fold with one class) is left out.
        train: patients trained on in a fold, > 0; the folds' mean.
        test: patients tested on in a fold, ≥ 0; 0 gives the plain t-test.
    Returns:
        NaN with fewer than 2 folds, or where all differ by the same amount; 1 where none differs.
    Raises:
        ValueError: train or test is out of range.
    Source: Nadeau & Bengio, Mach. Learn. 2003; over repeated k-fold as Bouckaert & Frank 2004.
    """
    if not train > 0 or not test >= 0:
        raise ValueError(f"need train > 0 and test ≥ 0 patients, got {train} and {test}")
    values = np.asarray(differences, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return float("nan")
    mean, error = values.mean(), np.sqrt((1 / len(values) + test / train) * values.var(ddof=1))
    if error < 1e-12:  # rounding leaves as much of equal values
        return 1.0 if abs(mean) < 1e-12 else float("nan")
    return float(2 * student.sf(abs(mean) / error, len(values) - 1))


def corrected_resampled(
    predictions: pl.DataFrame,
    *,
    train: float,
    test: float,
    reference: str = "adacomed",
    metric: str = "auroc",
) -> pl.DataFrame:
    """The reference less each other method, tested over the folds of one task.

    Args:
        predictions: schema.Predictions with repeat and fold; test rows of one task are read.
        train: patients trained on in a fold.
        test: patients tested on in a fold.
        metric: a name in METRICS, computed per fold (the mean over its seeds).
    Returns:
        method, metric, folds (with a difference), difference (mean over folds), p_resampled,
        p_resampled_holm (over all rows of the table).
    Raises:
        InputError: no such reference or metric, or a column is missing.
    """
    if metric not in METRICS:
        raise InputError(f"no metric {metric!r}{nearest(metric, METRICS)}")
    lacking = [c for c in FOLD if c not in predictions.columns]
    if lacking:
        raise InputError(f"predictions have no column {lacking[0]!r}: a test over folds needs it")
    values = _per_fold(predictions, metric)
    methods = values[Predictions.METHOD].unique(maintain_order=True).to_list()
    if reference not in methods:
        raise InputError(f"no method {reference!r} to compare with{nearest(reference, methods)}")
    mine = values.filter(pl.col(Predictions.METHOD) == reference).select(*FOLD, base="value")
    rows = []
    for method in methods:
        if method == reference:
            continue
        both = values.filter(pl.col(Predictions.METHOD) == method).join(mine, on=FOLD)
        differences = (both["base"] - both["value"]).to_numpy()
        known = differences[~np.isnan(differences)]
        mean = float(known.mean()) if len(known) else float("nan")
        p = corrected_resampled_p(known, train, test)
        rows.append((method, metric, len(known), mean, p))
    names = {Predictions.METHOD: pl.String, "metric": pl.String, "folds": pl.Int64}
    schema = names | {"difference": pl.Float64, "p_resampled": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    adjusted = pl.Series("p_resampled_holm", holm(table["p_resampled"]), dtype=pl.Float64)
    return table.with_columns(adjusted)


def _per_fold(predictions: pl.DataFrame, metric: str) -> pl.DataFrame:
    """method, repeat, fold, value: the metric on the labelled test rows of each fold."""
    rows = predictions.filter(
        (pl.col(Predictions.SPLIT) == TEST) & pl.col(Predictions.LABEL).is_not_null()
    )
    keys = [Predictions.METHOD, *FOLD]
    parts = rows.partition_by(keys, as_dict=True, maintain_order=True)
    found = [(*key, float(Cells(part).value([metric])[0])) for key, part in parts.items()]
    schema = {Predictions.METHOD: pl.String, Predictions.REPEAT: pl.Int64}
    schema |= {Predictions.FOLD: pl.Int64, "value": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row")
