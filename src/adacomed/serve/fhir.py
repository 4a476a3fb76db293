"""FHIR at the edge: a prediction as a RiskAssessment, a Bundle of Observations as a series.

Resources that leave are of FHIR R5 (5.0.0), the default of `fhir.resources`, which validates them.
Observations that come in may be of R4 or R5 (`fhir_observations`).

FHIR counts `probabilityDecimal` in per cent (its comment: "expressed as percentages as well
(max = 100)"), though many write fractions. Here it is per cent, as the standard says: whoever
expects a fraction meets a number above 1 and notices, and `rationale` says both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from adacomed.errors import InputError
from adacomed.serve.fhir_observations import Measured, Observed, series_of

__all__ = ["Measured", "Observed", "risk_assessment", "series_of"]

_REFERENCE = re.compile(r"(urn:(uuid|oid):[A-Za-z0-9.-]{1,64}|[A-Za-z0-9:/._-]{1,300})")
_UCUM = {"day": "d", "week": "wk", "month": "mo", "year": "a", "hour": "h", "minute": "min"}


def risk_assessment(
    record: Mapping[str, Any], *, when: datetime, subject: str | None = None
) -> dict[str, Any]:
    """A prediction record (`record.record`) as a FHIR R5 RiskAssessment, validated, as JSON values.

    One `prediction` per class; per finding the finding itself; of survival the event by the
    horizon, as `whenRange`. Numbers are the record's, to a millionth.

    Args:
        when: of the prediction, with its offset from UTC.
        subject: a reference, such as "Patient/123"; None names the patient by `sample_id`.
    Raises:
        InputError: `fhir.resources` is not installed, or the subject is no reference.
    """
    try:
        from fhir.resources.riskassessment import RiskAssessment
    except ImportError:
        raise InputError("FHIR needs fhir.resources: pip install 'adacomed[serve]'") from None
    if subject is not None and not _REFERENCE.fullmatch(subject):
        raise InputError("subject: expected a FHIR reference, such as Patient/123 or urn:uuid:…")
    told = record["provenance"]
    who = {"identifier": {"value": str(record["sample_id"])}}
    said = {
        "resourceType": "RiskAssessment",
        "status": "final",
        "method": {"text": f"AdaCoMed {told['adacomed']}: {told['method']}, {told['title']}"},
        "code": {"text": str(record["task"])},
        "subject": who if subject is None else {"reference": subject},
        "occurrenceDateTime": when.isoformat(timespec="seconds"),
        "basis": [{"display": _basis(one)} for one in record["used"]],
        "prediction": [p for one in record["predictions"] for p in _predictions(record, one)],
        "note": [{"text": text} for text in _notes(record)],
    }
    if not said["basis"]:
        del said["basis"]
    found: dict[str, Any] = RiskAssessment.model_validate(said).model_dump(mode="json")
    return found


def _predictions(record: Mapping[str, Any], one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `prediction` elements of one task or finding."""
    shown = list(one["prob"].items())
    if record["kind"] != "classes":
        shown = shown[-1:]  # the finding, or the event; its absence is what is left of 1
    inside = one.get("prediction_set")
    elements = []
    for name, p in shown:
        rationale = f"probability {p:.6f}, which is {100 * p:.4f} per cent"
        if inside is not None:
            rationale += f"; prediction set: {', '.join(inside) or 'empty'}"
        element = {
            "outcome": {"text": str(name)},
            "probabilityDecimal": round(100 * p, 4),
            "rationale": rationale,
        }
        if record["kind"] == "survival" and one.get("horizon") is not None:
            element["whenRange"] = _until(one["horizon"], one.get("unit") or "")
            element["rationale"] += "; time counts from the run's index time"
        elements.append(element)
    return elements


def _until(horizon: float, unit: str) -> dict[str, Any]:
    quantity: dict[str, Any] = {} if not unit else {"unit": unit}
    if code := _UCUM.get(unit.casefold().removesuffix("s")):
        quantity |= {"system": "http://unitsofmeasure.org", "code": code}
    return {"low": {"value": 0, **quantity}, "high": {"value": horizon, **quantity}}


def _basis(used: Mapping[str, Any]) -> str:
    return f"{used['modality']} ({used['kind']}): {used['source']}"


def _notes(record: Mapping[str, Any]) -> list[str]:
    told = record["provenance"]
    notes = [
        str(told["research_use"]),
        f"model {told['model_hash']}, adacomed {told['adacomed']}",
        "probabilityDecimal is in per cent, as FHIR R5 defines it",
    ]
    if told.get("simulated"):
        notes.append("the model was trained on simulated patients")
    missing = [*record.get("absent", ()), *record.get("without", ())]
    if missing:
        notes.append(f"not used: {', '.join(missing)}")
    if record.get("leads"):
        w = f"w_large {record['w_large']:.3f}, w_small {record['w_small']:.3f}"
        notes.append(f"{record['leads']} leads: {w}")
    return notes
