"""Training on a graphics card: the same bits from a seed, after a kill too, and no other model.

Needs CUDA; skipped without.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from adacomed.datasets import simulated
from adacomed.models.batch import Batch
from adacomed.schema import Predictions, RunFiles
from adacomed.training import snapshots
from adacomed.training.methods import Problem, Result, run_method
from adacomed.training.prepare import one_fold
from adacomed.training.replayed import Recording
from adacomed.training.step import Taken
from tests.forked import kill_while

from .conftest import make_experiment, make_fold, make_inputs
from .test_snapshots import SMALL, Stop, assert_same, trained
from .test_streamed import ready

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
N = 400
HOLDOUT = {"validation": "holdout", "epochs": 4, "members": 1, "patience": 2}
BRIEF = ["split.kind=holdout", "training.epochs=4", "small.kind=shallow", "evidence.stress=false"]
NO_DROPOUT = {
    "model": {"dropout": 0.0, "modality_dropout": 0.0},
    "small": {**SMALL["small"], "dropout": 0.0},
}
REPLAYED = [
    *("adacomed", "adacomed?model.strategy=threshold", "adacomed?model.strategy=learnable"),
    *("adacomed?preset=paper", "adacomed?preset=authors", "adacomed?model.strategy=gaussian"),
    *("small", "large-ensemble", "a-large"),
]


def problem(
    device: str, precision: str = "float32", *, graphs: bool = True, **settings: Any
) -> Problem:
    training = {**HOLDOUT, "device": device, "precision": precision, "cuda_graphs": graphs}
    model = {**SMALL["model"], **settings.pop("model", {})}
    experiment = make_experiment(**{**SMALL, "training": training, "model": model, **settings})
    return Problem(experiment, make_inputs(N), make_fold(N), "task", 0)


def ran(of: Problem, method: str = "adacomed") -> Result:
    return run_method(method, of)


def apart(one: Result, other: Result) -> float:
    a, b = (np.stack(r.predictions[Predictions.PROB].to_list()) for r in (one, other))
    return float(np.abs(a - b).max())


def with_tests() -> dict[str, str]:
    """The environment of a process that imports these tests."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.parametrize("method", ["adacomed", "average", "flex-moe", "healnet", "onellm"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_seed_gives_the_same_bits(method: str, precision: str) -> None:
    assert_same(ran(problem("cuda", precision), method), ran(problem("cuda", precision), method))


@pytest.mark.parametrize("method", REPLAYED)
def test_steps_that_are_launched_as_a_whole_are_the_same_to_the_bit(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay, sizes = Recording.replay, Counter[int]()

    def counted(self: Recording, batch: Batch) -> Taken:
        sizes[len(batch)] += 1
        return replay(self, batch)

    monkeypatch.setattr(Recording, "replay", counted)
    plain = ran(problem("cuda", "bfloat16", graphs=False), method)
    assert not sizes
    assert_same(plain, ran(problem("cuda", "bfloat16"), method))
    assert len(sizes) > 1  # the last batch of an epoch is another


def test_a_model_that_asks_the_card_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "replay", lambda self, batch: pytest.fail("was recorded"))
    ran(problem("cuda"), "flex-moe")


UNTRUE = """
from adacomed.errors import InputError
from adacomed.models.baselines.flex_moe import FlexMoE
from tests.training.test_gpu import problem, ran
FlexMoE.replayable = lambda self, batch: True
try:
    ran(problem("cuda"), "flex-moe")
except InputError as error:
    print(error)
"""


def test_where_recording_fails_the_setting_is_named() -> None:
    """In a process of its own, whose card is of no use afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", UNTRUE], capture_output=True, text=True, env=with_tests()
    )
    assert "training.cuda_graphs=false trains without" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_stopped_it_comes_to_the_same_bits(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SHARE", torch.inf)  # every epoch is kept
    of, out = problem("cuda", precision), tmp_path / "run"
    whole = ran(problem("cuda", precision))
    for stop in (2, 3):
        with pytest.raises(Stop):
            trained("adacomed", of, out, stop=stop)
    assert_same(whole, trained("adacomed", of, out))


def test_a_card_trains_what_the_processor_trains() -> None:
    """Without dropout, whose draws are a device's own."""
    here, there = ran(problem("cpu", **NO_DROPOUT)), ran(problem("cuda", **NO_DROPOUT))
    assert apart(here, there) < 1e-4
    half = ran(problem("cuda", "bfloat16", **NO_DROPOUT))
    assert 0 < apart(there, half) < 0.05
    assert half.trained is not None
    assert {p.device.type for p in half.trained.model.parameters()} == {"cpu"}


@pytest.mark.parametrize("task", ["outcome", "findings", "survival"])
def test_from_disk_it_is_the_same_training(task: str, tmp_path: Path) -> None:
    simulated.build(tmp_path / "cohort", samples=300, modalities=2, task=task)
    training = {"epochs": 3, "batch_size": 32, "validation": "holdout", "precision": "float32"}
    found = []
    for stream in (False, True):
        settings = {**training, "device": "cuda"}
        experiment, prepared = ready(tmp_path / "cohort", stream, training=settings)
        fold = one_fold(experiment, prepared)
        found.append(ran(Problem(experiment, prepared.inputs, fold, prepared.task, 0)))
    assert apart(*found) < 1e-5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    command("cohort", "build", "simulated", "--samples", 3000, "--out", folder / "cohort")
    (folder / "experiment.yaml").write_text("cohort: cohort\n")
    return folder


def words(*given: object) -> list[str]:
    return [sys.executable, "-m", "adacomed", *map(str, given)]


def command(*given: object) -> str:
    done = subprocess.run(words(*given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_command_is_killed_and_goes_on(cohort: Path) -> None:
    """3,000 patients: device and precision are left to `auto`."""
    train = ["train", cohort / "experiment.yaml", *BRIEF, "training.epochs=30"]
    command(*train, "--out", cohort / "whole")
    out = cohort / "killed"
    child = subprocess.Popen(
        words(*train, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    kill_while(child, lambda: any(cohort.glob(".killed.unfinished/*adacomed*.safetensors")))
    assert child.returncode == -signal.SIGKILL
    assert not out.exists()
    command(*train, "--out", out, "--resume")
    for name in ("model.safetensors", RunFiles.PREDICTIONS):
        assert (out / name).read_bytes() == (cohort / "whole" / name).read_bytes(), name


SHARED = """
import sys
import torch
from adacomed.training import methods
methods.processes = lambda: 2  # a training by several, of which one is here
from tests.training.test_gpu import NO_DROPOUT, problem, ran
found = ran(problem("cuda", **NO_DROPOUT))
found.predictions.write_parquet(sys.argv[1])
assert torch.distributed.get_backend() == "nccl"
"""


def test_through_nccl_it_is_the_same_training(tmp_path: Path) -> None:
    """One card takes one process, which still meets DDP and gathers by NCCL."""
    script, out = tmp_path / "shared.py", tmp_path / "shared.parquet"
    script.write_text(SHARED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command = [*launch, str(script), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=with_tests())
    assert done.returncode == 0, done.stderr[-3000:]
    shared = np.stack(pl.read_parquet(out)[Predictions.PROB].to_list())
    alone = np.stack(ran(problem("cuda", **NO_DROPOUT)).predictions["prob"].to_list())
    assert np.abs(shared - alone).max() < 1e-5
