"""The true cohort, as it was planned: written beside the release, to hold a builder against.

truth/samples (without a split), labels_default, labels_paper, events_default, events_paper, images
and notes .parquet have the columns of the cohort; stays.parquet names why the other stays are no
sample; traps.json says what was planted where.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.datasets.mimic_release.plan import (
    BY_NAME,
    HOUR,
    Admission,
    Book,
    ChartRow,
    ImageRow,
    LabRow,
    NoteRow,
    ProcedureRow,
    Row,
    Stay,
)
from adacomed.datasets.mimic_release.vocabulary import SHARES, word
from adacomed.schema import Labels, Samples

TASKS = ("mortality", "longstay", "readmission")
SAMPLE = Samples.SAMPLE_ID
Frame = pl.DataFrame


def samples(book: Book, release: str) -> Frame:
    """One row per sample: ids and demographics, as `release` spells them."""
    rows = [
        {
            SAMPLE: str(s.stay_id),
            Samples.SUBJECT_ID: str(s.admission.patient.subject_id),
            "hadm_id": s.admission.hadm_id,
            "stay_id": s.stay_id,
            "age_decade": _decade(s.admission),
            **{c: word(release, c, s.admission.words[c]) for c in SHARES},
        }
        for s in book.stays
        if s.left_out is None
    ]
    texts = {SAMPLE: pl.String, Samples.SUBJECT_ID: pl.String, **dict.fromkeys(SHARES, pl.String)}
    return Frame(rows, schema_overrides=texts, infer_schema_length=None).sort(SAMPLE)


def _decade(admission: Admission) -> int:
    patient = admission.patient
    age = patient.anchor_age + admission.admit.year - patient.anchor_year
    return min(age // 10 * 10, 90)


def labels(book: Book, preset: str) -> Frame:
    """sample_id, task, label of the preset `default` or `paper`."""
    rows = []
    for stay in book.stays:
        if stay.left_out is None:
            found = zip(TASKS, _labels(stay.admission, preset), strict=True)
            rows += [(str(stay.stay_id), task, k) for task, k in found if k is not None]
    types = {Labels.SAMPLE_ID: pl.String, Labels.TASK: pl.String, Labels.LABEL: pl.Int64}
    return Frame(rows, schema=types, orient="row").sort(SAMPLE, Labels.TASK)


def _labels(admission: Admission, preset: str) -> tuple[int, int | None, int | None]:
    if preset == "paper":
        again: int | None = int(admission.readmitted_paper)
    else:
        again = None if admission.died else int(admission.readmitted)
    return int(admission.died), admission.longstay, again


def events(book: Book) -> Frame:
    """sample_id, hours, variable, value of what counts."""
    rows = [
        (*at, name, value)
        for owner, time, name, value in book.events
        for at in _samples(owner, time)
    ]
    types = {SAMPLE: pl.String, "hours": pl.Float64, "variable": pl.String, "value": pl.Float64}
    return Frame(rows, schema=types, orient="row").sort(SAMPLE, "hours", "variable")


def without_abnormal(frame: Frame) -> Frame:
    """Events as the preset `paper` has them: without those outside their reference range."""
    normal = {n: v.normal for n, v in BY_NAME.items() if v.normal}
    erased = [
        (pl.col("variable") == name) & ~pl.col("value").is_between(*limits)
        for name, limits in normal.items()
    ]
    return frame.filter(~pl.any_horizontal(erased))


def images(book: Book) -> Frame:
    """sample_id, path (below mimic-cxr-jpg/), hours, view."""
    rows = [
        (sample, row.path, hours, row.view)
        for admission, row in book.kept_images
        for sample, hours in _samples(admission, row.time)
    ]
    types = {SAMPLE: pl.String, "path": pl.String, "hours": pl.Float64, "view": pl.String}
    return Frame(rows, schema=types, orient="row").sort(SAMPLE, "hours", "path")


def notes(book: Book) -> Frame:
    """sample_id, text, hours, note_id."""
    rows = [
        (sample, row.text, hours, row.note_id)
        for admission, row in book.kept_notes
        for sample, hours in _samples(admission, row.time)
    ]
    types = {SAMPLE: pl.String, "text": pl.String, "hours": pl.Float64, "note_id": pl.String}
    return Frame(rows, schema=types, orient="row").sort(SAMPLE, "hours", "note_id")


def stays(book: Book) -> Frame:
    """Every stay: stay_id, hadm_id, subject_id, left_out (null: a sample), trap it was made for."""
    rows = [
        (s.stay_id, s.admission.hadm_id, s.admission.patient.subject_id, s.left_out, s.tag)
        for s in book.stays
    ]
    ids = dict.fromkeys(("stay_id", "hadm_id", "subject_id"), pl.Int64)
    types = {**ids, "left_out": pl.String, "trap": pl.String}
    return Frame(rows, schema=types, orient="row").sort("stay_id")


def _samples(owner: Stay | Admission, time: Any) -> list[tuple[str, float]]:
    """(sample_id, hours) of each sample that something at `time` belongs to."""
    admission = owner.admission if isinstance(owner, Stay) else owner
    mine = [owner] if isinstance(owner, Stay) else owner.stays
    hours = (time - admission.admit) / HOUR
    return [(str(s.stay_id), hours) for s in mine if s.left_out is None]


def row_place(row: Row, kept: bool) -> dict[str, Any]:
    """Ids that find a planted row, and whether it counts."""
    found: dict[str, Any] = {"time": str(row.time), "kept": kept}
    if isinstance(row, ChartRow | ProcedureRow):
        table = "chartevents" if isinstance(row, ChartRow) else "procedureevents"
        return {"table": table, "stay_id": row.stay.stay_id, "itemid": row.item, **found}
    if isinstance(row, LabRow):
        ids = {"subject_id": row.subject, "specimen_id": row.specimen, "itemid": row.item}
        return {"table": "labevents", **ids, **found}
    if isinstance(row, ImageRow):
        subject = row.subject
        return {"table": "metadata", "subject_id": subject, "dicom_id": row.dicom, **found}
    assert isinstance(row, NoteRow)
    return {"table": "radiology", "subject_id": row.subject, "note_id": row.note_id, **found}


def stay_place(stay: Stay) -> dict[str, Any]:
    """Ids of a stay that a trap made, and why it is no sample."""
    admission = stay.admission
    ids = {"subject_id": admission.patient.subject_id, "hadm_id": admission.hadm_id}
    return {"table": "icustays", **ids, "stay_id": stay.stay_id, "left_out": stay.left_out}


def write_truth(book: Book, release: str, what: dict[str, str], folder: Path) -> None:
    """Write truth/.

    Args:
        what: trap → what it is.
    """
    folder.mkdir(parents=True)
    samples(book, release).write_parquet(folder / "samples.parquet")
    for preset in ("default", "paper"):
        labels(book, preset).write_parquet(folder / f"labels_{preset}.parquet")
    counted = events(book)
    counted.write_parquet(folder / "events_default.parquet")
    without_abnormal(counted).write_parquet(folder / "events_paper.parquet")
    images(book).write_parquet(folder / "images.parquet")
    notes(book).write_parquet(folder / "notes.parquet")
    stays(book).write_parquet(folder / "stays.parquet")
    traps = {name: {"what": what[name], "places": rows} for name, rows in book.traps.items()}
    (folder / "traps.json").write_text(json.dumps(traps, indent=1) + "\n", encoding="utf-8")
