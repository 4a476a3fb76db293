"""What users would use instead: scikit-learn on the table, on everything, and late fusion.

Every choice of a constant is made by cross-validation inside the training patients. Inputs are
numpy arrays with NaN for "not observed"; nothing here knows files or settings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
Splits = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def logistic(seed: int) -> tuple[Pipeline, dict[str, list[Any]]]:
    """Ridge logistic regression on imputed, standardised columns and missing indicators."""
    model = make_pipeline(
        SimpleImputer(add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(max_iter=2000, random_state=seed),
    )
    return model, {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}


def forest(seed: int) -> tuple[Pipeline, dict[str, list[Any]]]:
    """Random forest of 200 trees, its leaf size chosen; missing cells get the mean and a flag."""
    model = make_pipeline(
        SimpleImputer(add_indicator=True, keep_empty_features=True),
        RandomForestClassifier(n_estimators=200, random_state=seed),
    )
    return model, {"randomforestclassifier__min_samples_leaf": [1, 3, 10]}


def boosting(seed: int) -> tuple[Pipeline, dict[str, list[Any]]]:
    """Gradient-boosted trees (missing cells are native), their number chosen."""
    model = make_pipeline(
        HistGradientBoostingClassifier(
            learning_rate=0.05,
            max_leaf_nodes=15,
            min_samples_leaf=10,
            random_state=seed,
        )
    )
    return model, {"histgradientboostingclassifier__max_iter": [50, 100, 200]}


KINDS: dict[str, Callable[[int], tuple[Pipeline, dict[str, list[Any]]]]] = {
    "logistic": logistic,
    "forest": forest,
    "boosting": boosting,
}


@dataclass(frozen=True)
class Fitted:
    """A fitted classical method.

    Attributes:
        predict: features → (N, K) probabilities.
        out_of_fold: (N, K) probabilities of the training patients, each from a model without them.
        choices: constants chosen, for people.
    """

    predict: Callable[[Any], Floats]
    out_of_fold: Floats
    choices: dict[str, Any]


def fit_kind(kind: str, x: Floats, y: NDArray[np.int64], splits: Splits, seed: int) -> Fitted:
    """Fit one of `KINDS` on (N, P) features, NaN = missing, and (N,) classes.

    Args:
        splits: inner folds (by subject) for the choice of constants.
    """
    model, grid = KINDS[kind](seed)
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=splits, refit=True)
    search.fit(x, y)
    out = cross_val_predict(clone(search.best_estimator_), x, y, cv=splits, method="predict_proba")
    chosen = {name.split("__")[-1]: value for name, value in search.best_params_.items()}
    return Fitted(search.best_estimator_.predict_proba, out, chosen)


def late_fusion(
    parts: Mapping[str, Floats],
    tables: Collection[str],
    y: NDArray[np.int64],
    splits: Splits,
    seed: int,
) -> Fitted:
    """One Platt-scaled model per modality, averaged over the modalities that a patient has.

    Args:
        parts: modality → (N, P); a row of only NaN is an absent modality.
        tables: which of them are tables: these get a forest, vectors a logistic regression.
    """
    K = int(y.max()) + 1
    prior = np.bincount(y, minlength=K) / len(y)
    kind = {name: "forest" if name in tables else "logistic" for name in parts}
    members = {name: _calibrated(kind[name], x, y, splits, seed, K) for name, x in parts.items()}

    def predict(features: Mapping[str, Floats]) -> Floats:
        return _average({m: _where_present(members[m][0], features[m], K) for m in members}, prior)

    out = _average({m: out for m, (_, out) in members.items()}, prior)
    return Fitted(predict, out, {"modalities": list(parts)})


def _calibrated(
    kind: str, x: Floats, y: NDArray[np.int64], splits: Splits, seed: int, K: int
) -> tuple[Callable[[Floats], Floats], Floats]:
    """One modality's model among those who have it, scaled on its out-of-fold probabilities."""
    here = _present(x)
    rows = np.flatnonzero(here)
    position = np.full(len(x), -1)
    position[rows] = np.arange(len(rows))
    inner = [(position[a[here[a]]], position[b[here[b]]]) for a, b in splits]
    usable = all(len(np.unique(y[rows][part])) == K for pair in inner for part in pair)
    if len(rows) == 0 or not usable:  # too few patients have it: it has nothing to say
        return (lambda z: np.full((len(z), K), np.nan)), np.full((len(x), K), np.nan)
    base = fit_kind(kind, x[rows], y[rows], inner, seed)
    scale = LogisticRegression().fit(_log(base.out_of_fold), y[rows])
    out = np.full((len(x), K), np.nan)
    out[rows] = scale.predict_proba(_log(base.out_of_fold))
    return (lambda z: np.asarray(scale.predict_proba(_log(base.predict(z))))), out


def _present(x: Floats) -> NDArray[np.bool_]:
    """(N,): who has the modality; a row of only NaN is absent."""
    return np.asarray(~np.isnan(x).all(axis=1))


def _log(prob: Floats) -> Floats:
    clipped = np.clip(prob, 1e-4, 1)
    logs = np.log(clipped)
    return np.asarray(logs[:, 1:] - logs[:, :1])


def _where_present(predict: Callable[[Floats], Floats], x: Floats, K: int) -> Floats:
    out = np.full((len(x), K), np.nan)
    here = _present(x)
    if here.any():
        out[here] = predict(x[here])
    return out


def _average(parts: Mapping[str, Floats], prior: Floats) -> Floats:
    """Mean over the modalities that speak; the training prevalence where none does."""
    stack = np.stack(list(parts.values()))  # (modalities, N, K)
    speaks = np.asarray(~np.isnan(stack).any(axis=2))
    total = np.where(speaks[..., None], stack, 0.0).sum(axis=0)
    count = speaks.sum(axis=0)[:, None]
    return np.where(count > 0, total / np.maximum(count, 1), prior)
