"""What a head says of findings and of survival, against the likelihood written out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from adacomed.models.weighting import mixture
from adacomed.training.objective import Objective, sigmoid_loss
from adacomed.training.outcome import (
    Classes,
    Findings,
    Survival,
    outcome_of,
    outcome_state,
)

ENDS = (2.0, 6.0, 12.0)
FITTED = Survival(("no", "yes"), horizon=6.0, ends=ENDS)


def test_the_target_is_survived_event_or_not_observed():
    cases = [[1, 1], [2, 1], [2.5, 1], [6, 0], [9, 0], [8.9, 0], [1, 0], [0.9, 0], [50, 1], [0, 1]]
    found = FITTED.target(np.array(cases, dtype=float)).nan_to_num(-1).tolist()
    assert found == [
        [1, -1, -1],
        [1, -1, -1],  # at the end of an interval is in it
        [0, 1, -1],
        [0, 0, -1],
        [0, 0, 0],  # half of the last interval was seen
        [0, 0, -1],
        [0, -1, -1],
        [-1, -1, -1],  # less than half of the first
        [0, 0, 0],  # after the last end
        [1, -1, -1],
    ]


def test_the_loss_is_the_discrete_time_likelihood():
    logits = torch.randn(3, 3, dtype=torch.float64)
    target = FITTED.target(np.array([[5.0, 1], [12.0, 0], [1.0, 1]]))
    h = torch.sigmoid(logits)
    likelihood = (1 - h[0, 0]) * h[0, 1] * (1 - h[1]).prod() * h[2, 0]
    assert sigmoid_loss(logits, target) * 6 == pytest.approx(-likelihood.log().item())
    said = FITTED.probabilities(logits)
    assert said[:, 1] == pytest.approx((1 - (1 - h[:, 0]) * (1 - h[:, 1])).numpy())
    assert said.sum(axis=1) == pytest.approx(1)


def test_nothing_observed_costs_nothing_and_has_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = sigmoid_loss(logits, torch.full((2, 3), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_the_base_is_what_a_head_of_zeros_says():
    truth = np.array([[1.0, np.nan], [0, 1], [0, np.nan], [0, 1]])
    fitted = Findings(("a", "b")).fit(truth)
    rate = 1 / (1 + np.exp(-np.array(fitted.base)))
    assert rate == pytest.approx([1.5 / 5, 2.5 / 3])
    offset = torch.tensor(fitted.base)
    objective = Objective(offset=offset)
    logits, target = torch.randn(4, 2), fitted.target(truth)
    assert objective._task(logits, target) == sigmoid_loss(logits + offset, target)


def test_intervals_are_quantiles_of_the_events_with_the_horizon_among_them():
    rng = np.random.default_rng(0)
    truth = np.stack([rng.exponential(10, 400), rng.random(400) < 0.5], axis=1)
    fitted = Survival(("no", "yes"), horizon=7.0).fit(truth)
    assert len(fitted.ends) == len(fitted.base) == 10
    assert 7.0 in fitted.ends
    events = truth[truth[:, 1] == 1, 0]
    inside = np.histogram(events, [0, *fitted.ends])[0]
    assert inside.sum() == len(events)
    assert inside.min() > 0.3 * len(events) / 10
    few = Survival(("no", "yes"), horizon=7.0).fit(truth[:60])
    assert len(few.ends) == int(truth[:60, 1].sum()) // 10
    assert len(Survival(("no", "yes"), horizon=7.0, intervals=4).fit(truth).ends) == 4


def test_scores_are_of_what_was_observed():
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 2)) < 0.4).astype(float)
    truth[:20, 1] = np.nan
    prob = rng.random((80, 2))
    each = [roc_auc_score(truth[:, 0], prob[:, 0]), roc_auc_score(truth[20:, 1], prob[20:, 1])]
    outcome = Findings(("a", "b"))
    assert outcome.score(prob, truth) == pytest.approx(np.mean(each))
    draws = outcome.resampled(prob, truth, np.arange(80).astype(str), 200)
    assert abs(draws.mean() - np.mean(each)) < 0.02
    truth[20:, 1] = 0  # one class only: the other finding stands alone
    assert outcome.score(prob, truth) == pytest.approx(each[0])
    assert len(outcome.threshold(prob, truth)) == 2


def test_mixed_sigmoids_are_the_mixture_of_probabilities():
    large, small = torch.randn(2, 5, 3, dtype=torch.float64)
    w = torch.rand(5, dtype=torch.float64)
    mixed = mixture(large, small, (w, 1 - w), "sigmoids")
    expected = w[:, None] * torch.sigmoid(large) + (1 - w)[:, None] * torch.sigmoid(small)
    assert torch.sigmoid(mixed) == pytest.approx(expected)


@pytest.mark.parametrize("outcome", [Classes(("a", "b")), Findings(("x",), base=(0.1,)), FITTED])
def test_the_state_is_json(outcome):
    assert outcome_of(json.loads(json.dumps(outcome_state(outcome)))) == outcome


def test_classes_are_as_they_were():
    logits, target = torch.randn(20, 3), torch.randint(0, 3, (20,))
    objective = Objective(label_smoothing=0.1)
    assert objective._task(logits, target) == F.cross_entropy(logits, target, label_smoothing=0.1)
