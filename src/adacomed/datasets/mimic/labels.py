"""The three tasks: death in hospital, a long stay, and readmission."""

from __future__ import annotations

import polars as pl

from adacomed.datasets.mimic.windows import SAMPLE, People
from adacomed.schema import Labels

LONG, SHORT = 7, 3  # days: a stay is long above LONG; one below SHORT has no label
SOON = 30  # days from discharge to the next admission


def find_labels(people: People, *, paper: bool) -> pl.DataFrame:
    """The labels of the samples: sample_id, task, label (0 or 1), by sample and task.

    Args:
        people: the final stays, and every admission.
        paper: readmission as the original has it (see `readmission`).
    """
    tasks = {
        "mortality": mortality(people.stays),
        "longstay": longstay(people.stays),
        "readmission": readmission(people, paper=paper),
    }
    found = [
        frame.drop_nulls("label").select(
            SAMPLE,
            pl.lit(task).alias(Labels.TASK),
            pl.col("label").cast(pl.Int64).alias(Labels.LABEL),
        )
        for task, frame in tasks.items()
    ]
    return pl.concat(found).sort(SAMPLE, Labels.TASK)


def mortality(stays: pl.DataFrame) -> pl.DataFrame:
    """Death in hospital (`windows.died`); everyone is labelled."""
    return stays.select(SAMPLE, label=pl.col("died"))


def longstay(stays: pl.DataFrame) -> pl.DataFrame:
    """More than LONG days from admission to discharge; null below SHORT days."""
    lasted = pl.col("dischtime") - pl.col("index")
    label = pl.when(lasted >= pl.duration(days=SHORT)).then(lasted > pl.duration(days=LONG))
    return stays.select(SAMPLE, label=label)


def readmission(people: People, *, paper: bool) -> pl.DataFrame:
    """Whether the patient's next admission begins at most SOON × 24 hours after discharge.

    An admission that begins before this one's discharge is the same episode (a transfer), and is
    passed over. Those who died in hospital have no label.

    Args:
        paper: as the original: only admissions that have a sample count, and the dead are negative.
    """
    stays = people.stays
    candidates = people.admissions.select("subject", "hadm_id", next="admittime").drop_nulls()
    if paper:
        candidates = candidates.join(stays.select("hadm_id").unique(), on="hadm_id", how="semi")
    mine = stays.select("hadm_id", "subject", "index", "dischtime").unique("hadm_id")
    pairs = mine.join(candidates.rename({"hadm_id": "other"}), on="subject")
    later = (pl.col("other") != pl.col("hadm_id")) & (pl.col("next") >= pl.col("dischtime"))
    soon = pl.col("next") <= pl.col("dischtime") + pl.duration(days=SOON)
    back = pairs.filter(later & soon)["hadm_id"].unique()
    label = pl.col("hadm_id").is_in(back.implode())
    label = label & ~pl.col("died") if paper else pl.when(~pl.col("died")).then(label)
    return stays.select(SAMPLE, label=label)


def overlapping(people: People) -> int:
    """Admissions of the samples in which another one of the same patient begins."""
    mine = people.stays.select("hadm_id", "subject", "index", "dischtime").unique("hadm_id")
    others = people.admissions.select("subject", "admittime", other="hadm_id")
    pairs = mine.join(others, on="subject").filter(pl.col("other") != pl.col("hadm_id"))
    begun = pl.col("admittime").is_between("index", "dischtime", closed="left")
    return pairs.filter(begun)["hadm_id"].n_unique()
