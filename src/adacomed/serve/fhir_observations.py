"""A FHIR Bundle of Observations as measurements of a series.

Observations are read by the few elements that matter here, which FHIR R4 and R5 share.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from adacomed.errors import InputError
from adacomed.schema import SeriesCard
from adacomed.serve.fhir_units import same_unit, unit_of

# Statuses of an Observation that says nothing (any more), or nothing yet.
VOID = ("entered-in-error", "cancelled", "registered")
_SPOKEN = re.compile(r"[\s_-]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Measured:
    """One measurement: hours from the index time, the run's name of the variable, its value."""

    hours: float
    variable: str
    value: float


@dataclass(frozen=True)
class Observed:
    """What a bundle says; iterating gives the measurements, in the bundle's order.

    Attributes:
        unknown: code → how many observations had it, of codes that are no variable of the run.
        left_out: reason → how many values were left out for it.
    """

    measurements: tuple[Measured, ...]
    unknown: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Measured]:
        return iter(self.measurements)

    def __len__(self) -> int:
        return len(self.measurements)


def series_of(
    bundle: Mapping[str, Any],
    card: SeriesCard,
    index_time: datetime | None,
    *,
    variables: Collection[str] = (),
    codes: Mapping[str, str] | None = None,
) -> Observed:
    """Measurements of one patient from a FHIR Bundle of Observations, components among them.

    A code belongs to a variable if `codes` says so, or if one of its `coding.code`,
    `coding.display` or its `text` is the variable's name (case, spaces and `_` do not matter).

    Args:
        bundle: R4 or R5, as JSON values.
        card: of the series; its `units` are checked: the same unit, in UCUM or spelt as people do.
        index_time: hour 0, with its offset from UTC.
        variables: that the run knows; none: those that the card names, else codes are taken as
            they are.
        codes: coding.code (such as LOINC) → variable; None: the card's.
    Raises:
        InputError: no index time, no measurement that the run knows, several patients, another
            unit; never with a value.
    """
    named = variables or card.columns or list(dict.fromkeys([*card.units, *card.limits]))
    told = dict(card.codes if codes is None else codes)
    reading = _Reading(card, _hour_zero(index_time), {_fold(v): v for v in named}, told)
    entries = bundle.get("entry") or []
    if not isinstance(entries, list):
        raise InputError("entry: expected a list of resources, as a FHIR Bundle has it")
    for n, entry in enumerate(entries):
        resource = entry.get("resource") if isinstance(entry, Mapping) else None
        if not isinstance(resource, Mapping):
            raise InputError(f"entry[{n}]: no resource in it; a Bundle of Observations is wanted")
        if resource.get("resourceType") == "Observation":
            reading.observation(resource, f"entry[{n}]")
        else:
            reading.left_out["another resource than an Observation"] += 1
    return reading.result(named)


def _hour_zero(index_time: datetime | None) -> datetime:
    if index_time is None or index_time.utcoffset() is None:
        what = "no index_time arrived" if index_time is None else "index_time has no UTC offset"
        raise InputError(
            f"FHIR observations have dates, a series counts hours from hour 0: {what}; send "
            f"index_time, such as 2024-03-01T08:00:00+01:00"
        )
    return index_time


@dataclass
class _Reading:
    """What has been read of a bundle so far."""

    card: SeriesCard
    index_time: datetime
    known: Mapping[str, str]  # folded name → variable
    codes: Mapping[str, str]
    found: list[Measured] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    units: dict[str, str] = field(default_factory=dict)  # variable → unit that its values came in
    agreed: set[tuple[str, str]] = field(default_factory=set)  # variable and a unit that is it
    subjects: set[str] = field(default_factory=set)

    def observation(self, resource: Mapping[str, Any], where: str) -> None:
        """One Observation: its own value, and those of its components."""
        self._one_patient(resource.get("subject"))
        if resource.get("status") in VOID:
            self.left_out["a status that says the value does not hold"] += 1
            return
        hours = self._hours(resource, where)
        parts = resource.get("component") or []
        if not isinstance(parts, list) or not all(isinstance(p, Mapping) for p in parts):
            raise InputError(f"{where}: component is no list of objects")
        own = [resource] if not parts or any(k.startswith("value") for k in resource) else []
        for part in [*own, *parts]:
            self._value(part, hours, where)

    def result(self, named: Collection[str]) -> Observed:
        """Everything, if there is anything."""
        if not self.found:
            why = [f"{n} with {reason}" for reason, n in self.left_out.items()]
            if self.unknown:
                some = ", ".join(list(self.unknown)[:5])
                why.append(f"{sum(self.unknown.values())} of codes it does not know ({some})")
            known = f"; the run knows {', '.join(list(named)[:20])}" if named else ""
            raise InputError(
                f"no measurement for the run in the FHIR Bundle: {'; '.join(why) or 'it is empty'}"
                f"{known}"
            )
        return Observed(tuple(self.found), dict(self.unknown), dict(self.left_out))

    def _one_patient(self, subject: object) -> None:
        if isinstance(subject, Mapping):
            self.subjects.add(str(subject.get("reference") or subject.get("identifier")))
        if len(self.subjects) > 1:
            raise InputError("the FHIR Bundle has Observations of several subjects; send one's")

    def _hours(self, resource: Mapping[str, Any], where: str) -> float | None:
        """Hours from the index time; None where the Observation has no one moment."""
        text = resource.get("effectiveDateTime") or resource.get("effectiveInstant")
        if not isinstance(text, str) or "T" not in text:
            return None
        try:
            if not _TIME.fullmatch(text):
                raise ValueError(text)
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(
                f"{where}: its time is no FHIR date and time, such as 2024-03-01T08:00:00+01:00"
            ) from None
        return (moment - self.index_time).total_seconds() / 3600

    def _value(self, part: Mapping[str, Any], hours: float | None, where: str) -> None:
        variable = self._variable(part.get("code"))
        if variable is None:
            return
        value, unit, reason = _number(part, where)
        if hours is None:
            reason = "no date with a time of day"
        if value is None or reason is not None or hours is None:
            self.left_out[reason or "no number"] += 1
            return
        self._check_unit(variable, unit, where)
        self.found.append(Measured(hours, variable, value))

    def _variable(self, concept: object) -> str | None:
        """The run's name of what was measured; an unknown one is counted by its code."""
        concept = concept if isinstance(concept, Mapping) else {}
        coding = concept.get("coding")
        coding = [c for c in coding if isinstance(c, Mapping)] if isinstance(coding, list) else []
        given = [str(c["code"]) for c in coding if c.get("code")]
        for code in given:
            if code in self.codes:
                return self.codes[code]
        shown = [str(c["display"]) for c in coding if c.get("display")]
        for name in [*given, *shown, str(concept.get("text") or "")]:
            if _fold(name) in self.known:
                return self.known[_fold(name)]
        if given and not self.known:
            return given[0]
        self.unknown[given[0][:40] if given else "without a coding"] += 1  # text may be anyone's
        return None

    def _check_unit(self, variable: str, unit: str | None, where: str) -> None:
        wanted = self.card.units.get(variable)
        if unit is None and wanted is not None:
            raise InputError(
                f"{where}: {variable!r} came without a unit, the run has it in {wanted}"
            )
        if unit is None or (variable, unit) in self.agreed:
            return
        before = wanted or self.units.setdefault(variable, unit)
        if not same_unit(unit, before):
            whose = "the run has it in" if wanted else "another Observation has it in"
            raise InputError(
                f"{where}: {variable!r} came in {unit[:40]!r}, {whose} {before[:40]!r}; send one "
                f"unit, nothing is converted here"
            )
        self.agreed.add((variable, unit))


def _number(part: Mapping[str, Any], where: str) -> tuple[float | None, str | None, str | None]:
    """Value, unit, and why the value is left out; one of value and reason is None."""
    quantity, unit = part.get("valueQuantity"), None
    value = part.get("valueInteger")
    if isinstance(quantity, Mapping):
        value, unit = quantity.get("value"), unit_of(quantity)
        if quantity.get("comparator"):
            return None, unit, "a bound (< or >) instead of a value"
    if value is None:
        return None, unit, "no number"
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):  # an integer of four hundred digits
            number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{where}: its value is not a finite number")
    return number, unit, None


def _fold(name: str) -> str:
    return _SPOKEN.sub(" ", name).strip().casefold()
