"""Load, and an end under load: what was taken is finished, nothing more, and the log is whole."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.serve.served import Served, patient, serving


@pytest.fixture
def served(small_run: Path) -> Iterator[Served]:
    with serving(small_run, "--max-in-flight", 4) as found:
        yield found


def load(served: Served, stop: threading.Event, seen: list[tuple[int, str]]) -> None:
    """One client that asks again and again, each time for another patient."""
    mine = threading.get_ident()
    with served.client() as client:
        for n in range(100_000):
            if stop.is_set():
                return
            name = f"p{mine}-{n}"
            try:
                found = client.post("/v1/predict", json={"patients": [patient(sample_id=name)]})
            except httpx.TransportError:  # not taken: the connection was closed without an answer
                seen.append((0, name))
                return
            seen.append((found.status_code, name))
            if found.status_code == 429:
                assert found.headers["retry-after"].isdigit()
                assert list(found.json()) == ["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load(number, served) -> None:
    stop, seen = threading.Event(), []
    with ThreadPoolExecutor(16) as clients:
        running = [clients.submit(load, served, stop, seen) for _ in range(16)]
        while sum(status == 200 for status, _ in seen) < 50:
            assert served.process.poll() is None, served.log
            time.sleep(0.05)
        status = served.end(number)
        stop.set()
        for one in running:
            one.result()
    counted = Counter(code for code, _ in seen)
    assert status == 0, served.log
    assert "Cancel" not in served.log, "something hung until the time to drain was over"
    assert set(counted) <= {200, 429, 503, 0}, counted
    assert counted[429] > 0, "16 clients against 4 places"
    told = [name for code, name in seen if code == 200]
    lines = [json.loads(line) for line in served.audit.read_text().splitlines()]
    logged = [line["sample_id"] for line in lines if line["what"] == "predict"]
    assert set(told) <= set(logged), "an answer went out that the log does not have"
    assert len(logged) == len(set(logged))
    assert len(logged) - len(told) <= 16, "taken, and its answer lost"
    checked = served.verify()
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Traceback" not in served.log
    assert "stopped" in served.log


def test_what_was_taken_is_finished(served) -> None:
    """A request whose body is still on its way when the signal comes is answered."""
    body = json.dumps({"patients": [patient(sample_id="late")]}).encode()
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with served.connect() as connection:
        connection.sendall(head + body[:10])
        time.sleep(0.5)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.TransportError), served.client() as client:
            client.get("/healthz")  # nothing new is taken
        connection.sendall(body[10:])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]
    assert b'"sample_id": "late"' in answer
    assert served.process.wait(timeout=30) == 0
    assert served.verify().returncode == 0


def test_a_client_that_never_finishes_does_not_stop_the_end(served) -> None:
    with served.connect() as connection:
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99\r\n\r\n{"
        )
        time.sleep(0.5)
        assert served.end() == 0
        assert connection.recv(20).startswith(b"HTTP/1.1 408")
        assert "Cancel" not in served.log
