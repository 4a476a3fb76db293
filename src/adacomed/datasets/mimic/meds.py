"""MIMIC-IV-MM as a MEDS dataset: every event that was kept, admissions, discharges, deaths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from adacomed import __version__
from adacomed.cohort import meds_files
from adacomed.cohort.meds_files import CODE, DEATH, NUMBER, SIMULATED, SUBJECT, TIME
from adacomed.datasets.mimic.items import Items
from adacomed.datasets.mimic.variables import DEMOGRAPHICS, EVENTS
from adacomed.datasets.mimic.windows import MICROSECONDS, SAMPLE, People
from adacomed.schema import CohortCard, Samples

SUBJECTS = 1000  # of a shard
ADMITTED, DISCHARGED = "HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE"
NUMBERS = ("age_decade",)  # demographics that are numbers
HADM = "hadm_id"
TOLD = {
    ADMITTED: "admission to hospital",
    DISCHARGED: "discharge from hospital",
    DEATH: "death in hospital; at the discharge where the release gives no time",
    "AGE_DECADE": "age at the first admission of the cohort, full decades",
}


def write_meds(
    folder: Path,
    people: People,
    samples: pl.DataFrame,
    admissions: pl.LazyFrame,
    events: Path,
    items: Items,
    card: CohortCard,
) -> None:
    """Write the dataset of a built cohort.

    Static are the demographics of a patient's first admission in the cohort. Admissions, discharges
    and deaths are those of every admission of its patients, in the cohort or not.

    Args:
        folder: of `meds_files.new_dataset`.
        people: of the cohort.
        samples: sample_id, subject_id, split; a patient is in one split.
        admissions: as read from the release.
        events: events.parquet of the cohort.
    """
    who = people.stays.join(samples.select(SAMPLE, Samples.SPLIT), on=SAMPLE)
    of = pl.col(SUBJECT).is_in(who["subject"].unique().implode())
    moves = _moves(admissions.filter(of).collect())
    static = _static(who)
    subjects = who.select(pl.col("subject").alias(SUBJECT), Samples.SPLIT).unique().sort(SUBJECT)
    for (split,), part in subjects.group_by(Samples.SPLIT, maintain_order=True):
        for number, first in enumerate(range(0, len(part), SUBJECTS)):
            mine = part.slice(first, SUBJECTS).select(SUBJECT)
            found = [f.join(mine, on=SUBJECT, how="semi") for f in (static, moves)]
            measured = _measured(events, who.join(mine, left_on="subject", right_on=SUBJECT))
            rows = pl.concat([*found, measured], how="diagonal")
            order = [SUBJECT, TIME, "order", CODE, NUMBER, HADM]
            rows = rows.sort(order, nulls_last=False).drop("order")
            meds_files.write_shard(folder, str(split), number, rows)
    meds_files.write_metadata(folder, _codes(static, items), subjects, _about(card))


def _measured(events: Path, who: pl.DataFrame) -> pl.DataFrame:
    """The events of some stays, once where two stays of an admission share them."""
    stays = who.select(SAMPLE, "subject", HADM, "index")
    of = pl.col(SAMPLE).is_in(stays[SAMPLE].implode())
    rows = pl.scan_parquet(events, glob=False).filter(of).collect(engine="streaming")
    micro = (pl.col("hours") * MICROSECONDS).round().cast(pl.Int64)
    return (
        rows.join(stays, on=SAMPLE)
        .select(
            pl.col("subject").alias(SUBJECT),
            (pl.col("index") + pl.duration(microseconds=micro)).alias(TIME),
            pl.col("variable").alias(CODE),
            pl.col("value").alias(NUMBER),
            HADM,
            order=1,
        )
        .unique()
    )


def _moves(admissions: pl.DataFrame) -> pl.DataFrame:
    """Admissions, discharges and deaths."""
    flag = (pl.col("hospital_expire_flag") == 1).fill_null(False)
    died = pl.coalesce("deathtime", pl.when(flag).then("dischtime"))
    deaths = admissions.select(SUBJECT, died.alias(TIME), HADM).drop_nulls(TIME)
    deaths = deaths.sort(TIME, HADM).unique(SUBJECT, keep="first")
    parts = [
        admissions.select(SUBJECT, pl.col(column).alias(TIME), HADM).with_columns(
            pl.lit(code).alias(CODE), order=pl.lit(order)
        )
        for code, column, order in ((ADMITTED, "admittime", 0), (DISCHARGED, "dischtime", 2))
    ]
    parts.append(deaths.with_columns(pl.lit(DEATH).alias(CODE), order=pl.lit(3)))
    return pl.concat(parts).drop_nulls(TIME)


def _static(who: pl.DataFrame) -> pl.DataFrame:
    """Demographics without a time: RACE//WHITE, or AGE_DECADE with its number."""
    first = who.sort("subject", "index", SAMPLE).unique("subject", keep="first")
    parts = []
    for name in DEMOGRAPHICS:
        known = first.filter(pl.col(name).is_not_null())
        number = pl.col(name).cast(pl.Float64) if name in NUMBERS else pl.lit(None, pl.Float64)
        code = pl.lit(name.upper())
        if name not in NUMBERS:
            code = pl.format("{}//{}", code, name)
        parts.append(
            known.select(
                pl.col("subject").alias(SUBJECT), code.alias(CODE), number.alias(NUMBER), order=0
            )
        )
    return pl.concat(parts)


def _codes(static: pl.DataFrame, items: Items) -> pl.DataFrame:
    """Every code, what it means, and the items of MIMIC-IV that it comes from."""
    chosen = {**items.charted, **items.laboratory, **items.procedures}
    rows = [
        (
            v.name,
            f"{v.label}, {v.unit}",
            [f"mimiciv_items/{i}" for i, o in chosen.items() if o is v],
        )
        for v in EVENTS
    ]
    told: dict[str, str] = dict(TOLD)
    for code in static[CODE].unique().sort():
        name, _, value = str(code).partition("//")
        told.setdefault(str(code), f"{name.lower().replace('_', ' ')}: {value}")
    rows += [(code, text, []) for code, text in told.items()]
    schema: Mapping[str, Any] = {CODE: pl.String, "description": pl.String}
    return pl.DataFrame(rows, {**schema, "parent_codes": pl.List(pl.String)}, orient="row")


def _about(card: CohortCard) -> dict[str, Any]:
    return {
        "dataset_name": card.name + (SIMULATED if card.simulated else ""),
        "dataset_version": card.source,
        "etl_name": "adacomed cohort build mimic-iv-mm",
        "etl_version": __version__,
        "license": card.licence,
        "raw_source_id_columns": [HADM],
    }
