"""The files of a MEDS dataset: writing them as the `meds` package's schemas want, and reading them.

MEDS (Medical Event Data Standard) is one long table of events, a row each: subject_id, time (null:
static), code, numeric_value; sharded so that a subject lies in one file.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.errors import InputError, nearest
from adacomed.schema import TEST, TRAIN, VAL

PARTS = {TRAIN: "train", VAL: "tuning", TEST: "held_out"}  # our splits → those of MEDS
BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
DATA, METADATA = "data", "metadata"
CODES, ABOUT, SPLITS = "codes.parquet", "dataset.json", "subject_splits.parquet"
SUBJECT, TIME, CODE, NUMBER, TEXT = "subject_id", "time", "code", "numeric_value", "text_value"
SIMULATED = " (simulated)"  # ends the name of a dataset without patients
MICRO = pl.Datetime("us")
EVENTS: dict[str, Any] = {SUBJECT: pl.Int64, TIME: MICRO, CODE: pl.String, NUMBER: pl.Float32}


@contextmanager
def new_dataset(out: Path) -> Iterator[Path]:
    """A new folder to write a MEDS dataset into; it becomes `out` at the end, or never.

    Raises:
        InputError: `out` holds something else than a MEDS dataset, or meds is not installed.
    """
    _meds()
    names = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if out.is_file() or (names and (names - {DATA, METADATA} or METADATA not in names)):
        other = sorted(names - {DATA, METADATA}) or [out.name]
        raise InputError(f"{out}: holds {other[0]!r}, not only a MEDS dataset; give another --meds")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        (new / METADATA).mkdir(parents=True)
        (new / DATA).mkdir()
        yield new
        if out.exists():
            shutil.move(out, old)
        shutil.move(new, out)


def write_shard(folder: Path, split: str, number: int, events: pl.DataFrame) -> None:
    """Write the events of some subjects, checked against `meds.DataSchema`.

    Args:
        folder: of `new_dataset`.
        split: train, val or test, of all these subjects.
        number: of the shard, in its split.
        events: the columns of EVENTS, and any others; all rows of a subject together, by time,
            static ones first.
    """
    path = folder / DATA / PARTS[split] / f"{number}.parquet"
    path.parent.mkdir(exist_ok=True)
    _write(events.with_columns(pl.col(c).cast(t) for c, t in EVENTS.items()), "DataSchema", path)


def write_metadata(
    folder: Path, codes: pl.DataFrame, splits: pl.DataFrame, about: dict[str, Any]
) -> None:
    """Write codes.parquet, subject_splits.parquet and dataset.json, checked likewise.

    Args:
        codes: code, description, parent_codes (list of text).
        splits: subject_id (Int64), split (train, val, test).
        about: fields of `meds.DatasetMetadataSchema`; meds_version is added.
    """
    named = splits.with_columns(pl.col("split").replace_strict(PARTS)).sort(SUBJECT)
    _write(codes, "CodeMetadataSchema", folder / METADATA / CODES)
    _write(named.select(SUBJECT, "split"), "SubjectSplitSchema", folder / METADATA / SPLITS)
    package = _meds()
    found = {**about, "meds_version": package.__version__}
    package.DatasetMetadataSchema.validate(found)
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    (folder / METADATA / ABOUT).write_text(text, encoding="utf-8")


def _write(frame: pl.DataFrame, schema: str, path: Path) -> None:
    from pyarrow import parquet

    checked = getattr(_meds(), schema).align(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
    parquet.write_table(checked, path)


def _meds() -> Any:
    try:
        import meds
    except ImportError:
        raise InputError("--meds needs the meds package; pip install 'adacomed[meds]'") from None
    return meds


def data_files(folder: Path) -> list[Path]:
    """The shards of a dataset, in the order of their names.

    Raises:
        InputError: there is none.
    """
    files = sorted((folder / DATA).rglob("*.parquet"))
    if not files:
        raise InputError(
            f"{folder}: no data/**/*.parquet; expected the folder of a MEDS dataset, with data/ "
            f"and metadata/"
        )
    return files


def scan_events(file: Path) -> pl.LazyFrame:
    """The columns of EVENTS and text_value (null where a dataset has none) of a shard.

    Raises:
        InputError: it is not Parquet, or a column is missing or of another type.
    """
    rows = pl.scan_parquet(file, glob=False)
    try:
        schema = rows.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{file}: not readable as Parquet ({type(error).__name__})") from None
    for name, kind in (*EVENTS.items(), (TEXT, pl.String)):
        if name not in schema:
            if name in (NUMBER, TEXT):  # may be left out
                continue
            raise InputError(f"{file}: no column {name!r}{nearest(name, schema.names())}")
        found = schema[name]
        alike = {
            SUBJECT: found.is_integer(),
            TIME: found == pl.Datetime,
            NUMBER: found.is_numeric(),
        }
        words = found in (pl.String, pl.Categorical, pl.Enum, pl.Null)
        if not alike.get(name, words) and found != pl.Null:
            raise InputError(f"{file}: column {name!r} is {found}, expected {kind}")
    time = pl.col(TIME)
    if isinstance(schema[TIME], pl.Datetime) and schema[TIME].time_zone:  # type: ignore[attr-defined]
        time = time.dt.replace_time_zone(None)
    number = pl.col(NUMBER) if NUMBER in schema else pl.lit(None)
    text = pl.col(TEXT) if TEXT in schema else pl.lit(None)
    return rows.select(
        pl.col(SUBJECT).cast(pl.Int64),
        time.cast(MICRO),
        pl.col(CODE).cast(pl.String),
        number.cast(pl.Float64).alias(NUMBER),
        text.cast(pl.String).alias(TEXT),
    )


def read_splits(folder: Path) -> pl.DataFrame | None:
    """subject_id, split (train, val, test) of the subjects; None where the dataset has no split.

    Raises:
        InputError: it is unreadable, or a subject is in two splits.
    """
    path = folder / METADATA / SPLITS
    if not path.is_file():
        return None
    try:
        frame = pl.read_parquet(path).select(pl.col(SUBJECT).cast(pl.Int64), "split").unique()
    except (pl.exceptions.PolarsError, OSError) as error:
        why = type(error).__name__
        raise InputError(f"{path}: expected subject_id and split ({why})") from None
    twice = frame.filter(pl.col(SUBJECT).is_duplicated())[SUBJECT].sort()
    if len(twice):
        raise InputError(f"{path}: subject {twice[0]} is in two splits")
    ours = {theirs: mine for mine, theirs in PARTS.items()}
    return frame.with_columns(pl.col("split").replace_strict(ours, default=None)).drop_nulls()


def read_about(folder: Path) -> dict[str, Any]:
    """What dataset.json says; empty where there is none.

    Raises:
        InputError: it is no JSON object.
    """
    path = folder / METADATA / ABOUT
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object")
    return found
