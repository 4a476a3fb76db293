"""HAIM against direct calls of xgboost; missing values, three classes, determinism."""

import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from adacomed.errors import InputError
from adacomed.models.baselines import haim
from adacomed.models.baselines.haim import ORIGINAL_GRID, fit_haim

xgboost = pytest.importorskip("xgboost")


def problem(n=120, classes=2, missing=0.2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5))
    cuts = np.quantile(x[:, 0], np.arange(1, classes) / classes)
    y = np.digitize(x[:, 0] + 0.5 * rng.normal(size=n), cuts)
    x[rng.random(x.shape) < missing] = np.nan
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    return x, y, list(folds.split(x, y))


@pytest.fixture
def few_trees(monkeypatch):
    """Grids whose fits take milliseconds."""
    grid = {
        "max_depth": (1, 3),
        "learning_rate": (0.05, 0.3),
        "n_estimators": (4, 12),
        "max_bin": (64,),
    }
    monkeypatch.setattr(haim, "REDUCED_GRID", grid)
    monkeypatch.setattr(haim, "ORIGINAL_GRID", {**grid, "max_depth": (2,), "max_bin": (256,)})


def direct(x, y, constants, **more):
    model = xgboost.XGBClassifier(**constants, tree_method="hist", n_jobs=1, random_state=3, **more)
    return model.fit(x, y)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_equals_the_best_of_direct_fits(few_trees, classes):
    x, y, splits = problem(classes=classes)
    best = np.inf, {}, np.empty(0)
    for depth in (1, 3):
        for rate in (0.05, 0.3):
            for trees in (4, 12):
                constants = {
                    "max_depth": depth,
                    "learning_rate": rate,
                    "n_estimators": trees,
                    "max_bin": 64,
                }
                out = np.empty((len(y), classes))
                for train, test in splits:
                    out[test] = direct(x[train], y[train], constants).predict_proba(x[test])
                loss = -np.log(out[np.arange(len(y)), y]).mean()
                best = min(best, (loss, constants, out), key=lambda b: b[0])
    fitted = fit_haim(x, y, splits, seed=3)
    _, constants, out = best
    assert fitted.choices == constants
    np.testing.assert_allclose(fitted.out_of_fold, out, atol=1e-6)
    new = np.where(np.random.default_rng(1).random((30, 5)) < 0.2, np.nan, x[:30] + 0.1)
    np.testing.assert_allclose(
        fitted.predict(new), direct(x, y, constants).predict_proba(new), atol=1e-6
    )
    np.testing.assert_allclose(fitted.predict(new).sum(1), 1, atol=1e-12)


def test_the_reduced_grid_of_200_trees_learns():
    x, y, splits = problem(missing=0)
    fitted = fit_haim(x, y, splits, seed=0)
    assert set(fitted.choices) == {"max_depth", "learning_rate", "n_estimators", "max_bin"}
    assert fitted.choices["n_estimators"] == 200
    assert roc_auc_score(y, fitted.out_of_fold[:, 1]) > 0.85


def test_the_full_grid_is_the_originals(few_trees):
    assert ORIGINAL_GRID["max_depth"] == (5, 6, 7, 8)
    assert ORIGINAL_GRID["n_estimators"] == (200, 300)
    assert ORIGINAL_GRID["learning_rate"] == (0.3, 0.1, 0.05)
    x, y, splits = problem()
    chosen = fit_haim(x, y, splits, seed=0, full_grid=True).choices
    assert (chosen["max_depth"], chosen["max_bin"]) == (2, 256)


def test_a_patient_with_nothing_and_a_column_of_nothing(few_trees):
    x, y, splits = problem()
    x[:, 4] = np.nan
    x[0] = np.nan
    fitted = fit_haim(x, y, splits, seed=0)
    assert np.isfinite(fitted.out_of_fold).all()
    assert np.isfinite(fitted.predict(x[:1])).all()


def test_a_fold_without_a_class_still_speaks_of_it(few_trees):
    x, y, _ = problem(classes=3)
    order = np.argsort(y == 2, kind="stable")  # the last third holds class 2 only
    x, y = x[order], y[order]
    rows = np.arange(len(y))
    splits = [(rows[:80], rows[80:]), (rows[80:], rows[:80])]
    fitted = fit_haim(x, y, splits, seed=0)
    np.testing.assert_allclose(fitted.out_of_fold.sum(1), 1, atol=1e-12)
    assert fitted.predict(x[:2]).shape == (2, 3)


def test_out_of_fold_never_saw_the_fold(few_trees):
    """Flip a fold's labels: with the constants fixed, its own probabilities stay."""
    x, y, splits = problem()
    fitted = fit_haim(x, y, splits, seed=0)
    haim.REDUCED_GRID = {name: (value,) for name, value in fitted.choices.items()}
    test = splits[0][1]
    flipped = y.copy()
    flipped[test] = 1 - flipped[test]
    other = fit_haim(x, flipped, splits, seed=0)
    np.testing.assert_array_equal(other.out_of_fold[test], fitted.out_of_fold[test])
    assert np.abs(other.out_of_fold - fitted.out_of_fold).max() > 0.01


def test_a_seed_repeats(few_trees):
    x, y, splits = problem()
    a, b = (fit_haim(x, y, splits, seed=0) for _ in range(2))
    np.testing.assert_array_equal(a.out_of_fold, b.out_of_fold)
    np.testing.assert_array_equal(a.predict(x), b.predict(x))


def test_without_xgboost_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(InputError, match=r"pip install 'adacomed\[paper\]'"):
        fit_haim(*problem(), seed=0)
