"""Late fusion with calibrated weights: the pool by hand, the weights, their honesty, noise."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

from adacomed.models.baselines import classical, kinds
from adacomed.models.baselines.classical import (
    fit_weights,
    late_fusion,
    pool,
    weighted_late_fusion,
)


def binary(p):
    p = np.asarray(p, float)
    return np.stack([1 - p, p], axis=-1)


def patients(n, seed, classes=2, missing=0.2):
    """Modality "good" knows the class, "noise" nothing; each is missing in some patients."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    good = rng.normal(size=(n, 4))
    good[:, :classes] += 2 * np.eye(classes)[y]
    parts = {"good": good, "noise": rng.normal(size=(n, 4))}
    gone = rng.random((n, 2)) < missing
    gone[gone.all(axis=1)] = False
    for column, x in enumerate(parts.values()):
        x[gone[:, column]] = np.nan
    return parts, y


def folds(y, k=3):
    return list(StratifiedKFold(k, shuffle=True, random_state=0).split(y, y))


def test_pool_is_the_weighted_mean_of_log_odds():
    prob = np.stack(
        [binary([0.9, 0.9, np.nan, np.nan, 0.9]), binary([0.4, np.nan, 0.4, np.nan, 0.2])]
    )
    said = pool(prob, np.array([0.75, 0.25]), np.array([0.7, 0.3]))[:, 1]
    expected = [
        expit(0.75 * logit(0.9) + 0.25 * logit(0.4)),
        0.9,  # normalised over what the patient has
        0.4,
        0.3,  # the prior
        expit(0.75 * logit(0.9) + 0.25 * logit(0.2)),
    ]
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_pool_of_three_classes_is_a_geometric_mean():
    prob = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.3, 0.6]]])
    mean = prob[0] ** 0.6 * prob[1] ** 0.4
    said = pool(prob, np.array([0.6, 0.4]), np.ones(3) / 3)
    np.testing.assert_allclose(said, mean / mean.sum(), atol=1e-5)


def test_a_modality_without_weight_speaks_for_who_has_no_other():
    prob = np.stack([binary([np.nan, 0.9]), binary([0.4, 0.1])])
    said = pool(prob, np.array([1.0, 0.0]), np.array([0.5, 0.5]))[:, 1]
    np.testing.assert_allclose(said, [0.4, 0.9], atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_weights_are_the_minimum_of_a_fine_search(classes):
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=60)
    raw = (
        rng.normal(size=(2, 60, classes)) + np.array([1.5, 0.5])[:, None, None] * np.eye(classes)[y]
    )
    prob = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
    prob[0, :10] = np.nan
    prob[1, 5:15] = np.nan
    some = np.arange(60) >= 10
    some |= np.arange(60) < 5

    def cost(a):
        w = np.array([a, 1 - a])
        p = pool(prob, w, np.ones(classes) / classes)[some]
        own = p[np.arange(some.sum()), y[some]]
        return -np.log(own).sum() + ((2 * w - 1) ** 2).sum()

    grid = np.linspace(0, 1, 2001)
    best = grid[np.argmin([cost(a) for a in grid])]
    assert 0.5 < best < 1
    assert fit_weights(prob, y)[0] == pytest.approx(best, abs=2e-3)


def test_few_patients_stay_near_equal_weights():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    good = binary(expit((2 * y - 1) * 2 + rng.normal(size=400)))
    prob = np.stack([good, binary(np.full(400, 0.5))])
    few, many = fit_weights(prob[:, :4], y[:4])[0], fit_weights(prob, y)[0]
    assert 0.5 < few < 0.75
    assert many > 0.98
    equal = fit_weights(prob[:, :20], y[:20], penalty=1e6)
    np.testing.assert_allclose(equal, 0.5, atol=1e-3)


@pytest.fixture(scope="module", params=[2, 3])
def toy(request):
    parts, y = patients(500, seed=0, classes=request.param)
    return parts, y, weighted_late_fusion(parts, [], y, folds(y), 0)


def test_noise_gets_no_weight_and_new_patients_gain(toy):
    parts, y, fitted = toy
    weights = fitted.choices["weights"]
    assert weights["noise"] < 0.1
    assert sum(weights.values()) == pytest.approx(1, abs=0.002)
    new, truth = patients(2000, seed=1, classes=int(y.max()) + 1)
    plain = late_fusion(parts, [], y, folds(y), 0)
    ours, theirs = (log_loss(truth, f.predict(new)) for f in (fitted, plain))
    assert ours < theirs - 0.02
    # and the out-of-fold figure is what new patients see
    assert log_loss(y, fitted.out_of_fold) == pytest.approx(ours, abs=0.08)


def test_a_patient_is_predicted_from_what_they_have(toy):
    parts, y, fitted = toy
    new, _ = patients(20, seed=2, classes=int(y.max()) + 1)
    together = fitted.predict(new)
    alone = np.concatenate([fitted.predict({m: x[[i]] for m, x in new.items()}) for i in range(20)])
    np.testing.assert_allclose(together, alone, atol=1e-12)
    nobody = {m: np.full((1, 4), np.nan) for m in parts}
    np.testing.assert_allclose(fitted.predict(nobody)[0], np.bincount(y) / len(y))


def test_a_folds_own_labels_move_nothing_that_is_fitted_behind_the_members(monkeypatch):
    """Members held fixed, flip a fold's labels: its probabilities stay, other folds' do not."""
    parts, y = patients(150, seed=3)
    for x in parts.values():
        x[:9] = np.nan  # they get the prior, which is the other folds' too
    rng = np.random.default_rng(0)
    raw = {id(x): binary(rng.uniform(0.05, 0.95, len(y))) for x in parts.values()}

    def fixed(kind, x, y, splits, seed, K):
        out = np.where(np.isnan(x).all(1)[:, None], np.nan, raw[id(x)])
        return (lambda z: np.full((len(z), K), 0.5)), out

    monkeypatch.setattr(classical, "_member", fixed)
    splits = folds(y)
    test = splits[0][1]
    flipped = y.copy()
    flipped[test] = 1 - flipped[test]
    a = weighted_late_fusion(parts, [], y, splits, 0).out_of_fold
    b = weighted_late_fusion(parts, [], flipped, splits, 0).out_of_fold
    np.testing.assert_array_equal(a[test], b[test])
    rest = np.setdiff1d(np.arange(len(y)), test)
    assert np.abs(a[rest] - b[rest]).max() > 1e-3


def test_a_modality_that_too_few_have_is_left_out():
    parts, y = patients(90, seed=4, missing=0)
    rare = np.full((90, 2), np.nan)
    rare[:2] = 1.0
    fitted = weighted_late_fusion({"good": parts["good"], "rare": rare}, [], y, folds(y), 0)
    assert fitted.choices["weights"] == {"good": 1.0, "rare": 0.0}
    nothing = weighted_late_fusion({"rare": rare}, [], y, folds(y), 0)
    np.testing.assert_allclose(nothing.predict({"rare": rare[:3]}), [np.bincount(y) / 90] * 3)


def test_a_seed_repeats_and_tables_get_a_forest(monkeypatch):
    small = RandomForestClassifier(n_estimators=10, random_state=0)
    steps = make_pipeline(SimpleImputer(), small)
    leaves = {"randomforestclassifier__min_samples_leaf": [3, 10]}
    monkeypatch.setitem(kinds.KINDS, "forest", lambda seed: (steps, leaves))
    parts, y = patients(60, seed=5, missing=0.1)
    a, b = (weighted_late_fusion(parts, [], y, folds(y, 2), 0) for _ in range(2))
    np.testing.assert_array_equal(a.out_of_fold, b.out_of_fold)
    forest = weighted_late_fusion(parts, ["noise"], y, folds(y, 2), 0)
    assert np.abs(a.out_of_fold - forest.out_of_fold).max() > 1e-4
