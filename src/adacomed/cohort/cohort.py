"""A cohort: who, what is known of each, and what is to be predicted. Read from one YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort import labels as coding
from adacomed.cohort.items import listed
from adacomed.cohort.matrix import Mapped
from adacomed.cohort.reading import (
    assert_no_leak,
    assert_unique,
    read_card,
    read_columns,
    read_samples,
    read_task,
)
from adacomed.cohort.stored import stored_vectors
from adacomed.cohort.table import require_columns
from adacomed.cohort.tasks import assert_learnable, kind_of, strata
from adacomed.cohort.vectors import list_items, pool
from adacomed.errors import InputError, nearest
from adacomed.schema import (
    CohortCard,
    EmbeddingCard,
    FileCard,
    Labels,
    ModalityCard,
    Samples,
    TabularCard,
    TextCard,
    finding_task,
)

SAMPLE, SUBJECT = Samples.SAMPLE_ID, Samples.SUBJECT_ID
T = TypeVar("T")
C = TypeVar("C", bound=ModalityCard)
WANTED: dict[Any, str] = {
    TabularCard: "tabular",
    EmbeddingCard: "embedding",
    TextCard | FileCard: "text or files",
}


@dataclass(frozen=True)
class Cohort:
    """N samples of a cohort, with their labels; inputs are read when asked for.

    Attributes:
        card: the cohort's YAML.
        root: its folder; relative paths in the card start here.
        samples: N rows: sample_id, subject_id, split (null where there is none), and the table's
            own columns.
        labels: sample_id, task, label (class 0 … K−1)[, time, bayes_prob], one row per labelled
            sample; a multi-label task's findings are a task each here.
        class_names: of every task, in the order of the labels; of a multi-label task its findings.
    """

    card: CohortCard
    root: Path
    samples: pl.DataFrame
    labels: pl.DataFrame
    class_names: dict[str, tuple[str, ...]]
    _new: bool = False  # new patients: a modality may have no vector at all
    _everyone: pl.DataFrame | None = field(default=None, repr=False)  # before any take()
    _rows: NDArray[np.int64] | None = field(default=None, repr=False)  # our rows in _everyone
    _read: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.samples)

    def task_name(self, task: str | None = None) -> str:
        """`task`, or the cohort's only one; InputError where it is unknown or there are several."""
        tasks = list(self.card.tasks)
        if task is None and len(tasks) == 1:
            return tasks[0]
        if task is None:
            raise InputError(f"{self.card.name}: which task? Write task: one of {', '.join(tasks)}")
        if task not in tasks:
            raise InputError(f"{self.card.name}: no task {task!r}{nearest(task, tasks)}")
        return task

    def classes(self, task: str) -> tuple[str, ...]:
        """Names of the task's K classes; binary: (negative, positive)."""
        return self.class_names[self.task_name(task)]

    def target(self, task: str) -> NDArray[np.int64]:
        """Class of every sample, (N,) int64; −1 where unlabelled.

        Of findings and survival it is what a split keeps in proportion (`tasks.strata`).
        """
        truth = self.truth(task)
        if truth is not None:
            kind = kind_of(self.card.tasks[self.task_name(task)])
            return strata(truth, kind, self.samples[SUBJECT].rank("dense").to_numpy())
        column = self._labels_of(task)[Labels.LABEL].fill_null(coding.UNLABELLED)
        return column.to_numpy().astype(np.int64)

    def truth(self, task: str) -> NDArray[np.float64] | None:
        """What was seen of every sample where the task is none of classes, NaN where unlabelled.

        Findings: (N, J) 0 or 1. Survival: (N, 2), time and whether the event happened then.
        """
        task = self.task_name(task)
        kind = kind_of(self.card.tasks[task])
        if kind == "classes":
            return None
        if kind == "findings":
            names = [finding_task(task, finding) for finding in self.class_names[task]]
            columns = [self._rows_of(name)[Labels.LABEL] for name in names]
        else:
            mine = self._rows_of(task)
            columns = [mine[Labels.TIME], mine[Labels.LABEL]]
        floats = [c.cast(pl.Float64).fill_null(float("nan")).to_numpy() for c in columns]
        return np.stack(floats, axis=1)

    def bayes_prob(self, task: str) -> NDArray[np.float64] | None:
        """P(label = 1) under the generator, (N,), NaN where unlabelled; simulated cohorts only."""
        found = self._labels_of(task)
        if Labels.BAYES_PROB not in found.columns:
            return None
        return found[Labels.BAYES_PROB].fill_null(float("nan")).to_numpy().astype(np.float64)

    def table(self, modality: str) -> pl.DataFrame:
        """A tabular modality: N rows, the card's columns as Float64 or (categories) String.

        Of summary statistics new patients (`labels=False`) may lack a variable: null columns.

        Raises:
            InputError: another kind, a missing column, text in a numeric column.
        """
        card = self._modality(modality, TabularCard)
        new = self._new
        frame = self._once(
            f"{modality} {card.columns}",
            lambda all_: read_columns(self.card, card, self.root, all_, modality, strict=not new),
        )
        return frame if self._rows is None else frame[self._rows]

    def cells(self, modality: str) -> list[list[str]]:
        """A modality of texts or files: of each of N samples its texts, or its files' paths.

        Raises:
            InputError: another kind, or no such table or column.
        """
        card = self._modality(modality, TextCard | FileCard)
        return [[str(row[0]) for row in mine] for mine in self.cells_with(modality, card.column)]

    def cells_with(self, modality: str, *columns: str) -> list[list[tuple[str | None, ...]]]:
        """A modality of texts or files: of each of N samples its rows of some columns.

        Args:
            columns: the card's `column` first, then what stands beside it (`time`, `view`).
        Raises:
            InputError: another kind, or no such table or column.
        """
        card = self._modality(modality, TextCard | FileCard)
        table = None if card.table is None else self.root / card.table
        return listed(self.samples, columns, table, self.card.keys, f"modality {modality!r}")

    def vectors(self, modality: str) -> NDArray[np.float32]:
        """An embedding modality, (N, D) float32: the mean of a sample's items, all NaN if absent.

        New patients (`labels=False`) none of whom has the modality give (N, 0).

        Raises:
            InputError: another kind, no vector of any sample, an unreadable one, another width.
        """
        card = self._modality(modality, EmbeddingCard)

        def read(everyone: pl.DataFrame) -> NDArray[np.float32]:
            where = f"modality {modality!r}"
            root = self.root / card.root
            items, strangers = list_items(card, root, everyone, where)
            if not items and not self._new:
                seen = f"; found {strangers[0]!r}, expected names such as" if strangers else ", for"
                raise InputError(f"{where}: no vector in {root}{seen} {everyone[SAMPLE][0]!r}")
            return pool(items, everyone[SAMPLE].to_list(), where)

        found = self._once(modality, read)
        return found if self._rows is None else found[self._rows]

    def matrix(self, modality: str, folder: Path) -> Mapped:
        """`vectors`, left on disk: in the user's own .npy matrix, or copied to one in `folder`."""
        card = self._modality(modality, EmbeddingCard)
        root = self.root / card.root
        read = partial(stored_vectors, card, root, folder=folder, modality=modality)
        found = self._once(f"{modality} on disk", read)
        return found if self._rows is None else found.take(self._rows)

    def take(self, rows: np.ndarray) -> Cohort:
        """The samples at `rows`: indices (in that order) or a bool mask (N,)."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        samples = self.samples[index]
        return replace(
            self,
            samples=samples,
            labels=self.labels.filter(pl.col(SAMPLE).is_in(samples[SAMPLE].unique().implode())),
            _everyone=self.samples if self._everyone is None else self._everyone,
            _rows=index if self._rows is None else self._rows[index],
        )

    def _once(self, modality: str, read: Callable[[pl.DataFrame], T]) -> T:
        """Read a modality for everyone, once: whom take() leaves out still decides its types."""
        if modality not in self._read:
            self._read[modality] = read(self.samples if self._everyone is None else self._everyone)
        found: T = self._read[modality]
        return found

    def _labels_of(self, task: str) -> pl.DataFrame:
        return self._rows_of(self.task_name(task))

    def _rows_of(self, name: str) -> pl.DataFrame:
        mine = self.labels.filter(pl.col(Labels.TASK) == name)
        if mine[SAMPLE].equals(self.samples[SAMPLE]):  # everyone is labelled
            return mine
        return self.samples.select(SAMPLE).join(mine, on=SAMPLE, how="left", maintain_order="left")

    def _modality(self, name: str, kind: type[C] | UnionType) -> C:
        if name not in self.card.modalities:
            raise InputError(f"no modality {name!r}{nearest(name, self.card.modalities)}")
        card = self.card.modalities[name]
        if isinstance(card, kind):
            return cast(C, card)
        wanted = WANTED[kind]
        way = ""
        if wanted == "embedding":
            way = "; it needs an encoder first: run `adacomed embed`"
        raise InputError(f"modality {name!r} is of kind {card.kind}, not {wanted}{way}")


def new_patients(
    card: CohortCard,
    root: Path,
    samples: pl.DataFrame,
    vectors: Mapping[str, NDArray[np.float32]] | None = None,
) -> Cohort:
    """New patients who are in no file yet, as a cohort without labels.

    Args:
        card: its modalities; its tasks, table and subject are not read.
        root: where the modalities' own files and tables lie.
        samples: N rows: sample_id, and the columns that the card's modalities name.
        vectors: embedding modality → (N, D), a row of NaN where absent.
    """
    ids = samples[SAMPLE].cast(pl.String)
    rest = samples.drop(SAMPLE, SUBJECT, Samples.SPLIT, strict=False)
    frame = pl.DataFrame(
        {SAMPLE: ids, SUBJECT: ids, Samples.SPLIT: pl.Series([None] * len(ids), dtype=pl.String)}
    )
    labels = {SAMPLE: pl.String, Labels.TASK: pl.String, Labels.LABEL: pl.Int64}
    return Cohort(
        card,
        root,
        frame.hstack(rest),
        pl.DataFrame(schema=labels),
        {},
        _new=True,
        _read=dict(vectors or {}),
    )


def load_cohort(path: Path, *, labels: bool = True) -> Cohort:
    """Read a cohort: a YAML, or a folder that holds cohort.yaml.

    Args:
        path: the YAML or the folder.
        labels: False for new patients: label columns may be absent, and few or one class is fine.
    Raises:
        InputError: anything that the user can put right, with what would work.
    """
    card, file = read_card(Path(path))
    samples = read_samples(card, file.parent)
    assert_unique(samples, card)
    assert_no_leak(card)
    parts, names = [], {}
    for task in card.tasks:
        found, names[task] = read_task(card, task, file.parent, samples, strict=labels)
        parts.append(found)
    cohort = Cohort(card, file.parent, samples, pl.concat(parts, how="diagonal"), names, not labels)
    if labels:
        require_columns(samples, card.groups, f"{file.parent / card.table} (groups:)")
        subjects = samples[SUBJECT].rank("dense").to_numpy()
        for task, part in card.tasks.items():
            truth = cohort.truth(task)
            if truth is None:
                coding.assert_learnable(cohort.target(task), subjects, task)
            else:
                assert_learnable(truth, kind_of(part), names[task], subjects, task)
    return cohort
