"""Who may ask: a token for programs, a session for the page, and no other site's pages at all."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import APIRouter, Request
from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adacomed.serve.pages.frame import login_page
from adacomed.serve.refusals import Refusal, refused, wants_page
from adacomed.serve.settings import Settings, is_loopback

COOKIE = "adacomed_session"
OPEN = ("/healthz", "/readyz", "/static/", "/login")  # nothing of a patient's or the run's there
MOST_SESSIONS = 1000
MOST_FORM = 4096  # bytes of the login form
# Charts set styles on what they draw; scripts are our own files alone. Addresses hold ids, so no
# other site is told them as a referrer (`no-referrer` would make the Origin of our forms null).
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Sessions:
    """Logins on the page: random ids in memory, forgotten at a restart."""

    def __init__(self, lasts_s: float) -> None:
        self._lasts = lasts_s
        self._ends: OrderedDict[str, float] = OrderedDict()  # digest of the id → monotonic seconds

    def open(self) -> str:
        """A new session's id."""
        mark = secrets.token_urlsafe(32)
        self._ends[_digest(mark)] = time.monotonic() + self._lasts
        while len(self._ends) > MOST_SESSIONS:
            self._ends.popitem(last=False)
        return mark

    def holds(self, mark: str) -> bool:
        """Whether an id is of a session that lasts; by digest, so that timing tells nothing."""
        return self._ends.get(_digest(mark), 0.0) > time.monotonic()

    def close(self, mark: str) -> None:
        """Forget a session."""
        self._ends.pop(_digest(mark), None)


class Guard:
    """ASGI middleware: lets through who may ask, and puts the security headers on every answer.

    A header that a route set itself (a cached file, a report with its own scripts) is kept.
    """

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions) -> None:
        self.app, self.settings, self.sessions = app, settings, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            check_site(scope, self.settings)
            self._check_caller(scope)
        except Refusal as refusal:
            if refusal.status == 401 and scope["method"] == "GET" and wants_page(scope):
                await _to_login(scope)(scope, receive, guarded)
            else:
                await refused(scope, refusal)(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)

    def _check_caller(self, scope: Scope) -> None:
        token = self.settings.token
        if token is None or scope["path"].startswith(OPEN):
            return
        connection = HTTPConnection(scope)
        kind, _, shown = connection.headers.get("authorization", "").partition(" ")
        if kind.casefold() == "bearer":
            if same(shown.strip(), token):
                return
            raise unknown("the token is not this service's")
        if self.sessions.holds(connection.cookies.get(COOKIE, "")):
            return
        raise unknown("this service asks for a token: Authorization: Bearer TOKEN")


def check_site(scope: Scope, settings: Settings) -> None:
    """Refuse what another site's page sends from a browser of ours.

    Without a token the Host must be this machine's name: a site whose name is made to lead here
    (DNS rebinding) shows its own. A request that changes something must come from our own pages.

    Raises:
        Refusal: 403 (421 for a Host that is not ours).
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if settings.token is None and not is_loopback(_name(host)):
        raise Refusal(
            421,
            "this service answers to localhost alone; ask http://localhost, or start it with "
            "--token-file",
            reason="host",
        )
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.casefold() != host.casefold():
        raise Refusal(403, "the request comes from another site's page", reason="origin")
    if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Refusal(403, "the request comes from another site's page", reason="origin")


def same(shown: str, token: SecretStr) -> bool:
    """Whether a token is the right one, in a time that tells nothing of either."""
    return hmac.compare_digest(
        hashlib.sha256(shown.encode()).digest(),
        hashlib.sha256(token.get_secret_value().encode()).digest(),
    )


def unknown(sentence: str) -> Refusal:
    """Nobody whom the service knows."""
    return Refusal(401, sentence, reason="token", headers={"WWW-Authenticate": "Bearer"})


def login_routes(settings: Settings, sessions: Sessions) -> APIRouter:
    """`/login` and `/logout`: the token once, then a session's cookie."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    async def form(request: Request) -> Response:
        return login_page(request)

    @router.post("/login")
    async def login(request: Request) -> Response:
        shown = parse_qs((await _form(request)).decode("utf-8", "replace")).get("token", [""])[0]
        if settings.token is None:
            return RedirectResponse("/", 303)
        if not same(shown.strip(), settings.token):
            request.app.state.metrics.rejected.labels("token").inc()
            return login_page(request, error="That is not this service's token.", status=401)
        answer = RedirectResponse(local_path(request.query_params.get("next", "/")), 303)
        # behind a proxy that speaks TLS the page's own origin says so
        safe = request.headers.get("origin", str(request.url)).startswith("https://")
        answer.set_cookie(
            COOKIE, sessions.open(), httponly=True, samesite="strict", secure=safe, path="/"
        )
        return answer

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        sessions.close(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    return router


def local_path(wanted: str) -> str:
    """Where to go after a login: a path of this site, or its start.

    >>> local_path("/patients?page=2"), local_path("//evil.example"), local_path("https://e")
    ('/patients?page=2', '/', '/')
    """
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable()
    return wanted if plain else "/"


async def _form(request: Request) -> bytes:
    found = b""
    async for piece in request.stream():
        found += piece
        if len(found) > MOST_FORM:
            raise Refusal(413, "that is more than a token", reason="large")
    return found


def _to_login(scope: Scope) -> Response:
    path = scope["path"]
    query = scope.get("query_string", b"").decode("latin-1")
    wanted = f"{path}?{query}" if query else path
    return RedirectResponse(f"/login?next={quote(wanted)}", 303)


def _name(host: str) -> str:
    """The name of a Host header, without its port: `[::1]:8000` → `::1`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _digest(mark: str) -> str:
    return hashlib.sha256(mark.encode()).hexdigest()
