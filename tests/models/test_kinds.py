"""Classifiers by name against direct fits of scikit-learn and LightGBM; missing values, seeds."""

import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from adacomed.errors import InputError
from adacomed.models.baselines import kinds
from adacomed.models.baselines.classical import fit_kind
from adacomed.models.baselines.kinds import KINDS

LIGHTGBM = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_child_samples": 10,
    "verbosity": -1,
    "n_jobs": 1,
}


def problem(n=60, classes=2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4))
    cuts = np.quantile(x[:, 0], np.arange(1, classes) / classes)
    y = np.digitize(x[:, 0] + 0.5 * rng.normal(size=n), cuts)
    x[rng.random(x.shape) < 0.2] = np.nan
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    return x, y, list(folds.split(x, y))


def extra_trees(leaf, x):
    """Forest and features where a missing cell is the mean, with a flag of its own."""
    mean = np.nanmean(x, axis=0)
    model = ExtraTreesClassifier(200, min_samples_leaf=leaf, random_state=3)
    return model, lambda z: np.hstack([np.where(np.isnan(z), mean, z), np.isnan(z)])


def lightgbm(trees, _):
    module = pytest.importorskip("lightgbm")
    return module.LGBMClassifier(n_estimators=trees, random_state=3, **LIGHTGBM), lambda z: z


@pytest.mark.parametrize(
    ("kind", "direct", "constant", "values", "classes"),
    [
        ("extra-trees", extra_trees, "min_samples_leaf", (1, 3, 10), 2),
        ("lightgbm", lightgbm, "n_estimators", (50, 100, 200), 2),
        ("lightgbm", lightgbm, "n_estimators", (50, 100, 200), 3),
    ],
)
def test_it_is_the_best_of_direct_fits(kind, direct, constant, values, classes):
    x, y, splits = problem(classes=classes)

    def fit(value, train, test):
        model, features = direct(value, train)
        rows = slice(None) if train is x else splits_of[id(train)]
        return model.fit(features(train), y[rows]).predict_proba(features(test))

    parts = [(x[train], train, x[test], test) for train, test in splits]
    splits_of = {id(part): train for part, train, _, _ in parts}
    out = {value: np.empty((len(y), classes)) for value in values}
    losses = {}
    for value in values:
        for train, _, test, rows in parts:
            out[value][rows] = fit(value, train, test)
        losses[value] = np.mean([log_loss(y[rows], out[value][rows]) for *_, rows in parts])
    best = min(values, key=losses.__getitem__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as LightGBM's about names of features
        fitted = fit_kind(kind, x, y, splits, seed=3)
        new = fitted.predict(x + 0.1)
    assert fitted.choices == {constant: best}
    np.testing.assert_allclose(fitted.out_of_fold, out[best], atol=1e-12)
    np.testing.assert_allclose(new, fit(best, x, x + 0.1), atol=1e-12)
    assert all(abs(a - b) > 1e-3 for a, b in pairwise(losses.values()))  # a choice was made


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "forest"])  # as extra-trees
def test_columns_of_nothing_and_a_patient_with_nothing(kind):
    """A column may also be empty in one inner fold only."""
    if kind == "lightgbm":
        pytest.importorskip("lightgbm")
    x, y, splits = problem()
    x[:, 1] = np.nan
    x[splits[0][0], 2] = np.nan
    x[0] = np.nan
    fitted = fit_kind(kind, x, y, splits, seed=0)
    assert np.isfinite(fitted.out_of_fold).all()
    together = fitted.predict(x)
    alone = np.concatenate([fitted.predict(x[[i]]) for i in range(5)])
    np.testing.assert_allclose(alone, together[:5], atol=1e-9)
    new = np.where(np.arange(4) == 1, 7.0, x)  # a value where training had none says nothing
    np.testing.assert_allclose(fitted.predict(new), together, atol=1e-9)


def test_lightgbm_repeats_itself():
    pytest.importorskip("lightgbm")
    x, y, splits = problem()
    a, b = (fit_kind("lightgbm", x, y, splits, seed=5).predict(x) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match=r"pip install 'adacomed\[paper\]'"):
        kinds.lightgbm(0)
