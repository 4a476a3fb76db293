"""An experiment's data, ready to train on: cohort, inputs, folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.cohort.split import Fold, assert_disjoint, holdout, kfold, official
from adacomed.config import Experiment
from adacomed.embed import STORE
from adacomed.encoders.choice import settle_encoders
from adacomed.errors import InputError
from adacomed.schema import TEST, Samples
from adacomed.training.loader import Inputs, gather
from adacomed.training.names import reads_raw, reads_vectors
from adacomed.training.on_disk import is_large, slim
from adacomed.training.outcome import Findings, Survival
from adacomed.training.recipes import resolve_preset
from adacomed.training.seed import derive

STREAMED = (
    "vectors stay on disk and are read batch by batch: small.kind auto is shallow, as classical "
    "models need every patient in memory"
)


class Step(NamedTuple):
    """One step of the way from the cohort's table to the patients that are used.

    Attributes:
        left_out: samples that the step before had and this one has not; `why`: the reason.
    """

    what: str
    subjects: int
    samples: int
    left_out: int = 0
    why: str = ""


@dataclass(frozen=True)
class Prepared:
    """A cohort and what its samples offer.

    Attributes:
        cohort: row i is the same sample as row i of `inputs`.
        notes: what was left out and why, for people.
        steps: the same, counted, up to `inputs`.
        store: where the vectors' encoders have their cards.
    """

    cohort: Cohort
    inputs: Inputs
    task: str
    notes: list[str]
    steps: tuple[Step, ...] = ()
    store: Path | None = None

    @property
    def title(self) -> str:
        """What every table of these patients is headed; a simulated cohort's says so."""
        return f"{self.cohort.card.title or self.cohort.card.name}: {self.task}"


def prepare(
    experiment: Experiment,
    *,
    store: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    methods: Sequence[str] = (),
) -> Prepared:
    """Read the cohort and gather inputs for the experiment's task.

    Presets with `complete_cases` keep only samples that have every modality.

    Args:
        store: embedding store [default: the cohort's own, <cohort>/store].
        progress: as in `gather`.
        methods: what will run; raw inputs are read where one of them reads them.
    Raises:
        InputError: whatever the user can put right.
    """
    cohort = load_cohort(experiment.cohort)
    store = store or cohort.root / STORE
    cohort = settle_encoders(cohort, store)
    task = cohort.task_name(experiment.task)
    asked = experiment.training.stream
    names = list(cohort.card.modalities)
    inputs = gather(
        cohort,
        task,
        large=experiment.modalities,
        small=experiment.small.modalities,
        store=store,
        progress=progress,
        raw=any(reads_raw(name, experiment) for name in [*methods, "small"]),
        unread=[] if any(reads_vectors(m, experiment) for m in methods or ["adacomed"]) else names,
        stream=is_large(cohort, store) if asked == "auto" else asked,
    )
    steps, notes = [_step("in the cohort's table", cohort)], []
    if inputs.streamed:
        cohort, notes = slim(cohort), [STREAMED]
    if resolve_preset(experiment).complete_cases:
        rows = np.flatnonzero(inputs.present.all(axis=1))
        notes.append(
            f"preset {experiment.preset}: complete cases only, {len(rows)} of {len(inputs)}"
        )
        if len(rows) == 0:
            raise InputError(
                f"preset {experiment.preset} needs samples with every modality "
                f"({', '.join(inputs.vectors)}), found none; use preset default, which needs one"
            )
        left = len(cohort) - len(rows)
        cohort, inputs = cohort.take(rows), inputs.take(rows)
        steps.append(_step("with every modality", cohort, left, "a modality is absent"))
    unlabelled = int((inputs.target < 0).sum())
    if unlabelled:
        notes.append(f"{unlabelled} of {len(inputs)} samples have no label for {task}: left out")
    return Prepared(cohort, inputs, task, notes, tuple(steps), store)


def _step(what: str, cohort: Cohort, left_out: int = 0, why: str = "") -> Step:
    subjects = cohort.samples[Samples.SUBJECT_ID].n_unique()
    return Step(what, subjects, len(cohort), left_out, why if left_out else "")


def one_fold(experiment: Experiment, prepared: Prepared) -> Fold:
    """The split of a single run: the cohort's own where it has one, else a seeded hold-out.

    Raises:
        InputError: split.kind is kfold (that is `compare`), or a subject is on two sides.
    """
    kind = experiment.split.kind
    if kind == "kfold":
        raise InputError("split.kind kfold makes several models: use adacomed compare, or holdout")
    if kind == "auto":
        kind = "official" if _has_official(prepared.cohort) else "holdout"
    if kind == "official":
        fold = official(prepared.cohort, prepared.inputs.target)
    else:
        rows = np.flatnonzero(prepared.inputs.target >= 0)
        train, test = holdout(
            prepared.inputs.target,
            prepared.inputs.subjects,
            fraction=experiment.split.test_fraction,
            seed=derive(experiment.split.seed, "test"),
            rows=rows,
        )
        fold = Fold(repeat=0, fold=0, train=train, test=test)
        assert_disjoint(fold, prepared.inputs.subjects, names=prepared.inputs.subject_id)
    return fold


def comparison_folds(experiment: Experiment, prepared: Prepared) -> list[Fold]:
    """The folds of a comparison: (repeated) k-fold unless the experiment asks for one split."""
    if experiment.split.kind in ("official", "holdout"):
        return [one_fold(experiment, prepared)]
    split = experiment.split
    return kfold(
        prepared.inputs.target,
        prepared.inputs.subjects,
        folds=split.folds,
        repeats=split.repeats,
        seed=split.seed,
    )


def _has_official(cohort: Cohort) -> bool:
    return bool((cohort.samples[Samples.SPLIT] == TEST).any())


def describe(prepared: Prepared, folds: list[Fold]) -> str:
    """One paragraph about the data, for the terminal."""
    inputs = prepared.inputs
    present = inputs.present.sum(axis=0)
    classes = _labels(inputs)
    modalities = ", ".join(f"{m} {n}" for m, n in zip(inputs.vectors, present, strict=True))
    tables = ", ".join(f"{m} ({t.width} columns)" for m, t in inputs.tables.items())
    what = f"{len(folds)} folds" if len(folds) > 1 else _sizes(folds[0])
    lines = [
        f"{prepared.title}, {len(inputs)} samples ({classes}); {what}",
        f"large side: {modalities}; small side: {', '.join(inputs.small)}"
        + (f"; tables: {tables}" if tables else ""),
        *prepared.notes,
    ]
    return "\n".join(lines)


def _labels(inputs: Inputs) -> str:
    """How many there are of what the task asks."""
    asked, seen = inputs.outcome, inputs.seen
    if isinstance(asked, Survival):
        unit = f" {asked.unit}" if asked.unit else ""
        labelled = int((~np.isnan(seen[:, 1])).sum())
        events = int(np.nansum(seen[:, 1]))
        return f"{events} of {labelled} with the event; risk by {asked.horizon:g}{unit}"
    if isinstance(asked, Findings):
        counts = [(int(np.nansum(x)), int((~np.isnan(x)).sum())) for x in seen.T]
        each = zip(asked.names, counts, strict=True)
        return ", ".join(f"{name} {n} of {of}" for name, (n, of) in each)
    known = np.bincount(seen[seen >= 0], minlength=len(inputs.classes))
    return ", ".join(f"{n} {c}" for n, c in zip(known, inputs.classes, strict=True))


def _sizes(fold: Fold) -> str:
    val = "" if fold.val is None else f", {len(fold.val)} validation"
    return f"{len(fold.train)} training{val}, {len(fold.test)} test"


def subset_ids(cohort: Cohort, column: str) -> list[str]:
    """Sample ids where a boolean column of the cohort's table is true."""
    return cohort.samples.filter(pl.col(column).fill_null(False))[Samples.SAMPLE_ID].to_list()
