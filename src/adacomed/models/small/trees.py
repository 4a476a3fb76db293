"""Fitted scikit-learn models as tensors: saved as safetensors, never as pickle, read by torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from torch import Tensor, nn

Columns = Mapping[str, NDArray[Any]]


class Stored(nn.Module):
    """A module of buffers whose shapes are only known once a fitted model is put in.

    An untrained one holds empty buffers and takes whatever shapes it is loaded with.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        for name in names:
            self.register_buffer(name, torch.zeros(0))

    def put(self, arrays: Mapping[str, NDArray[Any] | Tensor]) -> None:
        """Take a value for every buffer."""
        for name in self.names:
            setattr(self, name, torch.as_tensor(arrays[name]))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in self.names:
            if prefix + name in state:
                setattr(self, name, state[prefix + name].clone())
        super()._load_from_state_dict(state, prefix, *rest)


class Imputed(Stored):
    """Mean of the training patients where a cell is missing, and flags of which were."""

    mean: Tensor
    flagged: Tensor

    def __init__(self) -> None:
        super().__init__(["mean", "flagged"])

    def fill(self, imputer: SimpleImputer) -> None:
        """Take a fitted SimpleImputer(add_indicator=True, keep_empty_features=True)."""
        flagged = np.zeros(len(imputer.statistics_), bool)
        flagged[imputer.indicator_.features_] = True
        self.put({"mean": np.nan_to_num(imputer.statistics_), "flagged": flagged})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, P), NaN = not observed → (B, P + flags)."""
        missing = x.isnan()
        values = torch.where(missing, self.mean.to(x), x)
        return torch.cat([values, missing[:, self.flagged].to(x)], dim=1)


class Trees(Stored):
    """Decision trees, T of them, all descended at once.

    Buffers: feature, left, right (T, nodes) int64, a leaf being its own child; threshold
    (T, nodes); missing_left (T, nodes) bool, where a missing cell goes; value (T, nodes, V).
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    missing_left: Tensor
    value: Tensor

    def __init__(self) -> None:
        names = ["feature", "threshold", "left", "right", "missing_left", "value"]
        super().__init__(names)
        self.depth = 0

    def fill(self, trees: Sequence[Columns]) -> None:
        """Take one mapping of (nodes, …) arrays per tree, padded to the longest."""
        longest = max(len(tree["feature"]) for tree in trees)

        def padded(name: str) -> NDArray[Any]:
            first = np.asarray(trees[0][name])
            stack = np.zeros((len(trees), longest, *first.shape[1:]), first.dtype)
            for t, tree in enumerate(trees):
                stack[t, : len(tree[name])] = tree[name]
            return stack

        self.put({name: padded(name) for name in self.names})
        self.depth = depth_of(self.left, self.right)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, P) → the leaves' values, (B, T, V)."""
        T, nodes = self.feature.shape
        first = torch.arange(T, device=x.device) * nodes  # of each tree, where all lie in a row
        node = first.expand(x.shape[0], T)  # (B, T)
        feature, threshold = self.feature.flatten(), self.threshold.flatten()
        left, right = self.left.flatten(), self.right.flatten()
        missing_left = self.missing_left.flatten()
        for _ in range(self.depth):  # the same for every patient: an export unrolls it
            cell = x.gather(1, feature[node])
            below = cell <= threshold[node]  # false where the cell is missing
            goes_left = below | (cell.isnan() & missing_left[node])
            node = first + torch.where(goes_left, left[node], right[node])
        return self.value.flatten(0, 1)[node].to(x)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        self.depth = depth_of(self.left, self.right)


def depth_of(left: Tensor, right: Tensor) -> int:
    """Steps from the root to the deepest leaf of trees (T, nodes), a leaf being its own child.

    Raises:
        ValueError: the children go round in a circle.
    """
    here = torch.zeros(left.shape, dtype=torch.bool)
    here[:, :1] = True
    own = torch.arange(left.shape[1] if left.ndim == 2 else 0)
    for depth in range(len(own) + 1):
        here &= (left != own) | (right != own)  # a leaf has no further step
        if not here.any():
            return depth
        tree, node = here.nonzero(as_tuple=True)
        here = torch.zeros_like(here)
        here[tree, left[tree, node]] = True
        here[tree, right[tree, node]] = True
    raise ValueError("a tree's children go round in a circle")


class Forest(nn.Module):
    """A random forest over imputed columns: log of the mean of its trees' class shares."""

    def __init__(self) -> None:
        super().__init__()
        self.imputed, self.trees = Imputed(), Trees()

    def fill(self, fitted: Pipeline) -> None:
        """Take a fitted pipeline of SimpleImputer and RandomForestClassifier."""
        imputer, forest = fitted[0], fitted[-1]
        assert isinstance(forest, RandomForestClassifier)
        self.imputed.fill(imputer)
        self.trees.fill([_nodes(tree.tree_) for tree in forest.estimators_])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, P), NaN = not observed → log-probabilities (B, K)."""
        share: Tensor = self.trees(self.imputed(x)).mean(dim=1)
        return share.log()


def _nodes(tree: Any) -> Columns:
    """A scikit-learn tree's public arrays as `Trees` takes them."""
    own = np.arange(tree.node_count)
    leaf = tree.children_left == -1
    value = tree.value[:, 0]  # (nodes, K)
    return {
        "feature": np.where(leaf, 0, tree.feature).astype(np.int64),
        "threshold": tree.threshold.astype(np.float64),
        "left": np.where(leaf, own, tree.children_left).astype(np.int64),
        "right": np.where(leaf, own, tree.children_right).astype(np.int64),
        "missing_left": np.ones(len(own), bool),
        "value": value / value.sum(axis=1, keepdims=True),
    }


class Boosted(nn.Module):
    """Gradient-boosted trees on columns as they are: log-softmax of the summed leaves."""

    base: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trees = Trees()
        self.register_buffer("base", torch.zeros(classes, dtype=torch.float64))

    def fill(self, fitted: Pipeline) -> None:
        """Take a fitted pipeline that ends in a HistGradientBoostingClassifier."""
        model = fitted[-1]
        assert isinstance(model, HistGradientBoostingClassifier)
        K = len(model.classes_)
        outputs = len(model._predictors[0])  # 1 where K = 2
        trees = [
            _grown(tree.nodes, k, outputs)
            for step in model._predictors
            for k, tree in enumerate(step)
        ]
        self.trees.fill(trees)
        base = np.ravel(model._baseline_prediction)
        self.base = torch.as_tensor(np.concatenate([[0.0], base]) if K == 2 else base)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, P), NaN = not observed → log-probabilities (B, K)."""
        total: Tensor = self.trees(x).sum(dim=1)
        if total.shape[1] == 1:  # one column of log-odds
            total = torch.cat([torch.zeros_like(total), total], dim=1)
        return (total + self.base.to(x)).log_softmax(-1)


def _grown(nodes: NDArray[Any], k: int, outputs: int) -> Columns:
    """A histogram tree's nodes as `Trees` takes them; its value goes to output k."""
    own, leaf = np.arange(len(nodes)), nodes["is_leaf"].astype(bool)
    value = np.zeros((len(nodes), outputs))
    value[:, k] = np.where(leaf, nodes["value"], 0.0)
    return {
        "feature": np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64),
        "threshold": nodes["num_threshold"].astype(np.float64),
        "left": np.where(leaf, own, nodes["left"]).astype(np.int64),
        "right": np.where(leaf, own, nodes["right"]).astype(np.int64),
        "missing_left": nodes["missing_go_to_left"].astype(bool),
        "value": value,
    }


class Affine(Stored):
    """x (B, P) → x @ weight.T + bias, (B, K)."""

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__(["weight", "bias"])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, P) → (B, K)."""
        return x @ self.weight.to(x).T + self.bias.to(x)


class Linear(nn.Module):
    """Logistic regression over imputed columns: log-softmax of one affine map."""

    def __init__(self) -> None:
        super().__init__()
        self.imputed, self.affine = Imputed(), Affine()

    def fill(self, fitted: Pipeline) -> None:
        """Take a fitted pipeline of SimpleImputer, StandardScaler and LogisticRegression."""
        imputer, scaler, model = fitted
        self.imputed.fill(imputer)
        weight = model.coef_ / scaler.scale_
        bias = model.intercept_ - weight @ scaler.mean_
        if len(weight) == 1:  # K = 2
            weight, bias = np.vstack([0 * weight, weight]), np.concatenate([[0.0], bias])
        self.affine.put({"weight": weight, "bias": bias})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, P), NaN = not observed → log-probabilities (B, K)."""
        logits: Tensor = self.affine(self.imputed(x))
        return logits.log_softmax(-1)


FROZEN = {  # kind of `kinds.KINDS` → its frozen twin, (classes) → untrained
    "logistic": lambda K: Linear(),
    "forest": lambda K: Forest(),
    "boosting": Boosted,
}
