"""A grid on a Ray cluster: the local engine's files, whatever dies; finished cells stay."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adacomed.cohort.split import Fold
from adacomed.errors import InputError
from adacomed.scale.cluster import Devices
from adacomed.scale.grid import gpus_of_a_cell, run_on_ray
from adacomed.training.checkpoint import load_run
from adacomed.training.grid import Cell, Grid, run_grid
from tests.training.test_grid import METHODS, VARIANTS, grid

from .conftest import workers


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def locally(grid: Grid) -> None:
    run_grid(grid, jobs=1, on_tick=lambda name, stage: None, on_done=lambda cell: None)


def files(grid: Grid) -> dict[str, bytes]:
    """Every file of the cells but those that tell the time."""
    found = [p for p in grid.store.iterdir() if p.suffix != ".json"]
    return {p.name: p.read_bytes() for p in found}


def test_a_killed_worker_changes_nothing(tmp_path: Path, cluster: Devices) -> None:
    here, there = (grid(tmp_path / name, METHODS, folds=2) for name in ("here", "there"))
    locally(here)
    done, killed = list[str](), list[int]()

    def kill(cell: Cell) -> None:
        done.append(cell.name)
        busy = [process.pid for process in workers("_compute")]
        if busy and not killed:
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])

    run_on_ray(there, cluster, jobs=0, on_done=kill)
    assert killed
    assert sorted(done) == sorted(cell.name for cell in there.cells())
    assert files(here) == files(there)
    for mine, theirs in zip(there.about().values(), here.about().values(), strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}

    lost = [there.cells()[1], there.cells()[4]]
    for cell in lost:
        (there.store / f"{cell.name}.parquet").unlink()
    before = {path: path.stat().st_mtime_ns for path in there.store.glob("*.parquet")}
    run_on_ray(there, cluster, jobs=1, on_done=lambda cell: None)
    assert files(here) == files(there)
    for path, time in before.items():
        again = any(path.name.startswith(f"{cell.name}.") for cell in lost)
        assert (path.stat().st_mtime_ns != time) == again, path.name


def test_a_model_may_be_kept_as_a_run(tmp_path: Path, cluster: Devices) -> None:
    one = grid(tmp_path, VARIANTS, keep=VARIANTS[1])
    run_on_ray(one, cluster, jobs=0, on_done=lambda cell: None)
    assert load_run(tmp_path / "run").method == VARIANTS[1]


def test_what_is_wrong_with_a_cell_is_said_as_locally(tmp_path: Path, cluster: Devices) -> None:
    whole = grid(tmp_path, ["small"])
    few = replace(whole, folds=[Fold(0, 0, np.arange(3), np.arange(3, 9))])
    said = []
    for run in (locally, lambda grid: run_on_ray(grid, cluster, jobs=0, on_done=lambda cell: None)):
        with pytest.raises(InputError) as error:
            run(few)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("device", "patients", "devices", "gpus"),
    [
        ("auto", 100, Devices(16, 2), 0.0),  # a card would not pay
        ("auto", 3000, Devices(16, 2), 0.125),
        ("auto", 3000, Devices(16, 0), 0.0),
        ("cuda", 100, Devices(3, 1), 0.3333),
        ("cuda", 100, Devices(1, 2), 1.0),
        ("cpu", 3000, Devices(16, 2), 0.0),
    ],
)
def test_cells_share_the_cards(
    device: str, patients: int, devices: Devices, gpus: float, tmp_path: Path
) -> None:
    one = grid(tmp_path, METHODS)
    settings = one.experiment.training.model_copy(update={"device": device})
    fold = replace(one.folds[0], train=np.arange(patients))
    experiment = one.experiment.model_copy(update={"training": settings})
    assert gpus_of_a_cell(replace(one, experiment=experiment, folds=[fold]), devices) == gpus


def test_a_card_that_the_cluster_does_not_have(tmp_path: Path, cluster: Devices) -> None:
    one = grid(tmp_path, METHODS)
    settings = one.experiment.training.model_copy(update={"device": "cuda"})
    asked = replace(one, experiment=one.experiment.model_copy(update={"training": settings}))
    with pytest.raises(InputError, match="'cuda', and the Ray cluster has no GPU"):
        run_on_ray(asked, cluster, jobs=0, on_done=lambda cell: None)
