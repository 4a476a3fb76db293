"""What users would use instead: scikit-learn on the table, on everything, and late fusion.

Every choice of a constant is made by cross-validation inside the training patients. Inputs are
numpy arrays with NaN for "not observed"; nothing here knows files or settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid

from adacomed.models.baselines.candidates import Floats, candidate_probabilities
from adacomed.models.baselines.kinds import KINDS, STAGED
from adacomed.models.baselines.pooling import fit_weights, pool

Splits = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
# A modality's model and its (N, K) out-of-fold probabilities; None where too few have it.
Member = tuple[Callable[[Floats], Floats], Floats] | None
Members = dict[str, Member]


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

    The constants chosen are those of the least mean of the splits' log losses, the first of equals:
    what `GridSearchCV` finds. What they said in the search is the `out_of_fold` of the result, so
    that each model is fitted once.

    Args:
        splits: inner folds (by subject) for the choice of constants; together their second parts
            hold every patient once.
    """
    model, grid = KINDS[kind](seed)
    candidates, classes = list(ParameterGrid(grid)), np.unique(y)
    codes = np.searchsorted(classes, y)
    outs = np.zeros((len(candidates), len(y), len(classes)))
    losses = np.empty((len(candidates), len(splits)))
    with config_context(skip_parameter_validation=True):
        for s, (train, test) in enumerate(splits):
            columns = np.searchsorted(classes, np.unique(y[train]))  # a fold may lack a class
            said = candidate_probabilities(
                model, candidates, x[train], y[train], x[test], stages=STAGED.get(kind)
            )
            for out, loss, prob in zip(outs, losses, said, strict=True):
                out[np.ix_(test, columns)] = prob
                loss[s] = log_loss(out[test], codes[test])
        best = int(losses.mean(axis=1).argmin())
        model.set_params(**candidates[best]).fit(x, y)
    chosen = {name.split("__")[-1]: value for name, value in candidates[best].items()}
    return Fitted(model.predict_proba, outs[best], chosen)


def log_loss(prob: Floats, y: NDArray[np.int64]) -> float:
    """Mean of −log of the (N, K) probabilities of the (N,) classes, in nats; as scikit-learn's."""
    own = prob[np.arange(len(y)), y]
    limit = np.finfo(np.float64).eps
    return float(-np.log(np.clip(own, limit, 1 - limit)).mean())


def late_fusion(
    parts: Mapping[str, Floats],
    tables: Collection[str],
    y: NDArray[np.int64],
    splits: Splits,
    seed: int,
    *,
    made: Members | None = None,
) -> Fitted:
    """One Platt-scaled model per modality, averaged over the modalities that a patient has.

    Args:
        parts: modality → (N, P); a row of only NaN is an absent modality.
        tables: which of them are tables: these get a forest, vectors a logistic regression.
        made: members fitted before, on whatever; those that this one fits are added.
    """
    K = int(y.max()) + 1
    prior = np.bincount(y, minlength=K) / len(y)
    found = _members(parts, tables, y, splits, seed, K, {} if made is None else made)
    members = {name: _calibrated(found[name], y, K) for name in parts}

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
    *,
    made: Members | None = None,
) -> Fitted:
    """Late fusion with calibrated weights: the members of `late_fusion`, weighed by `fit_weights`.

    Scaling, weights and prior of an `out_of_fold` patient come from the other folds.

    Args:
        parts, tables, splits, made: as for `late_fusion`.
    Returns:
        `choices["weights"]`: modality → weight, summing to one; 0 for one that too few have.
    """
    K = int(y.max()) + 1
    found = _members(parts, tables, y, splits, seed, K, {} if made is None else made)
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


def _calibrated(
    member: Member, y: NDArray[np.int64], K: int
) -> tuple[Callable[[Floats], Floats], Floats]:
    """A member scaled on its out-of-fold probabilities; one of nobody says nothing."""
    if member is None:
        return (lambda z: np.full((len(z), K), np.nan)), np.full((len(y), K), np.nan)
    predict, raw = member
    scale = _platt(raw, y)
    return (lambda z: scale(predict(z))), scale(raw)


def _members(
    parts: Mapping[str, Floats],
    tables: Collection[str],
    y: NDArray[np.int64],
    splits: Splits,
    seed: int,
    K: int,
    made: Members,
) -> Members:
    """Each modality's member, taken from `made` where the same was fitted on the same."""
    found = {}
    for name, x in parts.items():
        kind = "forest" if name in tables else "logistic"
        key = f"{kind} {seed} {K} {_digest(x, y, *(part for pair in splits for part in pair))}"
        if key not in made:
            made[key] = _member(kind, x, y, splits, seed, K)
        found[name] = made[key]
    return found


def _digest(*arrays: NDArray[Any]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _member(
    kind: str, x: Floats, y: NDArray[np.int64], splits: Splits, seed: int, K: int
) -> Member:
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
