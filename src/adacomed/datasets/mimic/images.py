"""X-rays of the stays: matched by patient and time, AP views, files that are there."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from adacomed.datasets.mimic.flow import Flow
from adacomed.datasets.mimic.release import Tables
from adacomed.datasets.mimic.windows import NO_TIME, OUTSIDE, SAMPLE, People, hours
from adacomed.errors import InputError

VIEW = "AP"
OTHER_VIEW = "another view than AP"
NO_FILE = "no such file"


def find_images(
    tables: Tables, people: People, folder: Path, into: Path, flow: Flow
) -> pl.DataFrame:
    """The AP X-rays of each stay, from admission to the window's end.

    An X-ray belongs to a patient, so it is matched by its time; both ends of the time belong to it.

    Args:
        folder: of MIMIC-CXR-JPG, with files/.
        into: folder for the table read.
        flow: told what is left out, by X-ray.
    Returns:
        sample_id, path (below `folder`), hours, view; by sample and time.
    Raises:
        InputError: X-rays are listed, and none of their files is there.
    """
    ids = people.ids("subject")
    rows = tables.read("metadata", into, among={"subject_id": ids}).collect()
    listed = rows.select(
        pl.col("subject_id").alias("subject"),
        path=_path(),
        view="ViewPosition",
        time=taken(),
    )
    windows = people.stays.select(SAMPLE, "subject", "index", "end")
    inside = listed.filter(pl.col("view") == VIEW).join(windows, on="subject")
    inside = inside.filter(pl.col("time").is_between("index", "end"))
    there = {path for path in inside["path"].unique() if (folder / path).is_file()}
    if len(inside) and not there:
        raise InputError(
            f"{folder}: none of the {inside['path'].n_unique()} X-rays that are needed is there; "
            f"expected {inside['path'].sort()[0]} and so on"
        )
    kept = inside.filter(pl.col("path").is_in(pl.Series(list(there), dtype=pl.String).implode()))
    flow.drop(listed.select(name=pl.lit("xray"), why=_why(inside["path"], kept["path"])))
    flow.kept["xray"] = kept["path"].n_unique()
    return kept.select(SAMPLE, "path", hours(), "view").sort(SAMPLE, "hours", "path")


def _path() -> pl.Expr:
    """files/p10/p10000032/s50414267/<dicom_id>.jpg, as MIMIC-CXR-JPG lays its files."""
    subject, study = pl.col("subject_id").cast(pl.String), pl.col("study_id").cast(pl.String)
    text = "files/p{}/p{}/s{}/{}.jpg"
    return pl.format(text, subject.str.slice(0, 2), subject, study, pl.col("dicom_id"))


def taken() -> pl.Expr:
    """When an X-ray was taken: StudyDate 21800506 and StudyTime 213014.531, or 5.3 for 00:00:05.3.

    Null where either is missing or is no date or time.
    """
    clock = pl.col("StudyTime").str.splitn(".", 2)
    whole = clock.struct.field("field_0").str.zfill(6)
    part = clock.struct.field("field_1").fill_null("").str.slice(0, 6).str.pad_end(6, "0")
    second = (pl.col("StudyDate") + whole).str.to_datetime(
        "%Y%m%d%H%M%S", time_unit="us", strict=False
    )
    return second + pl.duration(microseconds=part.cast(pl.Int64, strict=False))


def _why(inside: pl.Series, kept: pl.Series) -> pl.Expr:
    """Why an X-ray of these patients is no input of any stay; null where it is one."""
    path = pl.col("path")
    return (
        pl.when(path.is_in(kept.unique().implode()))
        .then(None)
        .when(pl.col("view").ne_missing(VIEW))
        .then(pl.lit(OTHER_VIEW))
        .when(path.is_in(inside.unique().implode()))
        .then(pl.lit(NO_FILE))
        .when(pl.col("time").is_null())
        .then(pl.lit(NO_TIME))
        .otherwise(pl.lit(OUTSIDE))
    )
