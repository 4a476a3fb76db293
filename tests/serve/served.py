"""A small run of every kind of modality, and real `adacomed serve` processes that serve it.

Its encoders are functions without weights, so that it trains in seconds and reads real files.
"""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import polars as pl
import yaml
from PIL import Image
from tests.commands.conftest import QUICK, adacomed

N = 48
WIDTH = 6  # of the ready vectors
ENCODERS = '''
"""Vectors without weights: a few moments of each item."""
import numpy as np


def picture(items):
    return np.stack([[i.mean(), i.std(), i.min(), i.max()] for i in map(np.asarray, items)])


def words(items):
    return np.stack([[len(t), t.count(" "), t.count("e"), 1.0] for t in items])


def scan(items):
    return np.stack([[v.hu.mean(), v.hu.std(), *v.spacing] for v in items])


def vitals(items):
    return np.stack([[len(s.hours), 1.0, np.ptp(s.hours) if len(s.hours) else 0.0] for s in items])
'''


def png(seed: int = 0, side: int = 24) -> bytes:
    """A grey picture as a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def volume(path: Path, seed: int = 0) -> Path:
    """A small CT as a NIfTI file."""
    voxels = np.random.default_rng(seed).normal(0, 100, (8, 8, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.5, 1.5, 3, 1])), path)
    return path


def make_run(folder: Path) -> Path:
    """A cohort of 48 patients with six kinds of modality, in `folder`, and the run on it."""
    for name in ("xray", "ct", "genes"):
        (folder / name).mkdir(parents=True)
    rng, rows, long = np.random.default_rng(0), [], []
    for i in range(N):
        (folder / f"xray/{i}.png").write_bytes(png(i))
        volume(folder / f"ct/{i}.nii.gz", i)
        np.save(folder / f"genes/p{i}.npy", rng.normal(size=WIDTH).astype(np.float32))
        words = "Fever " * int(rng.integers(1, 9))
        rows.append(
            (f"p{i}", "YN"[i % 2], 50.0 + i, "FM"[i % 3 == 0], words, f"{i}.png", f"{i}.nii.gz")
        )
        long += [(f"p{i}", float(h), v, 70.0 + h) for h in range(4) for v in ("hr", "map")]
    names = ["patient", "died", "age", "sex", "note", "xray", "ct"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(folder / "patients.csv")
    schema = ["sample_id", "hours", "variable", "value"]
    pl.DataFrame(long, schema=schema, orient="row").write_parquet(folder / "vitals.parquet")
    (folder / "moments.py").write_text(ENCODERS)
    card: dict[str, Any] = {
        "name": "served",
        "title": "Small cohort of every kind",
        "table": "patients.csv",
        "subject": "patient",
        "tasks": {"death": {"column": "died", "positive": "Y"}},
        "modalities": {
            "clinical": {"kind": "tabular", "columns": ["age", "sex"]},
            "note": {"kind": "text", "column": "note", "encoder": "moments:words"},
            "xray": {"kind": "image", "column": "xray", "root": "xray"},
            "ct": {"kind": "volume", "column": "ct", "root": "ct", "encoder": "moments:scan"},
            "vitals": {
                "kind": "series",
                "table": "vitals.parquet",
                "units": {"hr": "/min", "map": "mm[Hg]"},
                "encoder": "moments:vitals",
            },
            "genes": {"kind": "embedding", "root": "genes"},
        },
    }
    card["modalities"]["xray"]["encoder"] = "moments:picture"
    (folder / "cohort.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    (folder / "experiment.yaml").write_text(f"cohort: {folder / 'cohort.yaml'}\n")
    adacomed("embed", folder / "cohort.yaml")
    adacomed("train", folder / "experiment.yaml", *QUICK, "--out", folder / "run")
    return folder / "run"


def patient(**more: Any) -> dict[str, Any]:
    """A new patient in JSON that the run takes."""
    modalities = {"clinical": {"age": 71, "sex": "F"}, "genes": [0.1] * WIDTH}
    return {"sample_id": "n1", "modalities": modalities} | more


class Served:
    """A running `adacomed serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str, audit: Path, log: Path) -> None:
        self.process, self.url, self.audit, self._log = process, url, audit, log

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        """What it has written to stdout and stderr so far."""
        return self._log.read_text()

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, **{"timeout": 60, **options})

    def alive(self) -> bool:
        with self.client() as client:
            return self.process.poll() is None and client.get("/healthz").status_code == 200

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def verify(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`adacomed audit verify` of its log."""
        command = [sys.executable, "-m", "adacomed", "audit", "verify", str(self.audit), *words]
        return subprocess.run(command, capture_output=True, text=True)


@contextmanager
def serving(run: Path, *words: object, largest_file: int | None = None) -> Iterator[Served]:
    """A real server process on a free port, ready for requests, ended when the block is.

    Args:
        largest_file: bytes that a file of the process may have; beyond it the disk is full.
    """

    def bound() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    with tempfile.TemporaryDirectory() as folder:
        audit, log = Path(folder) / "audit.jsonl", Path(folder) / "log"
        command = [sys.executable, "-m", "adacomed", "serve", run, "--port", 0, "--audit", audit]
        with log.open("w") as out:
            process = subprocess.Popen(
                [*map(str, command), *map(str, words)],
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=bound,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        try:
            served = Served(process, _url(process, log), audit, log)
            _wait_until_ready(served)
            yield served
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()


def _url(process: subprocess.Popen[str], log: Path) -> str:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if found := re.search(r"page and API: (http://\S+)", log.read_text()):
            return found.group(1)
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"no address after 90 s: {log.read_text()}")


def _wait_until_ready(served: Served) -> None:
    end = time.monotonic() + 90
    with served.client() as client:
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end, served.log
            time.sleep(0.1)
