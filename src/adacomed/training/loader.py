"""From a cohort to model inputs; everything fitted is fitted on training patients only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from adacomed.cohort.cohort import Cohort
from adacomed.embed import choose_encoder, embed_modality
from adacomed.encoders.base import load_encoder
from adacomed.errors import InputError, nearest
from adacomed.models.batch import Batch
from adacomed.readers.tabular import TableEncoder
from adacomed.schema import EmbeddingCard, Samples, TabularCard


@dataclass(frozen=True)
class Inputs:
    """What N samples of a cohort offer to any method, unscaled.

    Attributes:
        vectors: large-side modality → (N, D_m) float32; an all-NaN row is an absent modality.
        tables: tabular modality → N rows.
        small: names (of `vectors` or `tables`) that the small model reads.
        own: tables that are their own vector; their row in `vectors` only says who has one.
        target: (N,) int64 class, −1 where unknown.
        classes: names of the K classes.
        bayes_prob: (N,) of a simulated cohort.
    """

    sample_id: NDArray[np.str_]
    subject_id: NDArray[np.str_]
    vectors: dict[str, NDArray[np.float32]]
    tables: dict[str, pl.DataFrame]
    small: list[str]
    own: list[str]
    target: NDArray[np.int64]
    classes: tuple[str, ...]
    bayes_prob: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(N, M): which large-side modalities each sample has."""
        return np.stack([~np.isnan(x).any(axis=1) for x in self.vectors.values()], axis=1)

    def take(self, rows: NDArray[np.int64]) -> Inputs:
        """The samples at `rows`, in that order."""
        return Inputs(
            sample_id=self.sample_id[rows],
            subject_id=self.subject_id[rows],
            vectors={m: x[rows] for m, x in self.vectors.items()},
            tables={m: t[rows] for m, t in self.tables.items()},
            small=self.small,
            own=self.own,
            target=self.target[rows],
            classes=self.classes,
            bayes_prob=None if self.bayes_prob is None else self.bayes_prob[rows],
        )

    def fingerprint(self) -> str:
        """Hex digest of everything here: two equal digests mean the same experiment data."""
        digest = hashlib.sha256()
        for array in (*self.vectors.values(), self.target):
            digest.update(np.ascontiguousarray(array).tobytes())
        for table in self.tables.values():
            digest.update(table.write_csv().encode())
        digest.update("\n".join([*self.sample_id, *self.vectors, *self.small]).encode())
        return digest.hexdigest()[:16]


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
) -> Inputs:
    """Read everything that any method may use; embeddings come from the store where they can.

    Args:
        task: None for new patients without labels.
        large, small: modality names per side; None = as `sides` says.
        store: embedding store; None keeps new embeddings in memory.
    Raises:
        InputError: unknown modality or anything the cohort's files get wrong.
    """
    large, small = sides(cohort, large, small)
    cards = cohort.card.modalities
    vectors: dict[str, NDArray[np.float32]] = {}
    own = []
    tables = {
        m: cohort.table(m) for m, c in cards.items() if isinstance(c, TabularCard) and m in small
    }
    for name in dict.fromkeys([*large, *(m for m in small if m not in tables)]):
        card = cards[name]
        if isinstance(card, EmbeddingCard):
            vectors[name] = _some_width(cohort.vectors(name))
        elif isinstance(card, TabularCard) and not _as_text(card):
            own.append(name)
            tables[name] = cohort.table(name)  # becomes a vector once its scaler is fitted
            vectors[name] = _placeholder(tables[name])
        else:
            encoder = load_encoder(choose_encoder(cohort, name))
            vectors[name] = _some_width(embed_modality(cohort, name, encoder, store))
    return Inputs(
        sample_id=cohort.samples[Samples.SAMPLE_ID].to_numpy().astype(str),
        subject_id=cohort.samples[Samples.SUBJECT_ID].to_numpy().astype(str),
        vectors=vectors,
        tables=tables,
        small=list(small),
        own=own,
        target=np.full(len(cohort.samples), -1) if task is None else cohort.target(task),
        classes=() if task is None else cohort.classes(task),
        bayes_prob=None if task is None else cohort.bayes_prob(task),
    )


def _some_width(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """New patients none of whom has the modality come without a width: one NaN column stands in."""
    return x if x.shape[1] else np.full((len(x), 1), np.nan, np.float32)


def _placeholder(table: pl.DataFrame) -> NDArray[np.float32]:
    """(N, 1): NaN where every cell of the row is missing: presence is known before a fit."""
    seen = table.select(pl.any_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    return np.where(seen, 0.0, np.nan).astype(np.float32)[:, None]


@dataclass(frozen=True)
class Standardiser:
    """(x − mean) / scale over training patients, then optional PCA to unit overall variance.

    Attributes:
        mean, scale: (D,); components: (k, D), already divided by the overall scale, or None.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    components: NDArray[np.float32] | None = None

    @classmethod
    def fit(cls, x: NDArray[np.float32], pca: int | None, *, scale: bool = True) -> Standardiser:
        """Fit on (N, D) training vectors, all present."""
        mean, std = x.mean(axis=0), x.std(axis=0)
        spread = np.where(std > 1e-6, std, 1.0) if scale else np.ones_like(std)
        if not scale:
            mean = np.zeros_like(mean)
        if pca is None or pca >= min(x.shape):
            return cls(mean.astype(np.float32), spread.astype(np.float32))
        z = ((x - mean) / spread).astype(np.float64)
        _, _, axes = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
        components = axes[:pca] / max(float((z @ axes[:pca].T).std()), 1e-6)
        return cls(
            mean.astype(np.float32), spread.astype(np.float32), components.astype(np.float32)
        )

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) → (N, D) or (N, k); NaN rows stay NaN."""
        z = (x - self.mean) / self.scale
        return (z if self.components is None else z @ self.components.T).astype(np.float32)

    @property
    def width(self) -> int:
        """Width after the transform."""
        return len(self.mean) if self.components is None else len(self.components)


@dataclass(frozen=True)
class FittedInputs:
    """Scalers and vocabularies of the training patients; turns `Inputs` into a `Batch`.

    Attributes:
        large: large-side modality → its standardiser, in the order of M.
        native: width D_m of each modality as the user gives it.
        tables: tabular modality → its encoder.
        small: what the small model reads, names of `large` or `tables`.
        own: tables that are their own vector.
    """

    large: dict[str, Standardiser]
    native: dict[str, int]
    tables: dict[str, TableEncoder]
    small: list[str]
    own: list[str]

    @property
    def widths(self) -> dict[str, int]:
        """Large-side modality → D_m after scaling."""
        return {m: s.width for m, s in self.large.items()}

    @property
    def small_widths(self) -> dict[str, int]:
        """Small input → P."""
        return {
            m: len(self.tables[m].columns_out) if m in self.tables else self.large[m].width
            for m in self.small
        }

    def batch(self, inputs: Inputs) -> Batch:
        """All samples of `inputs` as tensors.

        Raises:
            InputError: a modality is missing from `inputs` or has another width than in training.
        """
        tables = {m: encoder.transform(inputs.tables[m]) for m, encoder in self.tables.items()}
        large = {m: self._vectors(m, inputs, tables) for m in self.large}
        present = np.stack([~np.isnan(x).any(axis=1) for x in large.values()], axis=1)
        small = {m: tables[m] if m in tables else large[m] for m in self.small}
        return Batch(
            embeddings={m: torch.from_numpy(x) for m, x in large.items()},
            present=torch.from_numpy(present),
            small={m: torch.from_numpy(x) for m, x in small.items()},
            target=torch.from_numpy(inputs.target),
        )

    def _vectors(
        self, name: str, inputs: Inputs, tables: dict[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        if name in self.own:
            return _fill(self.large[name](tables[name]), inputs.vectors[name])
        x = inputs.vectors[name]
        if np.isnan(x).all():  # no sample has it: the width says nothing
            return np.full((len(x), self.large[name].width), np.nan, np.float32)
        if x.shape[1] != self.native[name]:
            raise InputError(
                f"modality {name!r}: vectors have width {x.shape[1]}, the model was trained on "
                f"{self.native[name]}; embed with the encoder that it was trained with"
            )
        return self.large[name](x)


def _fill(x: NDArray[np.float32], presence: NDArray[np.float32]) -> NDArray[np.float32]:
    """A table as a vector: missing cells at the training mean, rows without any cell absent."""
    return np.where(np.isnan(presence), np.nan, np.nan_to_num(x)).astype(np.float32)


def fit_inputs(
    inputs: Inputs, rows: NDArray[np.int64], *, standardise: bool = True, pca: int | None = None
) -> FittedInputs:
    """Fit scalers and vocabularies on the training rows.

    Raises:
        InputError: no training patient has one of the modalities.
    """
    train = inputs.take(rows)
    tables = {m: TableEncoder.fit(table) for m, table in train.tables.items()}
    large, native = {}, {}
    for name, x in train.vectors.items():
        if name in inputs.own:
            x = _fill(tables[name].transform(train.tables[name]), x)
        x = x[~np.isnan(x).any(axis=1)]
        if not len(x):
            raise InputError(
                f"modality {name!r}: no training patient has it; leave it out with modalities: "
                f"[{', '.join(m for m in train.vectors if m != name)}]"
            )
        native[name] = x.shape[1]
        large[name] = Standardiser.fit(x, pca, scale=standardise)
    return FittedInputs(large, native, tables, inputs.small, inputs.own)
