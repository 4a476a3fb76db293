"""What a patient's page loads or gives to take away: pictures, and the prediction record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import Request, Response

from adacomed.errors import InputError
from adacomed.explain.patient import Patient
from adacomed.serve.audited import audited
from adacomed.serve.fhir import risk_assessment
from adacomed.serve.record import Case
from adacomed.serve.service import Service
from adacomed.serve.views.images import Pictures, picture, pictures
from adacomed.serve.views.pixels import Window, draw
from adacomed.serve.work import blocking
from adacomed.strict_json import dumps


async def image_file(request: Request, case: Case, modality: str, n: int) -> Response:
    """A picture as PNG: `?centre=&width=&plane=&slice=&invert=1&side=`, all of them optional.

    Raises:
        InputError: no such picture, window or slice, or it cannot be read.
    """
    asked = request.query_params
    window = None
    if "centre" in asked or "width" in asked:
        window = Window(_number(asked, "centre"), _number(asked, "width"))
    at = _whole(asked, "slice") if "slice" in asked else None
    side = _whole(asked, "side") if "side" in asked else 1024
    plane, invert = asked.get("plane", "axial"), asked.get("invert") == "1"
    kept = pictures_of(request)

    def png() -> bytes:
        found = picture(case.cohort, modality, n, kept)
        return draw(found, window=window, plane=plane, at=at, invert=invert, side=side)

    return Response(await blocking(request, png), media_type="image/png")


async def record_file(request: Request, case: Case) -> Response:
    """The prediction record to take away: JSON, or `?format=fhir`. No input of the patient's.

    Raises:
        InputError: another format, or the model gives no number.
    """
    service: Service = request.app.state.service
    form = request.query_params.get("format", "json")
    if form not in ("json", "fhir"):
        raise InputError("format of the record: expected json or fhir")
    now = datetime.now(UTC)
    record = await service.predict(case)
    content: Mapping[str, Any]
    if form == "fhir":
        content, kind = risk_assessment(record, when=now), "application/fhir+json"
    else:
        found = await explained(request, service, case)
        explanation = found.to_dict() if isinstance(found, Patient) else None
        content, kind = {"made": now.isoformat(), "record": record}, "application/json"
        content = content | {"explanation": explanation}
    await audited(request, "predict", case, record)
    plain = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in case.sample_id
    )
    name = f"prediction-{plain.strip('.')[:80]}{'.fhir' if form == 'fhir' else ''}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(dumps(content, indent=2), media_type=kind, headers=headers)


async def explained(request: Request, service: Service, case: Case) -> Patient | str:
    """The explanation, or in a sentence why there is none."""
    try:
        return await blocking(request, service.explain, case)
    except InputError as error:
        return f"What each modality did cannot be told: {error}."


def pictures_of(request: Request) -> Pictures:
    """The application's pictures, made when the first is asked for."""
    state = request.app.state
    if not hasattr(state, "pictures"):
        state.pictures = pictures()
    found: Pictures = state.pictures
    return found


def _number(asked: Mapping[str, str], name: str) -> float:
    try:
        found = float(asked.get(name, ""))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{name} of the window: expected a number; centre=40&width=400 would work")
    return found


def _whole(asked: Mapping[str, str], name: str) -> int:
    text = asked.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise InputError(f"{name}: expected a whole number from 0")
    return int(text)
