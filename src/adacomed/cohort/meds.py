"""What a MEDS dataset knows of some patients at given times: samples, events, static codes.

A sample is a patient at a prediction time. By the standard, data up to and including that time may
be used; nothing later is read into a sample.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.cohort.meds_files import (
    BIRTH,
    CODE,
    DEATH,
    NUMBER,
    SUBJECT,
    TEXT,
    TIME,
    data_files,
    read_splits,
    scan_events,
)
from adacomed.errors import InputError, nearest
from adacomed.schema import TRAIN, Samples

SAMPLE, AT, LABEL = Samples.SAMPLE_ID, "prediction_time", "boolean_value"
NOW = 48.0  # the hour of the prediction time: the models' clocks tell the hours 0 to 48 apart
MICROSECONDS = 3.6e9  # of an hour
DAYS = 365.25  # of a year
LATER = "after the prediction time"
EARLIER = "before the window"
NOT_FINITE = "no finite number"
RARE_CODE = "of a code that few training samples have"


@dataclass
class Flow:
    """What was left out on the way.

    Attributes:
        steps: what, subjects, samples, left_out, why.
        dropped: reason → measurements, counted by sample.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def step(self, what: str, rows: pl.DataFrame, why: str = "") -> None:
        """Note who is still there: rows of subject_id; `why` the others are not."""
        left = self.steps[-1]["samples"] - len(rows) if self.steps else 0
        subjects = rows[SUBJECT].n_unique()
        told = {"what": what, "subjects": subjects, "samples": len(rows), "left_out": left}
        self.steps.append({**told, "why": why if left else ""})


def read_labels(path: Path, flow: Flow) -> pl.DataFrame:
    """The labels that ACES, or any MEDS tool, has made.

    Args:
        path: a Parquet or csv file, or a folder of Parquet files, with subject_id, prediction_time
            and boolean_value.
        flow: told which rows have no label, or come twice.
    Returns:
        subject_id (Int64), prediction_time (Datetime), boolean_value (Boolean), sample_id; sorted.
    Raises:
        InputError: no such file or column, or two labels of one patient at one time.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path}: no label file; expected a .parquet or .csv file, or a folder")
    rows = pl.concat([_read_labels(file) for file in files])
    flow.step("rows of labels", rows)
    known = rows.drop_nulls()
    flow.step("with a label and a time", known, "no boolean_value, or no time")
    once = known.unique().sort(SUBJECT, AT)
    flow.step("once", once, "the same row again")
    twice = once.filter(pl.struct(SUBJECT, AT).is_duplicated())[SUBJECT]
    if len(twice):
        raise InputError(f"{path}: subject {twice[0]} has two labels at one prediction time")
    second = pl.col(AT).dt.to_string("%Y%m%dT%H%M%S")
    micro = pl.col(AT).dt.microsecond()
    part = pl.when(micro > 0).then(pl.format(".{}", micro.cast(pl.String).str.zfill(6)))
    name = pl.format("{}@{}{}", SUBJECT, second, part.otherwise(pl.lit("")))
    return once.with_columns(name.alias(SAMPLE))


def _read_labels(file: Path) -> pl.DataFrame:
    try:
        if file.suffix == ".csv":
            rows = pl.read_csv(file, try_parse_dates=True)
        else:
            rows = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{file}: not a readable label file ({type(error).__name__})") from None
    for name in (SUBJECT, AT, LABEL):
        if name not in rows.columns:
            raise InputError(f"{file}: no column {name!r}{nearest(name, rows.columns)}")
    wanted = {AT: (pl.Datetime,), LABEL: (pl.Boolean, pl.Null)}
    for name, types in wanted.items():
        if rows.schema[name] not in types:
            want = "dates with times" if name == AT else "true and false"
            raise InputError(f"{file}: column {name!r} is {rows.schema[name]}, expected {want}")
    if not rows.schema[SUBJECT].is_integer():
        raise InputError(f"{file}: column {SUBJECT!r} is no whole number")
    time = pl.col(AT).dt.replace_time_zone(None).cast(pl.Datetime("us"))
    return rows.select(pl.col(SUBJECT).cast(pl.Int64), time, pl.col(LABEL).cast(pl.Boolean))


def with_split(folder: Path, samples: pl.DataFrame, flow: Flow) -> pl.DataFrame:
    """The samples with the split of their subject: train, val or test; null where there is none."""
    splits = read_splits(folder)
    if splits is None:
        return samples.with_columns(pl.lit(None, pl.String).alias(Samples.SPLIT))
    found = samples.join(splits, on=SUBJECT).sort(SAMPLE)
    flow.step("in a split", found, "in none of train, tuning and held_out")
    return found


def find_known(
    folder: Path, samples: pl.DataFrame, window: float | None, into: Path, flow: Flow
) -> tuple[list[Path], pl.DataFrame]:
    """What is known of each sample, read from one shard after the other.

    Args:
        samples: sample_id, subject_id, prediction_time.
        window: hours before the prediction time, its beginning left out; None: all.
        into: folder for the events.
        flow: told which measurements are left out.
    Returns:
        Files of events (sample_id, hours, variable, value; sorted), whose hour `NOW` is the
        prediction time; and static facts: subject_id, code, numeric_value, text_value, birth.
    """
    parts, facts = [], []
    ids = samples[SUBJECT].unique()
    for number, file in enumerate(data_files(folder)):
        rows = scan_events(file).filter(pl.col(SUBJECT).is_in(ids.implode()))
        try:
            facts.append(_facts(rows).collect(engine="streaming"))
            told = _measured(rows, samples, window).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{file}: not readable ({type(error).__name__})") from None
        for why, count in told["why"].drop_nulls().value_counts().iter_rows():
            flow.dropped[str(why)] += count
        kept = told.filter(pl.col("why").is_null()).drop("why")
        if len(kept):
            parts.append(into / f"events-{number}.parquet")
            kept.sort(kept.columns).write_parquet(parts[-1])
    return parts, pl.concat(facts)


def _measured(rows: pl.LazyFrame, samples: pl.DataFrame, window: float | None) -> pl.LazyFrame:
    """Numbers with a time, by sample, and why one is no input (null: it is one)."""
    numbers = rows.filter(pl.col(NUMBER).is_not_null(), pl.col(TIME).is_not_null())
    pairs = numbers.join(samples.lazy().select(SUBJECT, SAMPLE, AT), on=SUBJECT)
    hours = (pl.col(TIME) - pl.col(AT)).dt.total_microseconds() / MICROSECONDS
    why: Any = pl.when(pl.col(TIME) > pl.col(AT)).then(pl.lit(LATER))
    if window is not None:
        why = why.when(hours <= -window).then(pl.lit(EARLIER))
    return pairs.select(
        SAMPLE,
        (hours + NOW).alias("hours"),
        pl.col(CODE).alias("variable"),
        pl.col(NUMBER).alias("value"),
        why=why.when(~pl.col(NUMBER).is_finite()).then(pl.lit(NOT_FINITE)),
    )


def _facts(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Static rows, and the birth; a death without a time says nothing that was known."""
    dead = pl.col(CODE).str.split("//").list.first() == DEATH
    static = pl.col(TIME).is_null() & ~dead
    born = pl.col(CODE) == BIRTH
    found = rows.filter(static | born)
    birth = pl.when(pl.col(CODE) == BIRTH).then(TIME).alias("birth")
    return found.select(SUBJECT, CODE, NUMBER, TEXT, birth)


def common_codes(parts: list[Path], samples: pl.DataFrame, share: float) -> list[str]:
    """Codes that at least this share of the training samples have (of all, without a split).

    Args:
        parts: files of events.
        samples: sample_id, split.
    """
    trained = samples.filter(pl.col(Samples.SPLIT).fill_null(TRAIN) == TRAIN)
    if not parts:
        return []
    rows = pl.scan_parquet([str(p) for p in parts], glob=False)
    pairs = rows.select(SAMPLE, "variable").unique()
    mine = pairs.join(trained.lazy().select(SAMPLE), on=SAMPLE, how="semi")
    counts = mine.group_by("variable").len().collect(engine="streaming")
    return counts.filter(pl.col("len") >= share * len(trained))["variable"].sort().to_list()
