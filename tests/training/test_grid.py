"""A grid of methods and folds: the same numbers in one process and in two, and after a stop."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from threadpoolctl import threadpool_info

from adacomed.cohort.split import Fold
from adacomed.inference import forward, probabilities
from adacomed.schema import Predictions
from adacomed.training.checkpoint import load_run
from adacomed.training.grid import Cell, Grid, _groups, _run_group, _start_worker, run_grid
from adacomed.training.methods import Problem, run_method

from .conftest import make_experiment, make_inputs
from .test_checkpoint import CARD

METHODS = ["adacomed", "average", "adacomed?model.strategy=gaussian", "small", "healnet"]
VARIANTS = ["adacomed?model.d=4", "adacomed?model.d=4&model.lambda=0"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the grid's processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def grid(out: Path, methods: list[str], *, folds: int = 1, keep: str | None = None) -> Grid:
    experiment = make_experiment(
        training={"epochs": 2, "inner_folds": 2, "members": 1},
        model={"strategy": "ensemble", "H": 8, "d": 8},
        small={"width": 8},
    )
    rows = np.random.default_rng(0).permutation(60)
    parts = np.array_split(rows, max(folds, 3))[:folds]
    layout = [Fold(0, k, np.setdiff1d(rows, p), np.sort(p)) for k, p in enumerate(parts)]
    return Grid(experiment, make_inputs(60), CARD, "task", layout, methods, out, keep)


def computed(grid: Grid, jobs: int = 1) -> tuple[list[str], list[str]]:
    """(cells that were trained, cells that were reported) of a run."""
    ticks: dict[str, str] = {}
    done: list[str] = []
    run_grid(
        grid,
        jobs=jobs,
        on_tick=lambda name, stage: ticks.update({name: stage}),
        on_done=lambda cell: done.append(cell.name),
    )
    return list(ticks), done


def test_two_variants_are_two_methods(tmp_path: Path) -> None:
    both = grid(tmp_path, VARIANTS)
    trained, done = computed(both)
    assert trained == done == [cell.name for cell in both.cells()]
    rows = both.collect()
    [a, b] = rows.partition_by(Predictions.METHOD, maintain_order=True)
    assert [set(x[Predictions.METHOD]) for x in (a, b)] == [{name} for name in VARIANTS]
    assert not a[Predictions.PROB].equals(b[Predictions.PROB])
    problem = Problem(both.experiment, both.inputs, both.folds[0], "task", 0)
    for name, mine in zip(VARIANTS, (a, b), strict=True):
        assert mine.equals(run_method(name, problem).predictions)
    assert {v["method"] for v in both.about().values()} == set(VARIANTS)
    assert all(file.parent == both.store for file in tmp_path.rglob("*.parquet"))
    assert computed(both) == ([], done)  # on disk: nothing is trained again


def test_two_processes_give_the_same_bits(tmp_path: Path) -> None:
    """One fold: a process has a family of methods."""
    one, two = grid(tmp_path / "one", METHODS), grid(tmp_path / "two", METHODS)
    assert sorted(map(len, _groups(two, two.cells(), 2))) == [1, 4]
    names = {cell.name for cell in one.cells()}
    assert set(computed(one)[1]) == set(computed(two, jobs=2)[1]) == names
    assert one.collect().equals(two.collect())
    assert one.collect(".history.parquet").equals(two.collect(".history.parquet"))


def test_groups_may_be_computed_apart_in_any_order(tmp_path: Path) -> None:
    """Many folds: a process has a fold, and at the end a family of methods.

    Which processes compute what is of no account.
    """
    one, two = (grid(tmp_path / name, METHODS, folds=5) for name in ("one", "two"))
    groups = _groups(two, two.cells(), 2)
    assert list(map(len, groups)) == [5, 5, 4, 4, 4, 1, 1, 1]
    assert sorted(c.name for group in groups for c in group) == sorted(c.name for c in two.cells())
    assert list(map(len, _groups(two, two.cells(), 1))) == [5] * 5
    assert list(map(len, _groups(two, two.cells()[:3], 2))) == [1] * 3
    computed(one)
    for group in groups[::-1]:
        _run_group(two, group, lambda name, stage: None, lambda cell: None)
    assert one.collect().equals(two.collect())
    assert one.collect(".history.parquet").equals(two.collect(".history.parquet"))


def test_after_a_stop_the_rest_is_the_same(tmp_path: Path) -> None:
    whole = grid(tmp_path, METHODS[:4], folds=2)
    computed(whole)
    before = whole.collect()
    lost = [Cell("average", whole.folds[1], 0), Cell(METHODS[2], whole.folds[0], 0)]
    for cell in lost:
        (whole.store / f"{cell.name}.parquet").unlink()
    trained, done = computed(whole)
    assert set(trained) == {cell.name for cell in lost}
    assert len(done) == 8
    assert whole.collect().equals(before)


def test_a_variant_may_be_kept_as_a_run(tmp_path: Path) -> None:
    one = grid(tmp_path, VARIANTS, keep=VARIANTS[1])
    computed(one)
    run = load_run(tmp_path / "run")
    assert run.method == VARIANTS[1]
    test = one.collect().filter(split="test", method=VARIANTS[1])
    inputs = one.inputs.take(one.folds[0].test)
    prob = probabilities(forward(run.trained, inputs), run.trained)[:, 1]
    assert np.array_equal(prob, test[Predictions.PROB])


def test_other_settings_are_other_cells(tmp_path: Path) -> None:
    a = grid(tmp_path, ["small"])
    b = Grid(a.experiment, make_inputs(60, seed=1), CARD, "task", a.folds, a.methods, tmp_path)
    smaller = a.experiment.training.model_copy(update={"epochs": 1})
    c = Grid(
        a.experiment.model_copy(update={"training": smaller}),
        *(a.inputs, CARD, "task", a.folds, a.methods, tmp_path),
    )
    assert len({a.store, b.store, c.store}) == 3
    assert grid(tmp_path, VARIANTS).store == a.store  # methods may be added later


def _threads() -> list[int]:
    _start_worker(None, None)
    x = np.random.default_rng(0).normal(size=(400, 400))
    scipy.linalg.svd(x @ x)  # whatever is loaded only now
    return [torch.get_num_threads(), *(i["num_threads"] for i in threadpool_info())]


def test_a_worker_computes_on_one_core() -> None:
    """Each of its libraries: two OpenBLAS that take every core wait for each other."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        threads = pool.submit(_threads).result()
    assert len(threads) > 2
    assert set(threads) == {1}
