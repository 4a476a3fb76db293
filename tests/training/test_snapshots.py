"""What a snapshot keeps: a fit that stops anywhere goes on to the same bits, for every method."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from adacomed.errors import InputError
from adacomed.training import snapshots
from adacomed.training.fit import Loop, Snapshot
from adacomed.training.methods import Problem, Result, Trainers, run_method
from adacomed.training.snapshots import begun_with, unfinished, unfinished_folder
from adacomed.training.writing import replacing, write_csv, write_json, written_whole

from .conftest import make_experiment, make_fold, make_inputs

METHODS = ["adacomed", "small", "large-ensemble", "average", "a-large", "flex-moe", "healnet"]
METHODS += ["meta-transformer", "onellm", "multimodal-pred"]
SMALL: dict[str, Any] = {
    "model": {"H": 8, "d": 8, "heads": 2},
    "small": {"kind": "shallow", "width": 8},
    "baselines": {"size": "tiny"},
    "evidence": {"stress": False},
}


class Stop(Exception):  # noqa: N818
    """The moment of a kill, where the process has to live on."""


class Stopping:
    """A snapshot that stops the training before or after one of its epochs is kept."""

    def __init__(self, kept: Snapshot, due: Callable[[], bool], *, after: bool) -> None:
        self.kept, self.due, self.after = kept, due, after

    def restore(self, loop: Loop) -> None:
        self.kept.restore(loop)

    def save(self, loop: Loop) -> None:
        due = self.due()
        if due and not self.after:
            raise Stop
        self.kept.save(loop)
        if due:
            raise Stop


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is kept, however short."""
    monkeypatch.setattr(snapshots, "SHARE", torch.inf)


def problem(regime: str = "cv", **settings: Any) -> Problem:
    training = {"validation": regime, "epochs": 3, "inner_folds": 2, "members": 1, "patience": 2}
    experiment = make_experiment(**{"training": training, **SMALL, **settings})
    return Problem(experiment, make_inputs(60), make_fold(60), "task", 0)


def fresh(of: Problem, **more: Any) -> Problem:
    """The same, of which nothing is trained yet."""
    return replace(of, trainers=Trainers(), **more)


def begun(of: Problem, method: str = "adacomed") -> dict[str, Any]:
    return begun_with(of.experiment, of.inputs, of.fold, method=method, task=of.task)


def trained(
    method: str,
    of: Problem,
    out: Path,
    *,
    stop: int = 0,
    after: bool = True,
    resume: bool = True,
    over: bool = True,
    said: list[str] | None = None,
) -> Result:
    """Train with snapshots; stopped at the n-th epoch that is kept."""
    epochs = iter(range(1, 10_000))
    tell = (said if said is not None else []).append
    with unfinished(out, begun(of, method), resume=resume, tell=tell) as kept:

        def stopping(stage: str, part: str) -> Snapshot:
            given = kept.snapshots(stage, part)
            return Stopping(given, lambda: next(epochs) == stop, after=after)

        result = run_method(method, fresh(of, snapshots=stopping))
        kept.over = over
        return result


def state(result: Result) -> dict[str, torch.Tensor]:
    assert result.trained is not None
    return result.trained.model.state_dict()


def assert_same(one: Result, two: Result) -> None:
    assert one.predictions.equals(two.predictions)
    assert one.history.equals(two.history)
    assert one.choices == two.choices
    a, b = state(one), state(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("regime", ["cv", "holdout"])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_twice_it_comes_to_the_same_bits(method: str, regime: str, tmp_path: Path) -> None:
    of, out = problem(regime), tmp_path / "run"
    whole = run_method(method, fresh(of))
    for stop, after in ((2, True), (3, False)):
        try:
            trained(method, of, out, stop=stop, after=after)
            break  # fewer epochs were left
        except Stop:
            assert list(unfinished_folder(out).glob("*.safetensors"))
    assert_same(whole, trained(method, of, out, over=False))
    assert_same(whole, trained(method, of, out))  # nothing was left to train
    assert not list(tmp_path.iterdir())


def test_the_stack_is_fitted_again_to_the_same_numbers(tmp_path: Path) -> None:
    of, out = problem("holdout", small={"kind": "stack"}), tmp_path / "run"
    with pytest.raises(Stop):
        trained("adacomed", of, out, stop=2)
    assert_same(run_method("adacomed", fresh(of)), trained("adacomed", of, out))


def test_a_finished_fit_is_not_trained_again(tmp_path: Path) -> None:
    of, out, ticks = problem(), tmp_path / "run", []
    with pytest.raises(Stop):
        trained("average", of, out, stop=7)
    with unfinished(out, begun(of, "average"), resume=True, tell=lambda _: None) as kept:
        run_method("average", fresh(of, snapshots=kept.snapshots), ticks.append)
    every: list[str] = []
    run_method("average", fresh(of), every.append)
    assert len(ticks) == len(every) - 7
    assert not [f for f in unfinished_folder(out).iterdir() if f.name.endswith(".partial")]


def test_what_changed_is_named(tmp_path: Path) -> None:
    of, out = problem(), tmp_path / "run"
    with pytest.raises(Stop):
        trained("small", of, out, stop=2)
    before = {f.name: f.read_bytes() for f in unfinished_folder(out).glob("*.*")}
    other_fold = replace(of.fold, test=of.fold.test[1:])
    for changed, method, named in (
        (problem(seed=1), "small", "seed 0 → 1"),
        (problem(model={"H": 16}), "small", "model.H 8 → 16"),
        (of, "average", "method 'small' → 'average'"),
        (replace(of, inputs=make_inputs(60, seed=1)), "small", "the cohort's data"),
        (replace(of, fold=other_fold), "small", "the split"),
    ):
        with pytest.raises(InputError, match="--resume") as error:
            trained(method, changed, out)
        assert named in str(error.value)
        assert {f.name: f.read_bytes() for f in unfinished_folder(out).glob("*.*")} == before


def test_without_resume_it_starts_anew_and_says_what_would_go_on(tmp_path: Path) -> None:
    of, out, said = problem(), tmp_path / "run", []
    with pytest.raises(Stop):
        trained("small", of, out, stop=5)
    kept = {f.name for f in unfinished_folder(out).glob("*.safetensors")}
    with pytest.raises(Stop):  # before it keeps anything of its own, the old is still there
        trained("small", of, out, stop=1, after=False, resume=False, said=said)
    assert "--resume would go on" in said[0]
    assert {f.name for f in unfinished_folder(out).glob("*.safetensors")} == kept
    with pytest.raises(Stop):
        trained("small", problem(seed=1), out, stop=1, resume=False)
    assert len(list(unfinished_folder(out).glob("*.safetensors"))) == 1 < len(kept)
    trained("small", problem(seed=1), out, said=said)
    assert "1 fits" in said[-1]
    trained("small", of, out, said=said)
    assert "nothing to go on with" in said[-1]


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "another fit's", "another training's"])
def test_a_file_that_cannot_be_trusted_is_named(damage: str, tmp_path: Path) -> None:
    of, out = problem(), tmp_path / "run"
    with pytest.raises(Stop):
        trained("small", of, out, stop=5)
    first, second = sorted(unfinished_folder(out).glob("*.safetensors"))
    content = first.read_bytes()
    if damage == "cut":
        first.write_bytes(content[:-5])
    elif damage == "empty":
        first.write_bytes(b"")
    elif damage == "bit":
        first.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "another fit's":
        first.write_bytes(second.read_bytes())
    else:
        with pytest.raises(Stop):
            trained("small", problem(seed=1), tmp_path / "other", stop=5)
        first.write_bytes((unfinished_folder(tmp_path / "other") / first.name).read_bytes())
    with pytest.raises(InputError, match="delete it and run the same command again") as error:
        trained("small", of, out)
    assert str(first) in str(error.value)
    first.unlink()
    assert_same(run_method("small", fresh(of)), trained("small", of, out))


def test_only_one_process_has_the_folder(tmp_path: Path) -> None:
    of, out = problem(), tmp_path / "run"
    with (
        unfinished(out, begun(of), resume=False, tell=lambda _: None),
        pytest.raises(InputError, match="another process"),
    ):
        trained("small", of, out)


def test_keeping_takes_a_bounded_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of epochs that are much shorter than a snapshot only some are kept, and the last."""
    monkeypatch.setattr(snapshots, "SHARE", 0.05)
    written, real = [], snapshots.save_file

    def slow(tensors: Any, path: Path, about: Any) -> None:
        real(tensors, path, about)
        time.sleep(0.02)
        written.append(time.perf_counter())

    monkeypatch.setattr(snapshots, "save_file", slow)
    of, out = problem("holdout", training={"validation": "holdout", "epochs": 40}), tmp_path / "run"
    started = time.perf_counter()
    trained("small", of, out)
    took = time.perf_counter() - started
    assert 2 <= len(written) <= 2 + took / (0.02 / 0.05)
    gaps = [b - a for a, b in pairwise(written[:-1])]  # the last is of the finished fit
    assert all(gap > 0.02 / 0.05 for gap in gaps)


def test_what_dead_processes_left_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    node, file, run = platform.node(), tmp_path / "table.csv", tmp_path / "run"
    dead, alive = f"{node}-{child.pid}", f"{node}-{os.getppid()}"
    stay = [f".table.csv.{alive}.partial", f".table.csv.elsewhere-{child.pid}.partial"]
    stay += [f".table.csv.gz.{dead}.partial", f".table.csv.{dead}.kept"]
    for name in (*stay, f".table.csv.{dead}.partial"):
        (tmp_path / name).write_text("half")
    write_csv(pl.DataFrame({"a": [1]}), file)
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", *stay}
    (tmp_path / f".run.{dead}.old").mkdir()
    (tmp_path / f".run.{dead}.old" / "model").write_text("mine")
    (tmp_path / f".run.{dead}.partial").mkdir()
    with pytest.raises(InputError, match="exists"), written_whole(run):
        pass
    assert (run / "model").read_text() == "mine"  # it was moved away, and nothing had replaced it
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "run", *stay}


def test_a_file_that_fails_halfway_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})

    def fail_halfway() -> None:
        with replacing(file) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert file.read_text() == '{\n  "a": 1\n}\n'
