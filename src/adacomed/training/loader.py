"""From a cohort to what any method may read of it, unscaled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.cohort.matrix import Mapped, Vector, has_vector, in_memory
from adacomed.cohort.tasks import horizon_of, kind_of
from adacomed.embed import Load, embedded
from adacomed.encoders.choice import load_for
from adacomed.errors import InputError, nearest
from adacomed.schema import EmbeddingCard, TabularCard
from adacomed.training.on_disk import Ids, copies, embedded_on_disk, ids_of
from adacomed.training.outcome import Classes, Findings, Outcome, Survival
from adacomed.training.raw import RawModality, gather_raw

ROWS = 4096  # of tables and ids that a fingerprint has as text at a time


@dataclass(frozen=True)
class Inputs:
    """What N samples of a cohort offer to any method, unscaled.

    Attributes:
        sample_id, subject_id: (N,) names, an array or (`streamed`) `Ids`.
        vectors: large-side modality → (N, D_m) float32, an array or (`streamed`) a `Mapped`; an
            all-NaN row is an absent modality.
        tables: tabular modality → N rows.
        small: names (of `vectors` or `tables`) that the small model reads.
        own: tables that are their own vector; their row in `vectors` only says who has one.
        encoders: modality → fingerprint of the encoder that made its vectors.
        target: (N,) int64 class, −1 where unknown; of findings and survival, what a split keeps in
            proportion (`cohort.tasks.strata`).
        classes: names of the K classes, or of the findings.
        bayes_prob: (N,) of a simulated cohort.
        raw: modality → series, images or notes, where a method was named that reads them.
        truth: what was seen of findings (N, J) or survival (N, 2), NaN where unknown; else None.
        asked: what the task asks; None: one of `classes`.
    """

    sample_id: Any
    subject_id: Any
    vectors: dict[str, Any]
    tables: dict[str, pl.DataFrame]
    small: list[str]
    own: list[str]
    target: NDArray[np.int64]
    classes: tuple[str, ...]
    bayes_prob: NDArray[np.float64] | None = None
    encoders: dict[str, str] = field(default_factory=dict)
    raw: dict[str, RawModality] = field(default_factory=dict)
    truth: NDArray[np.float64] | None = None
    asked: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """What the task asks, before anything is fitted."""
        return self.asked or Classes(self.classes)

    @property
    def seen(self) -> NDArray[Any]:
        """What `outcome` is trained towards and judged by: (N,), (N, J) or (N, 2)."""
        return self.target if self.truth is None else self.truth

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(N, M): which large-side modalities each sample has."""
        return np.stack([has_vector(x) for x in self.vectors.values()], axis=1)

    @property
    def streamed(self) -> bool:
        """Whether vectors are on disk, to be read batch by batch."""
        return any(isinstance(x, Mapped) for x in self.vectors.values())

    @property
    def subjects(self) -> NDArray[Any]:
        """(N,) what tells subjects apart: names, or (`streamed`) numbers in the names' order."""
        of = self.subject_id
        return of.numbers() if isinstance(of, Ids) else np.asarray(of)

    def loaded(self) -> Inputs:
        """The same samples, their vectors in memory."""
        if not self.streamed:
            return self
        return replace(self, vectors={m: in_memory(x) for m, x in self.vectors.items()})

    def take(self, rows: NDArray[np.int64]) -> Inputs:
        """The samples at `rows`, in that order; of vectors on disk nothing is read."""
        return Inputs(
            sample_id=self.sample_id[rows],
            subject_id=self.subject_id[rows],
            vectors={
                m: x.take(rows) if isinstance(x, Mapped) else x[rows]
                for m, x in self.vectors.items()
            },
            tables={m: t[rows] for m, t in self.tables.items()},
            small=self.small,
            own=self.own,
            target=self.target[rows],
            classes=self.classes,
            bayes_prob=None if self.bayes_prob is None else self.bayes_prob[rows],
            encoders=self.encoders,
            raw={m: x.take(rows) for m, x in self.raw.items()},
            truth=None if self.truth is None else self.truth[rows],
            asked=self.asked,
        )

    def fingerprint(self) -> str:
        """Hex digest of everything here: two equal digests mean the same experiment data."""
        digest = hashlib.sha256()
        for x in self.vectors.values():
            for part in x.chunks() if isinstance(x, Mapped) else [x]:
                digest.update(np.ascontiguousarray(part).data)
        digest.update(np.ascontiguousarray(self.target).data)
        for table in self.tables.values():
            for start in range(0, len(table), ROWS):  # a text of all rows would be large
                rows = table.slice(start, ROWS)
                digest.update(rows.write_csv(include_header=start == 0).encode())
        for raw in self.raw.values():
            digest.update(raw.fingerprint())
        if self.bayes_prob is not None:
            digest.update(self.bayes_prob.tobytes())
        if self.truth is not None:
            digest.update(self.truth.tobytes() + repr(self.asked).encode())
        ids = (part for of in (self.sample_id, self.subject_id) for part in _parts(of))
        for names in (*ids, [*self.vectors, *self.small]):
            digest.update("\n".join(names).encode() + b"\n")
        return digest.hexdigest()[:16]


def _parts(ids: NDArray[np.str_]) -> Iterator[list[str]]:
    for start in range(0, len(ids), ROWS):
        yield ids[start : start + ROWS].tolist()


def sides(
    cohort: Cohort, large: Sequence[str] | None, small: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Which modalities the large and the small side read, where the experiment leaves it open.

    Large: every modality but a table without a prompt or an encoder; a cohort with nothing else
    gives its tables' standardised columns. Small: the tables; a cohort without a table, everything.

    Raises:
        InputError: an unknown modality.
    """
    cards = cohort.card.modalities
    for name in [*(large or []), *(small or [])]:
        if name not in cards:
            raise InputError(f"no modality {name!r} in {cohort.card.name}{nearest(name, cards)}")
    tables = [m for m, card in cards.items() if isinstance(card, TabularCard)]
    if large is None:
        large = [m for m in cards if m not in tables or _as_text(cards[m])] or tables
    if small is None:
        small = tables or list(large)
    return list(large), list(small)


def _as_text(card: Any) -> bool:
    return isinstance(card, TabularCard) and bool(card.prompt or card.encoder)


def gather(
    cohort: Cohort,
    task: str | None,
    *,
    large: Sequence[str] | None = None,
    small: Sequence[str] | None = None,
    store: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    raw: bool = False,
    unread: Collection[str] = (),
    load: Load = load_for,
    stream: bool = False,
) -> Inputs:
    """Read everything that any method may use; embeddings come from the store where they can.

    Args:
        task: None for new patients without labels.
        large, small: modality names per side; None = as `sides` says.
        store: embedding store; None keeps new embeddings in memory.
        progress: called with (modality, items embedded, items to embed).
        raw: read series, images and notes themselves too.
        unread: modalities whose vectors nobody reads: no encoder is run, only who has one is noted.
        load: gives the encoder of a modality.
        stream: leave vectors on disk, as matrices in the store where they are none yet.
    Raises:
        InputError: unknown modality or anything the cohort's files get wrong.
    """
    large, small = sides(cohort, large, small)
    cards = cohort.card.modalities
    folder = copies(store, cohort) if stream and store else None
    vectors: dict[str, Vector | Mapped] = {}
    own: list[str] = []
    encoders: dict[str, str] = {}
    read = gather_raw(cohort, _with_summarised(cohort, [*large, *small])) if raw else {}
    tables = {
        m: cohort.table(m) for m, c in cards.items() if isinstance(c, TabularCard) and m in small
    }
    for name in dict.fromkeys([*large, *(m for m in small if m not in tables)]):
        card = cards[name]
        if isinstance(card, EmbeddingCard):
            found = cohort.matrix(name, folder) if folder else _some_width(cohort.vectors(name))
            vectors[name] = found
        elif isinstance(card, TabularCard) and not _as_text(card):
            own.append(name)
            tables[name] = cohort.table(name)  # becomes a vector once its scaler is fitted
            vectors[name] = _placeholder(tables[name])
        elif name in unread and (name in read or name in tables):
            seen = read[name].placeholder() if name in read else _placeholder(tables[name])
            vectors[name] = seen
        else:
            tick = None if progress is None else partial(progress, name)
            if store and folder:
                vectors[name], encoders[name] = embedded_on_disk(cohort, name, store, tick, load)
                continue
            made, encoders[name] = embedded(cohort, name, store, tick, load=load)
            vectors[name] = _some_width(made)
    samples, subjects = ids_of(cohort, stream=folder is not None)
    return Inputs(
        sample_id=samples,
        subject_id=subjects,
        vectors=vectors,
        tables=tables,
        small=list(small),
        own=own,
        target=np.full(len(cohort.samples), -1) if task is None else cohort.target(task),
        classes=() if task is None else cohort.classes(task),
        bayes_prob=None if task is None else cohort.bayes_prob(task),
        encoders=encoders,
        raw=read,
        truth=None if task is None else cohort.truth(task),
        asked=None if task is None else asked_of(cohort, task),
    )


def asked_of(cohort: Cohort, task: str) -> Outcome | None:
    """What a task of the cohort asks, if it is none of classes."""
    card, names, truth = cohort.card.tasks[task], cohort.classes(task), cohort.truth(task)
    if truth is None:
        return None
    if kind_of(card) == "findings":
        return Findings(names)
    return Survival(names, horizon_of(card, truth), card.intervals, card.unit)


def _with_summarised(cohort: Cohort, names: Sequence[str]) -> list[str]:
    """The modalities and, for a table that summarises a series, that series itself."""
    cards = cohort.card.modalities
    series = [c.summarise for n in names if isinstance(c := cards[n], TabularCard) and c.summarise]
    return list(dict.fromkeys([*names, *series]))


def _some_width(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """New patients none of whom has the modality come without a width: one NaN column stands in."""
    return x if x.shape[1] else np.full((len(x), 1), np.nan, np.float32)


def _placeholder(table: pl.DataFrame) -> NDArray[np.float32]:
    """(N, 1): NaN where every cell of the row is missing: presence is known before a fit."""
    seen = table.select(pl.any_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    return np.where(seen, 0.0, np.nan).astype(np.float32)[:, None]
