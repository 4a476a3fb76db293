"""Who is trained on, validated on and tested on."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from adacomed.cohort.split import holdout
from adacomed.errors import InputError
from adacomed.schema import TEST, TRAIN, VAL, Labels, Samples

FRACTION = 0.15  # of all for the test, then of the rest for validation
SEED = 0
RARE, FEWEST = 14, 3  # patients of a combination of labels, or of one, that has its own stratum
TASKS = ("mortality", "longstay", "readmission")


def original_split(samples: int) -> list[str]:
    """The original's: FRACTION of all samples for the test, then FRACTION of the rest.

    At random, neither by patient nor by class: a patient's samples may lie in several parts.

    Returns:
        train, val or test of every sample, in the order of the cohort.
    """
    rest, test = train_test_split(np.arange(samples), test_size=FRACTION, random_state=SEED)
    train, val = train_test_split(rest, test_size=FRACTION, random_state=SEED)
    return _named(samples, val, test, train)


def grouped_split(subjects: pl.Series, strata: NDArray[np.int64]) -> list[str]:
    """A patient's samples in one part, and each stratum in proportion.

    Args:
        subjects: of the N samples.
        strata: (N,) class of each, ≥ 0 (`strata_of`).
    Raises:
        InputError: too few patients.
    """
    who = subjects.to_numpy()
    if len(np.unique(who)) < 3:
        raise InputError(f"{len(np.unique(who))} patients: three are needed for a split by patient")
    rest, test = _held_out(strata, who, np.arange(len(who)))
    train, val = _held_out(strata, who, rest)
    return _named(len(who), val, test, train)


def _held_out(
    strata: NDArray[np.int64], who: NDArray[np.object_], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """FRACTION of the patients, by class where two of every class are there."""
    try:
        return holdout(strata, who, fraction=FRACTION, seed=SEED, rows=rows)
    except InputError:
        names = np.unique(who[rows])
        _, held = train_test_split(names, test_size=FRACTION, random_state=SEED)
        out = np.isin(who[rows], held)
        return rows[~out], rows[out]


def strata_of(samples: pl.DataFrame, labels: pl.DataFrame) -> NDArray[np.int64]:
    """What the split keeps in proportion, (N,): the three labels together.

    A combination that few patients have becomes readmitted, dead or neither, so that these are in
    every part; of those, what hardly anyone has becomes neither.
    """
    wide = samples.select(Samples.SAMPLE_ID, Samples.SUBJECT_ID)
    for task in TASKS:
        mine = labels.filter(pl.col(Labels.TASK) == task)
        mine = mine.select(Samples.SAMPLE_ID, pl.col(Labels.LABEL).alias(task))
        wide = wide.join(mine, on=Samples.SAMPLE_ID, how="left", maintain_order="left")
    wide = wide.with_columns(pl.col(TASKS).fill_null(0))
    whole = pl.col("mortality") + 2 * pl.col("longstay") + 4 * pl.col("readmission")
    rare = pl.when(pl.col("readmission") == 1).then(8).when(pl.col("mortality") == 1).then(9)
    people = pl.col(Samples.SUBJECT_ID).n_unique()
    wide = wide.with_columns(at=whole, rare=rare.otherwise(10))
    wide = wide.with_columns(at=pl.when(people.over("at") >= RARE).then("at").otherwise("rare"))
    fewest = pl.when(people.over("at") >= FEWEST).then("at").otherwise(10)
    return wide.select(fewest.cast(pl.Int64)).to_series().to_numpy()


def time_split(subjects: pl.Series, period: pl.Series) -> list[str]:
    """The patients seen last are tested, those before them validated on; a patient in one part.

    Args:
        subjects: of the N samples.
        period: (N,) real year of each, about (`windows.period`); a patient's last one counts, and
            inside a year the order is random.
    Raises:
        InputError: a sample without a year.
    """
    frame = pl.DataFrame({"subject": subjects, "year": period})
    if frame["year"].null_count():
        raise InputError(
            f"--split time needs anchor_year_group in patients, as in 2014 - 2016; "
            f"{frame['year'].null_count()} samples have none"
        )
    last = frame.group_by("subject").agg(pl.col("year").max()).sort("subject")
    last = last.with_columns(at=pl.Series(np.random.default_rng(SEED).permutation(len(last)))).sort(
        "year", "at"
    )
    tested = max(round(FRACTION * len(last)), 1)
    validated = max(round(FRACTION * (len(last) - tested)), 1)
    names = [TRAIN] * (len(last) - tested - validated) + [VAL] * validated + [TEST] * tested
    place = dict(zip(last["subject"], names, strict=True))
    return [place[s] for s in subjects]


def _named(
    samples: int, val: NDArray[np.int64], test: NDArray[np.int64], train: NDArray[np.int64]
) -> list[str]:
    names = np.full(samples, TRAIN, dtype=object)
    names[val], names[test] = VAL, TEST
    assert len(train) + len(val) + len(test) == samples
    return [str(name) for name in names]
