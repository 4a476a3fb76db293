"""Radiology notes of the stays, by admission and time."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from adacomed.datasets.mimic.flow import Flow
from adacomed.datasets.mimic.release import Tables
from adacomed.datasets.mimic.scan import pieces
from adacomed.datasets.mimic.windows import (
    SAMPLE,
    STRAY,
    People,
    hours,
    why_left_out,
    with_admission,
)

PIECE = 50_000  # notes at a time
OTHER = "of an admission without a sample"
NO_TEXT = "no text"


def find_notes(tables: Tables, people: People, into: Path, flow: Flow) -> pl.DataFrame:
    """The radiology notes of each stay's admission, charted and stored in its window.

    A note without hadm_id is of the one admission that the patient was in at that time.

    Args:
        into: folder for the table read.
        flow: told what is left out, by note and stay.
    Returns:
        sample_id, text, hours, note_id; by sample, time and note.
    """
    ids = people.ids("subject")
    rows = tables.read("radiology", into, among={"subject_id": ids})
    rows = rows.rename({"subject_id": "subject", "charttime": "time", "storetime": "store"})
    windows = people.stays.select(SAMPLE, "hadm_id", "index", "end")
    found = []
    for piece in pieces(rows, PIECE):
        told = with_admission(piece, people.admissions).join(windows, on="hadm_id", how="left")
        stray = pl.when(pl.col("hadm_id").is_null()).then(pl.lit(STRAY))
        stranger = pl.when(pl.col(SAMPLE).is_null()).then(pl.lit(OTHER))
        silent = pl.when(pl.col("text").is_null()).then(pl.lit(NO_TEXT))
        told = told.with_columns(why=pl.coalesce(stray, stranger, why_left_out(), silent))
        flow.drop(told.select("why", name=pl.lit("note")))
        found.append(
            told.filter(pl.col("why").is_null()).select(SAMPLE, "text", hours(), "note_id")
        )
    schema = {SAMPLE: pl.String, "text": pl.String, "hours": pl.Float64, "note_id": pl.String}
    kept = pl.concat([pl.DataFrame(schema=schema), *found]).sort(SAMPLE, "hours", "note_id")
    flow.kept["note"] = kept["note_id"].n_unique()
    return kept
