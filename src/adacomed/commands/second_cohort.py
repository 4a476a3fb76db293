"""A second cohort beside a run's own: whether the patients differ, and how well the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.commands.console import embedding_progress
from adacomed.commands.scrutiny import Part
from adacomed.embed import known_store
from adacomed.errors import InputError
from adacomed.evaluation import tables
from adacomed.evaluation.discrimination import METRICS
from adacomed.evaluation.shift import Shift, shift
from adacomed.evaluation.tables import NONE, estimate, number, p_value
from adacomed.evaluation.transfer import PREVALENCE, transfer
from adacomed.inference import predict
from adacomed.intake import gather_for
from adacomed.schema import Predictions, RunFiles
from adacomed.training.bundle import open_run
from adacomed.training.checkpoint import Run
from adacomed.training.loader import Inputs

COMPONENTS = 10  # principal components of a modality's vectors that are compared
LARGEST = 10  # inputs that are printed, the most different first
Floats = NDArray[np.float64]


def second_cohort(
    folder: Path, predictions: pl.DataFrame, other: Path, *, split: str, n: int
) -> tuple[Part, Part]:
    """The shift of the inputs, and what becomes of the metrics.

    Args:
        folder: the run, or a bundle of it.
        predictions: the run's own, for how well it did.
        other: YAML or folder of the second cohort; without labels only the inputs are compared.
    Raises:
        InputError: `folder` is no run, or its own cohort is not where it was in training.
    """
    run = open_run(folder)
    first = load_cohort(_own_cohort(run), labels=False)
    second = load_cohort(other, labels=False)
    a, b = _inputs(run, first), _inputs(run, second)
    found = shift(*_features(run, a, b), a.subject_id, b.subject_id, n=n)
    there = predict(run, b, split=split)
    return _shift_part(found), _transfer_part(predictions, there, split, n)


def _own_cohort(run: Run) -> Path:
    settings = yaml.safe_load((run.folder / RunFiles.CONFIG).read_text("utf-8"))
    path = Path(settings["cohort"])
    if not path.exists():
        raise InputError(
            f"{run.folder}: its own cohort {path} is not here, so nothing can be compared with it; "
            f"run this from the folder where the run was trained"
        )
    return path


def _inputs(run: Run, cohort: Cohort) -> Inputs:
    with embedding_progress() as progress:
        return gather_for(run, cohort, progress, store=known_store(cohort, None))


def _features(run: Run, a: Inputs, b: Inputs) -> tuple[Floats, Floats, list[str]]:
    """(N, P), (M, P) and names: columns of tables, principal components of vectors.

    The components are those of the first cohort's vectors.
    """
    fitted = run.trained.fitted
    names: list[str] = []
    parts: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for name, encoder in fitted.tables.items():
        names += [f"{name}: {column}" for column in encoder.columns_out]
        parts.append((encoder.transform(a.tables[name]), encoder.transform(b.tables[name])))
    first, second = fitted.batch(a).embeddings, fitted.batch(b).embeddings
    for name in first:
        if name in fitted.tables and name in fitted.own:
            continue  # the table's own columns again
        x, y = (e[name].double().numpy() for e in (first, second))
        here = ~np.isnan(x).any(axis=1)
        k = min(COMPONENTS, x.shape[1], int(here.sum()))
        if k:
            pca = PCA(k, svd_solver="full").fit(x[here])
            parts.append((_projected(pca, x), _projected(pca, y)))
            names += [f"{name}: component {i + 1}" for i in range(k)]
    return (
        np.concatenate([p[0] for p in parts], axis=1).astype(np.float64),
        np.concatenate([p[1] for p in parts], axis=1).astype(np.float64),
        names,
    )


def _projected(pca: PCA, x: Floats) -> Floats:
    here = ~np.isnan(x).any(axis=1)
    out = np.full((len(x), pca.n_components_), np.nan)
    if here.any():
        out[here] = pca.transform(x[here])
    return out


def _shift_part(found: Shift) -> Part:
    verdict = "they differ" if found.p < 0.05 else "no difference was shown"
    head = (
        f"Shift: a classifier tells the {found.n_b} samples of the second cohort from the "
        f"{found.n_a} of the first with AUROC {estimate(found.auroc, found.low, found.high)}, "
        f"p {p_value(found.p)}: {verdict}"
    )
    rows = [
        [
            row["input"],
            estimate(row["smd"], row["smd_low"], row["smd_high"], between=" to "),
            number(row["missing_a"], 2),
            number(row["missing_b"], 2),
        ]
        for row in found.inputs.head(LARGEST).iter_rows(named=True)
    ]
    header = ["input", "mean difference (SD)", "missing, first", "missing, second"]
    table = found.inputs.with_columns(
        pl.lit(found.auroc).alias("shift_auroc"),
        pl.lit(found.low).alias("shift_low"),
        pl.lit(found.high).alias("shift_high"),
        pl.lit(found.p).alias("shift_p"),
    )
    return Part("shift", table, f"{head}\n{tables.aligned(header, rows, left=1)}")


def _transfer_part(here: pl.DataFrame, there: pl.DataFrame, split: str, n: int) -> Part:
    if there[Predictions.LABEL].null_count() == len(there):
        text = "The second cohort has no labels: how well the model does there is not known."
        return Part("transfer", pl.DataFrame(), text)
    table = transfer(here, there, split=split, n=n)
    header = ["task", "method", "metric", "n", "n second", "first", "second", "difference"]
    header += ["p (Holm)"]
    rows = []
    for row in table.iter_rows(named=True):
        metric = row["metric"]
        gap = estimate(row["difference"], row["low"], row["high"], 3, " to ")
        rows.append(
            [
                row[Predictions.TASK],
                row[Predictions.METHOD],
                "Prevalence" if metric == PREVALENCE else METRICS[metric].label,
                str(row["n_here"]),
                str(row["n_there"]),
                number(row["here"]),
                number(row["there"]),
                gap if row["difference"] is not None else row["note"] or NONE,
                p_value(row["p_holm"]),
            ]
        )
    shown = tables.aligned(*tables.without_one_task(header, rows))
    return Part("transfer", table, f"The model on the second cohort\n{shown}")
