"""Radiology reports: made from a few sentences, which tell a little of how ill someone is."""

from __future__ import annotations

from datetime import datetime

from scipy.special import expit

from adacomed.datasets.mimic_release.plan import HOUR, MINUTE, Admission, Book, NoteRow

EXAMS = ("CHEST (PORTABLE AP)", "CT HEAD W/O CONTRAST", "CHEST PORT. LINE PLACEMENT")
REASONS = (
    "interval change",
    "shortness of breath, fever",
    'eval for "line" placement, pneumothorax',
    "altered mental status",
)
# the sicker, the likelier the second of each pair
LUNGS = (
    ("The lungs are clear.", "There are new bibasilar opacities, left greater than right."),
    ("No pleural effusion is seen.", "Bilateral pleural effusions, moderate in size, persist."),
    ("The pulmonary vasculature is normal.", "There is moderate pulmonary vascular congestion."),
)
# the frailer, the likelier the second of each pair
BONES = (
    ("Osseous structures are intact.", "The bones are diffusely demineralized."),
    ("Heart size is normal.", "The heart is moderately enlarged."),
)
TUBES = ("Endotracheal tube ends 4 cm above the carina.", "No lines or tubes are present.")
ENDS = ("No acute cardiopulmonary process.", "As above, with little change.", "Clinical follow-up.")


def report(book: Book, admission: Admission) -> str:
    """A report's text, with line breaks, commas and quotes as real ones have."""
    patient = admission.patient
    found = [
        pair[book.chance(float(expit(0.9 * trait)))]
        for pairs, trait in ((LUNGS, patient.severity), (BONES, patient.frailty))
        for pair in pairs
    ]
    found.append(TUBES[int(book.rng.integers(len(TUBES)))])
    end = ENDS[int(book.rng.integers(len(ENDS)))]
    reason = REASONS[int(book.rng.integers(len(REASONS)))]
    return (
        f"EXAMINATION:  {EXAMS[int(book.rng.integers(len(EXAMS)))]}\n\n"
        f"INDICATION:  ___ year old {'woman' if patient.gender == 'F' else 'man'}  // {reason}\n\n"
        f"COMPARISON:  ___.\n\nFINDINGS: \n\n{' '.join(found)}\n\nIMPRESSION: \n\n{end}"
    )


def note(
    book: Book,
    admission: Admission,
    time: datetime,
    *,
    kept: bool,
    store: datetime | None = None,
    stored: bool = True,
    hadm: int | None = -1,
    kind: str = "RR",
) -> NoteRow:
    """Add a report.

    Args:
        time: charted, which is the time that counts.
        kept: whether it counts, for the admission's samples.
        store: None: half an hour later; `stored` False leaves it empty.
        hadm: the admission that the row names (None: none); −1: this one.
        kind: RR, or AR for an addendum.
    """
    patient = admission.patient
    patient.notes += 1
    row = NoteRow(
        patient.subject_id,
        admission.hadm_id if hadm == -1 else hadm,
        f"{patient.subject_id}-{kind}-{patient.notes}",
        time,
        (store or time + 30 * MINUTE) if stored else None,
        report(book, admission),
    )
    book.notes.append(row)
    if kept:
        book.kept_notes.append((admission, row))
    return row


def fill_notes(book: Book, admission: Admission) -> None:
    """One to four reports inside the window, some stored late in it, and some after it."""
    span = (admission.end - admission.admit) / MINUTE
    if "note" not in admission.lacks:
        for _ in range(1 + int(book.rng.poisson(0.8))):
            time = admission.admit + book.minutes(5, span - 1)
            store = min(time + book.minutes(20, 900), admission.end)
            note(book, admission, time, kept=True, store=store)
    if admission.discharge > admission.end + 30 * HOUR and book.chance(0.4):
        note(book, admission, admission.end + book.minutes(1, 1500), kept=False)
