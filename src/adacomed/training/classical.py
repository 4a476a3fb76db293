"""A classical method on the training patients of a fold: its features, its inner folds, its fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.cohort.split import kfold
from adacomed.config import Experiment
from adacomed.models.baselines.classical import (
    Fitted,
    Members,
    Splits,
    fit_kind,
    late_fusion,
    weighted_late_fusion,
)
from adacomed.models.baselines.haim import fit_haim
from adacomed.training.loader import Inputs
from adacomed.training.names import HAIM
from adacomed.training.scaling import FittedInputs, fit_inputs
from adacomed.training.seed import derive

Floats = NDArray[np.float64]
FUSED = {  # name → (modality → features, tables, classes, inner folds, seed) → Fitted
    "late-fusion": late_fusion,
    "weighted-late-fusion": weighted_late_fusion,
}


@dataclass(frozen=True)
class Classical:
    """A fitted classical method of a fold.

    Attributes:
        fitted: on the training patients' features.
        read: patients → their features, scaled as the training patients were.
        features: of all of the fold's patients.
    """

    fitted: Fitted
    read: Callable[[Inputs], Any]
    features: Any

    def of(self, rows: NDArray[np.int64]) -> Floats:
        """(n, K) probabilities of some of the fold's patients."""
        return self.fitted.predict(_at(self.features, rows))

    def predict(self, patients: Inputs) -> Floats:
        """(N, K) probabilities of any patients."""
        return self.fitted.predict(self.read(patients))


def fit_classical(
    base: str,
    inputs: Inputs,
    rows: NDArray[np.int64],
    experiment: Experiment,
    *,
    seed: int,
    members: Members,
) -> Classical:
    """Fit a method by name; its constants are chosen on folds of the training patients by subject.

    Args:
        base: a classical method without settings.
        rows: (n,) of `inputs` to train on.
        members: of the fold's late fusions, which share them (`classical.late_fusion`).
    Raises:
        InputError: too few patients for the inner folds, or a package is not installed.
    """
    y = inputs.target[rows]
    inner = kfold(
        y,
        inputs.subject_id[rows],
        folds=experiment.training.inner_folds,
        repeats=1,
        seed=derive(experiment.seed, "validation"),
    )
    splits: Splits = [(f.train, f.test) for f in inner]
    settings = experiment.inputs
    scaled = fit_inputs(inputs, rows, standardise=settings.standardise, pca=settings.pca)
    every = base in FUSED or base == HAIM or base.endswith("-all") or not inputs.tables

    def read(patients: Inputs) -> Any:
        features = _features(scaled, patients)
        if base in FUSED:
            return features
        chosen = features if every else list(inputs.tables)
        return np.concatenate([features[m] for m in chosen], axis=1)

    features = read(inputs)
    x = _at(features, rows)
    if base in FUSED:
        fitted = FUSED[base](x, inputs.tables, y, splits, seed, made=members)
    elif base == HAIM:
        fitted = fit_haim(x, y, splits, seed, full_grid=experiment.baselines.full_grid)
    else:
        fitted = fit_kind(base.removesuffix("-all"), x, y, splits, seed)
    return Classical(fitted, read, features)


def _at(x: Any, rows: NDArray[np.int64]) -> Any:
    """Rows of (N, P) features, or of each modality's."""
    return {m: part[rows] for m, part in x.items()} if isinstance(x, dict) else x[rows]


def _features(fitted: FittedInputs, inputs: Inputs) -> dict[str, Floats]:
    """Modality → (N, P) for scikit-learn, scaled as fitted; a table counts once."""
    batch = fitted.batch(inputs)
    small = batch.small
    features = {
        m: small[m].numpy() if m in small else e.transform(inputs.tables[m])
        for m, e in fitted.tables.items()
    }
    for name, x in batch.embeddings.items():
        features.setdefault(name, x.numpy())
    return {m: np.asarray(x, np.float64) for m, x in features.items()}
