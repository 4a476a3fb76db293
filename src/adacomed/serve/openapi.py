"""The OpenAPI document, with examples that this very run takes; and the page that shows it."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from adacomed import __version__
from adacomed.schema import TextCard
from adacomed.serve.arrival import asked_for
from adacomed.serve.card import NOTICE, example_patient, modality_card
from adacomed.serve.pages.frame import render
from adacomed.serve.requests import PredictRequest
from adacomed.serve.settings import Settings
from adacomed.training.checkpoint import Run

JSON, FORM, FHIR = "application/json", "multipart/form-data", "application/fhir+json"
REF = "#/components/schemas/{model}"
ERRORS = {
    400: "Not JSON, or no form",
    401: "No token, or a wrong one",
    403: "Sent by another site's page",
    408: "The request did not arrive in time",
    413: "Too large, or a file that claims too much",
    415: "Another Content-Type",
    421: "Asked under another name than localhost, without a token",
    422: "It does not fit the run; the sentence says what would",
    429: "Too many requests at work; see Retry-After",
    500: "Something broke on our side; the sentence has its id in the log",
    503: "The service is not ready, or cannot write its audit log",
    504: "No answer in time",
}
FORMAT = {
    "name": "format",
    "in": "query",
    "schema": {"type": "string", "enum": ["json", "fhir"], "default": "json"},
    "description": f"fhir, or Accept: {FHIR}, for RiskAssessment resources",
}
OF_A_READ = (401, 421, 429, 500, 503, 504)


def describe(app: FastAPI, run: Run, settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the service.

    Args:
        app: its routes; those of pages are left out.
    """
    document = get_openapi(
        title=f"AdaCoMed: {run.meta['title']}",
        version=__version__,
        description=_description(run),
        routes=app.routes,
    )
    paths = document["paths"]
    predict, explain = paths["/v1/predict"]["post"], paths["/v1/explain"]["post"]
    for operation in (predict, explain):
        operation["requestBody"] = _body(run)
        operation["responses"] = _errors(*ERRORS)
    predict["parameters"] = [FORMAT]
    predict["responses"]["200"] = _told("A record of each patient", "Predictions")
    predict["responses"]["200"]["content"][FHIR] = {"schema": {"type": "object"}}
    explain["responses"]["200"] = _told("Why the run says what it says", "Explanation")
    for path, words, kind in (
        ("/v1/model", "The run", "Model"),
        ("/healthz", "The process lives", "Status"),
        ("/readyz", "Every encoder is loaded", "Status"),
    ):
        paths[path]["get"]["responses"] = {"200": _told(words, kind), **_errors(*OF_A_READ)}
    counters = {"description": "Counters", "content": {"text/plain": {}}}
    paths["/metrics"]["get"]["responses"] = {"200": counters, **_errors(*OF_A_READ)}
    document["components"] = {"schemas": _schemas()}
    if settings.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _description(run: Run) -> str:
    kind = f"the risk of {run.task}" if len(run.classes) == 2 else run.task
    simulated = " Trained on simulated patients." if run.meta["simulated"] else ""
    return f"Predicts {kind} from any subset of {', '.join(asked_for(run))}.{simulated} {NOTICE}"


def _body(run: Run) -> dict[str, Any]:
    """JSON with values, or a form with files, of the same patients."""
    patient = example_patient(run)
    parts: dict[str, Any] = {
        "patient": {
            "type": "string",
            "contentMediaType": JSON,
            "description": "JSON of a NewPatient: what needs no file",
        }
    }
    for name in asked_for(run):
        text = isinstance(run.card.modalities[name], TextCard)
        file = {"type": "string"} if text else {"type": "string", "format": "binary"}
        said = str(modality_card(run, name)["takes"])
        parts[name] = {"type": "array", "items": file, "description": said}
    form = {"schema": {"type": "object", "properties": parts, "additionalProperties": False}}
    if patient["modalities"]:
        form["example"] = {"patient": json.dumps(patient)}
    as_json: dict[str, Any] = {"schema": {"$ref": REF.format(model="PredictRequest")}}
    if patient["modalities"]:
        as_json["examples"] = {
            "everything": {"summary": "Whatever JSON can hold", "value": {"patients": [patient]}},
            **_one_each(patient),
        }
    return {"required": True, "content": {JSON: as_json, FORM: form}}


def _one_each(patient: dict[str, Any]) -> dict[str, Any]:
    """The same patient with one modality alone: any subset will do."""
    return {
        f"only_{name}": {
            "summary": f"{name} alone",
            "value": {"patients": [patient | {"modalities": {name: value}}]},
        }
        for name, value in patient["modalities"].items()
    }


def _told(words: str, schema: str) -> dict[str, Any]:
    return {
        "description": words,
        "content": {JSON: {"schema": {"$ref": REF.format(model=schema)}}},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _told(ERRORS[status], "Error") for status in statuses}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schemas() -> dict[str, Any]:
    """Requests as pydantic takes them, answers by what a caller can count on."""
    requests = PredictRequest.model_json_schema(ref_template=REF)
    schemas: dict[str, Any] = requests.pop("$defs", {})
    number = {"type": ["number", "null"]}
    text, words = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    one = _object(
        task=text,
        classes=words,
        prob={"type": "object", "additionalProperties": {"type": "number"}},
        threshold=number,
        positive={"type": ["boolean", "null"]},
        prediction_set={"type": ["array", "null"], "items": text},
    )
    record = _object(
        sample_id=text,
        task=text,
        kind={"enum": ["classes", "findings", "survival"]},
        predictions={"type": "array", "items": one},
        s=number,
        w_large=number,
        w_small=number,
        used={"type": "array", "items": {"type": "object"}},
        absent=words,
        provenance={"type": "object"},
    )
    return schemas | {
        "PredictRequest": requests,
        "Predictions": _object(predictions={"type": "array", "items": record}),
        "Explanation": _object(sample_id=text, classes=words, modalities={"type": "object"}),
        "Model": _object(task=text, classes=words, modalities={"type": "object"}),
        "Status": _object(status=text),
        "Error": _object(error={**text, "description": "One sentence; never a patient's value"}),
    }


def docs_routes(app: FastAPI, run: Run, settings: Settings) -> APIRouter:
    """`/openapi.json`, and `/docs`: the same for people, without anything from elsewhere."""
    router = APIRouter(include_in_schema=False)
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(describe(app, run, settings))
        return made

    @router.get("/openapi.json")
    def openapi() -> Response:
        return Response(json.dumps(document()), media_type=JSON)

    @router.get("/docs")
    def docs(request: Request) -> Response:
        return render(request, "docs.html", document=document(), shortened=shortened)

    return router


def shortened(value: Any) -> str:
    """An example as indented JSON; of a long vector its beginning."""

    def cut(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: cut(inner) for key, inner in part.items()}
        if isinstance(part, list):
            long = len(part) > 8 and all(isinstance(x, float) for x in part)
            return [*part[:4], f"… {len(part)} numbers in all"] if long else [cut(x) for x in part]
        return part

    return json.dumps(cut(value), indent=2, ensure_ascii=False)
