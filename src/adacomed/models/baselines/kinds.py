"""Classifiers for numpy features by name, each with the constants among which it is chosen.

Features are (N, P) with NaN for "not observed"; each kind deals with them in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from adacomed.errors import InputError
from adacomed.models.baselines.candidates import Floats, Stages
from adacomed.models.baselines.forests import ExtraForest, Forest

Grid = dict[str, list[Any]]  # constant, as the pipeline names it → its candidates

PATIENTS_PER_BIN = 8  # a leaf holds ten: finer places to cut at are noise
FEWEST_BINS, MOST_BINS = 64, 255  # of a column


class Observed(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Columns without any value in training become 0: scikit-learn's boosting cannot bin them."""

    def fit(self, x: NDArray[np.float64], y: object = None) -> Observed:
        """Note which columns of (N, P) have a value."""
        self.seen_ = ~np.isnan(x).all(axis=0)
        return self

    def transform(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, P) → (N, P)."""
        return np.where(self.seen_, x, 0.0)


class Boosting(HistGradientBoostingClassifier):  # type: ignore[misc]
    """Boosted trees that cut a column in as many places as there are patients for.

    What a tree costs is its columns times their bins, however few patients there are. With a few
    hundred patients and thousands of columns, 64 bins take a third of the time that 255 do, and
    their models are no worse (docs/performance.md).
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Boosting:
        """Fit on (N, P) cells and (N,) classes."""
        self.max_bins = int(np.clip(len(X) // PATIENTS_PER_BIN, FEWEST_BINS, MOST_BINS))
        super().fit(X, y, sample_weight)
        return self


def logistic(seed: int) -> tuple[Pipeline, Grid]:
    """Ridge logistic regression on imputed, standardised columns and missing indicators."""
    model = make_pipeline(
        _imputer(),
        StandardScaler(),
        LogisticRegression(max_iter=2000, random_state=seed),
    )
    return model, {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}


def forest(seed: int) -> tuple[Pipeline, Grid]:
    """Random forest of 200 trees, its leaf size chosen; missing cells get the mean and a flag."""
    return _of_trees("randomforestclassifier", Forest(n_estimators=200, random_state=seed))


def extra_trees(seed: int) -> tuple[Pipeline, Grid]:
    """200 extremely randomised trees, as `forest`: their cuts are drawn, not searched.

    Source: Geurts, Ernst, Wehenkel, Machine Learning 2006.
    """
    return _of_trees("extratreesclassifier", ExtraForest(n_estimators=200, random_state=seed))


def boosting(seed: int) -> tuple[Pipeline, Grid]:
    """Gradient-boosted trees (missing cells are native), their number chosen."""
    name = "histgradientboostingclassifier"
    trees = Boosting(learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=10, random_state=seed)
    model = Pipeline([("observed", Observed()), (name, trees)])
    return model, {f"{name}__max_iter": [50, 100, 200]}


def lightgbm(seed: int) -> tuple[Pipeline, Grid]:
    """LightGBM at the rate and the sizes of `boosting`, with its own bins; trees' number chosen.

    Source: Ke et al., NeurIPS 2017.

    Raises:
        InputError: lightgbm, or the OpenMP library that it needs, is not installed.
    """
    try:
        from lightgbm import LGBMClassifier
    except ImportError:
        raise InputError("lightgbm is not installed: pip install 'adacomed[paper]'") from None
    except OSError as error:  # a system library
        raise InputError(f"lightgbm cannot be loaded: {error}") from None
    model = make_pipeline(
        LGBMClassifier(
            learning_rate=0.05,
            num_leaves=15,
            min_child_samples=10,
            random_state=seed,
            deterministic=True,
            force_row_wise=True,
            n_jobs=1,
            verbosity=-1,
        )
    )
    return model, {"lgbmclassifier__n_estimators": [50, 100, 200]}


def _imputer() -> SimpleImputer:
    return SimpleImputer(add_indicator=True, keep_empty_features=True)


def _of_trees(name: str, trees: Any) -> tuple[Pipeline, Grid]:
    steps = [("simpleimputer", _imputer()), (name, trees)]
    return Pipeline(steps), {f"{name}__min_samples_leaf": [1, 3, 10]}


def _boosted_at(model: Any, x: Floats, numbers: Sequence[int]) -> list[Floats]:
    """Probabilities of a boosted model's first trees; early stopping leaves it with fewer."""
    there = [min(number, model.n_iter_) for number in numbers]
    staged = enumerate(islice(model.staged_predict_proba(x), max(there)), start=1)
    kept = {number: prob for number, prob in staged if number in there}
    return [kept[number] for number in there]


def _lightgbm_at(model: Any, x: Floats, numbers: Sequence[int]) -> list[Floats]:
    return [np.asarray(model.predict_proba(x, num_iteration=number)) for number in numbers]


KINDS: dict[str, Callable[[int], tuple[Pipeline, Grid]]] = {
    "logistic": logistic,
    "forest": forest,
    "boosting": boosting,
    "extra-trees": extra_trees,
    "lightgbm": lightgbm,
}
STAGED = {  # kinds whose longest model holds the shorter ones
    "boosting": Stages("max_iter", _boosted_at),
    "lightgbm": Stages("n_estimators", _lightgbm_at),
}
ON_REQUEST = ("extra-trees", "lightgbm")  # not among the usual rivals: run where they are named
