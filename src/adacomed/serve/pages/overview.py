"""The overview: what the run is, and how well it does on patients that it was not trained on."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from adacomed.errors import InputError
from adacomed.explain.patient import class_names
from adacomed.report.page import NONE, Section, Spec, number
from adacomed.report.report import Page, read_page
from adacomed.schema import EmbeddingCard, RunFiles
from adacomed.serve.pages.frame import error_page, render, title_of
from adacomed.training.checkpoint import Run

if TYPE_CHECKING:
    from adacomed.serve.service import Service

LOG = logging.getLogger("adacomed.serve")
# of the report's sections those that a reader of the page wants; the whole report is linked
SHOWN = ("results", "findings", "curves", "calibration", "decisions", "sets", "flow", "limits")
PATIENCE_S = 2.0  # a page waits this long for the figures, and else asks again
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; frame-ancestors 'none'"
)
Fact = tuple[str, str]


def overview_routes(service: Service) -> APIRouter:
    """`/`, `/report` and `/model-card`."""
    router = APIRouter(include_in_schema=False)
    run, evidence = service.run, Evidence(service.run)

    @router.get("/")
    async def overview(request: Request) -> Response:
        page, why = await evidence.within(PATIENCE_S)
        return render(
            request,
            "overview.html",
            facts=facts(run),
            modalities=modalities(run),
            page=page,
            why=why,
            computing=page is None and not why,
            sections=[] if page is None else shown(page),
            specs={} if page is None else _specs(shown(page)),
            has_report=(run.folder / RunFiles.REPORT).is_file(),
            card=await run_in_threadpool(_text, run, RunFiles.MODEL_CARD),
        )

    @router.get("/report")
    def whole(request: Request) -> Response:
        return report(run, request)

    @router.get("/model-card")
    def card(request: Request) -> Response:
        return model_card(run, request)

    return router


def report(run: Run, request: Request) -> Response:
    """The run's own report: one file with its scripts inside, and so under a policy of its own."""
    file = run.folder / RunFiles.REPORT
    if not file.is_file():
        return error_page(request, 404, f"this run came without its {RunFiles.REPORT}")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return FileResponse(file, media_type="text/html; charset=utf-8", headers=headers)


def model_card(run: Run, request: Request) -> Response:
    """The run's model card, Markdown."""
    text = _text(run, RunFiles.MODEL_CARD)
    if not text:
        return error_page(request, 404, f"this run came without its {RunFiles.MODEL_CARD}")
    headers = {"Content-Disposition": f'attachment; filename="{RunFiles.MODEL_CARD}"'}
    return Response(text, media_type="text/markdown; charset=utf-8", headers=headers)


class Evidence:
    """The report of a run's own predictions, computed once, in a thread, when first asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._future: Future[Page] | None = None
        self._lock = threading.Lock()

    async def within(self, seconds: float) -> tuple[Page | None, str]:
        """The page and "", or None and why there is none; None and "": it is being computed."""
        future = self._started()
        if not future.done():
            await run_in_threadpool(wait, [future], seconds)
        if not future.done():
            return None, ""
        try:
            return future.result(), ""
        except InputError as error:
            folder = f"{self._run.folder}"
            return None, str(error).replace(folder, "the run")
        except Exception as error:  # a page without figures is better than none
            LOG.error("the overview's figures: %s", type(error).__name__)
            return None, "The figures could not be computed; the server's log says more."

    def _started(self) -> Future[Page]:
        with self._lock:
            if self._future is None:
                self._future = Future()
                target, args = _compute, (self._run, self._future)
                threading.Thread(target=target, args=args, daemon=True).start()
            return self._future


def _compute(run: Run, future: Future[Page]) -> None:
    try:
        future.set_result(read_page(run.folder, title=title_of(run)))
    except BaseException as error:
        future.set_exception(error)


def shown(page: Page) -> list[Section]:
    """The report's sections that the overview shows."""
    return [s for s in page.sections if s.id in SHOWN]


def _specs(sections: list[Section]) -> dict[str, Spec]:
    return {figure.id: figure.spec for section in sections for figure in section.figures}


def _text(run: Run, name: str) -> str:
    file = run.folder / name
    return file.read_text("utf-8", errors="replace") if file.is_file() else ""


# ---- what the run is ----------------------------------------------------------------------------
def facts(run: Run) -> list[Fact]:
    """Name and value of what identifies the run."""
    card, meta = run.card, run.meta
    outcome = run.trained.outcome
    what = {
        "classes": f"one of {len(run.classes)} classes: {', '.join(run.classes)}",
        "findings": f"{len(run.classes)} findings, each of its own: {', '.join(run.classes)}",
        "survival": f"time to an event: {class_names(run)[-1]}",
    }
    said = [
        ("Task", f"{run.task}: {what[outcome.kind]}"),
        ("Method", f"{run.method}, preset {meta['preset']}, seed {meta['seed']}"),
        ("Trained on", f"{card.title or card.name}. Source: {card.source or 'not recorded'}. "
                       f"Licence: {card.licence or 'not recorded'}."),
        ("Decision threshold", _threshold(run)),
        ("Recalibration", _calibration(run)),
        ("Prediction sets", _sets(run)),
        ("Model", f"sha256 {run.model_hash}"),
        ("Trained with", f"adacomed {meta.get('adacomed', NONE)}"),
    ]  # fmt: skip
    description = card.tasks[run.task].description if run.task in card.tasks else ""
    return [*said[:1], *([("About the task", description)] if description else []), *said[1:]]


def _threshold(run: Run) -> str:
    cut = run.trained.threshold
    if isinstance(cut, list):
        named = zip(run.classes, cut, strict=True)
        return ", ".join(f"{name} {number(value)}" for name, value in named)
    if len(run.classes) > 2:
        return "none: the likeliest class is decided for"
    return f"{number(cut)} on the probability of {class_names(run)[-1]}, chosen on validation"


def _calibration(run: Run) -> str:
    calibrator = run.trained.calibrator
    return "none" if calibrator is None else calibrator.kind


def _sets(run: Run) -> str:
    sets = run.trained.sets
    if sets is None:
        return "none: the model never abstains"
    return (
        f"made so that {sets.coverage:.0%} of the patients of each class have their class in it; "
        f"anything but one class is an abstention"
    )


def modalities(run: Run) -> list[tuple[str, str, str, str]]:
    """Name, kind, what reads it, and how wide it is, of every modality that the model reads."""
    fitted, encoders = run.trained.fitted, run.meta.get("encoders", {})
    found: list[tuple[str, str, str, str]] = []
    for name in dict.fromkeys([*fitted.native, *fitted.small, *fitted.raw.shapes]):
        card = run.card.modalities[name]
        read = []
        if name in encoders:
            spec = str(getattr(card, "encoder", "") or "").rpartition("/")[2]
            read.append(f"{spec or 'encoder'}@{encoders[name]}")
        elif isinstance(card, EmbeddingCard):
            read.append("vectors as given")
        width = [f"{fitted.native[name]} numbers"] if name in fitted.native else []
        if name in fitted.tables:
            read.append("small model's table")
            width.append(f"{len(fitted.tables[name].columns)} columns")
        if name in fitted.raw.shapes:
            read.append("small model, raw")
        found.append((name, card.kind, ", ".join(read), ", ".join(width) or NONE))
    return found
