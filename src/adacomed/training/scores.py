"""Fitting a `ScoreSmall`: every source cross-fitted by subject, then one weight per source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn import config_context
from sklearn.model_selection import ParameterGrid
from torch import Tensor

from adacomed.cohort.split import kfold
from adacomed.models.baselines.candidates import candidate_probabilities
from adacomed.models.baselines.kinds import KINDS
from adacomed.models.batch import Batch
from adacomed.models.small.scores import TINY, ScoreSmall, read
from adacomed.training.questions import Question, intercepts, questions

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
    weights: Tensor | None = None,
    base: Sequence[float] = (),
    seed: int,
) -> Tensor:
    """Fit an untrained `ScoreSmall` on the training patients.

    Args:
        train: N patients with their target.
        subjects: (N,), no subject is on both sides of an inner fold.
        weights: (K,) class weights of the loss that AdaCoMed will minimise; the head's logits stand
            for the class shares under them.
        base: (J,) of sigmoids, the log-odds that the head's logits are beyond.
    Returns:
        e_small (N, width) of the training patients, each from models fitted without them.
    """
    assert train.target is not None
    asked = questions(train.target, model.asked)
    shares = [question.log_share(model.answers) for question in asked]
    model.log_prior = shares[0] if model.asked == "classes" else torch.stack(shares).float()
    evidence = _cross_fitted(model, train, subjects, asked, seed)  # (S · Q, N, answers)
    names = [name for name, _ in model.sources]
    equal = np.array([1 / names.count(name) for name in names])
    told = [np.take(evidence[q :: model.Q].numpy(), a.who, axis=1) for q, a in enumerate(asked)]
    prior = model.log_prior.view(model.Q, -1).numpy()
    w = [
        stack_weights(e, question.y, p, equal, row_weights=question.weight)
        for e, question, p in zip(told, asked, prior, strict=True)
    ]
    weight = np.stack(w, axis=1)  # (S, Q)
    bias = model.log_prior if weights is None else model.log_prior + weights.log()
    if model.asked != "classes":
        bias = _beyond(base, weight, evidence.numpy(), train.target.double().numpy())
    model.weigh(torch.from_numpy(weight).float(), bias.float())
    return model.combine(list(evidence.float()), train)


def _cross_fitted(
    model: ScoreSmall,
    train: Batch,
    subjects: NDArray[np.str_],
    asked: Sequence[Question],
    seed: int,
) -> Tensor:
    """Fit every scorer; what each makes of the patients out of fold, (S · Q, N, answers)."""
    splits = [inner_splits(question.strata, subjects, seed) for question in asked]
    evidence = torch.zeros(len(model.scorers), len(train), model.answers, dtype=torch.float64)
    for i, scorer in enumerate(model.scorers):
        (name, kind), q = model.sources[i // model.Q], i % model.Q
        x, here = read(train, name)
        cells, there = x.double().numpy(), here.numpy()
        found = cross_fit(kind, cells, asked[q], there, splits[q], model.answers, seed)
        model.speaks[i] = found is not None
        if found is not None:
            scorer.fill(found[0])  # type: ignore[operator]
            evidence[i] = model.evidence(torch.from_numpy(found[1]), here, q)
    return evidence


def _beyond(base: Sequence[float], weight: Floats, evidence: Floats, target: Floats) -> Tensor:
    """The head's bias (J,) under weights (S, Q), where its logits are beyond a base."""
    odds = (evidence[..., 1] - evidence[..., 0]).reshape(*weight.shape, -1)  # (S, Q, N)
    z = np.einsum("sq,sqn->nq", weight, odds)
    return torch.from_numpy(intercepts(z, target, base, penalty=SLACK))


def inner_splits(y: NDArray[np.int64], subjects: NDArray[np.str_], seed: int) -> Splits:
    """Stratified folds by subject; fewer where a class has few subjects, or there are `MANY`."""
    there = np.unique(y)
    rarest = min(len(np.unique(subjects[y == k])) for k in there)
    if rarest < 2 or len(there) < 2:
        return []  # no source can be fitted: `FEWEST`
    most = FOLDS if len(y) <= MANY else FOLDS_OF_MANY
    folds = kfold(y, subjects, folds=max(2, min(most, rarest)), repeats=1, seed=seed)
    return [(fold.train, fold.test) for fold in folds]


def cross_fit(
    kind: str,
    x: Floats,
    question: Question,
    here: NDArray[np.bool_],
    splits: Splits,
    K: int,
    seed: int,
) -> tuple[Any, Floats] | None:
    """One classical model fitted on all who have the input, and what it says out of fold.

    The strength of a logistic regression's ridge is the one with the least out-of-fold log loss.

    Args:
        here: (N,), who has the input; all of them are scored, in the question's rows or not.
    Returns:
        The fitted pipeline and (N, K) log-probabilities, zero where absent; None where a class has
        fewer than `FEWEST` patients with the input: nothing can be learnt of it.
    """
    everyone = question.rows(here)
    who, y, weight = question.who[everyone], question.y[everyone], question.weight
    if np.bincount(y, minlength=K).min() < FEWEST:
        return None
    model, grid = KINDS[kind](seed)
    settings = [FIXED[kind]] if kind in FIXED else list(ParameterGrid(grid))
    parts = [(_rows_of(question, train, here), test[here[test]]) for train, test in splits]
    parts = [(rows, test) for rows, test in parts if len(test)]
    if any(len(np.unique(question.y[rows])) < K for rows, _ in parts):
        return None
    log_probs = np.zeros((len(settings), len(x), K))
    with config_context(skip_parameter_validation=True):
        for rows, test in parts:
            said = candidate_probabilities(
                model,
                settings,
                x[question.who[rows]],
                question.y[rows],
                x[test],
                weight=None if weight is None else weight[rows],
            )
            log_probs[:, test] = np.log(np.clip(said, TINY, 1 - TINY))
        weighed = None if weight is None else weight[everyone]
        losses = [-float(np.average(own[who, y], weights=weighed)) for own in log_probs]
        best = int(np.argmin(losses))
        chosen = model.set_params(**settings[best])
        return _fitted(chosen, x, question, everyone), log_probs[best]


def _rows_of(
    question: Question, patients: NDArray[np.int64], here: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Rows of those of `patients` who have the input."""
    marked = np.zeros(len(here), dtype=bool)
    marked[patients] = True
    return question.rows(marked & here)


def _fitted(model: Any, x: Floats, question: Question, rows: NDArray[np.int64]) -> Any:
    """A pipeline fitted on a question's rows."""
    last, weight = model.steps[-1][0], question.weight
    how = {} if weight is None else {f"{last}__sample_weight": weight[rows]}
    return model.fit(x[question.who[rows]], question.y[rows], **how)


def stack_weights(
    evidence: Floats,
    y: NDArray[np.int64],
    log_prior: Floats,
    equal: Floats,
    *,
    row_weights: Floats | None = None,
    penalty: float = 8.0,
) -> Floats:
    """One weight ≥ 0 per source: softmax(log prior + Σ w_s evidence_s), by its log loss.

    First every source's own slope (Platt's, without an intercept): a ridge that was chosen for its
    log loss speaks softly and boosted trees shout, whatever they know. Then all together, pulled
    towards every input counting once.

    Args:
        evidence: (S, N, K), out of fold, 0 where a patient lacks the source.
        equal: (S,) where the penalty pulls: every input once, shared by its models.
        row_weights: (N,) of the losses; None: all count once.
        penalty: nats for a weight at none, or at twice, its `equal`; against the *sum* of the
            patients' losses, so that few patients stay near it.
    """
    rows = np.ones(len(y)) if row_weights is None else row_weights
    alone = [_weights(one[None], y, log_prior, np.ones(1), SLACK, rows)[0] for one in evidence]
    slopes = np.array(alone)
    heard = evidence * slopes[:, None, None]
    return slopes * _weights(heard, y, log_prior, equal, penalty, rows)


def _weights(
    evidence: Floats,
    y: NDArray[np.int64],
    log_prior: Floats,
    equal: Floats,
    penalty: float,
    rows: Floats,
) -> Floats:
    target, each = np.eye(len(log_prior))[y], rows[:, None]
    n = max(len(y), 1)

    def loss(w: Floats) -> tuple[float, Floats]:
        z = log_prior + np.tensordot(w, evidence, 1)  # (N, K)
        away = w / equal - 1
        nats = -(each * target * log_softmax(z, axis=1)).sum() + penalty * (away**2).sum()
        slope = np.tensordot(evidence, each * (softmax(z, axis=1) - target), axes=([1, 2], [0, 1]))
        return nats / n, (slope + 2 * penalty * away / equal) / n

    fit = minimize(loss, equal, jac=True, bounds=[(0.0, MOST)] * len(equal), method="L-BFGS-B")
    return np.asarray(fit.x)
