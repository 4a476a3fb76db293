"""A service's life: a socket, a server that is patient with nobody, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from adacomed.errors import InputError
from adacomed.serve.settings import Settings

HEADER_BYTES = 32 * 1024  # of a request's first line and headers
KEEP_ALIVE_S = 15  # a connection without a request
BACKLOG = 512
LINGER_S = 1.0
MOST_CONNECTIONS = 1000  # open at once, idle ones too; a process has about as many file handles


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for a request's headers, and errs in JSON."""

    pause_s = 10.0
    ending = Event()  # set when nothing more is to be taken
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller is here; its headers are awaited for as long as a pause may be."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS or self.ending.is_set():
            transport.abort()
            return
        self.loop.call_later(self.pause_s, self._give_up, self.cycle)

    def data_received(self, data: bytes) -> None:
        """More of a request; the first piece of a further one starts its clock."""
        if self._refused:
            return
        idle = self.timeout_keep_alive_task is not None
        before = self.cycle
        super().data_received(data)
        if idle and self.cycle is before:
            self.loop.call_later(self.pause_s, self._give_up, before)

    def on_response_complete(self) -> None:
        """An answer is out; a connection that came while the server ended goes with it."""
        super().on_response_complete()
        if self.ending.is_set():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, said in the form of all our errors."""
        self._refuse(400, "the request is not HTTP/1.1 that this service can read")

    def _give_up(self, before: Any) -> None:
        """End the connection if since the clock's start nothing came but a part of headers."""
        if self.cycle is before and self.timeout_keep_alive_task is None:
            self._refuse(408, "the request did not arrive in time; send it again")

    def _refuse(self, status: int, sentence: str) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = f'{{"error": "{sentence}"}}'
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n"
            )
            self.transport.write((head + body).encode("ascii"))
            self.transport.write_eof()
            # closed while the caller still writes, the connection would be reset, and this with it
            self._refused = True
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()


class OrderlyServer(uvicorn.Server):
    """Ends well on SIGTERM and SIGINT: what was taken is finished, and the exit status is 0."""

    def __init__(self, config: uvicorn.Config, ending: Event) -> None:
        super().__init__(config)
        self._ending = ending

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Our own handlers while serving; a signal is not raised again afterwards."""
        names = (signal.SIGINT, signal.SIGTERM)
        before = {name: signal.signal(name, self._asked_to_end) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit and number == signal.SIGINT:
            self.force_exit = True  # asked twice, by hand
        self._ending.set()
        self.should_exit = True


class Places(logging.Formatter):
    """Log lines whose exceptions are a type and places in the code, without their messages."""

    def formatException(self, ei: Any) -> str:
        """Type, and file:line of the last frames."""
        frames = traceback.extract_tb(ei[2])[-6:]
        places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames)]
        return f"{ei[0].__name__} at {' < '.join(places)}"


def log_without_values() -> None:
    """Let our own log and the server's warnings through to stderr, and nothing of the libraries:
    those that read files quote what they read."""
    handler = logging.StreamHandler()
    handler.setFormatter(Places("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(logging.NullHandler())
    for name in ("adacomed", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    warnings.simplefilter("ignore")


def bind(settings: Settings) -> socket.socket:
    """The socket that the service listens on.

    Raises:
        InputError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # the protocol is named, else asyncio leaves Nagle's delay on, 40 ms an answer
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen on {settings.host}, port {settings.port} ({error.strerror}); another "
            f"--port would work, or 0 for any that is free"
        ) from None
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; then take nothing more, finish what was taken, and return."""
    log_without_values()
    ending = Event()
    protocol = type("Protocol", (PatientProtocol,), {"pause_s": settings.pause_s, "ending": ending})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,  # addresses hold ids
        server_header=False,
        proxy_headers=False,  # whoever is on this machine could write any address into the audit
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        h11_max_incomplete_event_size=HEADER_BYTES,
        backlog=BACKLOG,
    )
    OrderlyServer(config, ending).run(sockets=[listener])
