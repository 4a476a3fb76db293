"""Fitting a `ScoreSmall`: every source cross-fitted by subject, then one weight per source."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from torch import Tensor

from adacomed.cohort.split import kfold
from adacomed.models.baselines.kinds import KINDS
from adacomed.models.batch import Batch
from adacomed.models.small.scores import TINY, ScoreSmall, read

FOLDS, FOLDS_OF_MANY = 5, 2
MANY = 10_000  # samples: half of them teach as much as four fifths, in less than half the time
SLACK = 0.1  # nats for a slope at none or at twice its one: enough where nothing is known
MOST = 50.0  # of a weight
FEWEST = 5  # patients of a class with an input, below which it has no model
FIXED: dict[str, dict[str, Any]] = {  # constants that are not chosen: trees are forgiving
    "forest": {
        "randomforestclassifier__n_estimators": 100,
        "randomforestclassifier__min_samples_leaf": 3,
    },
    "boosting": {"histgradientboostingclassifier__max_iter": 100},
}
Floats = NDArray[np.float64]
Splits = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def fit_scores(
    model: ScoreSmall,
    train: Batch,
    subjects: NDArray[np.str_],
    *,
    weights: Tensor | None,
    seed: int,
) -> Tensor:
    """Fit an untrained `ScoreSmall` on the training patients.

    Args:
        train: N patients with their target.
        subjects: (N,), no subject is on both sides of an inner fold.
        weights: (K,) class weights of the loss that AdaCoMed will minimise; the head's logits stand
            for the class shares under them.
    Returns:
        e_small (N, width) of the training patients, each from models fitted without them.
    """
    assert train.target is not None
    y = train.target.numpy()
    share = train.target.bincount(minlength=model.K).clamp_min(1) / len(y)
    model.log_prior = share.log()
    splits = inner_splits(y, subjects, seed)
    evidence = torch.zeros(len(model.sources), len(y), model.K, dtype=torch.float64)
    for s, ((name, kind), scorer) in enumerate(zip(model.sources, model.scorers, strict=True)):
        x, here = read(train, name)
        found = cross_fit(kind, x.double().numpy(), y, here.numpy(), splits, model.K, seed)
        model.speaks[s] = found is not None
        if found is not None:
            scorer.fill(found[0])  # type: ignore[operator]
            evidence[s] = model.evidence(torch.from_numpy(found[1]), here)
    names = [name for name, _ in model.sources]
    equal = np.array([1 / names.count(name) for name in names])
    w = stack_weights(evidence.numpy(), y, model.log_prior.numpy(), equal)
    balance = 0 if weights is None else weights.log()
    model.weigh(torch.from_numpy(w).float(), (model.log_prior + balance).float())
    return model.combine(list(evidence.float()), train)


def inner_splits(y: NDArray[np.int64], subjects: NDArray[np.str_], seed: int) -> Splits:
    """Stratified folds by subject; fewer where a class has few subjects, or there are `MANY`."""
    rarest = min(len(np.unique(subjects[y == k])) for k in np.unique(y))
    if rarest < 2:
        return []  # no source can be fitted: `FEWEST`
    most = FOLDS if len(y) <= MANY else FOLDS_OF_MANY
    folds = kfold(y, subjects, folds=max(2, min(most, rarest)), repeats=1, seed=seed)
    return [(fold.train, fold.test) for fold in folds]


def cross_fit(
    kind: str,
    x: Floats,
    y: NDArray[np.int64],
    here: NDArray[np.bool_],
    splits: Splits,
    K: int,
    seed: int,
) -> tuple[Any, Floats] | None:
    """One classical model fitted on all who have the input, and what it says out of fold.

    The strength of a logistic regression's ridge is the one with the least out-of-fold log loss.

    Returns:
        The fitted pipeline and (N, K) log-probabilities, zero where absent; None where a class has
        fewer than `FEWEST` patients with the input: nothing can be learnt of it.
    """
    if np.bincount(y[here], minlength=K).min() < FEWEST:
        return None
    model, grid = KINDS[kind](seed)
    settings = [FIXED[kind]] if kind in FIXED else list(ParameterGrid(grid))
    rows = [(train[here[train]], test[here[test]]) for train, test in splits]
    rows = [(train, test) for train, test in rows if len(test)]
    if any(len(np.unique(y[train])) < K for train, _ in rows):
        return None
    best: tuple[float, Any, Floats] | None = None
    for values in settings:
        candidate = clone(model).set_params(**values)
        log_prob = np.zeros((len(y), K))
        for train, test in rows:
            prob = clone(candidate).fit(x[train], y[train]).predict_proba(x[test])
            log_prob[test] = np.log(np.clip(prob, TINY, 1 - TINY))
        loss = -float(log_prob[here, y[here]].mean())
        if best is None or loss < best[0]:
            best = loss, candidate, log_prob
    assert best is not None
    return best[1].fit(x[here], y[here]), best[2]


def stack_weights(
    evidence: Floats,
    y: NDArray[np.int64],
    log_prior: Floats,
    equal: Floats,
    *,
    penalty: float = 8.0,
) -> Floats:
    """One weight ≥ 0 per source: softmax(log prior + Σ w_s evidence_s), by its log loss.

    First every source's own slope (Platt's, without an intercept): a ridge that was chosen for its
    log loss speaks softly and boosted trees shout, whatever they know. Then all together, pulled
    towards every input counting once.

    Args:
        evidence: (S, N, K), out of fold, 0 where a patient lacks the source.
        equal: (S,) where the penalty pulls: every input once, shared by its models.
        penalty: nats for a weight at none, or at twice, its `equal`; against the *sum* of the
            patients' losses, so that few patients stay near it.
    """
    alone = [_weights(one[None], y, log_prior, np.ones(1), SLACK)[0] for one in evidence]
    slopes = np.array(alone)
    heard = evidence * slopes[:, None, None]
    return slopes * _weights(heard, y, log_prior, equal, penalty)


def _weights(
    evidence: Floats, y: NDArray[np.int64], log_prior: Floats, equal: Floats, penalty: float
) -> Floats:
    target = np.eye(len(log_prior))[y]

    def loss(w: Floats) -> tuple[float, Floats]:
        z = log_prior + np.tensordot(w, evidence, 1)  # (N, K)
        away = w / equal - 1
        nats = -(target * log_softmax(z, axis=1)).sum() + penalty * (away**2).sum()
        slope = np.tensordot(evidence, softmax(z, axis=1) - target, axes=([1, 2], [0, 1]))
        return nats / len(y), (slope + 2 * penalty * away / equal) / len(y)

    fit = minimize(loss, equal, jac=True, bounds=[(0.0, MOST)] * len(equal), method="L-BFGS-B")
    return np.asarray(fit.x)
