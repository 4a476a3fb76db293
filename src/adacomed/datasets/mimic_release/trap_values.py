"""Traps among the values of events: duplicates, units, impossible values, no number.

Each takes a stay that is a sample and plants rows in it; it returns every row with whether it
counts. The times have seconds, so they never meet an ordinary row's. A corrected charted value
stays on its side of the reference range, so that duplicates may be resolved before or after the
preset paper's erasing.
"""

from __future__ import annotations

from adacomed.datasets.mimic_release.charts import chart, procedure
from adacomed.datasets.mimic_release.labs import lab
from adacomed.datasets.mimic_release.plan import MINUTE, Book, Planted, Stay, Trap


def duplicate_exact(book: Book, stay: Stay) -> Planted:
    """The same charted row, laboratory row and procedure twice: once an event."""
    time, admission = book.moment(stay), stay.admission
    row = chart(book, stay, "heart_rate", time, "88", kept=True)
    test = lab(book, admission, "sodium", time, "139", kept=True)
    done = procedure(book, stay, "bronchoscopy", time, kept=True)
    book.charts.append(row)
    book.labs.append(test)
    book.procedures.append(done._replace(order=done.order + 1))
    return [(row, True), (test, True), (done, True)]


def duplicate_corrected(book: Book, stay: Stay) -> Planted:
    """A value corrected later: the latest stored counts, which stands first in the file."""
    time, admission = book.moment(stay), stay.admission
    new, old = time + 50 * MINUTE, time + 10 * MINUTE
    return [
        (chart(book, stay, "heart_rate", time, "76", kept=True, store=new), True),
        (chart(book, stay, "heart_rate", time, "97", kept=False, store=old), False),
        (lab(book, admission, "potassium", time, "4.4", kept=True, store=new), True),
        (lab(book, admission, "potassium", time, "6.9", kept=False, store=old), False),
    ]


def duplicate_corrected_to_impossible(book: Book, stay: Stay) -> Planted:
    """A value corrected to an impossible one: that one is dropped, so the earlier counts."""
    time = book.moment(stay)
    new, old = time + 50 * MINUTE, time + 10 * MINUTE
    return [
        (chart(book, stay, "respiratory_rate", time, "500", kept=False, store=new), False),
        (chart(book, stay, "respiratory_rate", time, "16", kept=True, store=old), True),
    ]


def duplicate_of_two_items(book: Book, stay: Stay) -> Planted:
    """Both glucoses at one time, stored at one time: the larger itemid counts."""
    time, admission = book.moment(stay), stay.admission
    return [
        (lab(book, admission, "glucose", time, "141", kept=True, item=50931), True),
        (lab(book, admission, "glucose", time, "152", kept=False, item=50809), False),
    ]


def duplicate_at_one_time(book: Book, stay: Stay) -> Planted:
    """Two values of one item, stored at one time: the larger counts."""
    time = book.moment(stay)
    return [
        (chart(book, stay, "nbp_systolic", time, "131", kept=True), True),
        (chart(book, stay, "nbp_systolic", time, "104", kept=False), False),
    ]


def other_units(book: Book, stay: Stay) -> Planted:
    """Values in another known unit: converted."""
    time, admission = book.moment(stay), stay.admission
    pressure = chart(book, stay, "nbp_systolic", time, "15.9", kept=True, unit="kPa")
    found: Planted = [(pressure, True)]
    for name, text, unit in (
        ("glucose", "7.2", "mmol/L"),
        ("creatinine", "106", "umol/L"),
        ("haemoglobin", "104", "g/L"),
        ("calcium", "2.15", "mmol/L"),
        ("platelets", "210", "10^9/L"),
    ):
        found.append((lab(book, admission, name, time, text, kept=True, unit=unit), True))
    return found


def unit_spellings(book: Book, stay: Stay) -> Planted:
    """Units in capitals, with spaces, or missing: the variable's own."""
    time, admission = book.moment(stay), stay.admission
    return [
        (lab(book, admission, "glucose", time, "118", kept=True, unit="MG/DL"), True),
        (lab(book, admission, "chloride", time, "101", kept=True, unit="meq / l"), True),
        (lab(book, admission, "urea_nitrogen", time, "5.4", kept=True, unit="MMOL/l"), True),
        (lab(book, admission, "rdw", time, "14.6", kept=True, unit=None), True),
        (chart(book, stay, "spo2", time, "97", kept=True, unit=" % "), True),
    ]


def unknown_units(book: Book, stay: Stay) -> Planted:
    """Units that nobody said how to convert: dropped."""
    time, admission = book.moment(stay), stay.admission
    return [
        (chart(book, stay, "heart_rate", time, "1.4", kept=False, unit="Hz"), False),
        (lab(book, admission, "haematocrit", time, "31.0", kept=False, unit="L/L"), False),
        (lab(book, admission, "potassium", time, "4.2", kept=False, unit="mg/dL"), False),
    ]


def impossible_values(book: Book, stay: Stay) -> Planted:
    """Values that nobody can have: dropped; those at the very limit are kept."""
    time, later, admission = book.moment(stay), book.moment(stay), stay.admission
    return [
        (chart(book, stay, "heart_rate", time, "0", kept=False), False),
        (chart(book, stay, "heart_rate", later, "300", kept=True), True),
        (chart(book, stay, "spo2", time, "9700", kept=False), False),
        (chart(book, stay, "gcs_eye", time, "0", kept=False), False),
        (chart(book, stay, "nbp_mean", time, "-5", kept=False), False),
        (lab(book, admission, "sodium", time, "13.8", kept=False), False),
        (lab(book, admission, "anion_gap", time, "-4", kept=True), True),
        (lab(book, admission, "creatinine", time, "88", kept=False), False),
        (lab(book, admission, "potassium", later, "15", kept=True), True),
    ]


def without_number(book: Book, stay: Stay) -> Planted:
    """Rows without a number: dropped."""
    time, admission = book.moment(stay), stay.admission
    return [
        (chart(book, stay, "respiratory_rate", time, None, kept=False, word="paced"), False),
        (lab(book, admission, "platelets", time, None, kept=False, word="VERY LOW"), False),
        (lab(book, admission, "magnesium", time, None, kept=False, word="___"), False),
        (lab(book, admission, "vancomycin", time, None, kept=False, word="<1.7"), False),
    ]


VALUE_TRAPS: dict[str, Trap] = {
    f.__name__: f
    for f in (
        duplicate_exact,
        duplicate_corrected,
        duplicate_corrected_to_impossible,
        duplicate_of_two_items,
        duplicate_at_one_time,
        other_units,
        unit_spellings,
        unknown_units,
        impossible_values,
        without_number,
    )
}
