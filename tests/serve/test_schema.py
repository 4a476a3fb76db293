"""The OpenAPI document: its examples are answered, and whatever it allows is never a 5xx."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from tests.serve.served import Served, patient, serving

EXAMPLES = 15  # of each operation


@pytest.fixture(scope="module")
def served(small_run: Path) -> Iterator[Served]:
    with serving(small_run) as found:
        yield found
        assert found.verify().returncode == 0
        assert "error " not in found.log, found.log


@pytest.fixture(scope="module")
def document(served: Served) -> dict[str, Any]:
    with served.client() as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
        return found


def examples(document: dict[str, Any]) -> dict[str, Any]:
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    return {name: one["value"] for name, one in content["application/json"]["examples"].items()}


def conforms(document: dict[str, Any], name: str, value: Any) -> None:
    """Whether a value is what the document says under a name."""
    whole = document | {"$ref": f"#/components/schemas/{name}"}
    jsonschema_rs.validate(whole, value)


def test_every_example_is_answered_as_described(document, served) -> None:
    found = examples(document)
    assert set(found) >= {"everything", "only_clinical", "only_note", "only_vitals", "only_genes"}
    with served.client() as client:
        for name, body in found.items():
            conforms(document, "PredictRequest", body)
            answer = client.post("/v1/predict", json=body)
            assert answer.status_code == 200, (name, answer.text)
            conforms(document, "Predictions", answer.json())
        whole = client.post("/v1/explain", json=found["everything"])
        assert whole.status_code == 200, whole.text
        conforms(document, "Explanation", whole.json())
        model = client.get("/v1/model")
        conforms(document, "Model", model.json())


def test_the_form_example_is_answered(document, served) -> None:
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    example = content["multipart/form-data"]["example"]
    with served.client() as client:
        data = example["patient"].encode()
        answer = client.post("/v1/predict", files={"patient": ("patient.json", data)})
        assert answer.status_code == 200, answer.text


def test_the_model_says_what_it_takes(served) -> None:
    with served.client() as client:
        told = client.get("/v1/model").json()
    modalities = told["modalities"]
    assert modalities["genes"]["width"] == 6
    assert modalities["clinical"]["columns"]["sex"]["values"] == ["F", "M"]
    assert set(modalities["vitals"]["variables"]) == {"hr", "map"}
    assert modalities["vitals"]["variables"]["map"] == {"unit": "mm[Hg]"}
    assert modalities["xray"]["encoder"].startswith("moments")
    assert told["classes"] == ["N", "Y"]
    assert told["metrics"]["test"][0]["method"] == "adacomed"
    assert "not a medical device" in told["research_use"]
    assert told["model_card"].startswith("#")


def test_fhir(served) -> None:
    body = {"patients": [patient(), patient(sample_id="n2")]}
    with served.client() as client:
        several = client.post("/v1/predict?format=fhir", json=body)
        accepts = {"Accept": "application/fhir+json"}
        one = client.post("/v1/predict", json={"patients": [patient()]}, headers=accepts)
    assert several.headers["content-type"] == one.headers["content-type"] == "application/fhir+json"
    assert several.json()["resourceType"] == "Bundle"
    assert [e["resource"]["resourceType"] for e in several.json()["entry"]] == [
        "RiskAssessment"
    ] * 2
    assert one.json()["resourceType"] == "RiskAssessment"
    from fhir.resources.bundle import Bundle

    Bundle.model_validate(several.json())


def test_the_page_of_the_api_needs_nothing_from_elsewhere(served) -> None:
    with served.client() as client:
        page = client.get("/docs", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert "/v1/predict" in page.text
    assert "https://" not in page.text.replace("https://github.com", "")
    assert "6 numbers" in page.text


def test_schemathesis_finds_no_5xx(served, tmp_path) -> None:
    """Valid, broken and hostile requests made from the document, by schemathesis' own runner."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    checks += ",response_schema_conformance"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"),
        *("--checks", checks, "--max-examples", str(EXAMPLES), "--mode", "all"),
        *("--seed", "1", "--workers", "2", "--no-color", "--suppress-health-check", "all"),
        *("--generation-database", "none", "--phases", "examples,coverage,fuzzing"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert "passed" in ran.stdout
    assert served.alive()
    with served.client() as client:
        lines = client.get("/metrics").text.splitlines()
    counted = [x for x in lines if x.startswith("adacomed_requests_total{")]
    ours = [
        x for x in counted if 'status="5' in x and 'route="/readyz"' not in x
    ]  # while it warmed
    assert not ours, ours
    asked = sum(float(x.split()[-1]) for x in counted)
    assert asked > 3 * EXAMPLES
