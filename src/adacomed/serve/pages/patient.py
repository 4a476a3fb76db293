"""The page of one patient, listed or uploaded, and what lies below its address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import polars as pl
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from adacomed.errors import InputError
from adacomed.schema import Predictions
from adacomed.serve.audit import AuditLog
from adacomed.serve.audited import audited
from adacomed.serve.pages.frame import PARTIAL, patient_url, render
from adacomed.serve.pages.neighbours import neighbours
from adacomed.serve.pages.patient_files import explained, image_file, pictures_of, record_file
from adacomed.serve.pages.told import Change, Told, change, told_of
from adacomed.serve.pages.unseen import outcomes_of, told_of_rows, unseen_case
from adacomed.serve.pages.uploaded import MINUTES, Uploaded
from adacomed.serve.record import Case
from adacomed.serve.refusals import Refusal
from adacomed.serve.service import Service
from adacomed.serve.settings import Settings
from adacomed.serve.views.inputs import View, views
from adacomed.serve.views.memory import Memory
from adacomed.serve.work import blocking

if TYPE_CHECKING:
    from adacomed.serve.patients import Patients

CASES = 32  # listed patients that are kept as read
Find = Callable[[Request, str], Awaitable[Case]]


def patient_routes(
    service: Service, settings: Settings, audit: AuditLog | None, uploaded: Uploaded
) -> APIRouter:
    """`/patients/{id}` and `/uploaded/{uid}`; below: `/without`, `/image/…`, `/record.json`.

    An id may hold any character, slashes too.

    Args:
        settings, audit: of the application; a page's prediction is written down as the API's is.
        uploaded: patients that came by the form.
    """
    kept: Memory[Case] = Memory(CASES)

    async def listed(request: Request, sample_id: str) -> Case:
        patients = service.patients
        if patients is None or not _known(patients, sample_id):
            raise Refusal(404, "there is no such patient in the list", reason="unknown")
        return await blocking(request, kept.get, sample_id, lambda: patients.case(sample_id))

    async def arrived(request: Request, uid: str) -> Case:
        try:
            return uploaded.case(uid)
        except InputError as error:
            raise Refusal(404, str(error), reason="unknown") from None

    router = APIRouter(include_in_schema=False)
    router.include_router(_routes("/uploaded/{key}", arrived))
    router.include_router(_routes("/patients/{key:path}", listed))
    return router


def _routes(prefix: str, find: Find) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    def base(key: str) -> str:
        return patient_url(key, prefix.partition("/{")[0])

    @router.get(prefix + "/without")
    async def without(request: Request, key: str) -> Response:
        case = await find(request, key)
        return await without_part(request, case, base_url=base(key))

    @router.get(prefix + "/image/{modality:path}/{n:int}.png")
    async def image(request: Request, key: str, modality: str, n: int) -> Response:
        case = await find(request, key)
        return await image_file(request, case, modality, n)

    @router.get(prefix + "/record.json")
    async def record(request: Request, key: str) -> Response:
        return await record_file(request, await find(request, key))

    @router.get(prefix)
    async def page(request: Request, key: str) -> Response:
        patients: Patients | None = request.app.state.service.patients
        if prefix.startswith("/patients") and patients is not None and _known(patients, key):
            try:
                case = await find(request, key)
            except InputError as error:
                return await _unseen_page(request, patients, key, str(error))
        else:
            case = await find(request, key)
        return await patient_page(request, case, base_url=base(key))

    return router


async def patient_page(request: Request, case: Case, *, base_url: str) -> HTMLResponse:
    """The page of a patient whose inputs are here.

    Args:
        base_url: its address; switches, images and the record lie below it.
    Raises:
        InputError: the model gives no number for this patient.
    """
    service: Service = request.app.state.service
    record, explanation = await asyncio.gather(
        service.predict(case), explained(request, service, case)
    )
    shown: list[View] = await blocking(
        request, views, service.run, case.cohort, case.inputs, record, pictures_of(request)
    )
    near = await blocking(request, neighbours, service.run, service.patients, case.inputs)
    listed = base_url.startswith("/patients")
    patients = service.patients
    kept = f"Uploaded by hand; forgotten after {MINUTES} minutes."
    told = told_of(
        service.run,
        record,
        base_url=base_url,
        note=(patients.note if patients is not None else "") if listed else kept,
        outcomes=_outcomes(service, case.sample_id) if listed else [],
        explanation=explanation,
        views=shown,
        similar=near,
    )
    await audited(request, "view", case, record)
    return render(request, "patient.html", told=told)


async def without_part(request: Request, case: Case, *, base_url: str) -> HTMLResponse:
    """What changes without the modalities of `?m=…`: a part for patient.js, else a page of its own.

    Raises:
        InputError: a modality that the patient does not have.
    """
    service: Service = request.app.state.service
    gone = list(dict.fromkeys(request.query_params.getlist("m")))
    whole = await service.predict(case)
    names = [one["modality"] for one in whole["used"]]
    for name in gone:
        if name not in names:
            raise InputError(f"no modality {name!r} to take away; here are {', '.join(names)}")
    try:
        less = await service.predict(case, without=gone)
    except InputError as error:  # nothing is left: that is an answer, too
        found = Change(str(error))
    else:
        await audited(request, "predict", case, less)
        found = change(service.run, whole, less)
    if PARTIAL in request.headers:
        return render(request, "_without.html", change=found)
    told = Told(case.sample_id, base_url, "", [], [], [], [], switches=names, gone=gone)
    return render(request, "patient_without.html", told=told, change=found)


async def _unseen_page(
    request: Request, patients: Patients, sample_id: str, why: str
) -> HTMLResponse:
    """The page of a listed patient whose inputs are not here: what was predicted of it before."""
    service: Service = request.app.state.service
    rows = _rows(patients, sample_id)
    case = unseen_case(service.run, sample_id)
    told, record = told_of_rows(
        service.run, case, rows, base_url=patient_url(sample_id), note=patients.note, why=why
    )
    await audited(request, "view", case, record)
    return render(request, "patient.html", told=told)


def _known(patients: Patients, sample_id: str) -> bool:
    rows = patients.rows
    return Predictions.SAMPLE_ID in rows.columns and bool(
        (rows[Predictions.SAMPLE_ID] == sample_id).any()
    )


def _rows(patients: Patients, sample_id: str) -> list[dict[str, Any]]:
    return patients.rows.filter(pl.col(Predictions.SAMPLE_ID) == sample_id).to_dicts()


def _outcomes(service: Service, sample_id: str) -> list[str]:
    if service.patients is None:
        return []
    return outcomes_of(service.run, _rows(service.patients, sample_id))
