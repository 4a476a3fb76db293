"""Bounds on every request: how much may come, how slowly, for how long, and how many at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adacomed.serve.metrics import Metrics
from adacomed.serve.refusals import Refusal, from_any, refused
from adacomed.serve.settings import MIB, Settings

FREE = ("/healthz", "/readyz", "/metrics", "/static/", "/login")  # never count as in flight
SMALL = 64 * 1024  # bytes of a body that is read even if nobody wants it
LINGER_S, LINGER_BYTES = 2.0, 8 * MIB  # how long a refused body is still taken off the wire


class Limits:
    """ASGI middleware: refuses what is too large, too slow, too long or too much.

    Bodies are counted as they come, so that a wrong or missing Content-Length gains nothing. A
    request is in flight until the last piece of its response is handed over.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, self.settings, Headers(scope=scope))
        answer = _Answer(self, send, body)
        try:
            async with asyncio.timeout(None) as clock:
                body.clock = clock
                body.begin()
                if not scope["path"].startswith(FREE):
                    answer.count()
                await self.app(scope, body.receive, answer.send)
        except Exception as error:
            if answer.started:  # half an answer is out: only the connection can be ended
                raise
            refusal = late(self.settings) if clock.expired() else from_any(error)
            await refused(scope, refusal)(scope, body.receive, answer.send)
        finally:
            answer.release()


class _Body:
    """A request's body on its way in."""

    def __init__(self, receive: Receive, settings: Settings, headers: Headers) -> None:
        self._receive, self._settings = receive, settings
        length = headers.get("content-length", "")
        self._length = int(length) if length.isdigit() else 0
        self.done = not self._length and "transfer-encoding" not in headers
        self.small = 0 < self._length <= SMALL
        self.clock: asyncio.Timeout | None = None
        self._bytes, self._since = 0, time.monotonic()

    def begin(self) -> None:
        """Refuse by what the headers say; start the clock of whatever has no body."""
        if self._length > self._settings.max_body:
            raise too_large(self._settings.max_body)
        if self.done:
            self._start_clock()

    async def receive(self) -> Message:
        """The next piece; Refusal where there is too much, or it takes too long."""
        if self.done:
            return await self._receive()
        left = self._since + self._settings.body_s - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(self._settings.pause_s, left))):
                message = await self._receive()
        except TimeoutError:
            self.small = False
            raise Refusal(
                408, "the request did not arrive in time; send it again", reason="slow"
            ) from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._settings.max_body:
            raise too_large(self._settings.max_body)
        if not message.get("more_body", False):
            self.done = True
            self._start_clock()
        return message

    async def linger(self) -> None:
        """Take the rest off the wire, for a while: a connection that is closed while the caller
        still writes is reset, and the answer with it."""
        taken = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self.done and taken < LINGER_BYTES:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    self.done = not message.get("more_body", False)

    def _start_clock(self) -> None:
        if self.clock is not None and not self.clock.expired():
            loop = asyncio.get_running_loop()
            self.clock.reschedule(loop.time() + self._settings.timeout_s)


class _Answer:
    """A response on its way out."""

    def __init__(self, limits: Limits, send: Send, body: _Body) -> None:
        self._limits, self._send, self._body = limits, send, body
        self._counted = self._closes = False
        self.started = False

    def count(self) -> None:
        """Be in flight; Refusal where too many are."""
        if self._limits.in_flight >= self._limits.settings.max_in_flight:
            raise Refusal(
                429,
                "as many requests as this service takes are at work; come again in a second",
                reason="busy",
                headers={"Retry-After": "1"},
            )
        self._counted = True
        self._limits.in_flight += 1
        self._limits.metrics.in_flight.inc()

    def release(self) -> None:
        """Be in flight no longer."""
        if self._counted:
            self._counted = False
            self._limits.in_flight -= 1
            self._limits.metrics.in_flight.dec()

    async def send(self, message: Message) -> None:
        """Pass a piece on; an answer to half a request ends its connection."""
        if message["type"] == "http.response.start":
            self.started = True
            if self._body.small:  # taken as a whole, so that the connection can be kept
                await self._body.linger()
            self._closes = not self._body.done
            if self._closes:
                MutableHeaders(scope=message)["Connection"] = "close"
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last:
            self.release()  # first: the caller's next request may be here before we come back
        if last and self._closes:
            await self._send({**message, "more_body": True})
            await self._body.linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)


def too_large(most: int) -> Refusal:
    """A body over the limit."""
    size = f"{most / MIB:.0f} MiB" if most >= MIB else f"{most} bytes"
    return Refusal(413, f"the request is too large; at most {size} would work", reason="large")


def late(settings: Settings) -> Refusal:
    """Work over the time limit."""
    return Refusal(
        504,
        f"no answer within {settings.timeout_s:g} s; send fewer patients or smaller files",
        reason="late",
    )
