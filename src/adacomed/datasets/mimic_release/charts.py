"""What is charted in a stay: vital signs at irregular times, procedures, and other items."""

from __future__ import annotations

from datetime import datetime

from adacomed.datasets.mimic_release.items import (
    OTHER_CHARTED,
    OTHER_PROCEDURES,
    PROCEDURE_IDS,
)
from adacomed.datasets.mimic_release.plan import (
    BY_NAME,
    HOUR,
    MINUTE,
    Book,
    ChartRow,
    ProcedureRow,
    Stay,
)

# name → mean, deviation between people, within a person, effect of severity, low, high, chance
VITALS = {
    "heart_rate": (84.0, 9.0, 8.0, 6.0, 35, 190, 0.97),
    "nbp_systolic": (121.0, 11.0, 10.0, -6.0, 60, 220, 0.75),
    "nbp_diastolic": (65.0, 7.0, 7.0, -3.0, 30, 130, 0.75),
    "nbp_mean": (80.0, 8.0, 8.0, -4.0, 40, 160, 0.75),
    "respiratory_rate": (18.5, 2.0, 3.0, 1.6, 6, 45, 0.95),
    "spo2": (97.0, 1.0, 1.4, -0.7, 75, 100, 0.95),
}
COMA = {  # points lost per unit of severity; best score; what is charted beside the number
    "gcs_eye": (0.5, 4, ("No Response", "To Pain", "To Speech", "Spontaneously")),
    "gcs_verbal": (
        0.8,
        5,
        ("No Response", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented"),
    ),
    "gcs_motor": (
        0.6,
        6,
        (
            "No response",
            "Abnormal extension",
            "Abnormal Flexion",
            "Flex-withdraws",
            "Localizes Pain",
            "Obeys Commands",
        ),
    ),
}
COMA_EVERY = 4  # hours, about
AFTER = 10  # hours charted beyond the window
# name → chance in an average patient, effect of severity on it
PROCEDURES = {
    "foley_catheter": (0.6, 0.05),
    "intubation": (0.3, 0.12),
    "picc_line": (0.15, 0.0),
    "bronchoscopy": (0.08, 0.03),
    "chest_tube_removed": (0.06, 0.0),
    "eeg": (0.05, 0.02),
    "dialysis_crrt": (0.05, 0.03),
    "dialysis_catheter": (0.06, 0.02),
    "hemodialysis": (0.05, 0.01),
    "peritoneal_dialysis": (0.02, 0.0),
}


def chart(
    book: Book,
    stay: Stay,
    name: str,
    time: datetime,
    text: str | None,
    *,
    kept: bool,
    unit: str | None = "",
    store: datetime | None = None,
    word: str | None = None,
    stored: bool = True,
) -> ChartRow:
    """Add a row of one of the nine variables.

    Args:
        name: of the variable.
        text: the number as written; None: there is none.
        kept: whether it counts, in its own or the factor's unit.
        unit: "" for the variable's own (none for a coma scale).
        store: None: five minutes later.
        word: what `value` holds, where it is not the number.
        stored: False leaves the storing time empty.
    """
    variable = BY_NAME[name]
    if unit == "":
        unit = None if name in COMA else variable.unit
    when = (store or time + 5 * MINUTE) if stored else None
    row = ChartRow(stay, variable.ids[0], time, when, word or text, text, unit)
    book.charts.append(row)
    if kept:
        assert text is not None
        book.keep(stay, time, name, float(text) * variable.factors.get(unit or "", 1.0))
    return row


def fill_charts(book: Book, stay: Stay) -> None:
    """Chart a stay as nurses do: about hourly, some of it left out, until after the window."""
    admission = stay.admission
    kept = stay.left_out is None
    base = {name: float(book.rng.normal(0, spread[1])) for name, spread in VITALS.items()}
    time = stay.intime.replace(second=0) + book.minutes(3, 15)
    last = min(stay.outtime, admission.end + AFTER * HOUR, admission.discharge)
    if "event" in admission.lacks:  # nothing inside the window
        time = max(time, admission.end + book.minutes(1, 30))
    turn = 0
    while time <= last:
        if time == admission.end:
            time -= MINUTE  # the traps have this very moment to themselves
        inside = admission.admit < time < admission.end
        delay = book.minutes(1, 40)
        store = min(time + delay, admission.end) if inside else time + delay
        for name in VITALS:
            if book.chance(VITALS[name][-1]):
                text = _vital(book, stay, name, base[name])
                chart(book, stay, name, time, text, kept=inside and kept, store=store)
        if turn % COMA_EVERY == 0:
            _coma(book, stay, time, store, inside and kept)
        turn += 1
        time += book.minutes(25, 95)
    _others(book, stay)


def _vital(book: Book, stay: Stay, name: str, base: float) -> str:
    mean, _, within, effect, low, high, _ = VITALS[name]
    value = mean + base + effect * stay.admission.patient.severity + book.rng.normal(0, within)
    return str(round(min(max(float(value), low), high)))


def _coma(book: Book, stay: Stay, time: datetime, store: datetime, kept: bool) -> None:
    for name, (loss, best, words) in COMA.items():
        lost = book.rng.poisson(loss * max(0.2, 1 + stay.admission.patient.severity))
        points = max(1, best - int(lost))
        word = words[points - 1]
        chart(book, stay, name, time, str(points), kept=kept, store=store, word=word)


def _others(book: Book, stay: Stay) -> None:
    """A few rows of items that are none of the variables."""
    span = max((stay.outtime - stay.intime) / MINUTE, 2)
    for k in book.rng.integers(len(OTHER_CHARTED), size=12):
        item, _, unit, typical = OTHER_CHARTED[int(k)]
        time = stay.intime.replace(second=0) + book.minutes(1, span)
        text = str(round(typical * book.between(0.85, 1.15)))
        book.charts.append(ChartRow(stay, item, time, time + 9 * MINUTE, text, text, unit))


def procedure(
    book: Book,
    stay: Stay,
    name: str,
    time: datetime,
    *,
    kept: bool,
    store: datetime | None = None,
    order: int | None = None,
) -> ProcedureRow:
    """Add a procedure that starts at `time` and lasts an hour; stored five minutes in, or when."""
    order = order or int(book.rng.integers(1, 9_999_999))
    ends, when = time + HOUR, store or time + 5 * MINUTE
    row = ProcedureRow(stay, PROCEDURE_IDS[name], time, ends, when, order)
    book.procedures.append(row)
    if kept:
        book.keep(stay, time, name, 1.0)
    return row


def fill_procedures(book: Book, stay: Stay) -> None:
    """Procedures of a stay inside the window, the likelier the sicker, and others beside."""
    admission = stay.admission
    for name, (share, effect) in PROCEDURES.items():
        if book.chance(share + effect * admission.patient.severity) and _has_room(stay):
            time = book.moment(stay)
            if "event" not in admission.lacks:
                procedure(book, stay, name, time, kept=stay.left_out is None)
    for item in OTHER_PROCEDURES:
        if book.chance(0.4):
            time = stay.intime + book.minutes(1, 300)
            order = int(book.rng.integers(1, 9_999_999))
            book.procedures.append(ProcedureRow(stay, item, time, time + HOUR, time, order))


def _has_room(stay: Stay) -> bool:
    """Whether the stay has hours left in the window."""
    return stay.intime + 4 * HOUR < stay.admission.end
