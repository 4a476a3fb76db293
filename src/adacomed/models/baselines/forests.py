"""scikit-learn's forests, grown with less ado around each tree.

A tree on a few hundred patients takes well under a millisecond; scikit-learn spends three times
that on copying and checking the settings of every tree, and on asking anew what kind of labels it
has. Here the forest stays scikit-learn's (its seeds, its bootstrap) and so does the code that
searches the cuts; only the way between them is short, and no threads are called for. The trees and
their average are the same, bit for bit.

The way leads through scikit-learn's inside. Where a version has another inside, its own way is
taken: slower, the same trees.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

try:
    from sklearn.tree._criterion import Gini
    from sklearn.tree._splitter import BestSplitter, RandomSplitter
    from sklearn.tree._tree import DepthFirstTreeBuilder, Tree

    SPLITTERS: dict[str, Any] = {"best": BestSplitter, "random": RandomSplitter}
except ImportError:  # another inside
    SPLITTERS = {}

MOST = np.iinfo(np.int32).max  # of a seed and of a depth, as in scikit-learn
# What the short way leaves to scikit-learn, and the value that means "not asked for".
PLAIN: dict[str, Any] = {
    "criterion": "gini",
    "max_depth": None,
    "min_samples_split": 2,
    "min_weight_fraction_leaf": 0.0,
    "max_features": "sqrt",
    "max_leaf_nodes": None,
    "min_impurity_decrease": 0.0,
    "class_weight": None,
    "ccp_alpha": 0.0,
    "monotonic_cst": None,
}


class ShortTree(DecisionTreeClassifier):  # type: ignore[misc]  # scikit-learn is untyped
    """A tree that a forest has checked the data of."""

    def _fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.float64],
        sample_weight: NDArray[Any] | None = None,
        check_input: bool = True,
        missing_values_in_feature_mask: NDArray[np.bool_] | None = None,
    ) -> ShortTree:
        """Grow on (N, P) cells and (N, 1) class codes."""
        plain = all(getattr(self, name, value) == value for name, value in PLAIN.items())
        if plain and SPLITTERS and not check_input and isinstance(X, np.ndarray):
            try:
                self._grow(X, y, sample_weight, missing_values_in_feature_mask)
                return self
            except (TypeError, AttributeError):  # another inside
                pass
        grown: ShortTree = super()._fit(
            X, y, sample_weight, check_input, missing_values_in_feature_mask
        )
        return grown

    def _grow(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.float64],
        weight: NDArray[Any] | None,
        missing: NDArray[np.bool_] | None,
    ) -> None:
        columns, leaf = x.shape[1], self.min_samples_leaf
        self.n_features_in_, self.n_outputs_ = columns, 1
        self.classes_, codes = np.unique(y[:, 0], return_inverse=True)
        self.n_classes_ = len(self.classes_)
        self.max_features_ = max(1, int(np.sqrt(columns)))
        classes = np.array([self.n_classes_], np.intp)
        draws = np.random.RandomState(self.random_state)
        criterion = Gini(1, classes)
        splitter = SPLITTERS[self.splitter](criterion, self.max_features_, leaf, 0.0, draws, None)
        builder = DepthFirstTreeBuilder(splitter, max(2, 2 * leaf), leaf, 0.0, MOST, 0.0)
        counts = None if weight is None else np.ascontiguousarray(weight, np.float64)
        tree = Tree(columns, classes, 1)
        builder.build(tree, x, codes.reshape(-1, 1).astype(np.float64), counts, missing)
        self.tree_ = tree


class _Short:
    """Makes a forest's trees at once and asks them one after the other."""

    estimator_: Any
    estimators_: list[DecisionTreeClassifier]
    estimator_params: tuple[str, ...]
    n_classes_: int

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, P) → (N, K), the mean of the trees'."""
        cells = self._validate_X_predict(X)  # type: ignore[attr-defined]
        total = np.zeros((len(cells), self.n_classes_))
        for tree in self.estimators_:
            total += tree.predict_proba(cells, check_input=False)
        return total / len(self.estimators_)

    def _make_estimator(self, append: bool = True, random_state: Any = None) -> Any:
        if append or not isinstance(random_state, np.random.RandomState):
            return super()._make_estimator(append, random_state)  # type: ignore[misc]
        settings = {name: getattr(self, name) for name in self.estimator_params}
        seed = random_state.randint(MOST)  # one draw a tree, as scikit-learn's
        settings |= {"random_state": seed, "splitter": self.estimator_.splitter}
        return ShortTree(**settings)


class Forest(_Short, RandomForestClassifier):  # type: ignore[misc]
    """`RandomForestClassifier`: the same trees, sooner."""


class ExtraForest(_Short, ExtraTreesClassifier):  # type: ignore[misc]
    """`ExtraTreesClassifier`: the same trees, sooner."""
