"""`adacomed embed` and `compare` on Ray: killed or interrupted, nothing is lost or left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from adacomed.cohort.cohort import load_cohort
from adacomed.embed import fill_store
from adacomed.encoders.choice import load_for
from tests.commands.conftest import QUICK, adacomed
from tests.test_embed import content

from .conftest import NO_RAY, SPEC, logged, slow_cohort, until, workers
from .test_cluster import closed_port

pytestmark = pytest.mark.skipif(NO_RAY, reason="needs Ray: pip install 'adacomed[scale]'")
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
ADACOMED = [sys.executable, "-m", "adacomed"]


@pytest.fixture(scope="module")
def head() -> Iterator[subprocess.Popen[str]]:
    """Somebody's cluster on this machine, with two cores and (so it says) two GPUs."""
    options = ["--head", "--block", "--include-dashboard=false", f"--port={closed_port()}"]
    options += ["--num-cpus=2", "--num-gpus=2", "--disable-usage-stats"]
    command = [str(Path(sys.executable).with_name("ray")), "start", *options]
    place = Path("/tmp") / f"ada-ray-{os.getpid()}"  # short: sockets lie in it
    place.mkdir()
    OFFLINE["RAY_TMPDIR"] = str(place)  # where --address auto looks for it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=OFFLINE)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        yield process
    finally:
        below = psutil.Process(process.pid).children(recursive=True)
        for one in below:  # `ray stop` would end every cluster of the machine
            one.kill()
        process.kill()
        process.wait(60)
        assert not psutil.wait_procs(below, 60)[1]
        shutil.rmtree(OFFLINE.pop("RAY_TMPDIR"))


def test_a_killed_command_goes_on_with_either_engine(
    head: subprocess.Popen[str], tmp_path: Path, cli
) -> None:
    """On a cluster that it joins: its workers end with it, and nothing that they did is lost."""
    card, store = slow_cohort(tmp_path, 800), tmp_path / "store"
    words = ["embed", str(card), "--encoder", SPEC, "--out", str(store)]
    command = [*ADACOMED, *words, "--engine", "ray", "--address", "auto"]
    first = subprocess.Popen(command, env=OFFLINE, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: first.poll() is not None or list(store.rglob("shard-*")))
    first.kill()
    said = first.communicate()[1]
    assert first.returncode == -signal.SIGKILL, said
    assert said == "embedding note · slow.embed: 640 items\n"  # not a word of Ray's own
    kept = {path: path.stat().st_mtime_ns for path in store.rglob("shard-*")}
    assert 0 < len(kept) < 3
    until(lambda: not workers("MapWorker", head.pid))
    (tmp_path / "log").unlink()
    ran = cli(*words)
    assert ran.exit_code == 0, ran.stderr
    assert "640 of 800 samples have a vector" in ran.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    computed = [text for _, text in logged(card) if text in _texts(card)]
    assert len(computed) == 640 - 256 * len(kept)
    other, cohort = tmp_path / "other", load_cohort(card)
    fill_store(cohort, "note", load_for(cohort, "note", SPEC), other)
    there = content(store)
    there.pop("note/encoders.json")  # the command's own note
    assert content(other) == there


def _texts(card: Path) -> set[str]:
    return {text for [text] in filter(None, load_cohort(card).cells("note"))}


def test_an_interrupted_comparison_leaves_no_process(tmp_path: Path, cli) -> None:
    """Ctrl-C: what is finished is kept, the cluster is gone; the local engine may go on."""
    adacomed("cohort", "build", "simulated", "--samples", 120, "--out", tmp_path / "simulated")
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text("cohort: simulated\n")
    out, whole = tmp_path / "out", tmp_path / "whole"
    methods = ["--methods", "small,adacomed", "--resamples", "50", *QUICK, "split.folds=4"]
    words = ["compare", str(experiment), *methods]
    command = [*ADACOMED, *words, "--out", str(out), "--engine", "ray", "--jobs", "1"]
    child = subprocess.Popen(command, env=OFFLINE, stderr=subprocess.PIPE, text=True)
    until(lambda: child.poll() is not None or _finished(out))
    below = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 130, said
    assert said.splitlines()[-1] == "stopped; what was finished is kept"
    assert "Traceback" not in said
    assert below
    assert not psutil.wait_procs(below, 60)[1]
    kept = {path: path.stat().st_mtime_ns for path in _finished(out)}
    assert 0 < len(kept) < 8
    assert cli(*words, "--out", out, "--jobs", 1).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert cli(*words, "--out", whole, "--jobs", 1).exit_code == 0
    for name in ("table.csv", "paired.csv", "predictions.parquet", "history.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def _finished(out: Path) -> list[Path]:
    beside = (".history.parquet", ".stress.parquet", ".json")
    found = [path for path in out.glob("cells/*/*~*") if not path.name.startswith(".")]
    return [path for path in found if not path.name.endswith(beside)]
