"""A release of a few patients, row by row: every one a sample until a test changes a row."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from adacomed.datasets.mimic.release import COLUMNS, find_files
from adacomed.datasets.mimic.scan import READ_AS
from adacomed.datasets.mimic.variables import CHARTED, FLUID, LABORATORY, PROCEDURES

ADMIT = datetime(2150, 3, 1, 8)
HEART, SPO2, CREATININE, SODIUM = 220045, 220277, 50912, 50983
GLUCOSE, OTHER_GLUCOSE = 50809, 50931
PROCEDURE = {v.name: 224000 + n for n, v in enumerate(PROCEDURES)}
Rows = dict[str, list[dict[str, Any]]]
FOLDER = {"admissions": "hosp", "patients": "hosp", "labevents": "hosp", "d_labitems": "hosp"}
FOLDER |= dict.fromkeys(("icustays", "chartevents", "procedureevents", "d_items"), "icu")


def at(hours: float = 0.0, seconds: float = 0.0, days: float = 0.0) -> datetime:
    """A time after the index time of everyone's first admission."""
    return ADMIT + timedelta(days=days, hours=hours, seconds=seconds)


def release(patients: int = 12) -> Rows:
    """Patients 10000000 …, admissions 20000000 …, stays 30000000 …, one of each; 4 days long."""
    rows: Rows = {table: [] for table in COLUMNS}
    for v in CHARTED:
        rows["d_items"] += [
            {"itemid": i, "label": v.label, "linksto": "chartevents"} for i in v.ids
        ]
    for v in PROCEDURES:
        one = {"itemid": PROCEDURE[v.name], "label": v.label, "linksto": "procedureevents"}
        rows["d_items"].append(one)
    for v in LABORATORY:
        rows["d_labitems"] += [{"itemid": i, "label": v.label, "fluid": FLUID} for i in v.ids]
    for n in range(patients):
        add_patient(rows, n)
        add_admission(rows, n)
        rows["metadata"].append(xray(n, "a", at(2)))
        rows["radiology"].append(note(n, "1", at(3)))
        rows["chartevents"].append(chart(n, HEART, at(4), 80))
    return rows


def add_patient(rows: Rows, n: int, **changes: Any) -> None:
    patient = {"subject_id": 10_000_000 + n, "anchor_age": 60, "anchor_year": 2150}
    rows["patients"].append({**patient, "anchor_year_group": "2011 - 2013", **changes})


def add_admission(rows: Rows, n: int, *, k: int = 0, **changes: Any) -> None:
    """Patient n's admission k, with its stay."""
    ids = {"subject_id": 10_000_000 + n, "hadm_id": 20_000_000 + n + 1000 * k}
    admission = {**ids, "admittime": at(), "dischtime": at(days=4), "deathtime": None}
    words = {"insurance": "Medicare", "language": "English", "marital_status": None, "race": "A"}
    rows["admissions"].append({**admission, "hospital_expire_flag": 0, **words, **changes})
    begins = rows["admissions"][-1]["admittime"] + timedelta(hours=1)
    rows["icustays"].append({**ids, "stay_id": 30_000_000 + n + 1000 * k, "intime": begins})


def chart(n: int, item: int, time: datetime | None, value: Any, unit: str | None = None, **more):
    row = {"stay_id": 30_000_000 + n, "charttime": time, "storetime": time, "itemid": item}
    return {**row, "valuenum": value, "valueuom": unit, **more}


def lab(n: int, item: int, time: datetime | None, value: Any, unit: str | None = None, **more):
    ids = {"subject_id": 10_000_000 + n, "hadm_id": 20_000_000 + n}
    row = {**ids, "charttime": time, "storetime": time, "itemid": item}
    return {**row, "valuenum": value, "valueuom": unit, **more}


def xray(n: int, name: str, time: datetime, view: str | None = "AP") -> dict[str, Any]:
    ids = {"dicom_id": f"{name}{n}", "subject_id": 10_000_000 + n, "study_id": 50_000_000 + n}
    clock = str(int(time.strftime("%H%M%S"))) + f".{time.microsecond // 1000:03d}"
    return {**ids, "ViewPosition": view, "StudyDate": f"{time:%Y%m%d}", "StudyTime": clock}


def note(n: int, name: str, time: datetime | None, **more: Any) -> dict[str, Any]:
    ids = {"note_id": f"{n}-{name}", "subject_id": 10_000_000 + n, "hadm_id": 20_000_000 + n}
    text = f'AP chest, "{name}",\nno change.'
    return {**ids, "charttime": time, "storetime": time, "text": text, **more}


def frame(rows: Rows, table: str) -> pl.DataFrame:
    """A table of the rows, its columns and types as `release.Tables` gives them."""
    types = {
        c: pl.Datetime("us") if kind == "time" else READ_AS[kind]
        for c, kind in COLUMNS[table].items()
    }
    return pl.DataFrame(rows[table], schema=types, orient="row", strict=False)


class Memory:
    """The rows as `release.Tables`."""

    layout, simulated = "by hand", True

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def read(
        self, table: str, into: Path, *, among: Mapping[str, Sequence[int]] | None = None
    ) -> pl.LazyFrame:
        found = frame(self.rows, table)
        for column, ids in (among or {}).items():
            found = found.filter(pl.col(column).is_in(list(ids)))
        return found.lazy()


def write(folder: Path, rows: Rows, *, first: bool = False, zipped: bool = False) -> Path:
    """The rows as csv files, in the layout of 3.1 or (`first`) of 1.0, and X-rays."""
    for table in COLUMNS:
        found = frame(rows, table)
        if first:
            found = found.rename({"race": "ethnicity"}, strict=False)
        part = "core" if first and table in ("admissions", "patients") else FOLDER.get(table)
        path = folder / "iv" / str(part) / f"{table}.csv"
        if table == "metadata":
            path = folder / "cxr" / "mimic-cxr-2.0.0-metadata.csv"
        if table == "radiology":
            path = folder / "note" / "note" / "radiology.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = found.write_csv(datetime_format="%Y-%m-%d %H:%M:%S")
        if zipped:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
    write_images(folder / "cxr", rows)
    return folder


def write_images(folder: Path, rows: Rows) -> None:
    for row in rows["metadata"]:
        subject = row["subject_id"]
        below = f"files/p{str(subject)[:2]}/p{subject}/s{row['study_id']}/{row['dicom_id']}.jpg"
        (folder / below).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 90).save(folder / below)


def folders(folder: Path) -> tuple[Path, Path, Path]:
    """What `write` wrote, as `build` wants it."""
    return folder / "iv", folder / "cxr", folder / "note"


def file_of(folder: Path, table: str) -> Path:
    return find_files(*folders(folder)).paths[table]
