"""Traps that are people: ages, deaths, lengths of stay, readmissions, stays that are no sample.

Each makes its patients and says which of their stays are samples and what their labels are; the
first line of its docstring stands in truth/traps.json.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from adacomed.datasets.mimic_release.people import (
    DAY,
    LATE,
    NO_IMAGE,
    NO_NOTE,
    die,
    new_admission,
    new_patient,
    new_stay,
    plain_stay,
)
from adacomed.datasets.mimic_release.plan import HOUR, MINUTE, WINDOW, Book, Stay

MINOR, NO_EVENT = "under 18", "no event in the window"


def second_stay(book: Book) -> list[Stay]:
    """Three ICU stays in one admission: two are samples of their own, the third begins too late."""
    first = plain_stay(book, "second_stay", hours=200, longstay=1)
    first.outtime = first.intime + 18 * HOUR
    second = new_stay(book, first.admission, 30, 40, "second_stay")
    third = new_stay(book, first.admission, 100, 30, "second_stay")
    third.left_out = LATE
    return [first, second, third]


def begins_at_48_hours(book: Book) -> list[Stay]:
    """Stays that begin a minute before hour 48 (it counts), at that very hour, a minute after."""
    stays = []
    for after in (WINDOW - MINUTE, WINDOW, WINDOW + MINUTE):
        stay = plain_stay(book, "begins_at_48_hours", hours=150)
        stay.intime, stay.outtime = stay.admission.admit + after, stay.admission.discharge
        stay.left_out = None if after < WINDOW else LATE
        stays.append(stay)
    return stays


def icu_before_admission(book: Book) -> list[Stay]:
    """An ICU stay that begins half an hour before the admission: it counts, earlier rows do not."""
    stay = plain_stay(book, "icu_before_admission", hours=110)
    stay.intime = stay.admission.admit - 30 * MINUTE
    return [stay]


def minor(book: Book) -> list[Stay]:
    """A patient of 17: no sample."""
    stay = plain_stay(book, "minor", patient=new_patient(book, age=17))
    stay.left_out = MINOR
    return [stay]


def eighteen_since_the_anchor(book: Book) -> list[Stay]:
    """A patient of 17 in the anchor year, admitted the year after: a sample, in the decade 10."""
    return [_years_later(book, "eighteen_since_the_anchor", 17, 1)]


def ninety_and_more(book: Book) -> list[Stay]:
    """Anchor age 91 (that of everyone above 89), and one who turns 90: decade 90; 89: decade 80."""
    name = "ninety_and_more"
    return [_years_later(book, name, age, years) for age, years in ((91, 0), (86, 4), (85, 4))]


def _years_later(book: Book, tag: str, age: int, years: int) -> Stay:
    patient = new_patient(book, age=age)
    day = datetime(patient.anchor_year + years, 3, 1) + book.minutes(0, 60 * 24 * 200)
    return plain_stay(book, tag, patient=patient, admit=day)


def lengths_of_stay(book: Book) -> list[Stay]:
    """Stays of a minute under and exactly three days, of exactly seven, and a minute more."""
    stays = []
    for days, more, label in ((3, -1, None), (3, 0, 0), (7, 0, 0), (7, 1, 1)):
        hours = 24 * days + more / 60
        stays.append(plain_stay(book, "lengths_of_stay", hours=hours, longstay=label))
    return stays


def discharged_early(book: Book) -> list[Stay]:
    """Discharged after 20 hours: nothing later counts, though the 48 hours are not over."""
    return [plain_stay(book, "discharged_early", hours=20, longstay=None)]


def died_as_told_in_one_place(book: Book) -> list[Stay]:
    """Deaths in hospital that only the flag, or only the time of death, tells."""
    stays = [plain_stay(book, "died_as_told_in_one_place") for _ in range(2)]
    die(stays[0].admission, time=False)
    die(stays[1].admission, flag=False)
    return stays


def died_after_discharge(book: Book) -> list[Stay]:
    """Deaths a day and three weeks after discharge: none of them is a death in hospital."""
    stays = []
    for days in (1, 21):
        stay = plain_stay(book, "died_after_discharge")
        patient = stay.admission.patient
        patient.dod = (stay.admission.discharge + days * DAY).date()
        stays.append(stay)
    return stays


def readmitted_around_day_30(book: Book) -> list[Stay]:
    """The next admission 30 days after discharge to the minute, a minute later, a day later."""
    stays = []
    for gap in (30 * DAY, 30 * DAY + MINUTE, 31 * DAY):
        first, second = _again(book, "readmitted_around_day_30", gap)
        first.admission.readmitted = first.admission.readmitted_paper = gap == 30 * DAY
        stays += [first, second]
    return stays


def readmitted_to_the_ward(book: Book) -> list[Stay]:
    """A readmission without an ICU stay: it counts, but not for the preset paper."""
    stay = plain_stay(book, "readmitted_to_the_ward")
    _ward(book, stay, 9 * DAY)
    stay.admission.readmitted = True
    return [stay]


def readmitted_without_a_sample(book: Book) -> list[Stay]:
    """A readmission whose ICU stay has no X-ray: it counts, but not for the preset paper."""
    first, second = _again(book, "readmitted_without_a_sample", 12 * DAY)
    _lacking(second, "image", NO_IMAGE)
    first.admission.readmitted = True
    return [first, second]


def readmitted_past_one_without_a_sample(book: Book) -> list[Stay]:
    """Ward on day 5, ICU on day 20: a readmission for both presets, of another admission each."""
    first = plain_stay(book, "readmitted_past_one_without_a_sample")
    patient = first.admission.patient
    _ward(book, first, 5 * DAY)
    when = first.admission.discharge + 20 * DAY
    second = plain_stay(book, first.tag, patient=patient, admit=when)
    first.admission.readmitted = first.admission.readmitted_paper = True
    return [first, second]


def _ward(book: Book, stay: Stay, gap: timedelta) -> None:
    admission, patient = stay.admission, stay.admission.patient
    new_admission(book, patient, admission.discharge + gap, 60, None)


def _again(book: Book, tag: str, gap: timedelta) -> tuple[Stay, Stay]:
    """Two stays of a patient, the second admission `gap` after the first's discharge."""
    first = plain_stay(book, tag)
    admission = first.admission
    when = admission.discharge + gap
    return first, plain_stay(book, tag, patient=admission.patient, admit=when)


def overlapping_admissions(book: Book) -> list[Stay]:
    """An admission that begins before the one before it ends: one episode, no readmission."""
    first = plain_stay(book, "overlapping_admissions", hours=9 * 24, longstay=1)
    when = first.admission.admit + 5 * DAY
    patient, hours = first.admission.patient, 8 * 24
    second = plain_stay(book, first.tag, patient=patient, admit=when, hours=hours, longstay=1)
    return [first, second]


def several_stays(book: Book) -> list[Stay]:
    """Three admissions of one patient, months apart, each with X-rays and notes of its own."""
    stays = [plain_stay(book, "several_stays")]
    for _ in range(2):
        last = stays[-1].admission
        when = last.discharge + 90 * DAY
        stays.append(plain_stay(book, "several_stays", patient=last.patient, admit=when))
    return stays


def without_a_part(book: Book) -> list[Stay]:
    """Stays without any AP X-ray, any note, or any event in the window (all three outside it)."""
    parts = (("image", NO_IMAGE), ("note", NO_NOTE), ("event", NO_EVENT))
    stays = [plain_stay(book, "without_a_part") for _ in parts]
    for stay, (part, why) in zip(stays, parts, strict=True):
        _lacking(stay, part, why)
    return stays


def only_unusable_images(book: Book) -> list[Stay]:
    """Stays whose only X-ray in the window is lateral, or has no picture in the release."""
    stays = [plain_stay(book, f"only_{kind}_image") for kind in ("lateral", "missing")]
    for stay in stays:
        _lacking(stay, "image", NO_IMAGE)
    return stays


def only_a_late_note(book: Book) -> list[Stay]:
    """A stay whose only note is charted inside the window and stored after it."""
    stay = plain_stay(book, "only_a_late_note")
    _lacking(stay, "note", NO_NOTE)
    return [stay]


def _lacking(stay: Stay, part: str, why: str) -> None:
    stay.admission.lacks, stay.left_out = frozenset({part}), why


STAY_TRAPS: dict[str, Callable[[Book], list[Stay]]] = {
    f.__name__: f
    for f in (
        second_stay,
        begins_at_48_hours,
        icu_before_admission,
        minor,
        eighteen_since_the_anchor,
        ninety_and_more,
        lengths_of_stay,
        discharged_early,
        died_as_told_in_one_place,
        died_after_discharge,
        readmitted_around_day_30,
        readmitted_to_the_ward,
        readmitted_without_a_sample,
        readmitted_past_one_without_a_sample,
        overlapping_admissions,
        several_stays,
        without_a_part,
        only_unusable_images,
        only_a_late_note,
    )
}
