"""Calibrators against scikit-learn and scipy; the choice among them on made-up miscalibration."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from adacomed.evaluation.calibration import slope_intercept
from adacomed.evaluation.discrimination import auroc
from adacomed.evaluation.recalibration import (
    AUTO,
    KINDS,
    Calibrator,
    choose_calibrator,
    fit_calibrator,
)


def binary(n=20_000, slope=1.0, intercept=0.0, seed=0):
    """Labels, and (N, 2) probabilities whose true calibration is that slope and intercept."""
    rng = np.random.default_rng(seed)
    p = expit(1.3 * rng.normal(size=n) - 1)
    y = (rng.random(n) < expit(intercept + slope * logit(p))).astype(int)
    return y, np.stack([1 - p, p], axis=1)


def several(n=20_000, slope=1.0, intercepts=(0.0, 0.0, 0.0), seed=0):
    rng = np.random.default_rng(seed)
    logs = log_softmax(1.5 * rng.normal(size=(n, 3)), axis=1)
    true = softmax(slope * logs + np.array(intercepts), axis=1)
    y = (rng.random(n)[:, None] > true.cumsum(axis=1)).sum(axis=1)
    return y, np.exp(logs)


def log_loss(y, p):
    return -np.log(p[np.arange(len(y)), y]).mean()


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -0.7), (1.8, 0.4)])
def test_platt_against_scikit_learns_logistic_regression(slope, intercept):
    y, p = binary(slope=slope, intercept=intercept)
    found = fit_calibrator("platt", y, p)
    x = logit(p[:, 1])[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(x, y)
    ours = found.apply(p)[:, 1]  # 20,000 patients leave the prior about 1e-3 of the slope
    np.testing.assert_allclose(ours, oracle.predict_proba(x)[:, 1], rtol=0, atol=5e-4)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], abs=2e-3)
    assert slope_intercept(y, found.apply(p)[:, 1]) == pytest.approx((1, 0), abs=3e-3)


def test_platt_against_calibrated_classifier_cv():
    """Platt's targets differ from 0 and 1 by 1/n only, so that the maps agree for many patients."""

    class Given(LogisticRegression):
        def decision_function(self, x):
            return x[:, 0]

    y, p = binary(slope=0.6, intercept=0.3)
    x = logit(p[:, 1])[:, None]
    oracle = CalibratedClassifierCV(Given(), method="sigmoid", cv=2, ensemble=False).fit(x, y)
    ours = fit_calibrator("platt", y, p).apply(p)
    np.testing.assert_allclose(ours, oracle.predict_proba(x), atol=1e-3)


def test_temperature_against_a_scalar_optimum():
    y, p = several(slope=0.6)
    logs = np.log(p)
    oracle = minimize_scalar(
        lambda b: log_loss(y, softmax(b * logs, axis=1)), bounds=(0.1, 5), method="bounded"
    )
    found = fit_calibrator("temperature", y, p)
    assert found.slope == pytest.approx(oracle.x, abs=1e-3)
    assert found.intercepts == ()
    assert found.slope == pytest.approx(0.6, abs=0.03)


def test_vector_scaling_of_three_classes_against_scipy():
    y, p = several(slope=0.7, intercepts=(0.5, -0.2, -0.3))
    logs = np.log(p)
    oracle = minimize(
        lambda v: log_loss(y, softmax(v[0] * logs + np.array([0, *v[1:]]), axis=1)), [1, 0, 0]
    )
    found = fit_calibrator("platt", y, p)
    assert found.slope == pytest.approx(oracle.x[0], abs=1e-3)
    assert np.subtract(found.intercepts[1:], found.intercepts[0]) == pytest.approx(
        oracle.x[1:], abs=2e-3
    )
    assert sum(found.intercepts) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [50, 3000])
def test_isotonic_against_scikit_learn_less_two_patients(n):
    y, p = binary(n, slope=0.4)
    p = np.round(p, 2)  # ties
    p[:, 0] = 1 - p[:, 1]
    new = binary(500, seed=1)[1]
    oracle = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p[:, 1], y)
    found = fit_calibrator("isotonic", y, p).apply(new)[:, 1]
    assert found == pytest.approx((n * oracle.predict(new[:, 1]) + 2 * new[:, 1]) / (n + 2))
    assert ((found > 0) & (found < 1)).all()


def test_isotonic_of_three_classes_is_one_against_the_rest_normalised():
    y, p = several(2000, slope=0.5)
    n = len(y)
    curves = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p[:, k], y == k).predict
        for k in range(3)
    ]
    raw = np.stack([(n * f(p[:, k]) + 2 * p[:, k]) / (n + 2) for k, f in enumerate(curves)], axis=1)
    found = fit_calibrator("isotonic", y, p).apply(p)
    assert found == pytest.approx(raw / raw.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_patients_stays(kind):
    y, p = binary(800, slope=0.5, intercept=1.0)
    new_y, new = binary(3000, seed=3)
    after = fit_calibrator(kind, y, p).apply(new)
    assert (np.argsort(after[:, 1]) == np.argsort(new[:, 1])).all()
    assert auroc(new_y, after[:, 1]) == auroc(new_y, new[:, 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [binary, several])
def test_rows_are_probabilities_and_each_is_its_own(kind, make):
    y, p = make(600, slope=0.5)
    p[0], p[1] = np.eye(p.shape[1])[0], np.eye(p.shape[1])[1]  # exactly 0 and 1
    fitted = fit_calibrator(kind, y, p)
    found = fitted.apply(p)
    assert found.shape == p.shape
    assert found.sum(axis=1) == pytest.approx(1)
    assert ((found >= 0) & (found <= 1)).all()
    assert fitted.apply(p[5:6]) == pytest.approx(found[5:6], abs=1e-12)
    again = Calibrator.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert np.array_equal(again.apply(p), found)


@pytest.mark.parametrize("kind", ["temperature", "platt"])
@pytest.mark.parametrize(
    ("y", "p"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # separated
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),  # the wrong way round
        ([1, 1, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # one class
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),  # one probability
        ([0, 1, 1, 0], [0.0, 1.0, 0.0, 1.0]),
        ([1], [0.5]),
    ],
)
def test_the_slope_stays_finite_and_rising(kind, y, p):
    p = np.array(p)
    found = fit_calibrator(kind, y, np.stack([1 - p, p], axis=1))
    assert 0 < found.slope < 100
    assert np.isfinite(found.intercepts).all()


def test_twelve_events_outweigh_the_prior():
    """A map that is off by a factor of 3 on the odds is seen, and mostly mended."""
    y, p = binary(120, intercept=-1.1, seed=2)
    assert 8 <= y.sum() <= 30
    x = logit(p[:, 1])[:, None]
    oracle = LogisticRegression(C=np.inf).fit(x, y).predict_proba(x)[:, 1]
    assert np.abs(fit_calibrator("platt", y, p).apply(p)[:, 1] - oracle).max() < 0.03


@pytest.mark.parametrize(
    ("slope", "intercept", "best"),
    [(1.0, 0.0, {"none"}), (0.4, 0.0, {"temperature", "platt"}), (1.0, -1.2, {"platt"})],
)
def test_auto_takes_the_kind_that_mends_what_is_wrong(slope, intercept, best):
    y, p = binary(900, slope=slope, intercept=intercept)
    chosen = choose_calibrator(AUTO, y, p, np.arange(900), 0)
    assert chosen.found["kind"] in best
    assert chosen.calibrator == fit_calibrator(chosen.found["kind"], y, p)
    assert "isotonic" not in chosen.found["log_loss"]
    test_y, test = binary(20_000, slope=slope, intercept=intercept, seed=9)
    assert log_loss(test_y, chosen.calibrator.apply(test)) <= log_loss(test_y, test)
    json.dumps(chosen.found)


def test_calibrated_probabilities_are_left_alone():
    """5 % of a one-sided family may be moved by chance; here each has half of that."""
    kinds = []
    for seed in range(40):
        y, p = binary(300, seed=seed)
        kinds.append(choose_calibrator(AUTO, y, p, np.arange(300), seed).found["kind"])
    assert kinds.count("none") >= 36


def test_isotonic_is_tried_from_a_thousand_subjects_on_and_wins_on_a_bent_curve():
    rng = np.random.default_rng(0)
    p = rng.random(6000)
    y = (rng.random(6000) < np.where(p < 0.5, 0.05, 0.6)).astype(int)
    both = np.stack([1 - p, p], axis=1)
    found = choose_calibrator(AUTO, y, both, np.arange(6000), 0).found
    assert found["kind"] == "isotonic"
    few = choose_calibrator(AUTO, y, both, np.arange(6000) % 999, 0).found
    assert "isotonic" not in few["log_loss"]


def test_one_subjects_rows_are_in_one_fold_and_count_once():
    """60 subjects of 50 equal rows are 60: what looks certain by rows is not by subjects."""
    y, p = binary(60, slope=0.7, seed=1)
    rows = np.repeat(np.arange(60), 50)
    alone = choose_calibrator(AUTO, y[rows], p[rows], rows, 0).found
    taken_apart = choose_calibrator(AUTO, y[rows], p[rows], np.arange(3000), 0).found
    assert alone["kind"] == "none"
    assert taken_apart["kind"] != "none"


def test_a_seed_gives_the_same_and_a_rare_class_is_said():
    y, p = binary(400, slope=0.5)
    one, two = (choose_calibrator(AUTO, y, p, np.arange(400), 7) for _ in range(2))
    assert one == two
    y[:] = 0
    y[:4] = 1
    found = choose_calibrator(AUTO, y, p, np.arange(400), 7)
    assert found.calibrator.kind == "none"
    assert "4 validation subjects" in found.found["why"]
    assert choose_calibrator("platt", y, p, np.arange(400), 7).calibrator.kind == "platt"


@pytest.mark.parametrize(
    ("kind", "y", "p", "says"),
    [
        ("plat", [0, 1], [[0.5, 0.5], [0.5, 0.5]], "known: none"),
        ("platt", [0, 2], [[0.5, 0.5], [0.5, 0.5]], "classes 0"),
        ("platt", [0, 1], [0.5, 0.5], "N, K"),
        ("platt", [0, 1], [[0.5, np.nan], [0.5, 0.5]], "lie in"),
        ("platt", [], np.empty((0, 2)), "N ≥ 1"),
    ],
)
def test_wrong_arrays_are_said_so(kind, y, p, says):
    with pytest.raises(ValueError, match=says):
        fit_calibrator(kind, y, p)


def test_another_number_of_classes_is_said_so():
    fitted = fit_calibrator("platt", *several(100))
    with pytest.raises(ValueError, match="expected"):
        fitted.apply([[0.5, 0.5]])
    with pytest.raises(ValueError, match="subjects"):
        choose_calibrator(AUTO, *binary(50), np.arange(49), 0)
