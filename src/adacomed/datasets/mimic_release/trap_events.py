"""Traps among the times of events, and whose they are.

Each takes a stay that is a sample and plants rows in it; it returns every row with whether it
counts. Ordinary rows have no seconds, and are never at the window's edges.
"""

from __future__ import annotations

from datetime import timedelta

from adacomed.datasets.mimic_release.charts import chart, procedure
from adacomed.datasets.mimic_release.items import SAME_LABEL
from adacomed.datasets.mimic_release.labs import lab
from adacomed.datasets.mimic_release.plan import HOUR, MINUTE, Book, Planted, Stay, Trap

SECOND = timedelta(seconds=1)


def labs_without_admission(book: Book, stay: Stay) -> Planted:
    """Results that name no admission: of the one that they lie in; of none, where in none."""
    time, admission = book.moment(stay), stay.admission
    out = admission.admit - 20 * 24 * HOUR + timedelta(seconds=time.second)
    return [
        (lab(book, admission, "creatinine", time, "1.7", kept=True, hadm=None), True),
        (lab(book, admission, "bicarbonate", time, "27", kept=True, hadm=None), True),
        (lab(book, admission, "sodium", out, "136", kept=False, hadm=None), False),
    ]


def edges_of_the_window(book: Book, stay: Stay) -> Planted:
    """The hour of admission does not count, hour 48 does, a second later does not."""
    admission = stay.admission
    start, end = admission.admit, admission.end
    found: Planted = []
    for time, kept, text in (
        (start, False, "71"),
        (start + SECOND, True, "72"),
        (end - SECOND, True, "73"),
        (end, True, "74"),
        (end + SECOND, False, "75"),
    ):
        row = chart(book, stay, "nbp_mean", time, text, kept=kept, store=time)
        test = lab(book, admission, "mcv", time, text + ".5", kept=kept, store=time)
        found += [(row, kept), (test, kept)]
    return found


def outside_the_window(book: Book, stay: Stay) -> Planted:
    """Results and procedures before admission, after the window and after discharge: dropped."""
    admission = stay.admission
    found: Planted = []
    for time in (
        admission.admit - 90 * MINUTE,
        admission.end + 90 * MINUTE,
        admission.discharge + 45 * MINUTE,
    ):
        when = time + 7 * SECOND
        found += [
            (chart(book, stay, "gcs_motor", when, "3", kept=False), False),
            (lab(book, admission, "white_blood_cells", when, "29.5", kept=False), False),
            (procedure(book, stay, "hemodialysis", when, kept=False), False),
        ]
    return found


def stored_after_the_window(book: Book, stay: Stay) -> Planted:
    """Measured inside the window, known only after it: dropped."""
    time, admission = book.moment(stay), stay.admission
    late = admission.admit + 48 * HOUR + SECOND
    return [
        (chart(book, stay, "spo2", time, "99", kept=False, store=late), False),
        (lab(book, admission, "neutrophils", time, "91.0", kept=False, store=late), False),
        (procedure(book, stay, "eeg", time, kept=False, store=late), False),
    ]


def without_storing_time(book: Book, stay: Stay) -> Planted:
    """Rows that do not say when they were stored: kept."""
    time, admission = book.moment(stay), stay.admission
    return [
        (chart(book, stay, "heart_rate", time, "82", kept=True, stored=False), True),
        (lab(book, admission, "phosphate", time, "3.1", kept=True, stored=False), True),
    ]


def same_label(book: Book, stay: Stay) -> Planted:
    """Results of a variable's label in another fluid, or of blood under another id: not it."""
    time, admission = book.moment(stay), stay.admission
    names = {"Glucose": "glucose", "Sodium": "sodium", "Potassium": "potassium"}
    names |= {"Creatinine": "creatinine", "Hemoglobin": "haemoglobin"}
    return [
        (lab(book, admission, names[label], time, "66", kept=False, item=item), False)
        for item, label, _, _ in SAME_LABEL
        if label in names
    ]


def of_another_admission(book: Book, stay: Stay) -> Planted:
    """A result inside the window that names the patient's other admission: of neither."""
    time, admission = book.moment(stay), stay.admission
    others = [a for a in admission.patient.admissions if a is not admission]
    return [
        (lab(book, admission, "calcium", time, "7.7", kept=False, hadm=a.hadm_id), False)
        for a in others
    ]


def in_two_admissions(book: Book, stay: Stay) -> Planted:
    """Results without an admission while two were open: of neither; while one was: of that one."""
    first, second = sorted(stay.admission.patient.admissions, key=lambda a: a.admit)
    alone, both = book.moment(first), book.moment(second)
    return [
        (lab(book, first, "mch", alone, "31.4", kept=True, hadm=None), True),
        (lab(book, second, "mch", both, "28.3", kept=False, hadm=None), False),
    ]


EVENT_TRAPS: dict[str, Trap] = {
    f.__name__: f
    for f in (
        labs_without_admission,
        edges_of_the_window,
        outside_the_window,
        stored_after_the_window,
        without_storing_time,
        same_label,
    )
}
# Those that need the stays of one trap of `trap_stays.py`.
EVENT_TRAPS_OF: dict[str, tuple[str, Trap]] = {
    "of_another_admission": ("several_stays", of_another_admission),
    "in_two_admissions": ("overlapping_admissions", in_two_admissions),
    "rows_after_an_early_discharge": ("discharged_early", outside_the_window),
    "edges_of_an_early_discharge": ("discharged_early", edges_of_the_window),
    "rows_before_a_late_admission": ("icu_before_admission", outside_the_window),
}
