"""The paper's Fig. 2 for any run: where fused points lie, before and after training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from adacomed.errors import InputError
from adacomed.evaluation.domination import Domination, domination
from adacomed.evaluation.scored import Floats
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.baselines.ensemble import LargeEnsemble
from adacomed.models.batch import Batch
from adacomed.models.members import Members
from adacomed.training.build import build_from_spec
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

SHOWN = 500  # patients in a picture; the number is taken over all
FUSED = "fused"
Represent = Callable[[Batch, Tensor], Tensor]  # batch, present (B, M) → (B, D)


@dataclass(frozen=True)
class Clouds:
    """Representations of N complete patients, with all modalities and with each alone.

    Attributes:
        fused: (N, D).
        alone: modality → (N, D).
    """

    fused: Floats
    alone: dict[str, Floats]

    def measure(self, *, n: int = 1000, seed: int = 0) -> Domination:
        """How the fused points' neighbours split among the modalities' clouds."""
        return domination(self.fused, self.alone, n=n, seed=seed)


def clouds(run: Run, inputs: Inputs, *, trained: bool = True) -> Clouds:
    """Clouds of a run's model, or of the same model before training.

    Args:
        inputs: patients; those with every large-side modality are taken.
        trained: False takes the model's random start (its first member's, seeded by the run's).
    Raises:
        InputError: a model without a fused representation, or too few complete patients.
    """
    model = _first(run.trained.model)
    if not isinstance(model, AdaCoMed | LargeEnsemble):
        raise InputError(
            f"domination is of a fused representation: adacomed and large-ensemble have one, this "
            f"run is of {run.method}"
        )
    if not trained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(run.meta["seed"]))
            fresh = build_from_spec(run.trained.spec, run.trained.fitted, len(run.classes))
        model = _first(fresh)
    whole = run.trained.fitted.batch(inputs)
    batch = whole.rows(whole.present.all(dim=1))
    M = batch.present.shape[1]
    if M < 2 or len(batch) < M:
        raise InputError(
            f"domination needs two modalities or more, and as many patients who have all of them; "
            f"here are {M} and {len(batch)}"
        )
    return _clouds(model.eval(), batch)


def _first(model: nn.Module) -> nn.Module:
    """One model: the first of several that differ by their seed, whose spaces differ too."""
    return model.members[0] if isinstance(model, Members) else model


@torch.no_grad()
def _clouds(model: nn.Module, batch: Batch) -> Clouds:
    def represent(present: Tensor) -> Floats:
        if isinstance(model, AdaCoMed):
            z = model.p.large(model.mome(batch.embeddings, present)[0])
        else:
            assert isinstance(model, LargeEnsemble)
            z = model.hidden(batch.embeddings, present)
        found: Floats = z.double().numpy()
        return found

    only = torch.eye(batch.present.shape[1], dtype=torch.bool)
    alone = {
        name: represent(only[m].expand_as(batch.present)) for m, name in enumerate(batch.embeddings)
    }
    return Clouds(represent(batch.present), alone)


def project(found: Clouds, how: Literal["pca", "umap"] = "pca") -> pl.DataFrame:
    """All clouds together in two dimensions, up to `SHOWN` patients each.

    Args:
        how: "pca" is a rotation, and always the same; "umap" keeps neighbours, as the paper's.
    Returns:
        cloud (a modality or "fused"), x, y.
    Raises:
        InputError: UMAP, and umap-learn is not installed.
    """
    points = {**found.alone, FUSED: found.fused}
    stacked = np.concatenate([x[:SHOWN] for x in points.values()])
    xy = _pca(stacked) if how == "pca" else _umap(stacked)
    names = np.repeat(list(points), [min(len(x), SHOWN) for x in points.values()])
    return pl.DataFrame({"cloud": names, "x": xy[:, 0], "y": xy[:, 1]}).with_columns(
        pl.col("x", "y").cast(pl.Float64)
    )


def _pca(x: Floats) -> Floats:
    """(N, D) → (N, 2), a fixed sign: the largest loading of each axis is positive."""
    centred = x - x.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
    found = np.zeros((len(x), 2))
    found[:, : len(axes)] = centred @ axes.T
    return found


def _umap(x: Floats) -> Floats:
    try:
        from umap import UMAP
    except ImportError:
        raise InputError(
            "a UMAP needs umap-learn: pip install 'adacomed[paper]'; PCA needs nothing"
        ) from None
    near = min(15, len(x) - 1)
    found: Floats = UMAP(n_neighbors=near, random_state=0, n_jobs=1).fit_transform(x)
    return found
