"""Figures 4–6: how much data, which λ and d, and how weights and similarity evolve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from adacomed.cohort.split import Fold, holdout
from adacomed.evaluation.compare import summarise
from adacomed.models.batch import Output
from adacomed.report import paper_figures, training_figures
from adacomed.reproduce.study import PAPER_COLUMNS, Artefact, Study, one_split
from adacomed.reproduce.tables import HEAVY, name_of
from adacomed.schema import Predictions
from adacomed.training.names import SINGLE
from adacomed.training.seed import derive

FRACTIONS = (0.1, 0.3, 0.5, 0.7)
LAMBDAS = (0.05, 0.1, 0.5, 1.0, 2.0, 5.0)
DIMENSIONS = (64, 128, 256, 512, 1024, 2048, 4096)
STEPS = 300
STRATEGIES = ("learnable", "inverse", "gaussian", "threshold")  # Table 1
# Fig. 6 is drawn in the paper's own setting: candidates are the batch, s reaches well above 0, and
# Table 1's constants are those of Sec. 4.1.
AS_PAPER = (
    "model.bank_size=batch",
    "model.lambda=0.5",
    "model.keep_small=false",
    "model.detach=false",
    *("model.scale=raw", "model.alpha=1", "model.sigma=1", "model.t=0.5", "model.k=10"),
)
QUICK = ("training.validation=holdout", "training.members=1", "model.strategy=ensemble")


def figure_4(study: Study) -> Artefact:
    """The six metrics at 10, 30, 50 and 70 % of the training patients."""
    experiment = study.experiment("split.kind=auto")
    prepared = study.prepared(experiment)
    singles = [f"{m}{SINGLE}" for m in prepared.inputs.vectors]
    ours = "adacomed?model.strategy=ensemble"
    methods = [*HEAVY, *singles, "large-ensemble", "multimodal-pred", ours]
    prepared = study.prepared(experiment, methods)
    whole = one_split(experiment, prepared)
    folds = [
        _fraction(whole, prepared.inputs.target, prepared.inputs.subject_id, i, f)
        for i, f in enumerate(FRACTIONS)
    ]
    found = study.predictions(methods, experiment, prepared, folds)
    rows = []
    for i, fraction in enumerate(FRACTIONS):
        mine = found.filter(pl.col(Predictions.REPEAT) == i)
        table = summarise(mine, metrics=tuple(PAPER_COLUMNS.values()), n=study.resamples)
        for row in table.iter_rows(named=True):
            rows += [
                {
                    "method": "AdaCoMed"
                    if row["method"] == ours
                    else name_of(row["method"], experiment.baselines),
                    "fraction": fraction,
                    "n": len(folds[i].train),
                    "metric": name,
                    "value": row[m],
                    "low": row[f"{m}_low"],
                    "high": row[f"{m}_high"],
                }
                for name, m in PAPER_COLUMNS.items()
            ]
    frame = pl.DataFrame(rows)
    card = prepared.cohort.card
    title = f"{card.title or card.name}: {prepared.task}, by share of the training patients"
    return Artefact(
        title,
        figures={
            "fig4-radar": paper_figures.training_size_radar(frame, title),
            "fig4-lines": paper_figures.training_size_lines(frame, title),
        },
        data={"fig4": frame},
        notes=[
            "The test patients are the same at every share; one seeded subset each. AdaCoMed with "
            "plain ensemble weights, which validation prefers where patients are few."
        ],
    )


def _fraction(
    whole: Fold, target: np.ndarray, subjects: np.ndarray, number: int, fraction: float
) -> Fold:
    """The fold with a seeded, stratified share of its training subjects; `repeat` numbers it."""
    _, kept = holdout(
        target, subjects, fraction=fraction, seed=derive(0, "fraction", number), rows=whole.train
    )
    return Fold(number, 0, kept, whole.test, whole.val)


def figure_5(
    study: Study,
    lambdas: tuple[float, ...] = LAMBDAS,
    dimensions: tuple[int, ...] = DIMENSIONS,
) -> Artefact:
    """AUROC over λ and over d."""
    variants = {("lambda", at): f"adacomed?model.lambda={at}" for at in lambdas}
    variants |= {("d", float(at)): f"adacomed?model.d={at}" for at in dimensions}
    rows = []
    title = ""
    for one in study.tasks():
        experiment = one.experiment("split.kind=auto", *QUICK)
        prepared = one.prepared(experiment)
        fold = one_split(experiment, prepared)
        found = one.predictions(list(variants.values()), experiment, prepared, [fold])
        table = summarise(found, metrics=("auroc",), n=study.resamples)
        by = {row["method"]: row for row in table.iter_rows(named=True)}
        for (parameter, at), method in variants.items():
            value, low, high = (by[method][f"auroc{end}"] for end in ("", "_low", "_high"))
            mine = {"parameter": parameter, "at": at, "task": prepared.task}
            rows.append(mine | {"value": value, "low": low, "high": high})
        title = f"{prepared.cohort.card.title or prepared.cohort.card.name}: λ and d"
    frame = pl.DataFrame(rows)
    return Artefact(
        title,
        figures={"fig5": paper_figures.sensitivity(frame, title)},
        data={"fig5": frame},
        notes=[
            "One model per point, plain ensemble weights, stopped on a held-out validation set."
        ],
    )


def figure_6(study: Study) -> Artefact:
    """s, w_large and w_small in every training step, for the four strategies."""
    prepared, trainer, _ = study.trainer("training.members=1", *AS_PAPER)
    size = len(trainer.plan.kept.train)
    per_epoch = -(-size // trainer.experiment.training.batch_size)
    rows = []
    for strategy in STRATEGIES:
        steps = _watch(trainer, strategy, epochs=-(-STEPS // per_epoch))
        rows += [{"strategy": strategy, "step": i, **row} for i, row in enumerate(steps)]
    frame = pl.DataFrame(rows).filter(pl.col("step") < STEPS)
    card = prepared.cohort.card
    title = f"{card.title or card.name}: {prepared.task}, weights and similarity in training"
    return Artefact(
        title,
        figures={
            "fig6-3d": training_figures.trajectories_3d(frame, title),
            "fig6-flat": training_figures.trajectories_flat(frame, title),
        },
        data={"fig6": frame},
        notes=[f"Means over a batch. The paper's setting: {', '.join(AS_PAPER)}."],
    )


def _watch(trainer: object, strategy: str, epochs: int) -> Iterator[dict[str, float]]:
    """s and both weights of every training step, means over the batch."""
    seen: list[dict[str, float]] = []

    def note(output: Output) -> None:
        parts = {"s": output.s, "w_large": output.w_large, "w_small": output.w_small}
        seen.append({k: float(v.detach().mean()) for k, v in parts.items() if v is not None})

    trainer.watch(strategy, note, epochs)  # type: ignore[attr-defined]
    return iter(seen)
