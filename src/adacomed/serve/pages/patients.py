"""The list of patients: `/patients`, searched, filtered and sorted; its address is its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from adacomed.report.page import NONE, number
from adacomed.schema import Predictions, finding_task
from adacomed.serve.pages.frame import PARTIAL, patient_url, render
from adacomed.serve.pages.listing import (
    APART,
    DECIDED,
    LEADS,
    ORDERS,
    SORTS,
    Found,
    Listing,
    Query,
)
from adacomed.training.checkpoint import Run
from adacomed.training.outcome import Survival

if TYPE_CHECKING:
    from adacomed.serve.service import Service


@dataclass(frozen=True)
class Line:
    """One patient of the list, as text; `at` and `cut` are the bar and the mark on it, 0 … 100."""

    sample_id: str
    url: str
    prob: str
    at: float
    cut: float | None
    decision: str
    inside: str  # the prediction set
    leads: str
    apart: str
    spread: str
    present: list[str]
    outcome: str
    split: str


def patients_routes(service: Service) -> APIRouter:
    """`/patients`; with the header X-Partial only the part that a search changes."""
    router = APIRouter(include_in_schema=False)
    lists = Lists(service)

    @router.get("/patients")
    async def patients(request: Request) -> Response:
        listing = await run_in_threadpool(lambda: lists.listing)
        if listing is None:
            return render(request, "patients.html", listing=None, said=lists.note)
        found = await run_in_threadpool(listing.find, Query.of(request.query_params))
        template = "patients_list.html" if PARTIAL in request.headers else "patients.html"
        shown = _values(service.run, listing, found)
        return render(request, template, said=lists.note, **shown)

    return router


def _values(run: Run, listing: Listing, found: Found) -> dict[str, Any]:
    """What the list's templates show."""
    return {
        "listing": listing,
        "found": found,
        "query": found.query,
        "columns": columns(listing, found.query),
        "lines": lines(run, listing, found),
        "sorts": SORTS,
        "orders": ORDERS,
        "offered": [(key, SORTS[key]) for key in listing.offered],
        "findings": finding_names(run),
        "splits": [(s, s) for s in listing.splits],
        "classes": [(str(k), name) for k, name in enumerate(listing.classes)],
        "modalities": [(m, m) for m in listing.modalities],
    }


class Lists:
    """The prepared list of a service's patients, made when it is first asked for."""

    def __init__(self, service: Service):
        self._service = service
        self._made: Listing | None = None

    @property
    def note(self) -> str:
        """Who the patients are, or why there are none."""
        patients = self._service.patients
        if patients is None:
            return "No patients came with this run; start the service with --cohort to list some."
        return str(patients.note)

    @property
    def listing(self) -> Listing | None:
        """None where the service has no patients."""
        patients = self._service.patients
        if self._made is None and patients is not None and len(patients.rows):
            self._made = Listing(self._service.run, patients.rows)
        return self._made


# ---- what a row says ----------------------------------------------------------------------------
def columns(listing: Listing, query: Query) -> list[tuple[str, str]]:
    """The list's column heads in their order, each with the key that it sorts by, or ""."""
    what = listing.positive or (query.finding.partition(": ")[2] if listing.several else "")
    risk = f"Probability of {what}" if what else "Highest probability"
    every = [("Patient", "id"), (risk, "risk"), ("Decision", ""), ("Cannot be ruled out", "")]
    every += [("Leads", ""), ("Disagreement", "disagreement"), ("Spread", "spread")]
    every += [("Modalities", ""), ("Outcome", "")]
    return [(name, key) for name, key in every if not key or key in listing.offered]


def lines(run: Run, listing: Listing, found: Found) -> list[Line]:
    """The rows of a page in words; an absent number is a dash."""
    said = _outcomes(run, listing)
    return [_line(row, listing.classes, said) for row in found.rows.iter_rows(named=True)]


def _line(
    row: dict[str, Any], classes: Sequence[str], outcome: Callable[[dict[str, Any]], str]
) -> Line:
    inside, cut = row[Predictions.SET], row[Predictions.THRESHOLD]
    sample_id, prob = str(row[Predictions.SAMPLE_ID]), float(row[Predictions.PROB])
    return Line(
        sample_id=sample_id,
        url=patient_url(sample_id),
        prob=number(prob),
        at=round(100 * prob, 1),
        cut=None if cut is None or len(classes) > 2 else round(100 * cut, 1),
        decision=classes[row[DECIDED]],
        inside=NONE if inside is None else _set(inside, classes),
        leads=row[LEADS] or NONE,
        apart=number(row[APART]),
        spread=number(row[Predictions.SPREAD], 2),
        present=row[Predictions.PRESENT] or [],
        outcome=outcome(row),
        split=str(row[Predictions.SPLIT] or NONE),
    )


def _set(inside: list[int], classes: Sequence[str]) -> str:
    return " or ".join(classes[k] for k in inside) or "no class"


def _outcomes(run: Run, listing: Listing) -> Callable[[dict[str, Any]], str]:
    """What is said of a row's label; survival says when."""
    outcome = run.trained.outcome
    unit = outcome.unit if isinstance(outcome, Survival) else ""

    def said(row: dict[str, Any]) -> str:
        label, time = row[Predictions.LABEL], row[Predictions.TIME]
        if label is None:
            return NONE
        if time is None:
            return listing.classes[int(label)]
        when = f"{time:.4g} {unit}".rstrip()
        return f"{listing.classes[1]} at {when}" if label else f"last seen at {when}"

    return said


def finding_names(run: Run) -> dict[str, str]:
    """Task of the rows → finding, for a choice; empty where the run predicts one thing."""
    if run.trained.outcome.kind != "findings":
        return {}
    return {finding_task(run.task, name): name for name in run.classes}
