"""How quick and how steady `adacomed serve` is, and whether its answers are those of `predict`.

    .venv/bin/python benchmarks/serve.py                       # MMIST, about 2 minutes
    .venv/bin/python benchmarks/serve.py runs/demo/run --cohort runs/demo/cohort --seconds 20

A real server is started; the load comes from this, a second process, over loopback.
one:   one client sends one patient's ready vectors, again and again. Between two calls the bare
       forward pass of the same patient (double precision, one row, the same number of threads) is
       timed here while the server is idle. Asked: p50 of the call ≤ 3 × p50 of the bare pass.
many:  64 clients, each on a connection of its own, for a minute, with all patients of the cohort.
       Asked: no error, p99 ≤ 10 × p50, and the server's memory flat.
equal: every answer against `inference.predict` on the same patients. Asked: within 1e-6.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import torch

from adacomed.cohort.cohort import Cohort, load_cohort
from adacomed.inference import forward_batch, in_double, predict
from adacomed.intake import gather_for
from adacomed.schema import EmbeddingCard, prob_column
from adacomed.training.checkpoint import Run, load_run
from adacomed.training.loader import Inputs

MIB = 1024 * 1024
HEADERS = {"Content-Type": "application/json"}


@dataclass
class Patients:
    """Those of a cohort who have ready vectors: as the model reads them, and as they are sent."""

    inputs: Inputs
    bodies: list[bytes]
    prob: np.ndarray  # (N,) of the positive class, or (N, K)


def ready(run: Run, cohort: Cohort) -> Patients:
    """Patients with their ready vectors alone, so that no encoder has a part in the time."""
    names = [m for m, c in cohort.card.modalities.items() if isinstance(c, EmbeddingCard)]
    kept = {m: c for m, c in cohort.card.modalities.items() if m in names}
    whole = {m: cohort.vectors(m) for m in names}
    rows = np.flatnonzero(np.any([~np.isnan(x).any(axis=1) for x in whole.values()], axis=0))
    card = cohort.card.model_copy(update={"modalities": kept})
    inputs = gather_for(run, Cohort(card, cohort.root, cohort.samples, cohort.labels, {})).take(
        rows
    )
    bodies = []
    for i, row in enumerate(rows):
        vectors = {m: x[row].tolist() for m, x in whole.items() if not np.isnan(x[row]).any()}
        patient = {"sample_id": f"b{i}", "modalities": vectors}
        bodies.append(json.dumps({"patients": [patient]}).encode())
    frame = predict(run, inputs)
    columns = [prob_column(k) for k in range(len(run.classes))]
    wide = len(run.classes) > 2 and columns[0] in frame.columns
    return Patients(inputs, bodies, frame.select(columns if wide else ["prob"]).to_numpy())


class Client:
    """One connection that is kept open."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._http = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)

    def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of POST /v1/predict."""
        self._http.request("POST", "/v1/predict", body, HEADERS)
        answer = self._http.getresponse()
        return answer.status, answer.read()


def far(answer: bytes, expected: np.ndarray) -> float:
    """The largest difference of an answer's probabilities from those of `predict`."""
    said = list(json.loads(answer)["predictions"][0]["predictions"][0]["prob"].values())
    told = np.array(said if len(expected) > 1 else said[1:])
    return float(np.abs(told - expected).max())


def one(
    url: str, run: Run, patients: Patients, calls: int
) -> tuple[list[float], list[float], float]:
    """Seconds of calls and of bare passes, in turn, and the largest difference."""
    double = in_double(run.trained)
    batch = double.fitted.batch(patients.inputs.take(np.array([0]))).to("cpu", torch.float64)
    client, called, bare, apart = Client(url), [], [], 0.0
    for n in range(calls + 10):
        start = time.perf_counter()
        status, answer = client.post(patients.bodies[0])
        middle = time.perf_counter()
        forward_batch(double, batch)
        end = time.perf_counter()
        assert status == 200, answer
        apart = max(apart, far(answer, patients.prob[0]))
        if n >= 10:
            called.append(middle - start)
            bare.append(end - middle)
    return called, bare, apart


@dataclass
class Load:
    """What many clients have seen."""

    seconds: list[float] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MiB, once a second


def many(url: str, patients: Patients, clients: int, seconds: float, server: int) -> Load:
    """Clients that each send the next patient as soon as they have their answer."""
    load, process = Load(), psutil.Process(server)
    end = time.perf_counter() + seconds

    def work(k: int) -> None:
        client, at = Client(url), k
        while time.perf_counter() < end:
            i = at % len(patients.bodies)
            start = time.perf_counter()
            try:
                status, answer = client.post(patients.bodies[i])
            except (OSError, http.client.HTTPException) as error:
                load.errors.append(type(error).__name__)
                client = Client(url)
                continue
            load.seconds.append(time.perf_counter() - start)
            if status == 200:
                load.answers.append((i, answer))
            else:
                load.errors.append(f"{status} {answer[:200]!r}")
            at += clients

    threads = [threading.Thread(target=work, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    while time.perf_counter() < end:
        load.memory.append(process.memory_info().rss / MIB)
        time.sleep(1)
    for thread in threads:
        thread.join()
    return load


def report(
    called: list[float], bare: list[float], load: Load, apart: float, seconds: float
) -> None:
    """The table, each row with what was asked."""
    ms = [np.percentile(x, [50, 99]) * 1e3 for x in (called, bare, load.seconds)]
    settled = load.memory[len(load.memory) // 6 :]
    growth = np.polyfit(np.arange(len(settled)), settled, 1)[0] * 60 if len(settled) > 2 else 0.0
    rows = [
        ("one client, p50 of a call", f"{ms[0][0]:.1f} ms", ""),
        ("bare forward pass, p50", f"{ms[1][0]:.1f} ms", ""),
        ("ratio", f"{ms[0][0] / ms[1][0]:.2f}", "≤ 3"),
        ("many clients, answers a second", f"{len(load.seconds) / seconds:.0f}", ""),
        ("errors", f"{len(load.errors)} of {len(load.seconds)}", "0"),
        ("p50, p99", f"{ms[2][0]:.0f} ms, {ms[2][1]:.0f} ms", ""),
        ("ratio", f"{ms[2][1] / ms[2][0]:.2f}", "≤ 10"),
        ("server's memory, first and last", f"{settled[0]:.0f}, {settled[-1]:.0f} MiB", "flat"),
        ("growth", f"{growth:+.1f} MiB a minute", ""),
        ("largest difference from predict", f"{apart:.1e}", "≤ 1e-6"),
    ]
    for name, value, asked in rows:
        print(f"{name:34} {value:>22}   {asked}")
    for error in sorted(set(load.errors))[:5]:
        print(f"error: {error}")


def main() -> None:
    """Start a server, load it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/mmist/run"))
    parser.add_argument("--cohort", type=Path, default=Path("cohorts/mmist-ccrcc"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--wait", type=float, default=0, help="seconds for background work to end")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server is ended all the same
    run = load_run(asked.run)
    patients = ready(run, load_cohort(asked.cohort, labels=False))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f} before; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; {len(patients.bodies)} patients, "
        f"--max-batch {asked.max_batch}"
    )
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        words = ["serve", asked.run, "--port", 0, "--audit", Path(folder) / "audit.jsonl"]
        words += ["--max-batch", asked.max_batch]
        with log.open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "adacomed", *map(str, words)],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            url = _address(server, log)
            time.sleep(asked.wait)
            called, bare, apart = one(url, run, patients, asked.calls)
            load = many(url, patients, asked.clients, asked.seconds, server.pid)
        finally:
            server.terminate()
            server.wait(timeout=60)
    apart = max([apart, *(far(answer, patients.prob[i]) for i, answer in load.answers)])
    report(called, bare, load, apart, asked.seconds)


def _address(server: subprocess.Popen[Any], log: Path) -> str:
    """The server's address, once it is ready."""
    end = time.monotonic() + 180
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"page and API: (http://\S+)", log.read_text()):
            place = urlsplit(found.group(1))
            client = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
            client.request("GET", "/readyz")
            if client.getresponse().status == 200:
                return found.group(1)
        time.sleep(0.2)
    raise SystemExit(f"the server did not get ready:\n{log.read_text()}")


if __name__ == "__main__":
    main()
