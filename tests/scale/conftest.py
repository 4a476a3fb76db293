"""One Ray cluster of two workers for all tests of a process, and a look at its processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from adacomed.scale.cluster import Devices, joined
from tests.test_embed import write_cohort

NO_RAY = find_spec("ray") is None  # looking for it does not import it
CARD = """
name: toy
table: patients.csv
subject: patient_id
tasks: {icu: {column: icu, positive: Y}}
modalities:
  note: {kind: text, column: note}
"""
# An encoder of the user's, slow enough to be hit; it notes which process computed what.
SLOW = """
import os, time
from pathlib import Path
import numpy as np
def embed(items):
    for item in items:
        with Path(__file__).with_name("log").open("a") as file:
            file.write(f"{os.getpid()} {item}\\n")
        time.sleep(0.01)
    return np.array([[len(item), *map(ord, item[:7])] for item in items], np.float32) / 7
"""
SPEC = "slow:embed"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Devices]:
    """Connected to a cluster of our own; joining again stays with it."""
    if NO_RAY:
        pytest.skip("needs Ray: pip install 'adacomed[scale]'")
    with joined(None, cpus=2) as devices:
        yield devices


def slow_cohort(folder: Path, n: int) -> Path:
    """The YAML of a cohort of n patients, four of five with a note, and its encoder beside it."""
    (folder / "slow.py").write_text(SLOW)
    return write_cohort(folder, n, CARD)


def logged(card: Path) -> list[list[str]]:
    """(process, text) of every item that the slow encoder was given."""
    return [line.split(" ", 1) for line in (card.parent / "log").read_text().splitlines()]


def until(true: Callable[[], object], seconds: float = 120) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def workers(title: str, parent: int | None = None) -> list[psutil.Process]:
    """Processes below this one (or `parent`) that Ray has given this title just now."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{title}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
