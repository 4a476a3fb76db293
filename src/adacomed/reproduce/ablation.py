"""What each of our departures from the released code, and each part of the method, is worth."""

from __future__ import annotations

import polars as pl

from adacomed.cohort.split import Fold
from adacomed.evaluation.compare import paired, summarise
from adacomed.evaluation.tables import estimate
from adacomed.report import training_figures
from adacomed.reproduce.study import Artefact, Study, one_split

BASE = "adacomed?model.strategy=threshold"  # a strategy in which s and its bank matter
VARIANTS = {  # what is changed → settings; the first five are rows of the released code
    "patients attend to each other": "model.attention=patients",
    "batch mean of s weighs everyone": "model.batch_mean=true",
    "no contrastive term (λ = 0)": "model.lambda=0",
    "score against the mean negative": "model.score=mean_negative&model.bank_size=batch",
    "threshold t fixed at .95": "model.t=0.95",
    "experts see all tokens": "model.expert_view=all",
    "gradient through s into the weights": "model.detach=false",
    "s against the batch, no bank": "model.bank_size=batch",
    "bank of 32": "model.bank_size=32",
    "bank of 128": "model.bank_size=128",
    "no modality dropout": "model.modality_dropout=0",
    "no missing-modality masks": "model.masks=false",
    "no branch losses (β = 0)": "model.beta=0",
    "p and f start at random": "model.head_init=false",
    "mixture of probabilities": "model.mix=probabilities",
    "no class weights": "training.class_weights=false",
    "λ = .1": "model.lambda=0.1",
    "patients of one class are no negatives": "model.negatives=other-class",
    "linear projections": "model.projection=linear",
    "no attention": "model.attention=none",
    "s itself, not its quantile": "model.scale=raw",
    "ŷ_small follows p and f": "model.keep_small=false",
    "small model: a shallow network": "small.kind=shallow",
    "small model: a forest": "small.kind=forest",
    "no label smoothing": "training.label_smoothing=0",
    "no weight decay": "training.weight_decay=0",
    "PCA, 64 components": "inputs.pca=64",
    "vectors as they come": "inputs.standardise=false",
}
QUICK = ("training.members=1", "training.inner_folds=2")


def ablation(study: Study) -> Artefact:
    """AUROC of every variant and its paired difference to the default.

    Small cohorts of real patients (no more than 2,000 samples) are cross-validated, 3-fold, so that
    every patient is tested; others use their own split.
    """
    experiment = study.experiment("split.kind=auto", *QUICK)
    prepared = study.prepared(experiment)
    card = prepared.cohort.card
    folds: list[Fold] | None = [one_split(experiment, prepared)]
    how = "the cohort's own split"
    if not card.simulated and len(prepared.inputs) <= 2000:
        experiment = study.experiment("split.kind=kfold", "split.folds=3", *QUICK)
        prepared, folds, how = study.prepared(experiment), None, "3-fold cross-validation"
    names = {"default": BASE} | {k: f"{BASE}&{v}" for k, v in VARIANTS.items()}
    found = study.predictions(list(names.values()), experiment, prepared, folds)
    table = summarise(found, metrics=("auroc", "auprc"), n=study.resamples)
    by = {row["method"]: row for row in table.iter_rows(named=True)}
    pairs = paired(found, reference=BASE, n=study.resamples)
    against = {row["method"]: row for row in pairs.iter_rows(named=True)}
    rows, forest = [], []
    for name, method in names.items():
        row = {"variant": name}
        for label, metric in (("AUROC", "auroc"), ("AUPRC", "auprc")):
            value, low, high = (by[method][f"{metric}{end}"] for end in ("", "_low", "_high"))
            row[label] = estimate(value, low, high)
        if method in against:  # the table has the default less the variant: turned round here
            pair = against[method]
            value, low, high = -pair["difference"], -pair["high"], -pair["low"]
            row["AUROC, variant − default"] = estimate(value, low, high, 3, " to ")
            row["p (Holm)"] = f"{pair['p_holm']:.3f}"
            limits = {"difference": value, "low": low, "high": high}
            forest.append({"variant": name, "cohort": card.name, **limits})
        rows.append(row)
    title = f"{card.title or card.name}: {prepared.task}, one change at a time ({how})"
    frame = pl.DataFrame(forest)
    return Artefact(
        title,
        tables={
            "AdaCoMed, threshold strategy, one member; each row changes one thing": pl.DataFrame(
                rows
            )
        },
        figures={"ablation": training_figures.ablation_forest(frame, title)},
        data={"ablation": frame},
    )
