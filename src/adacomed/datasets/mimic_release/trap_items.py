"""Traps among X-rays and notes: views, times, missing pictures, whose they are.

Each takes a stay that is a sample and plants rows; it returns every row with whether it counts.
"""

from __future__ import annotations

from datetime import timedelta

from adacomed.datasets.mimic_release.images import xray
from adacomed.datasets.mimic_release.notes import note
from adacomed.datasets.mimic_release.plan import HOUR, MINUTE, Book, Planted, Stay, Trap
from adacomed.datasets.mimic_release.trap_events import SECOND

TICK = timedelta(milliseconds=1)


def other_views(book: Book, stay: Stay) -> Planted:
    """X-rays in the window of another view than AP, or of none: left out."""
    admission = stay.admission
    views = ("LATERAL", "PA", "LL", None)
    return [
        (xray(book, admission, book.moment(stay), kept=False, view=view), False) for view in views
    ]


def missing_pictures(book: Book, stay: Stay) -> Planted:
    """AP X-rays in the metadata without a picture: left out."""
    return [(xray(book, stay.admission, book.moment(stay), kept=False, file=False), False)]


def image_edges(book: Book, stay: Stay) -> Planted:
    """X-rays at the moment of admission and at the window's end count; a millisecond beyond not."""
    admission = stay.admission
    start, end = admission.admit, admission.end
    times = ((start - TICK, False), (start, True), (end, True), (end + TICK, False))
    return [(xray(book, admission, t, kept=kept), kept) for t, kept in times]


def images_outside(book: Book, stay: Stay) -> Planted:
    """AP X-rays a day before admission, after the window and after discharge: left out."""
    admission = stay.admission
    times = (
        admission.admit - 24 * HOUR,
        admission.end + 3 * HOUR,
        admission.discharge + 2 * HOUR,
    )
    return [(xray(book, admission, t, kept=False), False) for t in times]


def small_hours(book: Book, stay: Stay) -> Planted:
    """An X-ray minutes after midnight, whose time loses its leading zeros: it counts."""
    night = (stay.admission.admit + 24 * HOUR).replace(hour=0, minute=0, second=0, microsecond=0)
    time = night + book.minutes(1, 9) + timedelta(seconds=5, milliseconds=250)
    return [(xray(book, stay.admission, time, kept=True), True)]


def images_of_another_stay(book: Book, stay: Stay) -> Planted:
    """One AP X-ray in the window of each of the patient's admissions: each of its own alone."""
    found: Planted = []
    for admission in stay.admission.patient.admissions:
        found.append((xray(book, admission, book.moment(admission), kept=True), True))
    return found


def notes_outside(book: Book, stay: Stay) -> Planted:
    """Notes before admission, at its moment, after the window and after discharge: left out."""
    admission = stay.admission
    times = (
        admission.admit - 2 * HOUR,
        admission.admit,
        admission.end + SECOND,
        admission.discharge + 30 * MINUTE,
    )
    return [(note(book, admission, t, kept=False), False) for t in times]


def note_edges(book: Book, stay: Stay) -> Planted:
    """Notes a second after admission and, an addendum, at the window's end: they count."""
    admission = stay.admission
    end = admission.end
    first = note(book, admission, admission.admit + SECOND, kept=True)
    return [(first, True), (note(book, admission, end, kept=True, store=end, kind="AR"), True)]


def notes_stored_late(book: Book, stay: Stay) -> Planted:
    """A note charted in the window and stored after it: left out; stored nobody says when: kept."""
    admission = stay.admission
    late = admission.admit + 48 * HOUR + MINUTE
    return [
        (note(book, admission, book.moment(stay), kept=False, store=late), False),
        (note(book, admission, book.moment(stay), kept=True, stored=False), True),
    ]


def notes_without_admission(book: Book, stay: Stay) -> Planted:
    """Notes that name no admission: of the one that they lie in; of none, where in none."""
    admission = stay.admission
    out = admission.admit - 30 * 24 * HOUR
    return [
        (note(book, admission, book.moment(stay), kept=True, hadm=None), True),
        (note(book, admission, out, kept=False, hadm=None), False),
    ]


def notes_in_two_admissions(book: Book, stay: Stay) -> Planted:
    """A note without an admission while two were open: of neither; while one was: of that one."""
    first, second = sorted(stay.admission.patient.admissions, key=lambda a: a.admit)
    return [
        (note(book, first, book.moment(first), kept=True, hadm=None), True),
        (note(book, second, book.moment(second), kept=False, hadm=None), False),
    ]


def only_lateral_image(book: Book, stay: Stay) -> Planted:
    """The only X-ray of the window is lateral."""
    row = xray(book, stay.admission, book.moment(stay), kept=False, view="LATERAL")
    return [(row, False)]


def only_missing_image(book: Book, stay: Stay) -> Planted:
    """The only AP X-ray of the window has no picture."""
    return [(xray(book, stay.admission, book.moment(stay), kept=False, file=False), False)]


def only_late_note(book: Book, stay: Stay) -> Planted:
    """The only note of the window is stored after it."""
    late = stay.admission.admit + 50 * HOUR
    return [(note(book, stay.admission, book.moment(stay), kept=False, store=late), False)]


ITEM_TRAPS: dict[str, Trap] = {
    f.__name__: f
    for f in (
        other_views,
        missing_pictures,
        image_edges,
        images_outside,
        small_hours,
        notes_outside,
        note_edges,
        notes_stored_late,
        notes_without_admission,
    )
}
ITEM_TRAPS_OF: dict[str, tuple[str, Trap]] = {
    "images_of_another_stay": ("several_stays", images_of_another_stay),
    "notes_in_two_admissions": ("overlapping_admissions", notes_in_two_admissions),
    "only_lateral_image": ("only_lateral_image", only_lateral_image),
    "only_missing_image": ("only_missing_image", only_missing_image),
    "only_late_note": ("only_a_late_note", only_late_note),
    "images_after_an_early_discharge": ("discharged_early", images_outside),
    "notes_after_an_early_discharge": ("discharged_early", notes_outside),
}
