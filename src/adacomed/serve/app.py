"""The web application of a service: its routes, what stands before them, its beginning and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from adacomed import __version__
from adacomed.errors import InputError
from adacomed.serve.api import api_routes, state_routes
from adacomed.serve.audit import AuditLog
from adacomed.serve.limits import Limits
from adacomed.serve.metrics import Metrics, Observed
from adacomed.serve.openapi import docs_routes
from adacomed.serve.pages import pages
from adacomed.serve.pages.frame import error_page
from adacomed.serve.refusals import LOG, say_no
from adacomed.serve.security import Guard, Sessions, login_routes
from adacomed.serve.service import Service
from adacomed.serve.settings import Settings
from adacomed.serve.work import Work


def create_app(service: Service, settings: Settings, audit: AuditLog | None = None) -> FastAPI:
    """The application that serves one run: API and pages.

    Its end (the lifespan's) finishes the service's queue and closes the audit log.

    Args:
        audit: where every prediction is written down; None: nowhere.
    Returns:
        With `state.service`, `.settings`, `.audit`, `.metrics`, `.work`, `.sessions`, and
        `.unready`: why the service is not ready, where there is more to say than "not yet".
    """
    app = FastAPI(
        title="AdaCoMed",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    metrics, sessions = Metrics(), Sessions(settings.session_s)
    app.state.service, app.state.settings, app.state.audit = service, settings, audit
    app.state.metrics, app.state.sessions = metrics, sessions
    app.state.work = Work(settings.workers)
    app.state.error_page, app.state.unready = error_page, ""
    service.on_batch(metrics.batch.observe)
    app.include_router(api_routes(service, settings))
    app.include_router(state_routes(service))
    app.include_router(docs_routes(app, service.run, settings))
    app.include_router(login_routes(settings, sessions))
    app.include_router(pages(service, settings, audit))
    say_no(app)
    # the last one added is the first that a request meets
    app.add_middleware(Guard, settings=settings, sessions=sessions)
    app.add_middleware(Limits, settings=settings, metrics=metrics)
    app.add_middleware(Observed, metrics=metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the encoders in the background, and at the end finish what is queued."""
    state = app.state
    warming = asyncio.create_task(_warm(app))
    try:
        yield
    finally:
        warming.cancel()
        await state.service.close()
        await asyncio.to_thread(state.work.close)
        if state.audit is not None:
            await asyncio.to_thread(state.audit.close)


async def _warm(app: FastAPI) -> None:
    try:
        await app.state.work.do(app.state.service.warm)
    except InputError as error:  # a service of vectors alone may well be wanted
        app.state.unready = str(error)
        LOG.warning("not every encoder is here: %s", error)
    except Exception as error:
        app.state.unready = "the encoders cannot be loaded; see the server's log"
        LOG.error("the encoders cannot be loaded (%s)", type(error).__name__)
