"""Write a built cohort folder, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from adacomed.errors import InputError
from adacomed.schema import CohortCard, CohortFiles, Vectors

_WRITTEN = {value for name, value in vars(CohortFiles).items() if name.isupper()}


def assert_writable(out: Path) -> None:
    """Raise an InputError where `out` holds anything that a build would not write itself."""
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if names and (CohortFiles.CARD not in names or names - _WRITTEN):
            other = sorted(names - _WRITTEN) or sorted(names)
            raise InputError(
                f"{out}: holds {other[0]!r}, not only a built cohort; give another --out, or an "
                f"empty folder"
            )
    elif out.exists():
        raise InputError(f"{out}: is a file, expected a folder for the cohort")


def vector_table(ids: list[str], items: list[str], vectors: np.ndarray) -> pl.DataFrame:
    """An embedding table: sample_id, item, vector (list[float32]), from vectors (items, D)."""
    return pl.DataFrame(
        {
            Vectors.SAMPLE_ID: pl.Series(ids, dtype=pl.String),
            Vectors.ITEM: pl.Series(items, dtype=pl.String),
            Vectors.VECTOR: pl.Series(list(vectors), dtype=pl.List(pl.Float32)),
        }
    )


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A new folder to write a cohort into; it becomes `out` at the end, or never.

    A cohort that an earlier build wrote there is replaced then.

    Raises:
        InputError: `out` holds something else.
    """
    assert_writable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        if out.exists():
            shutil.move(out, old)
        shutil.move(new, out)


def write_tables(
    folder: Path, card: CohortCard, samples: pl.DataFrame, labels: pl.DataFrame
) -> None:
    """Write cohort.yaml, samples.parquet and labels.parquet into a folder that is there."""
    fields = card.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    (folder / CohortFiles.CARD).write_text(text, encoding="utf-8")
    samples.write_parquet(folder / CohortFiles.SAMPLES)
    labels.write_parquet(folder / CohortFiles.LABELS)


def write_cohort(
    out: Path,
    card: CohortCard,
    samples: pl.DataFrame,
    labels: pl.DataFrame,
    vectors: dict[str, pl.DataFrame],
) -> None:
    """Write cohort.yaml, samples.parquet, labels.parquet, vectors/<modality>.parquet.

    A cohort that an earlier build wrote there is replaced once the new one is complete.

    Raises:
        InputError: `out` holds something else.
    """
    with whole_or_nothing(out) as new:
        (new / CohortFiles.VECTORS).mkdir()
        write_tables(new, card, samples, labels)
        for modality, table in vectors.items():
            table.write_parquet(new / CohortFiles.VECTORS / f"{modality}.parquet")
