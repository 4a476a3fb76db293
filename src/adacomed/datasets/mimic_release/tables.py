"""The cells of each row of the release's tables, as they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adacomed.datasets.mimic_release.images import HEIGHT, WIDTH
from adacomed.datasets.mimic_release.plan import (
    HOUR,
    MINUTE,
    Admission,
    ChartRow,
    ImageRow,
    LabRow,
    NoteRow,
    Patient,
    ProcedureRow,
    Stay,
)
from adacomed.datasets.mimic_release.vocabulary import SHARES, word

Cells = dict[str, Any]  # column → what is written; None or absent: an empty cell


def patient_cells(row: Patient, release: str) -> Cells:
    """A row of patients."""
    found = {c: getattr(row, c) for c in ("subject_id", "gender", "anchor_age", "anchor_year")}
    return {**found, "anchor_year_group": row.group, "dod": row.dod}


def admission_cells(row: Admission, release: str) -> Cells:
    """A row of admissions."""
    told = {c: word(release, c, row.words[c]) for c in SHARES}
    return {
        "subject_id": row.patient.subject_id,
        "hadm_id": row.hadm_id,
        "admittime": row.admit,
        "dischtime": row.discharge,
        "deathtime": row.deathtime,
        "admission_type": "EW EMER.",
        "admit_provider_id": _provider(row.hadm_id),
        "admission_location": "EMERGENCY ROOM",
        "discharge_location": "DIED" if row.died else "HOME",
        **told,
        "ethnicity": told["race"],
        "edregtime": row.admit - 4 * HOUR,
        "edouttime": row.admit + 20 * MINUTE,
        "hospital_expire_flag": row.expire_flag,
    }


def transfer_cells(row: Admission, release: str) -> list[Cells]:
    """The rows of transfers of an admission: emergency room, wards, intensive care, discharge."""
    unit = "Medical Intensive Care Unit (MICU)"
    moves = [("ED", "Emergency Department", row.admit - 4 * HOUR)]
    moves.append(("admit", "Medicine", row.admit))
    moves += [("transfer", unit, max(s.intime, row.admit)) for s in row.stays]
    moves.sort(key=lambda move: move[2])
    ends = [*(time for _, _, time in moves[1:]), row.discharge]
    found = [
        {"eventtype": kind, "careunit": unit, "intime": start, "outtime": end}
        for (kind, unit, start), end in zip(moves, ends, strict=True)
    ]
    found.append({"eventtype": "discharge", "intime": row.discharge})
    for k, cells in enumerate(found):
        cells["transfer_id"] = 3 * 10**7 + (row.hadm_id * 10 + k) % 10**7
        cells["subject_id"], cells["hadm_id"] = row.patient.subject_id, row.hadm_id
    return found


def stay_cells(row: Stay, release: str) -> Cells:
    """A row of icustays."""
    unit = "Medical Intensive Care Unit (MICU)"
    return {
        **_whose(row),
        "first_careunit": unit,
        "last_careunit": unit,
        "intime": row.intime,
        "outtime": row.outtime,
        "los": round((row.outtime - row.intime) / (24 * HOUR), 6),
    }


def chart_cells(row: ChartRow, release: str) -> Cells:
    """A row of chartevents."""
    return {
        **_whose(row.stay),
        "caregiver_id": caregiver(row.stay.stay_id),
        "charttime": row.time,
        "storetime": row.store,
        "itemid": row.item,
        "value": row.value,
        "valuenum": row.number,
        "valueuom": row.unit,
        "warning": 0,
    }


def procedure_cells(row: ProcedureRow, release: str) -> Cells:
    """A row of procedureevents; its value is how long it took."""
    minutes = round((row.end - row.time) / MINUTE)
    return {
        **_whose(row.stay),
        "caregiver_id": caregiver(row.stay.stay_id),
        "starttime": row.time,
        "endtime": row.end,
        "storetime": row.store,
        "itemid": row.item,
        "value": minutes,
        "valueuom": "min",
        "orderid": row.order,
        "linkorderid": row.order,
        "ordercategoryname": "Procedures",
        "ordercategorydescription": "Task",
        "patientweight": 80,
        "isopenbag": 1,
        "continueinnextdept": 0,
        "statusdescription": "FinishedRunning",
        "originalamount": minutes,
        "originalrate": 1,
        "ORIGINALAMOUNT": minutes,
        "ORIGINALRATE": 1,
    }


def lab_cells(row: LabRow, release: str) -> Cells:
    """A row of labevents, without its running number."""
    return {
        "subject_id": row.subject,
        "hadm_id": row.hadm,
        "specimen_id": row.specimen,
        "itemid": row.item,
        "order_provider_id": _provider(row.specimen),
        "charttime": row.time,
        "storetime": row.store,
        "value": row.value,
        "valuenum": row.number,
        "valueuom": row.unit,
        "priority": "ROUTINE" if row.specimen % 2 else "STAT",
        "comments": "___" if row.number is None else None,
    }


def image_cells(row: ImageRow, release: str) -> Cells:
    """A row of the X-ray metadata; the time of day is one number, without its leading zeros."""
    day = row.time.strftime("%H%M%S")
    lateral = row.view in ("LATERAL", "LL")
    return {
        "dicom_id": row.dicom,
        "subject_id": row.subject,
        "study_id": row.study,
        "PerformedProcedureStepDescription": "CHEST (PORTABLE AP)",
        "ViewPosition": row.view,
        "Rows": HEIGHT,
        "Columns": WIDTH,
        "StudyDate": row.time.strftime("%Y%m%d"),
        "StudyTime": round(int(day) + row.time.microsecond / 1e6, 3),
        "ProcedureCodeSequence_CodeMeaning": "CHEST (PORTABLE AP)",
        "ViewCodeSequence_CodeMeaning": "lateral" if lateral else "antero-posterior",
        "PatientOrientationCodeSequence_CodeMeaning": "Erect",
    }


def note_cells(row: NoteRow, release: str) -> Cells:
    """A row of the radiology reports."""
    _, kind, number = row.note_id.split("-")
    return {
        "note_id": row.note_id,
        "subject_id": row.subject,
        "hadm_id": row.hadm,
        "note_type": kind,
        "note_seq": number,
        "charttime": row.time,
        "storetime": row.store,
        "text": row.text,
    }


def caregiver(stay_id: int) -> int:
    """Who charts a stay."""
    return stay_id * 7919 % 99_991


def _provider(number: int) -> str:
    return f"P{number * 7919 % 0xFFFFF:05X}"


def _whose(stay: Stay) -> Cells:
    admission = stay.admission
    subject = admission.patient.subject_id
    return {"subject_id": subject, "hadm_id": admission.hadm_id, "stay_id": stay.stay_id}


CELLS: dict[str, Callable[[Any, str], Cells]] = {
    "patients": patient_cells,
    "admissions": admission_cells,
    "icustays": stay_cells,
    "chartevents": chart_cells,
    "procedureevents": procedure_cells,
    "labevents": lab_cells,
    "metadata": image_cells,
    "radiology": note_cells,
}
