"""Every problem of a cohort at once, and what is in it: `adacomed cohort check`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.cohort import labels as coding
from adacomed.cohort.check_inputs import check_modality
from adacomed.cohort.problems import CheckReport
from adacomed.cohort.reading import (
    SAMPLE,
    SPLIT,
    SUBJECT,
    duplicates,
    leaks,
    read_card,
    read_samples,
    read_task,
)
from adacomed.cohort.tasks import assert_learnable, kind_of
from adacomed.errors import InputError
from adacomed.schema import SPLITS, CohortCard, Labels, finding_task

TINY = 10  # fewer patients of a class than this: no honest interval comes of them
_DAY, _MONTH, _YEAR = r"(0?[1-9]|[12]\d|3[01])", r"(0?[1-9]|1[0-2])", r"(19|20)\d\d"
_DATE = re.compile(rf"(?<!\d)({_YEAR}[-/.]{_MONTH}[-/.]{_DAY}|{_DAY}[-/.]{_DAY}[-/.]{_YEAR})(?!\d)")
_COMPACT = re.compile(rf"^{_YEAR}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$")
_NAME = re.compile(r"^[^\W\d_]{2,}(, ?| +|_)[^\W\d_]{2,}([ _-][^\W\d_]+)*$")
# What an id looks like, and the share of ids from which on it is no accident: a few running
# numbers of eight digits are dates by chance.
_LOOKS = (("date of birth", _DATE, 0), ("date of birth", _COMPACT, 0.5), ("name", _NAME, 0))


def check(path: Path) -> CheckReport:
    """Look at the whole cohort; a problem never hides the next one.

    Raises:
        InputError: the YAML itself, or its table, cannot be read: nothing else can be looked at.
    """
    card, file = read_card(Path(path))
    report = CheckReport(card.name)
    samples, unknown = _samples(card, file.parent)
    report.errors += unknown
    report.samples, report.patients = len(samples), samples[SUBJECT].n_unique()
    twice = [f"sample {i!r} occurs more than once" for i in duplicates(samples)]
    report.add(twice, "samples that occur more than once")
    report.warnings += list(_identifying(samples)) + list(_missing_split(card, samples))
    torn = _two_splits(samples)
    if card.split_by_sample and torn:
        report.warnings.append(f"{len(torn)} subjects are in two splits, as the card says")
    else:
        report.add(torn, "subjects in two splits")
    targets: dict[str, np.ndarray] = {}
    for task in card.tasks:
        found = report.attempt(read_task, card, task, file.parent, samples, strict=True)
        if found is not None:
            targets |= _targets(report, card, samples, task, *found)
    present: dict[str, np.ndarray] = {}
    for modality in card.modalities:
        report.errors += leaks(card, modality)
        here = report.attempt(check_modality, report, card, file.parent, samples, modality, targets)
        present[modality] = np.zeros(len(samples), bool) if here is None else here
    _patterns(report, present, samples)
    report.errors = list(dict.fromkeys(report.errors))
    return report


def _samples(card: CohortCard, root: Path) -> tuple[pl.DataFrame, list[str]]:
    """The samples; where the split names are wrong, without their splits, and the error."""
    try:
        return read_samples(card, root), []
    except InputError as error:
        if card.split is None:
            raise
        without = card.model_copy(update={"split": None})
        return read_samples(without, root), [str(error)]


def _identifying(samples: pl.DataFrame) -> Iterator[str]:
    """Ids that look like a name or a date of birth."""
    same = (samples[SUBJECT] == samples[SAMPLE]).all()
    for column in (SUBJECT,) if same else (SUBJECT, SAMPLE):
        ids = samples[column].to_list()
        for what, pattern, share in _LOOKS:
            rows = [n for n, i in enumerate(ids) if pattern.search(i)]
            if len(rows) > share * len(ids):
                yield (
                    f"{column}: {len(rows)} ids look like a {what} (first in row {rows[0] + 1}); "
                    f"use a pseudonym"
                )


def _missing_split(card: CohortCard, samples: pl.DataFrame) -> Iterator[str]:
    named = samples[SPLIT].null_count()
    if card.split is not None and 0 < named < len(samples):
        yield f"{named} samples are in no split"


def _two_splits(samples: pl.DataFrame) -> list[str]:
    splits = samples.group_by(SUBJECT).agg(pl.col(SPLIT).drop_nulls().unique().sort())
    torn = splits.filter(pl.col(SPLIT).list.len() > 1).sort(SUBJECT)
    return [f"subject {s!r} is in two splits: {', '.join(names)}" for s, names in torn.rows()]


def _targets(
    report: CheckReport,
    card: CohortCard,
    samples: pl.DataFrame,
    task: str,
    found: pl.DataFrame,
    names: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """What each column of a task's labels says, by the name of the task or of the finding."""
    kind = kind_of(card.tasks[task])
    if kind == "findings":
        tasks = [finding_task(task, name) for name in names]
        states = ("absent", "present")
        return {t: _task(report, samples, t, found.filter(task=t), states) for t in tasks}
    return {task: _task(report, samples, task, found, names, kind == "survival")}


def _task(
    report: CheckReport,
    samples: pl.DataFrame,
    task: str,
    found: pl.DataFrame,
    classes: tuple[str, ...],
    survival: bool = False,
) -> np.ndarray:
    """Prevalence of one task, and what is wrong with it; its target, (N,)."""
    once = found.unique(SAMPLE, keep="none")  # whose sample id is there twice has no clear label
    mine = samples.join(once, on=SAMPLE, how="left", maintain_order="left", suffix=" of the task")
    name = Labels.LABEL if Labels.LABEL not in samples.columns else f"{Labels.LABEL} of the task"
    target = mine[name].fill_null(coding.UNLABELLED).to_numpy()
    if survival:  # everyone may have had the event
        truth = np.stack([target, np.where(target < 0, np.nan, target)], axis=1)
        subjects = mine[SUBJECT].to_numpy()
        report.attempt(assert_learnable, truth, "survival", classes, subjects, task)
    else:
        report.attempt(coding.assert_learnable, target, mine[SUBJECT].to_numpy(), task)
    missing = int((target == coding.UNLABELLED).sum())
    if missing:
        report.warnings.append(f"task {task!r}: {missing} of {len(mine)} samples have no label")
    for split in ("all", *(s for s in SPLITS if (mine[SPLIT] == s).any())):
        inside = (mine[SPLIT] == split).fill_null(False).to_numpy()
        rows = np.ones(len(mine), bool) if split == "all" else inside
        labelled = int((target[rows] >= 0).sum())
        for k, name in enumerate(classes):
            n = int((target[rows] == k).sum())
            row = {"task": task, "split": split, "class": name, "samples": n}
            report.tasks.append({**row, "share": n / labelled if labelled else None})
            if n < TINY:
                report.warnings.append(f"task {task!r}: {n} samples of class {name!r} in {split}")
    return np.asarray(target)


def _patterns(report: CheckReport, present: dict[str, np.ndarray], samples: pl.DataFrame) -> None:
    columns = np.stack(list(present.values()), axis=1)
    rows = [" + ".join(m for m, here in zip(present, row, strict=True) if here) for row in columns]
    names, count = np.unique(np.array(rows, dtype=object).astype(str), return_counts=True)
    order = np.argsort(-count, kind="stable")
    report.patterns = {str(names[k]) or "none": int(count[k]) for k in order}
    if "none" in report.patterns:
        first = samples[SAMPLE][rows.index("")]
        n = report.patterns["none"]
        report.warnings.append(f"{n} samples have no modality at all, first {first!r}")
