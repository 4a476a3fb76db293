"""Who can be a sample, from which hour to which it is looked at, and whose a stray row is.

The index time, hour 0, is the hospital admission. A model is asked at hour 48, or at discharge
where that comes first, and may know nothing that was measured or stored later.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from adacomed.datasets.mimic.flow import Flow
from adacomed.datasets.mimic.release import Tables
from adacomed.schema import Samples

SAMPLE = Samples.SAMPLE_ID
HOURS = 48.0  # the window: (0, HOURS] from the index time
ADULT = 18
OLDEST = 90  # ages of 90 and more are one decade
MICROSECONDS = 3.6e9  # of an hour
OUTSIDE = "outside the first 48 hours, or after discharge"
LATER = "stored after the window's end"
NO_TIME = "no time"
STRAY = "without hadm_id, and in no admission or several at that time"


@dataclass(frozen=True)
class People:
    """Stays that can be samples, and every admission of the release.

    Attributes:
        stays: sample_id, subject_id (text), subject, hadm_id, stay_id (Int64), index and end
            (Datetime: the window is (index, end]), dischtime, age_decade, insurance, language,
            marital_status, race, period (year), died; sorted by sample_id.
        admissions: subject, hadm_id, admittime, dischtime of everyone.
    """

    stays: pl.DataFrame
    admissions: pl.DataFrame

    def only(self, samples: pl.Series) -> People:
        """The same with these samples alone."""
        return People(self.stays.filter(pl.col(SAMPLE).is_in(samples.implode())), self.admissions)

    def ids(self, column: str) -> list[int]:
        """Distinct subject, hadm_id or stay_id of the stays."""
        return self.stays[column].unique().sort().to_list()


def find_people(tables: Tables, into: Path, flow: Flow) -> People:
    """The stays of adults that began before the window's end.

    Args:
        into: folder for the tables read.
        flow: told who is left out.
    """
    admissions = tables.read("admissions", into).collect().rename({"subject_id": "subject"})
    patients = tables.read("patients", into).collect().rename({"subject_id": "subject"})
    stays = tables.read("icustays", into).collect().rename({"subject_id": "subject"})
    stays = stays.with_columns(pl.col("stay_id").cast(pl.String).alias(SAMPLE))
    flow.step("stays in intensive care", stays)
    known = stays.join(admissions, on=["subject", "hadm_id"]).join(patients, on="subject")
    known = known.filter(pl.col("dischtime") > pl.col("admittime"), pl.col("intime").is_not_null())
    known = known.with_columns(*_window(), *_age(), died(), period())
    why = "no such patient or admission, or a discharge that is not after the admission"
    flow.step("with an admission", known, why)
    adults = known.filter(pl.col("age") >= ADULT)
    flow.step(f"aged {ADULT} or more", adults, "younger, or no age")
    timely = adults.filter(begins_in_time())
    flow.step(f"begun before hour {HOURS:g}", timely, "the stay begins after the window")
    kept = timely.sort(SAMPLE).select(
        SAMPLE,
        pl.col("subject").cast(pl.String).alias(Samples.SUBJECT_ID),
        "subject",
        "hadm_id",
        "stay_id",
        "index",
        "end",
        "dischtime",
        "age_decade",
        "insurance",
        "language",
        "marital_status",
        "race",
        "period",
        "died",
    )
    return People(kept, admissions.select("subject", "hadm_id", "admittime", "dischtime"))


def _window() -> tuple[pl.Expr, pl.Expr]:
    """index: the admission; end: 48 hours later, or the discharge where that comes first."""
    latest = pl.col("admittime") + pl.duration(hours=int(HOURS))
    end = pl.min_horizontal(latest, pl.col("dischtime"))
    return pl.col("admittime").alias("index"), end.alias("end")


def begins_in_time() -> pl.Expr:
    """Whether the stay begins before hour 48 of the admission."""
    return pl.col("intime") < pl.col("admittime") + pl.duration(hours=int(HOURS))


def _age() -> tuple[pl.Expr, pl.Expr]:
    """age in years at admission, and age_decade: 60 for 60 … 69, 90 for everyone from 90 on."""
    years = pl.col("anchor_age") + pl.col("admittime").dt.year() - pl.col("anchor_year")
    decade = pl.min_horizontal(years // 10 * 10, pl.lit(OLDEST, pl.Int64))
    return years.alias("age"), decade.cast(pl.Int64).alias("age_decade")


def died() -> pl.Expr:
    """Death in hospital: a time of death in the admission, or the release's flag."""
    flag = (pl.col("hospital_expire_flag") == 1).fill_null(False)
    return (pl.col("deathtime").is_not_null() | flag).alias("died")


def period() -> pl.Expr:
    """The real year of the admission, about: dates are shifted by patient, the anchor group is not.

    It is the first year of the patient's anchor_year_group ("2014 - 2016"), and as many years later
    as the admission lies after the anchor year. The true year is at most two later.
    """
    first = pl.col("anchor_year_group").str.extract(r"^\s*(\d{4})").cast(pl.Int64)
    years = pl.col("admittime").dt.year() - pl.col("anchor_year")
    return (first + years).cast(pl.Int64).alias("period")


def hours() -> pl.Expr:
    """Hours from the index time, of a row with `time` beside its stay's `index`."""
    passed = (pl.col("time") - pl.col("index")).dt.total_microseconds()
    return (passed / MICROSECONDS).alias("hours")


def why_left_out() -> pl.Expr:
    """Why a row (time, store) beside its stay (index, end) is no input: a reason, or null.

    Later than the index time, at most 48 hours later, not after discharge; and stored, where the
    release says when, by the window's end: what was stored later was not known then.
    """
    outside = (pl.col("time") <= pl.col("index")) | (pl.col("time") > pl.col("end"))
    return (
        pl.when(pl.col("time").is_null())
        .then(pl.lit(NO_TIME))
        .when(outside)
        .then(pl.lit(OUTSIDE))
        .when((pl.col("store") > pl.col("end")).fill_null(False))
        .then(pl.lit(LATER))
    )


def with_admission(rows: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Fill an empty hadm_id: the patient's admission at that time, where it is exactly one.

    Args:
        rows: subject, hadm_id, time, and other columns.
        admissions: as `People.admissions`; of several at a time (both ends belong to it) none is
            taken.
    Returns:
        The rows, in another order; hadm_id stays null where there is no such admission.
    """
    empty = rows.filter(pl.col("hadm_id").is_null())
    found = (
        empty.drop("hadm_id")
        .sort("time")
        .join_asof(
            _alone(admissions), on="time", by="subject", strategy="backward", check_sortedness=False
        )
    )
    full = rows.filter(pl.col("hadm_id").is_not_null())
    return pl.concat([full, found.select(rows.columns)])


def _alone(admissions: pl.DataFrame) -> pl.DataFrame:
    """From each `time` on, the one admission that the subject is in; null: none or several."""
    count, sum_ = pl.col("step").cum_sum().over("subject"), pl.col("id").cum_sum().over("subject")
    starts = admissions.select("subject", time="admittime", step=1, id="hadm_id")
    after = pl.col("dischtime") + pl.duration(microseconds=1)
    ends = admissions.select("subject", time=after, step=-1, id=-pl.col("hadm_id"))
    edges = pl.concat([starts, ends]).group_by("subject", "time").agg(pl.col("step", "id").sum())
    edges = edges.drop_nulls().sort("subject", "time")
    here = edges.with_columns(hadm_id=pl.when(count == 1).then(sum_))
    return here.select("subject", "time", "hadm_id").sort("time")
