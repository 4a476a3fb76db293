"""The laboratory's rows of an admission: panels of blood, other fluids and other tests."""

from __future__ import annotations

import math
from datetime import datetime
from typing import NamedTuple

from adacomed.datasets.mimic_release.items import OTHER_LABS, SAME_LABEL
from adacomed.datasets.mimic_release.plan import (
    BY_NAME,
    HOUR,
    MINUTE,
    Admission,
    Book,
    LabRow,
)

SPECIMEN = 50_000_000


class Analyte(NamedTuple):
    """How one result is drawn: mean, deviation between and within people, effects, decimals."""

    mean: float
    between: float
    within: float
    severity: float
    frailty: float
    decimals: int
    low: float
    high: float


CHEMISTRY = {
    "glucose": Analyte(135, 25, 18, 8, 0, 0, 40, 600),
    "potassium": Analyte(4.1, 0.3, 0.3, 0.1, 0, 1, 2.4, 7.5),
    "sodium": Analyte(138.5, 3, 1.5, 0, 0, 0, 115, 165),
    "chloride": Analyte(103, 4, 2, 0, 0, 0, 80, 130),
    "creatinine": Analyte(1.3, 0.4, 0.1, 0.3, 0.2, 1, 0.3, 12),
    "urea_nitrogen": Analyte(25, 8, 3, 6, 4, 0, 4, 180),
    "bicarbonate": Analyte(24, 2.5, 1.5, -1.8, 0, 0, 8, 45),
    "anion_gap": Analyte(14, 2, 1.5, 1.5, 0, 0, 4, 35),
    "magnesium": Analyte(2.0, 0.2, 0.15, 0, 0, 1, 1.0, 4.5),
    "phosphate": Analyte(3.6, 0.6, 0.4, 0.3, 0, 1, 1.0, 10),
    "calcium": Analyte(8.5, 0.5, 0.25, -0.2, 0, 1, 6, 13),
}
COUNT = {
    "haemoglobin": Analyte(10.6, 1.5, 0.4, -0.2, -0.9, 1, 5, 18),
    "haematocrit": Analyte(32, 4, 1.2, -0.5, -2.5, 1, 15, 55),
    "platelets": Analyte(205, 70, 15, -20, 0, 0, 10, 900),
    "white_blood_cells": Analyte(11, 3, 1.2, 1.6, 0, 1, 0.5, 60),
    "mch": Analyte(30, 1.8, 0.3, 0, 0, 1, 20, 40),
    "red_blood_cells": Analyte(3.6, 0.5, 0.12, 0, -0.2, 2, 1.5, 6.5),
    "mchc": Analyte(33, 1.0, 0.4, 0, 0, 1, 27, 37),
    "mcv": Analyte(91, 5, 0.8, 0, 0, 0, 65, 120),
    "rdw": Analyte(15.2, 1.2, 0.2, 0.4, 0.8, 1, 11, 30),
}
RARE = {
    "neutrophils": Analyte(78, 8, 4, 2, 0, 1, 10, 98),
    "vancomycin": Analyte(15, 5, 4, 1, 0, 1, 1, 60),
}
ANALYTES = {**CHEMISTRY, **COUNT, **RARE}


def lab(
    book: Book,
    admission: Admission,
    name: str,
    time: datetime,
    text: str | None,
    *,
    kept: bool,
    unit: str | None = "",
    store: datetime | None = None,
    item: int | None = None,
    hadm: int | None = -1,
    word: str | None = None,
    stored: bool = True,
) -> LabRow:
    """Add a result of one of the 22 variables.

    Args (the others are those of `chart`; a result is stored forty minutes later):
        item: another itemid than the variable's first one.
        hadm: the admission that the row names (None: none); −1: this one.
    """
    variable = BY_NAME[name]
    unit = variable.unit if unit == "" else unit
    row = LabRow(
        subject=admission.patient.subject_id,
        hadm=admission.hadm_id if hadm == -1 else hadm,
        specimen=book.number(SPECIMEN),
        item=item or variable.ids[0],
        time=time,
        store=(store or time + 40 * MINUTE) if stored else None,
        value=word or text,
        number=text,
        unit=unit,
    )
    book.labs.append(row)
    if kept:
        assert text is not None
        factor = next((f for u, f in variable.factors.items() if unit and same(u, unit)), 1.0)
        book.keep(admission, time, name, float(text) * factor)
    return row


def same(one: str, other: str) -> bool:
    """Whether two units differ in case and spaces alone."""
    return one.replace(" ", "").casefold() == other.replace(" ", "").casefold()


def result(book: Book, name: str, admission: Admission, base: float) -> str:
    """A plausible result of one person, inside the possible values."""
    a, p = ANALYTES[name], admission.patient
    value = a.mean + a.severity * p.severity + a.frailty * p.frailty
    value += a.between * base + float(book.rng.normal(0, a.within))
    return f"{min(max(value, a.low), a.high):.{a.decimals}f}"


def fill_labs(book: Book, admission: Admission) -> None:
    """Draw blood about every eight hours: before admission now and then, and after the window."""
    base = {name: float(book.rng.standard_normal()) for name in ANALYTES}
    if book.chance(0.3):
        _panel(book, admission, admission.admit - book.minutes(10, 200), base, inside=False)
    time = admission.admit + book.minutes(20, 200)
    last = min(admission.end + 20 * HOUR, admission.discharge)
    while time <= last:
        if time == admission.end:
            time -= MINUTE  # the traps have this very moment to themselves
        _panel(book, admission, time, base, inside=time < admission.end)
        time += book.minutes(240, 780)
    _other_tests(book, admission)


def _panel(
    book: Book, admission: Admission, time: datetime, base: dict[str, float], *, inside: bool
) -> None:
    """One draw of blood, at one time, of which some results are not asked for."""
    if inside and "event" in admission.lacks:
        return
    delay = book.minutes(20, 100)
    store = min(time + delay, admission.end) if inside else time + delay
    asked = [n for n in CHEMISTRY if book.chance(0.92)] + [n for n in COUNT if book.chance(0.9)]
    asked += [
        name for name, share in (("neutrophils", 0.3), ("vancomycin", 0.15)) if book.chance(share)
    ]
    for name in asked:
        text = result(book, name, admission, base[name])
        lab(book, admission, name, time, text, kept=inside, store=store)
    if inside and book.chance(0.3) and time + 2 * MINUTE <= admission.end:
        gas = time + MINUTE  # the other glucose, of the blood gas
        text = result(book, "glucose", admission, base["glucose"])
        store = min(gas + delay, admission.end)
        lab(book, admission, "glucose", gas, text, kept=True, item=50809, store=store)


def _other_tests(book: Book, admission: Admission) -> None:
    """Results of other tests, and of the same label in another fluid or under another id."""
    span = (admission.end - admission.admit) / MINUTE
    for row in (*OTHER_LABS, *SAME_LABEL):
        if book.chance(0.25):
            time = admission.admit + book.minutes(1, math.floor(span))
            text = f"{book.between(1, 40):.1f}"
            subject, hadm = admission.patient.subject_id, admission.hadm_id
            number = book.number(SPECIMEN)
            store = time + 30 * MINUTE
            test = LabRow(subject, hadm, number, row[0], time, store, text, text, "mg/dL")
            book.labs.append(test)
