"""Scalers and vocabularies, fitted on training patients only: `Inputs` in, `Batch` out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from adacomed.cohort.matrix import Mapped, Vector, has_vector
from adacomed.errors import InputError
from adacomed.models.batch import Batch
from adacomed.models.raw import Shape, TableShape, VectorShape
from adacomed.readers.tabular import TableEncoder
from adacomed.training.loader import Inputs
from adacomed.training.raw_fit import FittedRaw

AT_ONCE = 16_000_000  # bytes of a modality's vectors on disk that a scaler is fitted on in memory


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
    def fit(cls, x: Vector | Mapped, pca: int | None, *, scale: bool = True) -> Standardiser:
        """Fit on (N, D) training vectors, all present.

        Of vectors on disk more than `AT_ONCE` are never in memory together: sums in double
        precision then give the same but for rounding, and PCA comes from the (D, D) covariance.
        """
        if isinstance(x, Mapped):
            if 4 * len(x) * x.width > AT_ONCE:
                return cls._in_chunks(x, pca, scale=scale)
            x = x.loaded()
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

    @classmethod
    def _in_chunks(cls, x: Mapped, pca: int | None, *, scale: bool) -> Standardiser:
        mean, std = moments(x)
        spread = np.where(std > 1e-6, std, 1.0) if scale else np.ones_like(std)
        if not scale:
            mean = np.zeros_like(mean)
        fitted = cls(mean.astype(np.float32), spread.astype(np.float32))
        if pca is None or pca >= min(x.shape):
            return fitted
        total, square = np.zeros(x.width), np.zeros((x.width, x.width))
        for part in x.chunks():
            z = (part - mean) / spread
            total += z.sum(axis=0)
            square += z.T @ z
        centre, second = total / len(x), square / len(x)
        _, axes = np.linalg.eigh(second - np.outer(centre, centre))
        axes = axes.T[::-1][:pca]  # the largest first
        each = np.einsum("kd,de,ke->k", axes, second, axes, optimize=True)
        overall = max(float(each.mean() - (axes @ centre).mean() ** 2), 0.0) ** 0.5
        components = axes / max(overall, 1e-6)
        return replace(fitted, components=components.astype(np.float32))

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) → (N, D) or (N, k); NaN rows stay NaN."""
        z = (x - self.mean) / self.scale
        return (z if self.components is None else z @ self.components.T).astype(np.float32)

    @property
    def width(self) -> int:
        """Width after the transform."""
        return len(self.mean) if self.components is None else len(self.components)


def moments(x: Mapped) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of (N, D) vectors on disk, all present, in one pass.

    Source: Chan, Golub & LeVeque 1979 (joining the moments of two parts).
    """
    n, mean, apart = 0, np.zeros(x.width), np.zeros(x.width)
    for part in x.chunks():
        k, values = len(part), part.astype(np.float64)
        own = values.mean(axis=0)
        shift = own - mean
        apart += ((values - own) ** 2).sum(axis=0) + shift**2 * (n * k / (n + k))
        mean += shift * (k / (n + k))
        n += k
    return mean, np.sqrt(apart / n)


@dataclass(frozen=True)
class FittedInputs:
    """Scalers and vocabularies of the training patients; turns `Inputs` into a `Batch`.

    Attributes:
        large: large-side modality → its standardiser, in the order of M.
        native: width D_m of each modality as the user gives it.
        tables: tabular modality → its encoder.
        small: what the small model reads, names of `large` or `tables`.
        own: tables that are their own vector.
        raw: what was fitted on raw inputs, where a method reads them.
    """

    large: dict[str, Standardiser]
    native: dict[str, int]
    tables: dict[str, TableEncoder]
    small: list[str]
    own: list[str]
    raw: FittedRaw = field(default_factory=FittedRaw)

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

    @property
    def shapes(self) -> dict[str, Shape]:
        """Modality → how a model that reads raw inputs meets it: raw, as a table, as a vector."""
        shapes = self.raw.shapes
        for name in dict.fromkeys([*self.large, *self.small]):
            if name in self.tables and name in self.small:
                shapes[name] = TableShape(len(self.tables[name].columns_out))
            elif name not in shapes:
                shapes[name] = VectorShape(self.widths[name])
        return shapes

    def batch(self, inputs: Inputs) -> Batch:
        """All samples of `inputs` as tensors.

        Raises:
            InputError: a modality is missing from `inputs` or has another width than in training.
        """
        inputs = inputs.loaded()
        tables = {m: encoder.transform(inputs.tables[m]) for m, encoder in self.tables.items()}
        large = {m: self._vectors(m, inputs, tables) for m in self.large}
        present = np.stack([~np.isnan(x).any(axis=1) for x in large.values()], axis=1)
        small = {m: tables[m] if m in tables else large[m] for m in self.small}
        return Batch(
            embeddings={m: torch.from_numpy(x) for m, x in large.items()},
            present=torch.from_numpy(present),
            small={m: torch.from_numpy(x) for m, x in small.items()},
            target=torch.from_numpy(inputs.target),
            raw=self.raw.tensors(inputs.raw, len(inputs)),
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
    inputs: Inputs,
    rows: NDArray[np.int64],
    *,
    standardise: bool = True,
    pca: int | None = None,
    raw: bool = False,
    seed: int = 0,
) -> FittedInputs:
    """Fit scalers and vocabularies on the training rows.

    Args:
        raw: fit on the raw inputs too; a method that does not read them needs no Doc2Vec.
        seed: of Doc2Vec.
    Raises:
        InputError: no training patient has one of the modalities.
    """
    train = inputs.take(rows)
    tables = {m: TableEncoder.fit(table) for m, table in train.tables.items()}
    large, native = {}, {}
    for name, x in train.vectors.items():
        if name in inputs.own:
            x = _fill(tables[name].transform(train.tables[name]), x)
        here = np.flatnonzero(has_vector(x))
        x = x.take(here) if isinstance(x, Mapped) else x[here]
        if not len(x):
            raise InputError(
                f"modality {name!r}: no training patient has it; leave it out with modalities: "
                f"[{', '.join(m for m in train.vectors if m != name)}]"
            )
        native[name] = x.shape[1]
        large[name] = Standardiser.fit(x, pca, scale=standardise)
    fitted = FittedRaw.fit(train.raw, seed=seed) if raw else FittedRaw()
    return FittedInputs(large, native, tables, inputs.small, inputs.own, fitted)
