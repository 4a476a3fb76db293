"""HAIM: gradient-boosted trees on every modality's embedding side by side.

Source: Soenksen et al., npj Digital Medicine 2022, "Integrated multimodal artificial intelligence
framework for healthcare applications", and its public code for the grid. Three departures, all
towards what the other methods here get: constants are chosen by log loss and not by AUROC, classes
are not reweighted (the probabilities are compared too), and a patient with a missing modality is
kept, XGBoost's own handling of NaN in the place of dropping them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.models.baselines.candidates import Floats
from adacomed.models.baselines.classical import Fitted, Splits

Constants = Mapping[str, Any]

ORIGINAL_GRID: Constants = {
    "max_depth": (5, 6, 7, 8),
    "learning_rate": (0.3, 0.1, 0.05),
    "n_estimators": (200, 300),
    "max_bin": (256,),
}
# A sixth of the fits at a quarter of the cost. Few patients want shallower trees than the
# original's, and 64 quantiles of an embedding's column hold what 500 patients can tell of it.
REDUCED_GRID: Constants = {
    "max_depth": (3, 6),
    "learning_rate": (0.05, 0.3),
    "n_estimators": (200,),
    "max_bin": (64,),
}


def fit_haim(
    x: Floats, y: NDArray[np.int64], splits: Splits, seed: int, *, full_grid: bool = False
) -> Fitted:
    """Fit HAIM on concatenated embeddings and encoded table columns.

    Args:
        x: (N, P), NaN = missing.
        y: (N,) classes in [0, K).
        splits: inner folds (by subject) for the choice of constants; together their second parts
            hold every patient once.
        full_grid: the original's 24 constants in the place of the reduced 4.
    Returns:
        As `classical.fit_kind`: `out_of_fold` is of the chosen constants, on the same folds.
    Raises:
        InputError: xgboost is not installed.
    """
    K = int(y.max()) + 1
    grid = ORIGINAL_GRID if full_grid else REDUCED_GRID
    names, numbers = [name for name in grid if name != "n_estimators"], grid["n_estimators"]
    candidates = [
        dict(zip(names, values, strict=True)) for values in product(*(grid[m] for m in names))
    ]
    outs = np.full((len(candidates), len(numbers), len(y), K), np.nan)
    for train, test in splits:  # columns are cut into bins once for all candidates
        binned = {n: _binned(x[train], y[train], n) for n in grid["max_bin"]}
        new = _xgboost().DMatrix(x[test], nthread=1)
        for constants, out in zip(candidates, outs, strict=True):
            booster = _train(binned[constants["max_bin"]], K, constants, max(numbers), seed)
            for i, n in enumerate(numbers):  # the first n trees are what a fit of n would be
                out[i, test] = _predict(booster, new, n)
    losses = [[_log_loss(out, y) for out in of_numbers] for of_numbers in outs]
    c, i = divmod(int(np.argmin(losses)), len(numbers))
    constants, n = candidates[c], numbers[i]
    final = _train(_binned(x, y, constants["max_bin"]), K, constants, n, seed)
    chosen = constants | {"n_estimators": n}

    def predict(z: Floats) -> Floats:
        return _predict(final, _xgboost().DMatrix(z, nthread=1), n)

    return Fitted(predict, outs[c, i], chosen)


def _binned(x: Floats, y: NDArray[np.int64], bins: int) -> Any:
    return _xgboost().QuantileDMatrix(x, label=y, nthread=1, max_bin=bins)


def _train(data: Any, K: int, constants: Constants, trees: int, seed: int) -> Any:
    objective: dict[str, Any] = {"objective": "binary:logistic"}
    if K > 2:  # K is told, so that a fold without one of the classes still speaks of all of them
        objective = {"objective": "multi:softprob", "num_class": K}
    params = {**objective, **constants, "tree_method": "hist", "nthread": 1, "seed": seed}
    return _xgboost().train(params, data, num_boost_round=trees)


def _predict(booster: Any, data: Any, trees: int) -> Floats:
    """(N, K) probabilities of the first `trees` rounds, in double precision, summing to one."""
    prob = np.asarray(booster.predict(data, iteration_range=(0, trees)), np.float64)
    if prob.ndim == 1:
        prob = np.stack([1 - prob, prob], axis=1)
    return np.asarray(prob / prob.sum(axis=1, keepdims=True))


def _log_loss(prob: Floats, y: NDArray[np.int64]) -> float:
    own = prob[np.arange(len(y)), y]
    return float(-np.log(np.clip(own, 1e-15, 1)).mean())


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError:
        raise InputError("haim needs xgboost: pip install 'adacomed[paper]'") from None
    return xgboost
