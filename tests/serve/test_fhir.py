"""FHIR: what leaves is valid R5 and says the record's numbers; what comes in is read or refused."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.riskassessment import RiskAssessment
from hypothesis import given, settings
from hypothesis import strategies as st

from adacomed.errors import InputError
from adacomed.schema import SeriesCard
from adacomed.serve.arrival import Arrival
from adacomed.serve.fhir import risk_assessment, series_of
from adacomed.serve.fhir_units import UCUM, same_unit
from adacomed.serve.requests import NewPatient
from adacomed.serve.service import Service
from adacomed.training.checkpoint import load_run

WHEN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SECRET = "173.25"  # a value that no error may hold
CARD = SeriesCard(
    kind="series",
    table=Path("t.csv"),
    columns=["hr", "temp", "sbp", "dbp", "heart_rate_variability"],
    units={"hr": "1/min", "temp": "°C", "sbp": "mmHg", "dbp": "mmHg"},
)


# ---- a prediction -------------------------------------------------------------------------------
def record(kind: str, *predictions: dict[str, Any]) -> dict[str, Any]:
    return {
        "sample_id": "n1",
        "task": "death",
        "kind": kind,
        "predictions": list(predictions),
        "s": 0.5,
        "w_large": 0.7,
        "w_small": 0.3,
        "leads": "large",
        "used": [{"modality": "xray", "kind": "image", "source": "rad-dino@0f3a"}],
        "absent": ["note"],
        "without": ["ct"],
        "provenance": {
            "model_hash": "ab" * 32,
            "adacomed": "1.2.3",
            "method": "adacomed",
            "title": "A cohort",
            "simulated": True,
            "research_use": "For research use only: not a medical device.",
        },
    }


def said(prob: dict[str, float], **more: Any) -> dict[str, Any]:
    return {"task": "death", "classes": list(prob), "prob": prob, "prediction_set": None, **more}


def test_a_prediction_per_class() -> None:
    one = said({"alive": 0.1234567, "dead": 0.8765433}, prediction_set=["dead"])
    found = risk_assessment(record("classes", one), when=WHEN)
    RiskAssessment.model_validate(found)
    json.dumps(found)
    assert found["resourceType"] == "RiskAssessment"
    assert found["status"] == "final"
    assert found["subject"] == {"identifier": {"value": "n1"}}
    assert found["occurrenceDateTime"] in ("2026-03-01T12:30:00Z", "2026-03-01T12:30:00+00:00")
    assert [p["outcome"]["text"] for p in found["prediction"]] == ["alive", "dead"]
    for element, p in zip(found["prediction"], one["prob"].values(), strict=True):
        assert element["probabilityDecimal"] / 100 == pytest.approx(p, abs=1e-6)
        assert "prediction set: dead" in element["rationale"]
        assert f"probability {p:.6f}" in element["rationale"]
    notes = " ".join(note["text"] for note in found["note"])
    for words in ("not a medical device", "ab" * 32, "simulated", "per cent", "note, ct", "large"):
        assert words in notes
    assert found["basis"] == [{"display": "xray (image): rad-dino@0f3a"}]


def test_a_prediction_per_finding() -> None:
    two = [said({f"no {f}": 1 - p, f: p}) for f, p in (("oedema", 0.25), ("fracture", 0.5))]
    found = risk_assessment(record("findings", *two), when=WHEN, subject="Patient/123")
    RiskAssessment.model_validate(found)
    told = {p["outcome"]["text"]: p["probabilityDecimal"] for p in found["prediction"]}
    assert told == {"oedema": 25.0, "fracture": 50.0}
    assert found["subject"] == {"reference": "Patient/123"}


@pytest.mark.parametrize(("unit", "code"), [("months", "mo"), ("days", "d"), ("", None)])
def test_survival_says_by_when(unit: str, code: str | None) -> None:
    one = said({"alive by 36": 0.6, "dead by 36": 0.4}, horizon=36.0, unit=unit)
    found = risk_assessment(record("survival", one), when=WHEN)
    RiskAssessment.model_validate(found)
    [element] = found["prediction"]
    assert element["probabilityDecimal"] == 40.0
    high = element["whenRange"]["high"]
    assert (high["value"], high.get("unit", ""), high.get("code")) == (36, unit, code)


@pytest.mark.parametrize("subject", ["", "Jane Doe, born 1 May", "Patient/<b>", "x" * 400])
def test_a_subject_that_is_no_reference(subject: str) -> None:
    one = record("classes", said({"a": 0.5, "b": 0.5}))
    with pytest.raises(InputError, match="Patient/123") as told:
        risk_assessment(one, when=WHEN, subject=subject)
    assert "Jane" not in str(told.value)


# ---- observations -------------------------------------------------------------------------------
def observation(name: str, value: float, unit: str, at: str, **more: Any) -> dict[str, Any]:
    quantity = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    found = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": name},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": at,
        "valueQuantity": quantity,
    }
    return found | more


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    entries = [{"resource": resource} for resource in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


HR = observation("hr", 80, "/min", "2026-03-01T13:30:00Z")
PRESSURE = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
    "subject": {"reference": "Patient/1"},
    "effectiveInstant": "2026-03-01T12:00:00.500+01:00",
    "component": [
        {
            "code": {"coding": [{"code": "8480-6", "display": "Systolic"}]},
            "valueQuantity": {"value": 120, "unit": "mmHg"},
        },
        {
            "code": {"coding": [{"code": "8462-4"}], "text": "DBP"},
            "valueQuantity": {"value": 80.5, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"},
        },
    ],
}


def test_hours_variables_and_values() -> None:
    later = observation("T", 38.5, "Cel", "2026-03-02T12:30:00.000Z")
    later["code"] = {"coding": [{"code": "8310-5", "display": "Temp"}]}
    found = series_of(bundle(HR, later, PRESSURE), CARD, WHEN, codes={"8480-6": "sbp"})
    told = [(m.hours, m.variable, m.value) for m in found]
    assert told == [
        (1.0, "hr", 80.0),
        (24.0, "temp", 38.5),
        (pytest.approx(-1.5 + 0.5 / 3600), "sbp", 120.0),
        (pytest.approx(-1.5 + 0.5 / 3600), "dbp", 80.5),
    ]
    assert len(found) == 4
    assert found.unknown == found.left_out == {}
    east = WHEN.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert list(series_of(bundle(HR), CARD, east)) == list(series_of(bundle(HR), CARD, WHEN))


def test_names_as_people_write_them() -> None:
    one = observation("Heart-Rate variability", 40, "ms", HR["effectiveDateTime"])
    [found] = series_of(bundle(one), CARD, WHEN)
    assert found.variable == "heart_rate_variability"


def test_what_is_left_out_is_told() -> None:
    at = HR["effectiveDateTime"]
    odd = {"coding": [{"code": "9999-9", "display": "Jane"}]}
    found = series_of(
        bundle(
            HR,
            observation("x", 1, "/min", at, code=odd),
            observation("x", 1, "/min", at, code=odd),
            observation("Jane Doe said so", 1, "/min", at),
            observation("hr", 1, "/min", at, status="entered-in-error"),
            observation("hr", 1, "/min", "2026-03-01"),
            observation("hr", 1, "/min", at, valueQuantity={"value": 1, "comparator": "<"}),
            observation("hr", 1, "/min", at, valueQuantity=None, valueString="fast"),
            {"resourceType": "Patient", "name": [{"family": "Doe"}]},
        ),
        CARD,
        WHEN,
    )
    assert len(found) == 1
    assert found.unknown == {"9999-9": 2, "without a coding": 1}
    assert found.left_out == {
        "a status that says the value does not hold": 1,
        "no date with a time of day": 1,
        "a bound (< or >) instead of a value": 1,
        "no number": 1,
        "another resource than an Observation": 1,
    }


def with_value(value: Any, **more: Any) -> dict[str, Any]:
    return HR | {"valueQuantity": {"value": value, "unit": "/min", **more}}


OTHER = HR | {"subject": {"reference": "Patient/2"}}
REFUSED: dict[str, tuple[list[Any], str]] = {
    "another unit": ([observation("temp", float(SECRET), "[degF]", HR["effectiveDateTime"])], "°C"),
    "no unit": ([HR | {"valueQuantity": {"value": float(SECRET)}}], "without a unit"),
    "text": ([with_value(SECRET)], "not a finite number"),
    "infinite": ([with_value(float("inf"))], "not a finite number"),
    "true": ([with_value(True)], "not a finite number"),
    "nested": ([with_value({"value": SECRET})], "not a finite number"),
    "no offset": ([HR | {"effectiveDateTime": "2026-03-01T13:30:00"}], "no FHIR date and time"),
    "no such day": ([HR | {"effectiveDateTime": "2026-02-31T13:30:00Z"}], "no FHIR date and time"),
    "two patients": ([HR, OTHER], "several subjects"),
    "unknown only": ([observation("K", 1, "mmol/L", HR["effectiveDateTime"])], "the run knows hr"),
    "a component": ([PRESSURE | {"component": ["x"]}], "list of objects"),
    "nothing": ([], "it is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_without_its_value(case: str) -> None:
    resources, helps = REFUSED[case]
    with pytest.raises(InputError, match=helps) as told:
        series_of(bundle(*resources), CARD, WHEN)
    assert SECRET not in str(told.value)


def test_two_units_of_a_variable_that_has_none() -> None:
    card = CARD.model_copy(update={"units": {}})
    both = [observation("temp", 38, u, HR["effectiveDateTime"]) for u in ("Cel", "[degF]")]
    with pytest.raises(InputError, match=r"entry\[1\]: 'temp' came in '\[degF\]'.*'Cel'"):
        series_of(bundle(*both), card, WHEN)


@pytest.mark.parametrize("when", [None, datetime(2026, 3, 1)])
def test_hours_need_an_index_time(when: datetime | None) -> None:
    with pytest.raises(InputError, match="send index_time"):
        series_of(bundle(HR), CARD, when)


@pytest.mark.parametrize("entry", [None, [], {}, {"resource": 3}, {"fullUrl": "x"}])
def test_entries_without_a_resource(entry: Any) -> None:
    with pytest.raises(InputError, match=r"entry\[0\]: no resource"):
        series_of({"entry": [entry]}, CARD, WHEN)


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANY = st.recursive(
    LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3)
)
HUGE = (
    st.just(10**400) | st.just("9999-12-31T23:59:59-14:00") | st.just("0001-01-01T00:00:00+14:00")
)
KEYS = [*HR, "component", "valueInteger", "effectiveInstant"]
INNER = ["value", "unit", "code", "comparator", "coding", "text", "reference", "display"]


@settings(max_examples=200, deadline=None)
@given(
    changed=st.dictionaries(
        st.sampled_from(KEYS),
        ANY | HUGE | st.dictionaries(st.sampled_from(INNER), ANY | HUGE, max_size=3),
        max_size=3,
    ),
    entry=st.none() | ANY,
)
def test_whatever_arrives_is_read_or_refused(changed: dict[str, Any], entry: Any) -> None:
    sent = bundle(HR | {"resourceType": "Observation"} | changed, PRESSURE)
    if entry is not None:
        sent["entry"] = entry
    try:
        found = series_of(sent, CARD, WHEN)
    except InputError:
        return
    assert all(math.isfinite(m.hours) and math.isfinite(m.value) for m in found)
    assert {m.variable for m in found} <= set(CARD.columns or ())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("°C", "Cel", True),
        ("mmHg", "mm[Hg]", True),
        ("1/min", "/min", True),
        ("mg/dL", "mg/dl", True),
        ("µg/L", "ug/l", True),
        ("10^3/µL", "10*3/uL", True),
        ("mg/dL", "mmol/L", False),
        ("Cel", "[degF]", False),
        ("mmol/L", "Mmol/L", False),
        ("g/dL", "g/L", False),
    ],
)
def test_spellings_of_a_unit(one: str, other: str, same: bool) -> None:
    assert same_unit(one, other) == same_unit(other, one) == same


def test_a_served_run_reads_a_bundle_as_it_reads_measurements(small_run: Path) -> None:
    service = Service(load_run(small_run))
    service.warm()
    rows = [(0.5, "hr", 81.0), (2.0, "map", 66.0)]
    units = {"hr": "/min", "map": "mm[Hg]"}
    there = [
        observation(v, x, units[v], (WHEN + timedelta(hours=h)).isoformat()) for h, v, x in rows
    ]
    plain = [{"hours": h, "variable": v, "value": x} for h, v, x in rows]

    def predicted(series: Any) -> dict[str, Any]:
        sent = {"modalities": {"vitals": series}, "index_time": WHEN.isoformat()}
        case = service.case(Arrival(NewPatient.model_validate(sent)))
        return asyncio.run(service.predict(case))

    before = copy.deepcopy(there)
    one = predicted(bundle(*there))
    assert there == before
    assert one["predictions"] == predicted(plain)["predictions"]
    found = risk_assessment(one, when=WHEN)
    for element, p in zip(found["prediction"], one["predictions"][0]["prob"].values(), strict=True):
        assert element["probabilityDecimal"] / 100 == pytest.approx(p, abs=1e-6)


def test_the_cards_own_codes_name_the_variables() -> None:
    card = SeriesCard(kind="series", table=Path("x.csv"), codes={"8867-4": "pulse"})
    when = datetime(2024, 3, 1, 8, tzinfo=UTC)
    resource = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "effectiveDateTime": "2024-03-01T09:30:00Z",
        "valueQuantity": {"value": 88, "unit": "/min"},
    }
    bundle = {"resourceType": "Bundle", "entry": [{"resource": resource}]}
    [found] = series_of(bundle, card, when, variables=("pulse",))
    assert (found.hours, found.variable, found.value) == (1.5, "pulse", 88.0)
