"""Units of measurement: whether two spellings mean one unit. Nothing is converted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

UCUM = "http://unitsofmeasure.org"
# As people write them → UCUM. Only other spellings of one unit, so that no number changes.
SPELT = {
    "°C": "Cel",
    "degC": "Cel",
    "C": "Cel",
    "°F": "[degF]",
    "degF": "[degF]",
    "mmHg": "mm[Hg]",
    "mm Hg": "mm[Hg]",
    "cmH2O": "cm[H2O]",
    "1/min": "/min",
    "bpm": "/min",
    "beats/min": "/min",
    "beats/minute": "/min",
    "breaths/min": "/min",
    "breaths/minute": "/min",
    "percent": "%",
    "hours": "h",
    "sec": "s",
    "[pH]": "1",
    "pH": "1",
    "{ratio}": "1",
    "{INR}": "1",
    "mcg": "ug",
}
_MICRO = str.maketrans({"µ": "u", "μ": "u", "^": "*"})
_LITRE = re.compile(r"(?<![A-Za-z])([dcmun]?)L\b")  # UCUM has both L and l


def unit_of(quantity: Mapping[str, Any]) -> str | None:
    """The unit of a FHIR Quantity: its UCUM code, else what is written for people."""
    code, unit = quantity.get("code"), quantity.get("unit")
    coded = quantity.get("system") == UCUM or not unit
    found = code if code and coded else unit
    return found if isinstance(found, str) and found.strip() else None


def same_unit(one: str, other: str) -> bool:
    """Whether two units are one, in UCUM or as people spell them.

    >>> same_unit("mm[Hg]", "mmHg"), same_unit("mg/dL", "mmol/L")
    (True, False)
    """
    return _ucum(one) == _ucum(other)


def _ucum(unit: str) -> str:
    text = unit.strip()
    text = SPELT.get(text, text).translate(_MICRO)
    return _LITRE.sub(r"\1l", text)
