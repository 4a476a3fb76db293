"""What every experiment of the paper is given: a cohort, settings, a place, and a way to train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from adacomed.cohort.cohort import load_cohort
from adacomed.cohort.split import Fold
from adacomed.config import Experiment, override, parse
from adacomed.errors import InputError
from adacomed.evaluation.compare import summarise
from adacomed.evaluation.tables import estimate
from adacomed.schema import Predictions
from adacomed.training.grid import Grid
from adacomed.training.methods import Problem
from adacomed.training.names import check_methods, reads_raw
from adacomed.training.neural import Trainer
from adacomed.training.prepare import Prepared, comparison_folds, one_fold, prepare

PAPER_MODALITIES = {"mmist-ccrcc": ("ct", "wsi", "clinical")}  # of Tables 4 and 5
PAPER_COLUMNS = {  # name in the paper → ours; its Auprc on MMIST is that of our class 0, alive
    "Acc": "acc",
    "Auroc": "auroc",
    "Auprc": "auprc",
    "mAP": "mAP",
    "mAR": "mAR",
    "mF1": "mF1",
}
ALIVE_COLUMNS = {
    "Acc": "acc",
    "Auroc": "auroc",
    "Auprc (alive)": "auprc_negative",
    "Auprc (death)": "auprc",
    "mAP": "mAP",
    "mAR": "mAR",
    "mF1": "mF1",
}


@dataclass
class Artefact:
    """What an experiment leaves: tables and figures, each under a name, and what to say of them.

    Attributes:
        title: says which cohort, and that it is simulated where it is.
        tables: heading → table; text columns hold `value (low–high)`.
        figures: file stem → matplotlib figure.
        data: file stem → the numbers behind a figure or table.
    """

    title: str
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    data: dict[str, pl.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """One cohort under study.

    Attributes:
        cohort: folder or YAML.
        out: where cells (trained methods) are kept, between experiments too.
        train: computes a grid's missing cells, with progress.
        overrides: settings over the defaults, `key=value`.
        resamples: bootstrap resamples behind each interval.
        repeats: of 5-fold cross-validation.
        task: one of the cohort's; None: all of them, one after the other.
        store: embedding store; None: the cohort's own.
    """

    cohort: Path
    out: Path
    train: Callable[[Grid], None]
    overrides: tuple[str, ...] = ()
    resamples: int = 1000
    repeats: int = 3
    task: str | None = None
    store: Path | None = None

    def experiment(self, *changes: str, modalities: Sequence[str] | None = None) -> Experiment:
        """The defaults on this cohort with `changes`, the user's own overrides last."""
        data: dict[str, Any] = {"cohort": str(self.cohort), "task": self.task}
        if modalities is not None:
            data["modalities"] = list(modalities)
        return parse(Experiment, override(data, [*changes, *self.overrides]), "reproduce")

    def prepared(self, experiment: Experiment, methods: Sequence[str] = ()) -> Prepared:
        """The cohort's inputs for some methods."""
        return prepare(experiment, store=self.store, methods=methods)

    def tasks(self) -> Iterator[Study]:
        """This study on each task of the cohort, or on the one that was named."""
        card = load_cohort(self.cohort).card
        for task in [self.task] if self.task else card.tasks:
            yield replace(self, task=task)

    def trainer(
        self, *changes: str, modalities: Sequence[str] | None = None
    ) -> tuple[Prepared, Trainer, Fold]:
        """AdaCoMed's trainer on the cohort's own split, for experiments that look inside."""
        experiment = self.experiment("split.kind=auto", *changes, modalities=modalities)
        prepared = self.prepared(experiment)
        fold = one_split(experiment, prepared)
        problem = Problem(experiment, prepared.inputs, fold, prepared.task, experiment.seed)
        return prepared, problem.trainer(experiment, raw=reads_raw("adacomed", experiment)), fold

    def predictions(
        self,
        methods: Sequence[str],
        experiment: Experiment,
        prepared: Prepared | None = None,
        folds: list[Fold] | None = None,
    ) -> pl.DataFrame:
        """Train what is missing of methods × folds and return all predictions."""
        prepared = prepared or self.prepared(experiment, methods)
        grid = Grid(
            experiment=experiment,
            inputs=prepared.inputs,
            card=prepared.cohort.card,
            task=prepared.task,
            folds=folds or comparison_folds(experiment, prepared),
            methods=check_methods(methods, prepared.inputs, experiment),
            out=self.out,
        )
        self.train(grid)
        return grid.collect()


def one_split(experiment: Experiment, prepared: Prepared) -> Fold:
    """The cohort's own split, or a seeded hold-out."""
    settings = experiment.split.model_copy(update={"kind": "auto"})
    return one_fold(experiment.model_copy(update={"split": settings}), prepared)


def seeded_folds(experiment: Experiment, prepared: Prepared, seeds: Sequence[int]) -> list[Fold]:
    """One k-fold per split seed, each a repeat of its own.

    Raises:
        InputError: no seed, one twice or below 0.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        listed = ", ".join(map(str, seeds)) or "none"
        raise InputError(f"split seeds {listed}: expected one or more, different, each 0 or more")
    folds = []
    for repeat, seed in enumerate(seeds):
        changed = {"kind": "kfold", "repeats": 1, "seed": seed}
        split = experiment.split.model_copy(update=changed)
        one = experiment.model_copy(update={"split": split})
        folds += [replace(f, repeat=repeat) for f in comparison_folds(one, prepared)]
    return folds


def complete_only(prepared: Prepared) -> Prepared:
    """The samples that have every large-side modality: the paper's patients."""
    rows = np.flatnonzero(prepared.inputs.present.all(axis=1))
    return replace(prepared, cohort=prepared.cohort.take(rows), inputs=prepared.inputs.take(rows))


def beside_paper(
    predictions: pl.DataFrame, resamples: int, columns: dict[str, str] = PAPER_COLUMNS
) -> pl.DataFrame:
    """Methods in the columns of the paper's tables, every figure with its 95 % interval."""
    return in_columns(summarise(predictions, metrics=tuple(columns.values()), n=resamples), columns)


def in_columns(table: pl.DataFrame, columns: dict[str, str]) -> pl.DataFrame:
    """`summarise`'s table as text, `value (low–high)`, under other names of its metrics."""
    shown = [pl.Series("method", table[Predictions.METHOD]), table["n"], table["n_events"]]
    for name, metric in columns.items():
        rows = table.select(metric, f"{metric}_low", f"{metric}_high").iter_rows()
        shown.append(pl.Series(name, [estimate(*row) for row in rows]))
    return pl.DataFrame(shown)


def renamed(frame: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    """`method` as people read it; a name without a reading stays."""
    return frame.with_columns(pl.col("method").replace(names))
