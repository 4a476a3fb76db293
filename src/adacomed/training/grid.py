"""Methods × folds × seeds, in parallel, resumable: a finished cell is never computed again."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from adacomed import __version__
from adacomed.cohort.split import Fold
from adacomed.config import Experiment
from adacomed.schema import CohortCard
from adacomed.training.checkpoint import save_run, write_json, write_parquet, written_whole
from adacomed.training.loader import Inputs
from adacomed.training.methods import Problem, Result, run_method

CELLS = "cells"


@dataclass(frozen=True)
class Cell:
    """One method on one fold with one seed."""

    method: str
    fold: Fold
    seed: int

    @property
    def name(self) -> str:
        """File stem of the cell's results."""
        return f"{self.method}~r{self.fold.repeat}f{self.fold.fold}s{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A comparison: what is trained on what.

    Attributes:
        keep: method whose model is saved as a run under `out`/run (one fold and seed only).
    """

    experiment: Experiment
    inputs: Inputs
    card: CohortCard
    task: str
    folds: list[Fold]
    methods: list[str]
    out: Path
    keep: str | None = None

    def cells(self) -> list[Cell]:
        """Every cell, in the order of methods (the slow ones should come first)."""
        seeds = range(self.experiment.seed, self.experiment.seed + self.experiment.seeds)
        return [Cell(m, f, s) for m in self.methods for f in self.folds for s in seeds]

    @property
    def store(self) -> Path:
        """Where cells are kept: a folder named by everything that could change a number."""
        settings = self.experiment.model_dump(mode="json", exclude={"cohort", "methods", "seeds"})
        folds = [[f.train.tolist(), f.test.tolist()] for f in self.folds]
        text = json.dumps([__version__, settings, self.task, folds, self.inputs.fingerprint()])
        return self.out / CELLS / hashlib.sha256(text.encode()).hexdigest()[:12]

    def done(self, cell: Cell) -> bool:
        """True when the cell's results are on disk (its predictions are written last)."""
        kept = cell.method != self.keep or (self.out / "run").is_dir()
        return kept and (self.store / f"{cell.name}.parquet").is_file()

    def run(self, cell: Cell, tick: Callable[[str], None]) -> None:
        """Compute a cell and write it."""
        experiment = self.experiment.model_copy(update={"seed": cell.seed})
        problem = Problem(experiment, self.inputs, cell.fold, self.task, cell.seed)
        started = time.perf_counter()
        result = run_method(cell.method, problem, tick)
        if cell.method == self.keep:
            self._keep(result)
        self.store.mkdir(parents=True, exist_ok=True)
        seconds = round(time.perf_counter() - started, 2)
        about = {"method": cell.method, "seconds": seconds, "choices": result.choices}
        write_json(self.store / f"{cell.name}.json", about)
        write_parquet(result.history, self.store / f"{cell.name}.history.parquet")
        write_parquet(result.predictions, self.store / f"{cell.name}.parquet")

    def _keep(self, result: Result) -> None:
        assert result.trained is not None
        with written_whole(self.out / "run", replace=True) as folder:
            save_run(
                folder,
                result.trained,
                experiment=self.experiment,
                card=self.card,
                task=self.task,
                classes=self.inputs.classes,
                method=str(self.keep),
                encoders=self.inputs.encoders,
            )
            write_parquet(result.predictions, folder / "predictions.parquet")
            write_parquet(result.history, folder / "history.parquet")

    def collect(self, suffix: str = ".parquet") -> pl.DataFrame:
        """All cells' rows stacked, in the order of the cells."""
        files = [self.store / f"{cell.name}{suffix}" for cell in self.cells()]
        return pl.concat([pl.read_parquet(file) for file in files], how="diagonal")

    def about(self) -> dict[str, Any]:
        """Cell name → its seconds and choices."""
        return {
            cell.name: json.loads((self.store / f"{cell.name}.json").read_text("utf-8"))
            for cell in self.cells()
        }


def run_grid(
    grid: Grid, *, jobs: int, on_tick: Callable[[str, str], None], on_done: Callable[[Cell], None]
) -> None:
    """Compute every cell that is not on disk yet.

    Args:
        jobs: processes; 1 runs in this one.
        on_tick: (cell name, stage) after every training epoch anywhere.
        on_done: after every cell, also at once for those found finished.
    Raises:
        InputError: from a cell; the finished ones stay on disk.
    """
    todo = []
    for cell in grid.cells():
        if grid.done(cell):
            on_done(cell)
        else:
            todo.append(cell)
    if jobs <= 1 or len(todo) <= 1:
        for cell in todo:
            grid.run(cell, lambda stage, c=cell: on_tick(c.name, stage))  # type: ignore[misc]
            on_done(cell)
        return
    for cell in _in_parallel(grid, todo, jobs, on_tick):
        on_done(cell)


def _in_parallel(
    grid: Grid, todo: list[Cell], jobs: int, on_tick: Callable[[str, str], None]
) -> Iterator[Cell]:
    context = multiprocessing.get_context("spawn")  # fork and torch's threads do not mix
    ticks: multiprocessing.Queue[tuple[str, str]] = context.Queue()
    with ProcessPoolExecutor(
        min(jobs, len(todo)), context, _start_worker, (grid, ticks, os.getpid())
    ) as pool:
        waiting: dict[Future[None], Cell] = {pool.submit(_work, cell): cell for cell in todo}
        try:
            while waiting:
                finished, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for name, stage in _drain(ticks):
                    on_tick(name, stage)
                for future in finished:
                    future.result()
                    yield waiting.pop(future)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _drain(ticks: multiprocessing.Queue[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    while True:
        try:
            yield ticks.get_nowait()
        except queue.Empty:
            return


_worker: tuple[Grid, Any] | None = None


def _start_worker(grid: Grid, ticks: Any, parent: int) -> None:
    global _worker
    torch.set_num_threads(1)  # small matrices: processes scale, threads do not
    _worker = (grid, ticks)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """A killed parent leaves no orphan computing on."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(cell: Cell) -> None:
    assert _worker is not None
    grid, ticks = _worker
    grid.run(cell, lambda stage: ticks.put((cell.name, stage)))
