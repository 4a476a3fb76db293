"""A training that is killed goes on to the same bits, whatever it was doing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from .forked import adacomed, ended, forked

WORDS = [
    *("training.epochs=4", "training.inner_folds=2", "training.members=2", "small.kind=shallow"),
    *("model.H=16", "model.d=16", "model.strategy=ensemble", "evidence.stress=false"),
]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    words = ("cohort", "build", "simulated", "--samples", 120, "--out", folder / "cohort")
    log = folder / "log"
    assert ended(forked(adacomed, *words, log=log), log) == 0, log.read_text()
    path = folder / "experiment.yaml"
    path.write_text("cohort: cohort\n")
    return path


def same(one: Path, two: Path) -> bool:
    names = ("model.safetensors", "predictions.parquet", "history.parquet", "inputs.json")
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def trained(experiment: Path, out: Path, *words: str) -> str:
    """Of a training that runs through: what it said."""
    log = out.with_suffix(".log")
    words = ("train", str(experiment), *WORDS, *words, "--out", str(out))
    code = ended(forked(adacomed, *words, log=log), log)
    assert code == 0, log.read_text()
    return log.read_text()


def kept(folder: Path) -> set[tuple[str, int]]:
    """Name and version of each fit that a stopped training has left."""
    found = set()
    for path in folder.glob(".out.unfinished/*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


@pytest.mark.parametrize("regime", ["cv", "holdout"])
def test_killed_at_three_moments(experiment: Path, tmp_path: Path, regime: str) -> None:
    words = [f"training.validation={regime}", "training.epochs=15"]
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    started = time.monotonic()
    trained(experiment, whole, *words)
    took = time.monotonic() - started
    draws, killed, known = random.Random(regime), 0, set[tuple[str, int]]()
    for _ in range(3):
        all_words = ["train", str(experiment), *WORDS, *words, "--out", str(out), "--resume"]
        child = forked(adacomed, *all_words, log=log)
        while child.exitcode is None and kept(tmp_path) <= known:
            time.sleep(0.005)  # each goes further than the one before
        child.join(took * draws.uniform(0, 0.2))
        if child.exitcode is None and child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
        killed += ended(child, log) == -signal.SIGKILL
        known |= kept(tmp_path)
    trained(experiment, out, *words, "--resume")
    assert killed, "the machine was too fast for every kill"
    assert known, "nothing had been kept when it was killed"
    assert same(whole, out)
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "out", "log", "whole.log", "out.log"}


def _train_until(path: str, number: int, words: list[str]) -> int:
    """In a process: train, and be killed just before the n-th change on disk that names `path`."""
    met = 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal met
        if event in CHANGES and path in f"{args[0]} → {args[1]}":
            met += 1
            if met == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return adacomed(*words)


def test_killed_between_any_two_steps_on_disk(experiment: Path, tmp_path: Path) -> None:
    """One training that is killed again and again, each time a step further, and replaces a run."""
    whole, out, log = tmp_path / "whole", tmp_path / "here" / "out", tmp_path / "log"
    method = ("--method", "large-ensemble")
    out.parent.mkdir()
    trained(experiment, whole, *method)
    trained(experiment, out, *method, "seed=1")
    out.with_suffix(".log").unlink()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    words = ["train", str(experiment), *WORDS, *method, "--out", str(out), "--resume", "--force"]
    for path, number in (
        ("begun.json", 1),  # before anything is kept
        ("large-ensemble~inner-0", 1),  # inside the writing of a snapshot
        ("predictions.parquet", 1),  # inside the run folder
        (".old", 1),  # before the old run is moved away
        (f" → {out}", 1),  # before the new one has its name
    ):
        child = forked(_train_until, path, number, words, log=log)
        assert ended(child, log) == -signal.SIGKILL, f"{path} {number}: {log.read_text()}"
        [run] = [p for p in out.parent.iterdir() if p == out or p.suffix == ".old"]
        assert {p.name: p.read_bytes() for p in run.iterdir()} == before  # the old one is whole
    for path, number in (
        (".old", 3),  # the old one was put back, and moved away again, the new one is there
        (".over", 2),  # the snapshots are not yet gone
        (".over", 3),
    ):
        child = forked(_train_until, path, number, words, log=log)
        assert ended(child, log) == -signal.SIGKILL, f"{path} {number}: {log.read_text()}"
        assert same(whole, out)
    assert "finished already" in trained(experiment, out, *method, "--resume")
    assert same(whole, out)
    assert {p.name for p in out.parent.iterdir()} == {"out", "out.log"}


def test_a_training_under_way(experiment: Path, tmp_path: Path) -> None:
    """Nobody else trains the same run meanwhile; Ctrl-C says how it goes on."""
    out, log, other = tmp_path / "out", tmp_path / "log", tmp_path / "other"
    words = ["train", str(experiment), *WORDS, "training.epochs=2000", "--out", str(out)]
    child = forked(adacomed, *words, log=log)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.unfinished/[a-z]*.safetensors")):
        assert child.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ended(forked(adacomed, *words, log=other), other) == 2
    assert "another process is training this run" in other.read_text()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    assert ended(child, log) == 130, log.read_text()
    last = log.read_text().splitlines()[-1]
    assert last == "stopped; what was finished is kept: the same command with --resume goes on"
    words[-3] = "training.epochs=3"
    assert ended(forked(adacomed, *words, "--resume", log=log), log) == 2
    assert "training.epochs 2000 → 3" in log.read_text()
    assert "--resume would go on, this starts anew" in trained(experiment, out, words[-3])
