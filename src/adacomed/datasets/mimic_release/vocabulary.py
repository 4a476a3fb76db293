"""Words of the demographics, per release: one plan gives each release its own spelling of them."""

from __future__ import annotations

RELEASES = ("1.0", "2.2", "3.1")

# What is said of a person, in the order of the plan's indices.
_OLD = {
    "insurance": ("Medicare", "Medicaid", "Other", "Other"),
    "language": ("ENGLISH", "?", "?", "?"),
    "marital_status": ("MARRIED", "SINGLE", "WIDOWED", "DIVORCED"),
    "race": ("WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO", "ASIAN", "OTHER", "UNKNOWN"),
}
_RACES = (
    "WHITE",
    "BLACK/AFRICAN AMERICAN",
    "HISPANIC/LATINO - PUERTO RICAN",
    "ASIAN - CHINESE",
    "OTHER",
    "UNKNOWN",
)
_NEW = {
    **_OLD,
    "insurance": ("Medicare", "Medicaid", "Private", "Other"),
    "language": ("English", "Spanish", "Russian", "Portuguese"),
    "race": _RACES,
}
WORDS = {"1.0": _OLD, "2.2": {**_OLD, "race": _RACES}, "3.1": _NEW}
SHARES = {
    "insurance": (0.5, 0.15, 0.25, 0.1),
    "language": (0.85, 0.08, 0.04, 0.03),
    "marital_status": (0.45, 0.3, 0.15, 0.1),
    "race": (0.64, 0.14, 0.06, 0.05, 0.06, 0.05),
}
UNRECORDED = {"insurance": 0.02, "language": 0.01, "marital_status": 0.08, "race": 0.0}


def word(release: str, column: str, index: int) -> str | None:
    """How `release` spells a demographic; None where it was not recorded (index −1)."""
    return None if index < 0 else WORDS[release][column][index]
