"""Methods × folds × seeds, in parallel, resumable: a finished cell is never computed again."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from adacomed import __version__
from adacomed.cohort.split import Fold
from adacomed.config import Experiment
from adacomed.schema import CohortCard
from adacomed.training.checkpoint import write_json, write_parquet, written_whole
from adacomed.training.engine import die_with_parent, one_core
from adacomed.training.loader import Inputs
from adacomed.training.methods import Problem, Result, Trainers, run_method
from adacomed.training.names import family, variant
from adacomed.training.run_folder import grouped, write_run

CELLS = "cells"
STRESS = ".stress.parquet"
LONG = ("boosting-all", "adacomed", "forest-all")  # take longest where vectors are wide
LONGEST_NAME = 150  # of a method in a file's name; a variant's can be longer


@dataclass(frozen=True)
class Cell:
    """One method on one fold with one seed."""

    method: str
    fold: Fold
    seed: int

    @property
    def name(self) -> str:
        """File stem of the cell's results."""
        method = quote(self.method, safe="-_.=")  # a variant's ? and & are no part of a file name
        if len(method) > LONGEST_NAME:
            digest = hashlib.sha256(method.encode()).hexdigest()[:12]
            method = f"{method[:LONGEST_NAME]}-{digest}"
        return f"{method}~r{self.fold.repeat}f{self.fold.fold}s{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A comparison: what is trained on what.

    Attributes:
        keep: method whose model is saved as a run under `out`/run (one fold and seed only).
        samples: the cohort's table, which the groups of its card are columns of.
        flow: who was left out, and why (`flow.data_flow`).
    """

    experiment: Experiment
    inputs: Inputs
    card: CohortCard
    task: str
    folds: list[Fold]
    methods: list[str]
    out: Path
    keep: str | None = None
    samples: pl.DataFrame | None = None
    flow: dict[str, Any] | None = None

    def cells(self) -> list[Cell]:
        """Every cell, in the order of methods (the slow ones should come first)."""
        seeds = range(self.experiment.seed, self.experiment.seed + self.experiment.seeds)
        return [Cell(m, f, s) for m in self.methods for f in self.folds for s in seeds]

    @cached_property
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

    def run(self, cell: Cell, tick: Callable[[str], None], trainers: Trainers) -> None:
        """Compute a cell and write it.

        Args:
            trainers: of earlier cells of this fold and seed; what they trained is not done again.
        """
        experiment = self.experiment.model_copy(update={"seed": cell.seed})
        problem = Problem(experiment, self.inputs, cell.fold, self.task, cell.seed, trainers)
        started = time.perf_counter()
        result = run_method(cell.method, problem, tick)
        if cell.method == self.keep:
            self._keep(result)
        self.store.mkdir(parents=True, exist_ok=True)
        seconds = round(time.perf_counter() - started, 2)
        about = {"method": cell.method, "seconds": seconds, "choices": result.choices}
        write_json(self.store / f"{cell.name}.json", about)
        write_parquet(result.history, self.store / f"{cell.name}.history.parquet")
        if result.stress.width:
            write_parquet(result.stress, self.store / f"{cell.name}{STRESS}")
        write_parquet(result.predictions, self.store / f"{cell.name}.parquet")

    def _keep(self, result: Result) -> None:
        with written_whole(self.out / "run", replace=True) as folder:
            write_run(
                folder,
                result,
                experiment=variant(str(self.keep), self.experiment)[1],
                card=self.card,
                inputs=self.inputs,
                task=self.task,
                method=str(self.keep),
                samples=self.samples,
                flow=self.flow,
            )

    def collect(self, suffix: str = ".parquet") -> pl.DataFrame:
        """All cells' rows stacked, in the order of the cells."""
        files = [self.store / f"{cell.name}{suffix}" for cell in self.cells()]
        return pl.concat([pl.read_parquet(file) for file in files], how="diagonal")

    def stressed(self) -> pl.DataFrame:
        """All cells' rows of stress.parquet; a cell of an older store, or left out, has none."""
        files = [self.store / f"{cell.name}{STRESS}" for cell in self.cells()]
        frames = [pl.read_parquet(file) for file in files if file.is_file()]
        return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()

    def grouped(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with the cohort's groups beside them, as `group_<name>`."""
        return grouped(rows, self.card, self.samples)

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
    groups = _groups(grid, todo, jobs)
    if jobs <= 1 or len(groups) <= 1:
        for group in groups:
            _run_group(grid, group, on_tick, on_done)
        return
    _in_parallel(grid, groups, jobs, on_tick, on_done)


def _groups(grid: Grid, cells: list[Cell], jobs: int) -> list[list[Cell]]:
    """Cells that one process computes, in the order in which they should begin.

    The methods of a fold share what they train, those of a family most of it (the small model, the
    parts of an average). Whole folds come first; the last ones are handed out by families, the long
    ones first, so that no process is left with a fold of its own when the others have nothing.
    """
    folds: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        folds.setdefault((cell.fold.repeat, cell.fold.fold, cell.seed), []).append(cell)
    fair = len(folds) if jobs <= 1 else max(0, len(folds) // jobs - 1) * jobs
    whole, rest = list(folds.values())[:fair], list(folds.values())[fair:]
    families: dict[tuple[object, ...], list[Cell]] = {}
    for number, fold in enumerate(rest):
        for cell in fold:
            families.setdefault((number, family(cell.method, grid.experiment)), []).append(cell)
    return whole + sorted(families.values(), key=lambda group: _rank(group, grid.experiment))


def _rank(group: list[Cell], experiment: Experiment) -> int:
    names = [variant(cell.method, experiment)[0] for cell in group]
    return min((LONG.index(name) for name in names if name in LONG), default=len(LONG))


def _run_group(
    grid: Grid,
    group: list[Cell],
    on_tick: Callable[[str, str], None],
    on_done: Callable[[Cell], None],
) -> None:
    trainers = Trainers()
    for cell in group:
        grid.run(cell, lambda stage, c=cell: on_tick(c.name, stage), trainers)  # type: ignore[misc]
        on_done(cell)


def _in_parallel(
    grid: Grid,
    groups: list[list[Cell]],
    jobs: int,
    on_tick: Callable[[str, str], None],
    on_done: Callable[[Cell], None],
) -> None:
    context = multiprocessing.get_context("spawn")  # fork and torch's threads do not mix
    news: multiprocessing.Queue[tuple[str, str | None]] = context.Queue()
    cells = {cell.name: cell for group in groups for cell in group}

    def tell() -> None:
        for name, stage in _drain(news):
            if stage is None:
                on_done(cells[name])
            else:
                on_tick(name, stage)

    with ProcessPoolExecutor(min(jobs, len(groups)), context, _start_worker, (grid, news)) as pool:
        waiting: set[Future[None]] = {pool.submit(_work, group) for group in groups}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                tell()
                for future in finished:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tell()


def _drain(
    news: multiprocessing.Queue[tuple[str, str | None]],
) -> Iterator[tuple[str, str | None]]:
    while True:
        try:
            yield news.get_nowait()
        except queue.Empty:
            return


_worker: tuple[Grid, Any] | None = None


def _start_worker(grid: Grid, news: Any) -> None:
    global _worker
    one_core()
    die_with_parent()
    _worker = (grid, news)


def _work(group: list[Cell]) -> None:
    assert _worker is not None
    grid, news = _worker
    _run_group(
        grid,
        group,
        lambda name, stage: news.put((name, stage)),
        lambda cell: news.put((cell.name, None)),
    )
