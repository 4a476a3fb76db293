"""The user's own embeddings: a parquet table, a .npy matrix, or a folder of .npz and .npy files."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adacomed.cohort.matrix import open_matrix, read_header
from adacomed.cohort.table import LARGEST, as_text, read_table, require_columns
from adacomed.errors import InputError
from adacomed.schema import EmbeddingCard, Vectors

SUFFIXES = (".npz", ".npy")
MATRIX = ".npy"  # of a root that is one matrix of all vectors
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Item:
    """One vector of a sample.

    Attributes:
        sample_id: whose it is.
        name: the file, or file and row, for messages.
        file: a .npz or .npy file, where the vector is not already in `values`.
    """

    sample_id: str
    name: str
    file: Path | None = None
    values: Vector | None = None

    def read(self) -> Vector:
        """The vector, (D,) float32."""
        if self.file is not None:
            return read_vector(self.file)
        assert self.values is not None
        return flatten(self.values, self.name)


def owner(stem: str, ids: Iterable[str]) -> str | None:
    """Sample that a file stem belongs to: `<id>` or `<id>-<item>`, the longest id that fits whole.

    >>> owner("C3L-10-2", {"C3L-1", "C3L-10"})
    'C3L-10'
    >>> owner("TCGA-A3-3306-01A-01-TS1", {"TCGA-A3-3306"})
    'TCGA-A3-3306'
    """
    known = ids if isinstance(ids, (set, frozenset)) else set(ids)
    parts = stem.split("-")
    for n in range(len(parts), 0, -1):
        name = "-".join(parts[:n])
        if name in known:
            return name
    return None


def read_vector(path: Path) -> Vector:
    """Read one .npz (one array in it) or .npy file as a vector, (D,) float32.

    Raises:
        InputError: unreadable, several arrays, more than one axis longer than 1, not finite.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return flatten(loaded, str(path))
        with loaded:
            if len(loaded.files) != 1:
                arrays = ", ".join(loaded.files) or "none"
                raise InputError(f"{path}: expected one array, found {len(loaded.files)}: {arrays}")
            return flatten(loaded[loaded.files[0]], str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable vector ({type(error).__name__})") from None


def flatten(array: np.ndarray, name: str) -> Vector:
    """An array with at most one axis longer than 1 as a vector: (1, 1, 512, 1) → (512,)."""
    if array.size == 0 or array.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected numbers, found {array.dtype} of shape {array.shape}")
    if sum(n > 1 for n in array.shape) > 1:
        raise InputError(f"{name}: expected one vector, found shape {array.shape}; pool it first")
    vector = array.reshape(-1).astype(np.float32)
    if not (np.abs(vector) <= LARGEST).all():
        raise InputError(
            f"{name}: the vector has values that are not finite, or beyond {LARGEST:g}"
        )
    return vector


def list_items(
    card: EmbeddingCard, root: Path, samples: pl.DataFrame, where: str
) -> tuple[list[Item], list[str]]:
    """Every item of the samples, and the names of what belongs to no sample.

    Args:
        root: the card's root, resolved.
        samples: sample_id and, where the card names one, the column of file names.
    Raises:
        InputError: no such file or folder.
    """
    if not root.exists():
        raise InputError(f"{where}: no such file or folder: {root}")
    if root.is_file() and root.suffix == MATRIX:
        return _matrix_items(card, root, samples, where), []
    if root.is_file():
        return _table_items(root, samples, where)
    if card.column is not None:
        require_columns(samples, [card.column], where)
        rows = samples.select("sample_id", as_text(samples[card.column]).alias("file")).rows()
        return [Item(s, str(root / f), root / f) for s, f in rows if f is not None], []
    ids = frozenset(samples["sample_id"])
    items, strangers = [], []
    for file in sorted(f for f in root.iterdir() if f.suffix in SUFFIXES):
        sample = owner(file.stem, ids)
        if sample is None:
            strangers.append(file.name)
        else:
            items.append(Item(sample, str(file), file))
    return items, strangers


def matrix_rows(
    card: EmbeddingCard, path: Path, samples: pl.DataFrame, where: str
) -> NDArray[np.int64] | None:
    """Row of each of N samples in a .npy matrix, −1 for one without; None: its row is its own.

    Raises:
        InputError: another number of rows than samples, or a column that names no row.
    """
    _, _, (n, _) = read_header(path)
    if card.column is None:
        if n != len(samples):
            raise InputError(
                f"{where}: {path.name} has {n} rows, the table {len(samples)}; row i must be of "
                f"row i of the table, or column: must name the table's column with the row (from 0)"
            )
        return None
    require_columns(samples, [card.column], where)
    rows = as_text(samples[card.column]).cast(pl.Int64, strict=False)
    unread = rows.is_null() & samples[card.column].is_not_null()
    if unread.any() or not (rows.drop_nulls().is_between(0, n - 1)).all():
        raise InputError(f"{where}: {card.column!r} must hold rows of {path.name}, 0 to {n - 1}")
    return rows.fill_null(-1).to_numpy()


def _matrix_items(card: EmbeddingCard, path: Path, samples: pl.DataFrame, where: str) -> list[Item]:
    found = open_matrix(path, where, matrix_rows(card, path, samples, where))
    ids = samples["sample_id"]
    return [
        Item(ids[i], f"{path.name}: the vector of {ids[i]}", values=x)
        for i, x in enumerate(found.loaded())
        if found.here[i]
    ]


def _table_items(path: Path, samples: pl.DataFrame, where: str) -> tuple[list[Item], list[str]]:
    frame = read_table(path, ids=[Vectors.SAMPLE_ID])
    require_columns(frame, [Vectors.SAMPLE_ID, Vectors.VECTOR], f"{where} ({path.name})")
    if not frame[Vectors.VECTOR].dtype.is_nested():
        raise InputError(f"{path}: column 'vector' must hold lists of numbers")
    known = set(samples["sample_id"])
    ids = as_text(frame[Vectors.SAMPLE_ID]).to_list()
    items, strangers = [], []
    for row, (sample, values) in enumerate(zip(ids, frame[Vectors.VECTOR], strict=True)):
        name = f"{path}: row {row + 1} (patient {sample})"
        if sample not in known:
            strangers.append(str(sample))
        elif values is not None:
            items.append(Item(sample, name, values=values.to_numpy()))
    return items, strangers


def usual_width(vectors: Sequence[Vector]) -> int:
    """The width that most vectors have; another width is then the odd one."""
    return Counter(len(v) for v in vectors).most_common(1)[0][0]


def wrong_width(name: str, width: int, usual: int) -> str:
    """The message for a vector of another width than the others."""
    return f"{name}: a vector of width {width}, the others have {usual}"


def pool(items: Sequence[Item], ids: Sequence[str], where: str) -> Vector:
    """Mean of each sample's vectors, (N, D) float32; a sample without any is all NaN.

    Raises:
        InputError: an unreadable vector, or one of another width; no item gives (N, 0).
    """
    vectors = [item.read() for item in items]
    if not vectors:
        return np.empty((len(ids), 0), dtype=np.float32)
    usual = usual_width(vectors)
    for item, vector in zip(items, vectors, strict=True):
        if len(vector) != usual:
            raise InputError(f"{where}: {wrong_width(item.name, len(vector), usual)}")
    return mean_by_sample([item.sample_id for item in items], np.stack(vectors), ids)


def mean_by_sample(owners: Sequence[str], vectors: Vector, ids: Sequence[str]) -> Vector:
    """(n, D) vectors of items → (N, D) of samples: the mean; a sample without any is all NaN.

    Args:
        owners: sample of each item.
        vectors: an item whose row is all NaN has none, and does not count.
    """
    row = {sample: n for n, sample in enumerate(ids)}
    rows = np.array([row[sample] for sample in owners], dtype=np.int64)
    return mean_by_row(rows, vectors, len(ids))


def mean_by_row(rows: NDArray[np.int64], vectors: Vector, n: int) -> Vector:
    """`mean_by_sample` of n samples, whose rows are known already."""
    here = ~np.isnan(vectors).all(axis=1)
    rows = rows[here]
    total = np.zeros((n, vectors.shape[1]), dtype=np.float64)
    np.add.at(total, rows, vectors[here])
    count = np.bincount(rows, minlength=n).astype(float)
    count[count == 0] = np.nan  # 0 / NaN: absent
    mean: Vector = (total / count[:, None]).astype(np.float32)
    return mean
