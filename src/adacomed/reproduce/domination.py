"""Figure 2: where fused points lie among the modalities' clouds, as a picture and as a number."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.evaluation.domination import domination
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.batch import Batch
from adacomed.report import paper_figures
from adacomed.reproduce.study import Artefact, Study

DIRECT, OURS = "direct combination", "AdaCoMed"
SHOWN = 500  # patients in the picture; the number is taken over all
Floats = NDArray[np.float64]


def figure_2(study: Study) -> Artefact:
    """UMAP of each modality alone and of all fused, for direct combination and for AdaCoMed."""
    prepared, trainer, fold = study.trainer("training.members=1")
    test = trainer.plan.kept.fitted.batch(prepared.inputs.take(fold.test))
    batch = test.rows(torch.nonzero(test.present.all(-1)).flatten())
    if len(batch) < 2 or batch.present.shape[1] < 2:
        raise InputError(
            f"fig2 needs test patients with two or more modalities, all present; "
            f"{prepared.cohort.card.name} has {len(batch)} of {batch.present.shape[1]} modalities"
        )
    model = trainer.watch("ensemble", lambda output: None, trainer.preset.epochs)
    assert isinstance(model, AdaCoMed)
    panels = {DIRECT: _direct(batch), OURS: _ours(model.eval(), batch)}
    numbers, points = [], []
    for panel, (fused, alone) in panels.items():
        found = domination(fused, alone, n=study.resamples).frame()
        numbers.append(found.with_columns(pl.lit(panel).alias("panel")))
        points.append(_project(panel, fused, alone))
    card = prepared.cohort.card
    title = f"{card.title or card.name}: {prepared.task}, {len(batch)} complete test patients"
    table, cloud = pl.concat(numbers), pl.concat(points)
    return Artefact(
        title,
        tables={"Share of a fused point's nearest points, by cloud": table},
        figures={"fig2": paper_figures.domination_panels(cloud, table, title)},
        data={"fig2": table, "fig2-points": cloud},
        notes=[
            "direct combination: the standardised embeddings side by side; a modality alone has "
            "the others at their mean. AdaCoMed: z_large of Eq. 3, with one modality present and "
            "with all."
        ],
    )


def _direct(batch: Batch) -> tuple[Floats, dict[str, Floats]]:
    """Concatenated embeddings, all of them and each alone among zeros (the training means)."""
    parts = [x.double().numpy() for x in batch.embeddings.values()]
    alone = {
        name: np.concatenate([x if k == m else 0 * x for k, x in enumerate(parts)], axis=1)
        for m, name in enumerate(batch.embeddings)
    }
    return np.concatenate(parts, axis=1), alone


@torch.no_grad()
def _ours(model: AdaCoMed, batch: Batch) -> tuple[Floats, dict[str, Floats]]:
    """z_large with all modalities, and with each alone."""

    def z_large(present: torch.Tensor) -> Floats:
        e_large, _ = model.mome(batch.embeddings, present)
        return np.asarray(model.p.large(e_large).double().numpy())

    only = torch.eye(batch.present.shape[1], dtype=torch.bool)
    alone = {
        name: z_large(only[m].expand_as(batch.present)) for m, name in enumerate(batch.embeddings)
    }
    return z_large(batch.present), alone


def _project(panel: str, fused: Floats, alone: dict[str, Floats]) -> pl.DataFrame:
    """UMAP of all clouds together, in two dimensions."""
    try:
        from umap import UMAP
    except ImportError:
        raise InputError("fig2 needs umap-learn: pip install 'adacomed[paper]'") from None
    clouds = {**alone, "fused": fused}
    stacked = np.concatenate([x[:SHOWN] for x in clouds.values()])
    neighbours = min(15, len(stacked) - 1)
    xy = UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(stacked)
    names = np.repeat(list(clouds), [min(len(x), SHOWN) for x in clouds.values()])
    return pl.DataFrame({"cloud": names, "x": xy[:, 0], "y": xy[:, 1]}).with_columns(
        pl.lit(panel).alias("panel"), pl.col("x", "y").cast(pl.Float64)
    )
