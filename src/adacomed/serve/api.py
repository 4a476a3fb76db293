"""The JSON API: predictions, explanations, what the run is, and whether the service is well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from adacomed.errors import InputError
from adacomed.serve.arrival import Arrival
from adacomed.serve.audited import audited
from adacomed.serve.card import run_card
from adacomed.serve.fhir import risk_assessment
from adacomed.serve.refusals import Refusal
from adacomed.serve.service import Case, Service
from adacomed.serve.settings import Settings
from adacomed.serve.uploads import read_arrival
from adacomed.serve.work import blocking, scratch
from adacomed.strict_json import dumps

FHIR = "application/fhir+json"
FORMATS = {"json": False, "fhir": True}


def api_routes(service: Service, settings: Settings) -> APIRouter:
    """`/v1/…`; `openapi.describe` says what each takes."""
    router = APIRouter()

    @router.post("/v1/predict", summary="Predict new patients")
    async def predict(request: Request) -> Response:
        as_fhir = wants_fhir(request)
        async with scratch(request) as folder:
            arrivals = await read_arrival(request, folder, settings)
            cases = await cases_of(request, service, arrivals)
            records = await asyncio.gather(*(service.predict(case) for case in cases))
        await asyncio.gather(
            *(audited(request, "predict", c, r) for c, r in zip(cases, records, strict=True))
        )
        return fhir_answer(records) if as_fhir else answer({"predictions": records})

    @router.post("/v1/explain", summary="Explain the prediction of one new patient")
    async def explain(request: Request) -> Response:
        async with scratch(request) as folder:
            arrivals = await read_arrival(request, folder, settings)
            if len(arrivals) != 1:
                raise InputError(f"{len(arrivals)} patients arrived; explain takes one at a time")
            [case] = await cases_of(request, service, arrivals)
            found = (await blocking(request, service.explain, case)).to_dict()
        await audited(request, "explain", case, found)
        return answer(found)

    @router.get("/v1/model", summary="What the run is, and what it takes")
    async def model(request: Request) -> Response:
        return answer(await blocking(request, run_card, service))

    return router


def state_routes(service: Service) -> APIRouter:
    """`/healthz`, `/readyz` and `/metrics`: how the service is."""
    router = APIRouter()

    @router.get("/healthz", summary="Whether the process lives")
    async def healthz() -> Response:
        return answer({"status": "alive"})

    @router.get("/readyz", summary="Whether every encoder is loaded")
    async def readyz(request: Request) -> Response:
        if not service.ready:
            why = request.app.state.unready or "the encoders are being loaded"
            raise Refusal(503, why, reason="unready", headers={"Retry-After": "5"})
        return answer({"status": "ready", "unavailable": sorted(service.unavailable)})

    @router.get("/metrics", summary="Counters, for Prometheus")
    async def metrics(request: Request) -> Response:
        text: Response = request.app.state.metrics.text()
        return text

    return router


async def cases_of(request: Request, service: Service, arrivals: Sequence[Arrival]) -> list[Case]:
    """Patients as the run reads them."""
    return await blocking(request, lambda: [service.case(arrival) for arrival in arrivals])


def wants_fhir(request: Request) -> bool:
    """Whether RiskAssessments are asked for, by `?format=fhir` or by the Accept header.

    Raises:
        InputError: another format.
    """
    wanted = request.query_params.get("format")
    if wanted is None:
        return FHIR in request.headers.get("accept", "").casefold()
    if wanted not in FORMATS:
        raise InputError(f"format: json or fhir would work, not {wanted[:40]!r}")
    return FORMATS[wanted]


def fhir_answer(records: Sequence[Mapping[str, Any]]) -> Response:
    """A RiskAssessment, or a Bundle of several."""
    now = datetime.now(UTC)
    made = [risk_assessment(record, when=now, subject=None) for record in records]
    if len(made) == 1:
        return answer(made[0], FHIR)
    entries = [{"resource": resource} for resource in made]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    return answer({**bundle, "timestamp": now.isoformat(timespec="seconds")}, FHIR)


def answer(value: Mapping[str, Any], kind: str = "application/json") -> Response:
    """JSON that every reader takes."""
    return Response(dumps(value), media_type=kind)
