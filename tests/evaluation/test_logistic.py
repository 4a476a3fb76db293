from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from adacomed.evaluation import logistic
from adacomed.evaluation.logistic import logistic_line


def drawn(n, rows, seed=0, slope=1.0):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.normal(size=n))
    y = rng.random(n) < expit(slope * x - 1)
    weight = rng.poisson(1, size=(rows, n)).astype(float)
    return x, weight * y, weight * ~y


def fitted(x, pos, neg):
    """scikit-learn on weighted rows, every value once as a positive and once as a negative."""
    both, label = np.concatenate([x, x])[:, None], np.repeat([1, 0], len(x))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=500)
    model.fit(both, label, sample_weight=np.concatenate([pos, neg]))
    return model.coef_[0, 0], model.intercept_[0]


def test_every_weighting_against_scikit_learn():
    x, pos, neg = drawn(60, 40)
    slope, intercept = logistic_line(x, pos, neg)
    oracle = np.array([fitted(x, *row) for row in zip(pos, neg, strict=True)])
    np.testing.assert_allclose(np.stack([slope, intercept], 1), oracle, rtol=1e-5, atol=1e-6)


def test_weightings_that_plain_newton_leaves_are_found_carefully(monkeypatch):
    x, pos, neg = drawn(25, 200, seed=2, slope=4.0)
    first = logistic_line(x, pos, neg)
    assert 0 < np.isnan(first[0]).sum() < 100  # separated ones
    monkeypatch.setattr(logistic, "QUICK", 0)
    np.testing.assert_allclose(logistic_line(x, pos, neg), first, rtol=1e-6, atol=1e-8)
    there = np.flatnonzero(~np.isnan(first[0]))[:20]
    oracle = np.array([fitted(x, pos[i], neg[i]) for i in there])
    np.testing.assert_allclose(np.stack(first, 1)[there], oracle, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pos", "neg"),
    [
        ([0, 0, 1, 2], [1, 1, 0, 0]),
        ([1, 1, 0, 0], [0, 0, 1, 2]),
        ([0, 0, 1, 2], [1, 1, 1, 0]),  # they meet in one value only: no maximum either
        ([1, 1, 1, 1], [0, 0, 0, 0]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 3, 0, 0], [0, 2, 0, 0]),
    ],
)
def test_no_line_where_there_is_no_maximum(pos, neg):
    # beside a row that has one
    slope, intercept = logistic_line(
        np.arange(4.0), np.array([pos, [1, 0, 1, 1.0]]), np.array([neg, [1, 1, 1, 0.0]])
    )
    assert np.isnan([slope[0], intercept[0]]).all()
    assert np.isfinite([slope[1], intercept[1]]).all()


def test_a_thousand_resamples_of_two_thousand_patients_take_a_moment():
    x, pos, neg = drawn(2000, 1000)
    started = time.process_time()
    assert np.isfinite(logistic_line(x, pos, neg)).all()
    assert time.process_time() - started < 2
