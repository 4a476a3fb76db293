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
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict

from adacomed.models.baselines.kinds import KINDS

Floats = NDArray[np.float64]
Splits = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


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


def weighted_late_fusion(
    parts: Mapping[str, Floats],
    tables: Collection[str],
    y: NDArray[np.int64],
    splits: Splits,
    seed: int,
) -> Fitted:
    """Late fusion with calibrated weights: the members of `late_fusion`, weighed by `fit_weights`.

    Scaling, weights and prior of an `out_of_fold` patient come from the other folds.

    Args:
        parts, tables, splits: as for `late_fusion`.
    Returns:
        `choices["weights"]`: modality → weight, summing to one; 0 for one that too few have.
    """
    K = int(y.max()) + 1
    kind = {name: "forest" if name in tables else "logistic" for name in parts}
    found = {name: _member(kind[name], x, y, splits, seed, K) for name, x in parts.items()}
    members = {name: member for name, member in found.items() if member is not None}
    raw = _stack([said for _, said in members.values()], len(y), K)
    out = np.empty((len(y), K))
    for train, test in splits:
        combine, _ = _combination(raw[:, train], y[train])
        out[test] = combine(raw[:, test])
    combine, w = _combination(raw, y)

    def predict(features: Mapping[str, Floats]) -> Floats:
        said = [_where_present(model, features[m], K) for m, (model, _) in members.items()]
        return combine(_stack(said, len(next(iter(features.values()))), K))

    weights = dict.fromkeys(parts, 0.0) | dict(zip(members, w.round(3).tolist(), strict=True))
    return Fitted(predict, out, {"weights": weights})


def _stack(said: list[Floats], N: int, K: int) -> Floats:
    return np.stack(said) if said else np.empty((0, N, K))


def _combination(raw: Floats, y: NDArray[np.int64]) -> tuple[Callable[[Floats], Floats], Floats]:
    """Scalings and weights fitted on raw (M, N, K): a function (M, n, K) → (n, K), the weights."""
    scales = [_platt(said, y) for said in raw]

    def scaled(raw: Floats) -> Floats:
        said = [scale(prob) for scale, prob in zip(scales, raw, strict=True)]
        return _stack(said, *raw.shape[1:])

    w, prior = fit_weights(scaled(raw), y), np.bincount(y, minlength=raw.shape[2]) / len(y)
    return (lambda raw: pool(scaled(raw), w, prior)), w


def pool(prob: Floats, w: Floats, prior: Floats) -> Floats:
    """Weighted mean of log-probabilities over the modalities that a patient has.

    Args:
        prob: (M, N, K) calibrated probabilities, NaN where a patient lacks the modality.
        w: (M,) weights ≥ 0. They are normalised over the modalities that are there; those without
            weight are heard, equally, by a patient who has no other.
        prior: (K,) for who has none.
    Returns:
        (N, K) probabilities. For K = 2 it is the weighted mean of the log-odds.
    """
    z, _, total = _pooled(prob, w)
    return np.where(total[:, None] > 0, softmax(z, axis=1), prior)


def fit_weights(prob: Floats, y: NDArray[np.int64], *, penalty: float = 1.0) -> Floats:
    """Weights of `pool`, ≥ 0 and summing to one, by its log loss and L2 towards equal weights.

    Args:
        prob: (M, N, K), as for `pool`.
        y: (N,) classes.
        penalty: nats for a modality at none, or at twice, its equal share 1/M. They stand against
            the *sum* of the patients' losses, so that few patients stay near equal weights.
    """
    M, N, K = prob.shape
    target = np.eye(K)[y]

    def loss(w: Floats) -> tuple[float, Floats]:
        z, away, total = _pooled(prob, w)  # (N, K), (M, N, K), (N,)
        p = softmax(z, axis=1)
        nats = -(target * log_softmax(z, axis=1)).sum() + penalty * ((M * w - 1) ** 2).sum()
        slope = (away * ((p - target) / np.maximum(total, _FLOOR)[:, None])).sum(axis=(1, 2))
        return nats / N, (slope + penalty * 2 * M * (M * w - 1)) / N

    if M < 2:
        return np.ones(M)
    one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(M)}
    start, bounds = np.full(M, 1 / M), [(0.0, 1.0)] * M
    fit = minimize(loss, start, jac=True, bounds=bounds, constraints=one, options={"ftol": 1e-9})
    w = np.clip(fit.x, 0, 1)
    return np.asarray(w / w.sum())


_FLOOR = 1e-6


def _pooled(prob: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    """z (N, K), each modality's distance from it (M, N, K; 0 where absent), total weight (N,)."""
    logs = np.log(np.clip(prob, 1e-6, 1))
    speaks = ~np.isnan(logs).any(axis=2, keepdims=True)  # (M, N, 1)
    logs, share = np.where(speaks, logs, 0.0), speaks * (w + _FLOOR)[:, None, None]
    total = share.sum(axis=0)  # (N, 1)
    z = (share * logs).sum(axis=0) / np.maximum(total, _FLOOR)
    return z, np.where(speaks, logs - z, 0.0), total[:, 0]


def _calibrated(
    kind: str, x: Floats, y: NDArray[np.int64], splits: Splits, seed: int, K: int
) -> tuple[Callable[[Floats], Floats], Floats]:
    """One modality's model among those who have it, scaled on its out-of-fold probabilities."""
    member = _member(kind, x, y, splits, seed, K)
    if member is None:
        return (lambda z: np.full((len(z), K), np.nan)), np.full((len(x), K), np.nan)
    predict, raw = member
    scale = _platt(raw, y)
    return (lambda z: scale(predict(z))), scale(raw)


def _member(
    kind: str, x: Floats, y: NDArray[np.int64], splits: Splits, seed: int, K: int
) -> tuple[Callable[[Floats], Floats], Floats] | None:
    """One modality's model among those who have it, and its (N, K) out-of-fold probabilities.

    None where too few have it: it has nothing to say.
    """
    here = _present(x)
    rows = np.flatnonzero(here)
    position = np.full(len(x), -1)
    position[rows] = np.arange(len(rows))
    inner = [(position[a[here[a]]], position[b[here[b]]]) for a, b in splits]
    usable = all(len(np.unique(y[rows][part])) == K for pair in inner for part in pair)
    if len(rows) == 0 or not usable:
        return None
    base = fit_kind(kind, x[rows], y[rows], inner, seed)
    out = np.full((len(x), K), np.nan)
    out[rows] = base.out_of_fold
    return base.predict, out


def _platt(raw: Floats, y: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """A scaling of (N, K) probabilities fitted on the rows that are not NaN; NaN stays NaN."""
    here = _present(raw)
    scale = LogisticRegression().fit(_log(raw[here]), y[here])
    return lambda prob: _where_present(lambda p: scale.predict_proba(_log(p)), prob, prob.shape[1])


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
