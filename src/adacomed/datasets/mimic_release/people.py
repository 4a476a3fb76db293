"""People, admissions and stays: the ordinary ones, and the parts that traps make theirs of."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from scipy.special import expit

from adacomed.datasets.mimic_release.plan import HOUR, MINUTE, Admission, Book, Patient, Stay
from adacomed.datasets.mimic_release.vocabulary import SHARES, UNRECORDED

SUBJECT, HADM, STAY = 10_000_000, 20_000_000, 30_000_000  # as in the real ids
DAY = 24 * HOUR
DEATH, LONG, READMISSION = -2.3, 0.35, -2.0  # log-odds in an average patient
ORDINARY_GAP = (45, 400)  # days to the next admission that is no readmission
NO_IMAGE, NO_NOTE, LATE = "no AP X-ray in the window", "no note in the window", "begins too late"


def new_patient(book: Book, age: int | None = None) -> Patient:
    """Someone new, of `age` in the anchor year (None: drawn)."""
    rng = book.rng
    drawn = int(np.clip(rng.normal(65, 16), 20, 88))
    patient = Patient(
        subject_id=book.number(SUBJECT),
        gender=str(rng.choice(["F", "M"])),
        anchor_age=drawn if age is None else age,
        anchor_year=int(rng.integers(2110, 2190)),
        severity=float(rng.standard_normal()),
        frailty=float(rng.standard_normal()),
        group=str(rng.choice(["2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019"])),
    )
    book.patients.append(patient)
    return patient


def new_admission(
    book: Book, patient: Patient, admit: datetime | None, hours: float, longstay: int | None
) -> Admission:
    """An admission, of which nobody dies yet.

    Args:
        admit: None: at any minute of the patient's anchor year, early enough for `hours`.
        hours: until discharge, to the minute.
    """
    if admit is None:
        start = datetime(patient.anchor_year, 1, 1)
        admit = start + book.minutes(0, 60 * 24 * 300)
    admission = Admission(
        hadm_id=book.number(HADM),
        patient=patient,
        admit=admit,
        discharge=admit + MINUTE * round(60 * hours),
        words={c: _word(book, c) for c in SHARES},
        longstay=longstay,
    )
    patient.admissions.append(admission)
    return admission


def _word(book: Book, column: str) -> int:
    index = int(book.rng.choice(len(SHARES[column]), p=SHARES[column]))
    return -1 if book.chance(UNRECORDED[column]) else index


def new_stay(
    book: Book, admission: Admission, after: float = 2.0, hours: float = 60.0, tag: str = ""
) -> Stay:
    """A stay that begins `after` hours of the admission and ends before discharge."""
    intime = admission.admit + MINUTE * round(60 * after) + timedelta(seconds=11)
    outtime = min(intime + MINUTE * round(60 * hours), admission.discharge)
    stay = Stay(book.number(STAY), admission, intime, outtime, tag=tag)
    admission.stays.append(stay)
    return stay


def plain_stay(
    book: Book,
    tag: str,
    *,
    patient: Patient | None = None,
    admit: datetime | None = None,
    hours: float = 120.0,
    longstay: int | None = 0,
) -> Stay:
    """A sample for a trap: its patient, admission and stay."""
    patient = patient or new_patient(book)
    admission = new_admission(book, patient, admit, hours, longstay)
    after = min(book.between(1, 8), hours / 4)
    return new_stay(book, admission, after, hours - 2 * after, tag)


def die(admission: Admission, *, flag: bool = True, time: bool = True) -> None:
    """Let the patient die as the admission ends; the release may tell it in one place only."""
    admission.died = True
    admission.expire_flag = int(flag)
    admission.deathtime = admission.discharge if time else None
    admission.patient.dod = admission.discharge.date()


def ordinary_patient(book: Book, stays: int) -> int:
    """A patient with one to three stays, at most `stays`; returns how many.

    Death, a long stay and readmission depend on severity and frailty, and so do the rows.
    """
    patient = new_patient(book)
    admit: datetime | None = None
    made, readmitted = 0, False
    while True:
        admission = _ordinary_admission(book, patient, admit, whole=readmitted)
        made += 1
        if book.chance(float(expit(DEATH + 1.1 * patient.severity))):
            die(admission)
            return made
        more = made < min(stays, 3)
        readmitted = more and book.chance(float(expit(READMISSION + 0.9 * patient.frailty)))
        if readmitted:
            admission.readmitted = admission.readmitted_paper = True
            admit = admission.discharge + book.minutes(60, 29 * 24 * 60)
        elif more and book.chance(0.2):
            days = book.between(*ORDINARY_GAP)
            admit = admission.discharge + MINUTE * round(days * 24 * 60)
        else:
            if book.chance(0.1):  # at home, which is no death in hospital
                later = timedelta(days=int(book.between(40, 300)))
                patient.dod = admission.discharge.date() + later
            return made


def _ordinary_admission(
    book: Book, patient: Patient, admit: datetime | None, *, whole: bool
) -> Admission:
    """An admission with its stay; `whole`: the stay is a sample for sure."""
    long = book.chance(float(expit(LONG + 0.9 * patient.severity + 0.9 * patient.frailty)))
    if book.chance(0.12):
        hours, label = book.between(50, 71), None
    elif long:
        hours, label = 169 + book.rng.exponential(100), 1
    else:
        hours, label = book.between(73, 167), 0
    admission = new_admission(book, patient, admit, hours, label)
    after = min(0.5 + book.rng.exponential(4), 16)
    late = not whole and book.chance(0.03)
    stay = new_stay(book, admission, 49 if late else after, book.between(30, 100))
    if late:
        stay.left_out = LATE
    elif not whole and book.chance(0.09):
        what, why = (("image", NO_IMAGE), ("note", NO_NOTE))[int(book.rng.integers(2))]
        admission.lacks, stay.left_out = frozenset({what}), why
    return admission
