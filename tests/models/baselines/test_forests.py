"""Forests that are grown the short way against scikit-learn's: every node of every tree."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from adacomed.models.baselines import forests
from adacomed.models.baselines.forests import ExtraForest, Forest

PAIRS = [(Forest, RandomForestClassifier), (ExtraForest, ExtraTreesClassifier)]
EITHER = pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["forest", "extra"])


def problem(n=80, classes=2, missing=0.0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6))
    y = np.digitize(x[:, 0] + 0.5 * rng.normal(size=n), np.linspace(-0.5, 0.5, classes - 1))
    x[rng.random(x.shape) < missing] = np.nan
    return x, y


def check_same(ours, theirs, x):
    assert len(ours.estimators_) == len(theirs.estimators_)
    for a, b in zip(ours.estimators_, theirs.estimators_, strict=True):
        mine, its = a.tree_.__getstate__(), b.tree_.__getstate__()
        assert mine["max_depth"] == its["max_depth"]
        np.testing.assert_array_equal(mine["values"], its["values"])
        for field in its["nodes"].dtype.names:
            np.testing.assert_array_equal(mine["nodes"][field], its["nodes"][field])
        assert a.random_state == b.random_state
        np.testing.assert_array_equal(a.predict_proba(x), b.predict_proba(x))
    np.testing.assert_array_equal(ours.predict_proba(x), theirs.predict_proba(x))
    np.testing.assert_array_equal(ours.feature_importances_, theirs.feature_importances_)


@EITHER
@pytest.mark.parametrize("leaf", [1, 3])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_trees_are_the_same(ours, theirs, leaf, classes, missing, monkeypatch):
    x, y = problem(classes=classes, missing=missing)
    settings = {"n_estimators": 20, "min_samples_leaf": leaf, "random_state": 4}
    expected = theirs(**settings).fit(x, y)

    def slow(*_, **__):
        raise AssertionError("the long way was taken")

    monkeypatch.setattr(DecisionTreeClassifier, "_fit", slow)
    check_same(ours(**settings).fit(x, y), expected, x)


@EITHER
def test_weights_of_the_rows(ours, theirs):
    x, y = problem()
    weight = np.random.default_rng(1).uniform(0, 3, len(y))
    settings = {"n_estimators": 20, "random_state": 4}
    both = [kind(**settings).fit(x, y, sample_weight=weight) for kind in (ours, theirs)]
    check_same(*both, x)


@EITHER
@pytest.mark.parametrize(
    "other",
    [
        {"max_depth": 2},
        {"max_leaf_nodes": 4},
        {"criterion": "entropy"},
        {"class_weight": "balanced"},
        {"max_features": 2},
        {"ccp_alpha": 0.02},
        {"min_samples_split": 9},
        {"min_samples_leaf": 0.05},
        {"max_samples": 0.5, "bootstrap": True},
        {"warm_start": True},
    ],
    ids=lambda s: next(iter(s)),
)
def test_settings_beyond_those_of_our_kinds(ours, theirs, other):
    x, y = problem()
    settings = {"n_estimators": 10, "random_state": 4, **other}
    check_same(*[kind(**settings).fit(x, y) for kind in (ours, theirs)], x)


@EITHER
def test_another_inside_means_the_long_way_and_the_same_trees(ours, theirs, monkeypatch):
    x, y = problem()
    expected = theirs(10, random_state=4).fit(x, y)
    monkeypatch.setattr(forests, "Tree", lambda: None)  # takes other arguments
    check_same(ours(10, random_state=4).fit(x, y), expected, x)
    monkeypatch.setattr(forests, "SPLITTERS", {})  # is not there at all
    check_same(ours(10, random_state=4).fit(x, y), expected, x)


@EITHER
def test_a_copy_is_of_its_kind_with_its_settings(ours, theirs):
    model = ours(n_estimators=7, min_samples_leaf=3, random_state=1)
    assert type(clone(model)) is ours
    assert clone(model).get_params() == theirs(7, min_samples_leaf=3, random_state=1).get_params()
