"""Searches of constants against scikit-learn's own, written plainly; what is shared is shared."""

import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss as plain_log_loss
from sklearn.model_selection import (
    GridSearchCV,
    ParameterGrid,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline

from adacomed.models.baselines.candidates import candidate_probabilities
from adacomed.models.baselines.classical import fit_kind, log_loss
from adacomed.models.baselines.kinds import KINDS, STAGED
from adacomed.training.questions import Question
from adacomed.training.scores import FIXED, cross_fit

FEW = {
    "forest": {"randomforestclassifier__n_estimators": 20},
    "extra-trees": {"extratreesclassifier__n_estimators": 20},
}
CHOICES = {
    "histgradientboostingclassifier__max_iter": [5, 10, 20],
    "lgbmclassifier__n_estimators": [5, 10, 20],
}
PLAIN = {"forest": RandomForestClassifier, "extra-trees": ExtraTreesClassifier}


def problem(n=90, classes=2, folds=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5))
    cuts = np.quantile(x[:, 0], np.arange(1, classes) / classes)
    y = np.digitize(x[:, 0] + 0.5 * rng.normal(size=n), cuts)
    x[rng.random(x.shape) < 0.2] = np.nan
    splits = StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y)
    return x, y, list(splits)


def plain(kind, seed):
    """The kind's pipeline, with scikit-learn's own forest in it."""
    if kind == "lightgbm":
        pytest.importorskip("lightgbm")
    model, grid = KINDS[kind](seed)
    if kind in PLAIN:
        imputer = SimpleImputer(add_indicator=True, keep_empty_features=True)
        model = make_pipeline(imputer, PLAIN[kind](n_estimators=20, random_state=seed))
    return model, grid


@pytest.fixture
def few(monkeypatch):
    """Kinds of which a fit takes milliseconds: a tenth of the trees."""

    def smaller(name, make, seed):
        model, grid = make(seed)
        model.set_params(**FEW.get(name, {}))
        return model, {constant: CHOICES.get(constant, v) for constant, v in grid.items()}

    for name, make in list(KINDS.items()):
        monkeypatch.setitem(KINDS, name, partial(smaller, name, make))
    monkeypatch.setitem(FIXED, "forest", {**FEW["forest"], "randomforestclassifier__max_depth": 3})


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("few")
def test_a_kind_is_what_a_grid_search_and_a_second_pass_give(kind, classes):
    x, y, splits = problem(classes=classes)
    model, grid = plain(kind, 3)
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=splits).fit(x, y)
    best = clone(search.best_estimator_)
    out = cross_val_predict(best, x, y, cv=splits, method="predict_proba")
    fitted = fit_kind(kind, x, y, splits, seed=3)
    chosen = {name.split("__")[-1]: value for name, value in search.best_params_.items()}
    assert fitted.choices == chosen
    np.testing.assert_allclose(fitted.out_of_fold, out, atol=1e-12)
    new = np.where(np.isnan(x), 0.3, x + 0.1)
    np.testing.assert_allclose(fitted.predict(new), search.predict_proba(new), atol=1e-12)


@pytest.mark.parametrize(("patients", "bins"), [(20, 64), (519, 64), (520, 65), (3000, 255)])
def test_boosting_cuts_no_finer_than_there_are_patients_for(patients, bins):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(patients, 2))
    model, _ = KINDS["boosting"](0)
    model.set_params(histgradientboostingclassifier__max_iter=1).fit(x, x[:, 0] > 0)
    trees = clone(model).fit(x, x[:, 0] > 0)[-1]
    assert trees._bin_mapper.n_bins == bins + 1  # one for missing cells
    assert len(trees._bin_mapper.bin_thresholds_[0]) == min(bins, patients) - 1


def test_the_first_of_equals_is_chosen():
    """No tree can cut eight patients into leaves of ten: all numbers of trees say the same."""
    x, y = np.arange(16.0)[:, None], np.arange(16) % 2
    half = np.arange(16) < 8
    splits = [(np.flatnonzero(half), np.flatnonzero(~half))]
    splits.append(splits[0][::-1])
    assert fit_kind("boosting", x, y, splits, seed=0).choices == {"max_iter": 50}


@pytest.mark.usefixtures("few")
def test_a_fold_without_a_class_still_speaks_of_the_others():
    x, y, _ = problem(classes=3)
    splits = [(np.flatnonzero(y < 2), np.flatnonzero(y == 2))]
    splits.append(splits[0][::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit_kind("forest", x, y, splits, seed=0)
    assert (fitted.out_of_fold[y == 2, 2] == 0).all()
    np.testing.assert_allclose(fitted.out_of_fold.sum(axis=1), 1)


@pytest.mark.parametrize("classes", [2, 3])
def test_log_loss_is_scikit_learns(classes):
    rng = np.random.default_rng(0)
    prob, y = rng.dirichlet(np.ones(classes), 40), rng.integers(classes, size=40)
    prob[:3] = np.eye(classes)[[0, 1, 1]]  # certain, and for some wrong
    expected = plain_log_loss(y, prob, labels=np.arange(classes))
    assert log_loss(prob, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["logistic", "forest", "boosting"])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.usefixtures("few")
def test_candidates_are_pipelines_fitted_one_by_one(kind, weighed):
    x, y, [(train, test), *_] = problem()
    model, grid = plain(kind, 0)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(train)) if weighed else None
    candidates = list(ParameterGrid(grid))
    said = candidate_probabilities(
        model, candidates, x[train], y[train], x[test], weight=weight, stages=STAGED.get(kind)
    )
    how = {f"{model.steps[-1][0]}__sample_weight": weight} if weighed else {}
    for constants, prob in zip(candidates, said, strict=True):
        alone = clone(model).set_params(**constants).fit(x[train], y[train], **how)
        np.testing.assert_allclose(prob, alone.predict_proba(x[test]), atol=1e-12)
    assert not hasattr(model.steps[-1][1], "classes_")  # left untrained


def test_stages_beside_another_constant_come_from_one_fit_for_each_of_its_values(monkeypatch):
    x, y, [(train, test), *_] = problem()
    model, _ = KINDS["boosting"](0)
    step = model.steps[-1][0]
    grid = {f"{step}__max_iter": [20, 5], f"{step}__learning_rate": [0.3, 0.05]}
    candidates = list(ParameterGrid(grid))
    alone = [
        clone(model).set_params(**c).fit(x[train], y[train]).predict_proba(x[test])
        for c in candidates
    ]
    fits, fit = [], HistGradientBoostingClassifier.fit

    def counted(self, *args, **how):
        fits.append(self.max_iter)
        return fit(self, *args, **how)

    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", counted)
    said = candidate_probabilities(
        model, candidates, x[train], y[train], x[test], stages=STAGED["boosting"]
    )
    assert fits == [20, 20]
    np.testing.assert_allclose(said, alone, atol=1e-12)


def test_many_patients_stop_early_and_are_still_what_plain_fits_say():
    """Above 10,000 samples scikit-learn holds some out and stops when they gain no more."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_200, 2))
    y = (x[:, 0] + 2 * rng.normal(size=len(x)) > 0).astype(int)
    model, grid = KINDS["boosting"](0)
    candidates, new = list(ParameterGrid(grid)), x[:200] + 0.05
    said = candidate_probabilities(model, candidates, x, y, new, stages=STAGED["boosting"])
    alone = [clone(model).set_params(**c).fit(x, y) for c in candidates]
    trees = [pipeline[-1].n_iter_ for pipeline in alone]
    assert trees[0] == 50
    assert 50 < trees[2] < 200  # it did stop, between two of the candidates
    for prob, pipeline in zip(said, alone, strict=True):
        np.testing.assert_allclose(prob, pipeline.predict_proba(new), atol=1e-12)


@pytest.mark.parametrize("kind", ["logistic", "forest"])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.usefixtures("few")
def test_a_source_of_the_stack_is_the_best_of_plain_fits(kind, weighed):
    x, y, splits = problem()
    rng = np.random.default_rng(2)
    here = rng.random(len(x)) < 0.9
    weight = rng.uniform(0.5, 2, len(x)) if weighed else None
    model, grid = plain(kind, 5)
    settings = [FIXED[kind]] if kind in FIXED else list(ParameterGrid(grid))
    name, tiny = model.steps[-1][0], 1e-12

    def fit(constants, rows):
        how = {f"{name}__sample_weight": weight[rows]} if weighed else {}
        return clone(model).set_params(**constants).fit(x[rows], y[rows], **how)

    best = np.inf, None, None
    for constants in settings:
        out = np.zeros((len(x), 2))
        for train, test in splits:
            prob = fit(constants, train[here[train]]).predict_proba(x[test[here[test]]])
            out[test[here[test]]] = np.log(np.clip(prob, tiny, 1 - tiny))
        own = out[np.arange(len(x)), y][here]
        loss = -np.average(own, weights=weight[here] if weighed else None)
        best = min(best, (loss, constants, out), key=lambda b: b[0])
    _, constants, out = best
    question = Question(np.arange(len(x)), y, weight, y)
    fitted, log_prob = cross_fit(kind, x, question, here, splits, 2, 5)
    np.testing.assert_allclose(np.exp(log_prob[here]), np.exp(out[here]), atol=1e-12)
    assert (log_prob[~here] == 0).all()
    expected = fit(constants, np.flatnonzero(here)).predict_proba(x)
    np.testing.assert_allclose(fitted.predict_proba(x), expected, atol=1e-12)
