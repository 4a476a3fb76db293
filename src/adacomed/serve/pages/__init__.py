"""The web page: an overview of the run, its patients, one patient, and a form for a new one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import APIRouter

    from adacomed.serve.audit import AuditLog
    from adacomed.serve.service import Service
    from adacomed.serve.settings import Settings


def pages(service: Service, settings: Settings, audit: AuditLog | None) -> APIRouter:
    """All routes of the page, and of the files that it loads.

    Patients who were uploaded are forgotten, and their files deleted, when the application ends.
    """
    from fastapi import APIRouter

    from adacomed.serve.pages.frame import static_routes
    from adacomed.serve.pages.overview import overview_routes
    from adacomed.serve.pages.patient import patient_routes
    from adacomed.serve.pages.patients import patients_routes
    from adacomed.serve.pages.upload import upload_routes
    from adacomed.serve.pages.uploaded import Uploaded

    uploaded = Uploaded()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            uploaded.close()

    router = APIRouter(include_in_schema=False, lifespan=lifespan)
    router.include_router(static_routes())
    router.include_router(overview_routes(service))
    router.include_router(patients_routes(service))
    router.include_router(upload_routes(service, settings, uploaded))
    router.include_router(patient_routes(service, settings, audit, uploaded))
    return router
