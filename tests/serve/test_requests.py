"""What the JSON API takes: anything else is refused in one sentence that repeats no value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import from_json

from adacomed.serve.requests import NewPatient, PredictRequest, in_words

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20)
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)
CELLS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VECTORS = st.lists(NUMBERS, min_size=1, max_size=6)
MEASURED = st.fixed_dictionaries({"hours": NUMBERS, "variable": NAMES, "value": NUMBERS})
VALUES = st.one_of(
    st.dictionaries(NAMES.filter(lambda n: n != "resourceType"), CELLS, min_size=1, max_size=4),
    TEXTS,
    st.lists(TEXTS, min_size=1, max_size=3),
    VECTORS,
    st.lists(VECTORS, min_size=1, max_size=3),
    st.lists(MEASURED, min_size=1, max_size=3),
)
PATIENTS = st.fixed_dictionaries(
    {"modalities": st.dictionaries(NAMES, VALUES, min_size=1, max_size=3)},
    optional={"sample_id": st.from_regex(r"[A-Za-z0-9._:-]{1,20}", fullmatch=True)},
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(PATIENTS)
@settings(max_examples=200, deadline=None)
def test_what_is_well_formed_is_taken_as_it_is(patient: dict[str, Any]) -> None:
    text = json.dumps({"patients": [patient]})
    found = PredictRequest.model_validate(from_json(text)).patients[0]
    assert found == PredictRequest.model_validate_json(text).patients[0]
    told = found.model_dump(mode="json")
    assert told["modalities"] == patient["modalities"]
    assert told["sample_id"] == patient.get("sample_id", "new")


@given(ANYTHING)
@settings(max_examples=300, deadline=None)
def test_anything_else_is_one_kind_of_error(anything: Any) -> None:
    for document in (anything, {"patients": [{"modalities": {"m": anything}}]}):
        try:
            PredictRequest.model_validate(document)
        except ValidationError as error:
            sentence = in_words(error.errors(include_url=False, include_input=False))
            assert sentence
            assert "\n" not in sentence


@pytest.mark.parametrize(
    ("modalities", "says"),
    [
        ({"m": [1.0, float("nan")]}, "modalities.m[1]: input should be a finite number"),
        ({"m": [1.0, "Secret"]}, "modalities.m[1]: input should be a valid number"),
        ({"m": {"age": float("inf")}}, "modalities.m.age: should be a number, text"),
        ({"m": {"age": 10**400}}, "modalities.m.age: should be a number, text"),
        ({"m": {"age": ["Secret"]}}, "modalities.m.age: should be a number, text"),
        ({"m": []}, "modalities.m: input should be an object of columns"),
        ({"m": None}, "modalities.m: input should be an object of columns"),
        ({"m": [[1.0], ["Secret"]]}, "modalities.m[1][0]: input should be a valid number"),
        ({"m": [{"hours": 1, "variable": "hr"}]}, "modalities.m[0].value: is missing"),
        ({"m": [True]}, "modalities.m: input should be an object of columns"),
        ({"m": {"resourceType": "Bundle"}}, "modalities.m.entry: is missing"),
        ({}, "modalities: dictionary should have at least 1 item"),
    ],
)
def test_what_is_refused(modalities: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NewPatient.model_validate({"modalities": modalities})
    sentence = in_words(caught.value.errors(include_url=False, include_input=False))
    assert sentence.startswith(says), sentence
    assert "Secret" not in sentence


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ü", "a\n", "x" * 201, "../a"])
def test_a_sample_id_is_plain(name: str) -> None:
    with pytest.raises(ValidationError):
        NewPatient(sample_id=name, modalities={"m": "x"})


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError) as caught:
        NewPatient.model_validate({"modalities": {"m": "x"}, "modality": 1})
    assert in_words(caught.value.errors()) == "modality: no such key"


def test_at_most_64_patients() -> None:
    one = {"modalities": {"m": "x"}}
    assert len(PredictRequest.model_validate({"patients": [one] * 64}).patients) == 64
    for n in (0, 65):
        with pytest.raises(ValidationError):
            PredictRequest.model_validate({"patients": [one] * n})
