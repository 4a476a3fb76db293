from __future__ import annotations

import numpy as np
import pytest

from adacomed.evaluation.decisions import decision_curve, net_benefits
from adacomed.evaluation.discrimination import metrics


def test_net_benefit_by_hand_with_thresholds_that_differ_by_row():
    # at .2 a false positive costs 1/4, at .5 one
    y, p = [1, 0, 0, 1, 0], [0.3, 0.4, 0.6, 0.1, 0.7]
    cut = np.array([0.2, 0.2, 0.2, 0.2, 0.5])
    assert metrics(y, p, cut)["net_benefit"] == pytest.approx((1 - 0.25 - 0.25 - 1) / 5)
    assert metrics(y, p, 0.0)["net_benefit"] == pytest.approx(2 / 5)  # nothing lost by treating
    assert np.isnan(metrics(y, p, 1.0)["net_benefit"])


def test_a_decision_curve_by_its_definition():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    p = np.round(rng.beta(1 + y, 2), 1)  # ties at the thresholds
    t = np.linspace(0, 0.9, 10)
    curve = decision_curve(y, p, t)
    for i, cut in enumerate(t):
        odds = cut / (1 - cut)
        treated = p >= cut
        assert curve["model"][i] == pytest.approx((treated * (y - (1 - y) * odds)).mean())
        assert curve["all"][i] == pytest.approx(y.mean() - (1 - y.mean()) * odds)
        assert curve["model"][i] == pytest.approx(metrics(y, p, cut)["net_benefit"])
    assert (curve["none"] == 0).all()
    assert curve["model"][0] == curve["all"][0] == pytest.approx(y.mean())


def test_net_benefits_under_weights_are_those_of_repeated_patients():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 60), np.round(rng.random(60), 1)  # ties at the thresholds
    weight, t = rng.poisson(1, (3, 60)), np.array([0.5, 0.1, 0.0, 0.9])  # in any order
    found = net_benefits(y, p, t, weight.astype(float))
    for row, times in zip(found, weight, strict=True):
        again = [metrics(np.repeat(y, times), np.repeat(p, times), cut) for cut in t]
        np.testing.assert_allclose(row, [m["net_benefit"] for m in again], atol=1e-12)
    assert np.isnan(net_benefits(y, p, t, np.zeros((1, 60)))).all()


def test_no_patients_have_no_net_benefit():
    assert np.isnan(decision_curve([], [], [0.1])["model"]).all()


@pytest.mark.parametrize(
    ("prob", "thresholds", "says"),
    [
        ([0.1, 0.2], [1.0], r"\[0, 1\)"),
        ([0.1, 0.2], 0.5, r"\(T,\)"),
        ([[0.1, 0.2, 0.7]] * 2, [0.5], "2 classes"),
    ],
)
def test_a_curve_that_cannot_be_drawn(prob, thresholds, says):
    with pytest.raises(ValueError, match=says):
        decision_curve([0, 1], prob, thresholds)
