"""Figure 2: where fused points lie among the modalities' clouds, as a picture and as a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from adacomed.cohort.cohort import load_cohort
from adacomed.errors import InputError
from adacomed.evaluation.domination import domination
from adacomed.models.adacomed import AdaCoMed
from adacomed.models.baselines.ensemble import LargeEnsemble
from adacomed.models.batch import Batch
from adacomed.report import paper_figures
from adacomed.reproduce.study import PAPER_MODALITIES, Artefact, Study

DIRECT, OURS = "direct combination", "AdaCoMed"
SHOWN = 500  # patients in the picture; the number is taken over all
Floats = NDArray[np.float64]


def figure_2(study: Study) -> Artefact:
    """UMAP of each modality alone and of all fused, for direct combination and for AdaCoMed."""
    card = load_cohort(study.cohort).card
    modalities = PAPER_MODALITIES.get(card.name)
    prepared, trainer, fold = study.trainer("training.members=1", modalities=modalities)
    test = trainer.plan.kept.fitted.batch(prepared.inputs.take(fold.test))
    batch = test.rows(torch.nonzero(test.present.all(-1)).flatten())
    if len(batch) < 2 or batch.present.shape[1] < 2:
        raise InputError(
            f"fig2 needs test patients with two or more modalities, all present; {card.name} has "
            f"{len(batch)} with its {batch.present.shape[1]} ({', '.join(batch.embeddings)})"
        )
    ours = trainer.watch("ensemble", lambda output: None, trainer.preset.epochs).eval()
    direct = trainer.plain("large-ensemble").model.eval()
    assert isinstance(ours, AdaCoMed)
    assert isinstance(direct, LargeEnsemble)
    panels = {
        DIRECT: _clouds(batch, lambda present: direct.hidden(batch.embeddings, present)),
        OURS: _clouds(batch, lambda present: ours.p.large(ours.mome(batch.embeddings, present)[0])),
    }
    numbers, points = [], []
    for panel, (fused, alone) in panels.items():
        found = domination(fused, alone, n=study.resamples).frame()
        numbers.append(found.select(pl.lit(panel).alias("panel"), pl.all()))
        points.append(_project(panel, fused, alone))
    title = f"{card.title or card.name}: {prepared.task}, {len(batch)} complete test patients"
    table, cloud = pl.concat(numbers), pl.concat(points)
    return Artefact(
        title,
        tables={"Share of a fused point's nearest points, by modality": table},
        figures={"fig2": paper_figures.domination_panels(cloud, table, title)},
        data={"fig2": table, "fig2-points": cloud},
        notes=[
            "A trained model's representation of a patient with one modality present, and with "
            "all: the hidden layer over concatenated embeddings (direct combination), z_large of "
            "Eq. 3 (AdaCoMed). Domination is 0 where fused points lie equally near to every "
            "modality's cloud, 1 where they lie in one alone; values near .05 are chance."
        ],
    )


@torch.no_grad()
def _clouds(
    batch: Batch, represent: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[Floats, dict[str, Floats]]:
    """Representations (N, D) with all modalities, and with each alone."""
    only = torch.eye(batch.present.shape[1], dtype=torch.bool)
    alone = {
        name: represent(only[m].expand_as(batch.present)).double().numpy()
        for m, name in enumerate(batch.embeddings)
    }
    return represent(batch.present).double().numpy(), alone


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
