"""What every page has: its templates, the frame around them, and the files that it loads."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from urllib.parse import quote

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from plotly.offline import get_plotlyjs

from adacomed import __version__
from adacomed.report.templates import environment
from adacomed.training.checkpoint import Run

HERE, REPORT = "adacomed.serve.pages", "adacomed.report"
PARTIAL = "X-Partial"  # a request of page.js for the part of a page that it swaps
TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# a large circle and a small one that meet
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<circle cx="12" cy="16" r="11" fill="#0b62b8"/>'
    '<circle cx="24" cy="16" r="7" fill="#c75b00" fill-opacity=".85"/></svg>'
)
STATUS = {
    401: "Please log in",
    404: "Not found",
    405: "Not possible here",
    413: "Too large",
    422: "That cannot be used",
    429: "Busy: try again in a moment",
    500: "Our fault",
    503: "Not ready yet",
    504: "It took too long",
}


# ---- pages --------------------------------------------------------------------------------------
def render(
    request: Request, template: str, *, status: int = 200, known: bool = True, **values: object
) -> HTMLResponse:
    """A page, or a part of one, from templates/; every text is escaped.

    Args:
        template: name of the file.
        known: whether the reader may know which run this is; False before a login.
        values: what the template shows, beside `run_title`, `simulated`, `model_hash`, `version`,
            `here` (the path asked for) and `asset(name)` (the address of a static file).
    """
    service = getattr(request.app.state, "service", None) if known else None
    run: Run | None = getattr(service, "run", None)
    settings = getattr(request.app.state, "settings", None)
    frame = {
        "run_title": "AdaCoMed" if run is None else title_of(run),
        "simulated": run is not None and bool(run.meta["simulated"]),
        "model_hash": "" if run is None else run.model_hash,
        "version": __version__,
        "here": request.url.path,
        "logout": known and getattr(settings, "token", None) is not None,
    }
    text = templates().get_template(template).render(frame | values)
    return HTMLResponse(text, status, headers={"Vary": PARTIAL})


def title_of(run: Run) -> str:
    """The run's title and task; a simulated cohort is said to be one."""
    title = f"{run.meta['title']}: {run.task}"
    unsaid = run.meta["simulated"] and "simulated" not in title.lower()
    return f"{title} (simulated)" if unsaid else title


@cache
def templates() -> jinja2.Environment:
    """The templates of the pages; a name that a template misspells is an error."""
    made = environment(jinja2.PackageLoader(HERE))
    made.globals["asset"] = asset
    made.filters["sentence"] = sentence
    return made


def error_page(request: Request, status: int, why: str) -> HTMLResponse:
    """A page that says what went wrong, in one sentence without a patient's values."""
    title = STATUS.get(status, f"Error {status}")
    return render(request, "error.html", status=status, heading=title, why=why)


def login_page(request: Request, *, error: str = "", status: int = 200) -> HTMLResponse:
    """The form that asks for the token; it says nothing of the run.

    It is sent to its own address, whose `next` says where its reader wanted to go.
    """
    wanted = request.query_params.get("next", "")
    action = f"/login?next={quote(wanted, safe='/')}" if wanted else "/login"
    return render(request, "login.html", status=status, known=False, error=error, action=action)


def sentence(text: str) -> str:
    """A clause as a sentence.

    >>> sentence("no such patient")
    'No such patient.'
    """
    end = "" if text.endswith((".", "?", "!")) else "."
    return f"{text[:1].upper()}{text[1:]}{end}" if text else ""


def patient_url(sample_id: str, below: str = "/patients") -> str:
    """Address of a patient's page; an id may hold any character.

    >>> patient_url("97/a b.jpg")
    '/patients/97/a%20b.jpg'
    """
    return f"{below}/{quote(sample_id)}"


# ---- files --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Static:
    """A file that pages load, packed once."""

    content: bytes
    packed: bytes
    type: str
    mark: str  # changes with the content, so that the address may be kept for good


@lru_cache(maxsize=32)  # names come from outside
def static(name: str) -> Static | None:
    """One of our own files, the report's style and charts, or plotly's bundled script."""
    text = _text(name)
    if text is None:
        return None
    content = text.encode()
    mark = hashlib.sha256(content).hexdigest()[:12]
    return Static(content, gzip.compress(content, mtime=0), TYPES[name.rpartition(".")[2]], mark)


def _text(name: str) -> str | None:
    if name == "icon.svg":
        return ICON
    if name == "plotly.js":
        return str(get_plotlyjs())
    theirs = {"style.css": "style.css", "charts.js": "script.js"}
    place = files(REPORT) / theirs[name] if name in theirs else files(HERE) / "static" / name
    plain = name.rpartition(".")[2] in TYPES and "/" not in name and "\\" not in name
    return place.read_text(encoding="utf-8") if plain and place.is_file() else None


def asset(name: str) -> str:
    """Address of a static file, different whenever its content is."""
    found = static(name)
    return f"/static/{name}" if found is None else f"/static/{name}?v={found.mark}"


def static_routes() -> APIRouter:
    """`/static/…`: nothing in it is a patient's, so browsers may keep it."""
    router = APIRouter(include_in_schema=False)

    @router.get("/static/{name}")
    def file(request: Request, name: str) -> Response:
        found = static(name)
        if found is None:
            return error_page(request, 404, f"There is no file {name!r}.")
        headers = {
            "Cache-Control": "public, max-age=31536000, immutable",
            "ETag": f'"{found.mark}"',
            "Vary": "Accept-Encoding",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(found.packed, media_type=found.type, headers=headers)
        return Response(found.content, media_type=found.type, headers=headers)

    return router
