from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve as sklearn_curve
from sklearn.linear_model import LogisticRegression

from adacomed.evaluation.calibration import calibration_curve, ece, slope_intercept


def sample(n=2000, slope=1.0, intercept=0.0, seed=0):
    rng = np.random.default_rng(seed)
    p = expit(1.3 * rng.normal(size=n) - 1)
    y = (rng.random(n) < expit(intercept + slope * logit(p))).astype(int)
    return y, p


def test_curve_against_scikit_learn_and_scipy():
    y, p = sample()
    curve = calibration_curve(y, p)
    observed, predicted = sklearn_curve(y, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(curve["observed"], observed)
    np.testing.assert_allclose(curve["predicted"], predicted)
    assert curve["n"].tolist() == [200] * 10
    for k, n, low, high in zip(
        curve["events"], curve["n"], curve["low"], curve["high"], strict=True
    ):
        oracle = binomtest(int(k), int(n)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((oracle.low, oracle.high))


def test_equal_probabilities_stay_in_one_bin():
    curve = calibration_curve([0, 1, 0, 0, 1, 1], [0.2, 0.2, 0.2, 0.2, 0.2, 0.9], bins=10)
    assert curve["n"].tolist() == [5, 1]
    assert curve["observed"].tolist() == [0.4, 1.0]
    assert calibration_curve([0, 1], [0.3, 0.3])["n"].tolist() == [2]
    assert len(calibration_curve([], [])["n"]) == 0


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -0.7), (1.8, 0.4)])
def test_slope_and_intercept_against_scikit_learn(slope, intercept):
    y, p = sample(4000, slope, intercept)
    found = slope_intercept(y, p)
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], abs=1e-4)
    assert found.intercept == pytest.approx(oracle.intercept_[0], abs=1e-4)
    assert found == pytest.approx((slope, intercept), abs=0.2)


def test_recalibrated_probabilities_are_calibrated():
    y, p = sample(500, 0.4, 0.5)
    slope, intercept = slope_intercept(y, p)
    assert slope_intercept(y, expit(intercept + slope * logit(p))) == pytest.approx(
        (1, 0), abs=1e-6
    )


@pytest.mark.parametrize(
    ("y", "p"),
    [
        ([1, 1], [0.2, 0.8]),
        ([0, 1, 0], [0.5, 0.5, 0.5]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]),
        ([0, 0, 1, 1], [0.9, 0.6, 0.2, 0.1]),
        ([], []),
    ],
)
def test_no_slope_where_there_is_no_estimate(y, p):
    assert np.isnan(slope_intercept(y, p)).all()


def test_extreme_probabilities_still_have_a_slope():
    y, p = sample(300)
    y[:3], p[:3] = [0, 1, 1], [1.0, 0.0, 1.0]
    assert np.isfinite(slope_intercept(y, p)).all()


def test_ece_by_hand_and_by_a_loop():
    assert ece([0, 1, 1, 1], [0.1, 0.1, 0.9, 1.0], bins=2) == pytest.approx(
        (0.4 * 2 + 0.05 * 2) / 4
    )
    y, p = sample(300)
    total = 0.0
    for i in range(15):
        inside = (p >= i / 15) & (p < (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
    assert ece(y, p) == pytest.approx(total)
    assert np.isnan(ece([], []))


@pytest.mark.parametrize(
    ("y", "p", "says"),
    [
        ([0, 1], [0.1], "expected"),
        ([0, 2], [0.1, 0.2], "0 or 1"),
        ([0, 1], [0.1, np.nan], "lie in"),
    ],
)
@pytest.mark.parametrize("function", [calibration_curve, ece, slope_intercept])
def test_wrong_arrays_are_said_so(function, y, p, says):
    with pytest.raises(ValueError, match=says):
        function(y, p)
