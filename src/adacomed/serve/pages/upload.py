"""A new patient by hand: the form `/new`, and the way from it to the patient's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from adacomed.errors import InputError
from adacomed.serve.pages.form import Group, blamed, groups, problems
from adacomed.serve.pages.frame import render, sentence
from adacomed.serve.pages.uploaded import MINUTES, Uploaded
from adacomed.serve.refusals import Refusal, from_any
from adacomed.serve.settings import MIB, Settings
from adacomed.serve.uploads import read_arrival
from adacomed.training.checkpoint import Run

if TYPE_CHECKING:
    from adacomed.serve.arrival import Arrival
    from adacomed.serve.service import Service

FORM_STATUS = (400, 413, 415, 422)  # refusals that the form itself can show
ID_RULE = "Expected 1 to 200 letters, digits and . _ - : only, no spaces."
NOTHING = "Nothing was given: fill in at least one field, or choose a file."


class Form:
    """The form of a run, as a page with what was typed and what is wrong with it."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self.groups = groups(run)
        self._called = {f.id: f"{g.modality} {f.label}" for g in self.groups for f in g.fields}
        self._called["in-sample_id"] = "id"
        self._most = f"{settings.max_body / MIB:.0f} MiB"

    def page(
        self,
        request: Request,
        typed: Mapping[str, str],
        wrong: Mapping[str, str],
        why: str = "",
        status: int = 200,
    ) -> Response:
        """The page.

        Args:
            typed: field name → text.
            wrong: field id → sentence beside the field.
            why: a sentence that has no field of its own.
        """
        return render(
            request,
            "upload.html",
            status=status,
            groups=self.groups,
            called=self._called,
            typed=typed,
            wrong=wrong,
            why=why,
            most=self._most,
            minutes=MINUTES,
            series=any(group.kind == "series" for group in self.groups),
        )


def upload_routes(service: Service, settings: Settings, uploaded: Uploaded) -> APIRouter:
    """`/new`: a form, and what is sent by it."""
    router = APIRouter(include_in_schema=False)
    form = Form(service.run, settings)

    @router.get("/new")
    async def new(request: Request) -> Response:
        return form.page(request, {}, {})

    @router.post("/new")
    async def send(request: Request) -> Response:
        folder: TemporaryDirectory[str] = request.app.state.work.folder()
        try:
            arrival = await _arrived(request, form.groups, settings, Path(folder.name))
            case = await request.app.state.work.do(service.case, arrival)
        except (Refusal, InputError, ValidationError) as error:
            folder.cleanup()
            refusal = from_any(error)
            if refusal.status not in FORM_STATUS:
                raise
            typed = await _typed(request)
            told = _in_words(error, refusal, folder.name)
            wrong, why = _wrong(form.groups, typed, told)
            return form.page(request, typed, wrong, why, status=refusal.status)
        except BaseException:
            folder.cleanup()
            raise
        return RedirectResponse(f"/uploaded/{uploaded.keep(case, folder)}", 303)

    return router


async def _arrived(
    request: Request, made: list[Group], settings: Settings, folder: Path
) -> Arrival:
    """The one patient of the form, its files in `folder`."""
    arrivals = await read_arrival(request, folder, settings)
    if len(arrivals) != 1:
        raise InputError("the page takes one patient at a time; POST /v1/predict takes several")
    if problems(made, await _typed(request)):  # the form is stricter: 1,000 is no number here
        raise InputError("some fields cannot be used")
    return arrivals[0]


async def _typed(request: Request) -> dict[str, str]:
    """What was typed, to be kept on the form; nothing where the form could not be read at all."""
    try:
        sent = await request.form()
    except RuntimeError:  # its stream is used up
        return {}
    # a text and a file of one modality share their name
    given = [(name, value) for name, value in sent.multi_items() if isinstance(value, str)]
    return {name: value for name, value in given if value.strip()}


def _in_words(error: BaseException, refusal: Refusal, folder: str) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_context=False)[0]
        if first["type"] == "too_short" and first["loc"] == ("modalities",):
            return NOTHING
    return sentence(refusal.sentence.replace(f"{folder}/", ""))


def _wrong(made: list[Group], typed: Mapping[str, str], why: str) -> tuple[dict[str, str], str]:
    """Errors beside their fields, and the sentence that has no field of its own."""
    found = problems(made, typed)
    if found:
        return found, ""
    if why.startswith("Sample_id"):
        return {"in-sample_id": ID_RULE}, ""
    place = blamed(made, why)
    return ({place: why}, "") if place else ({}, why)
