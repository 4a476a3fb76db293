"""A grid on a Ray cluster: a task for each cell; this process alone writes what they found.

The grid lies once in Ray's object store. A task computes its cell in a folder of its own and sends
the files back, so the machines share no disk. A task whose process dies is tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adacomed.errors import InputError
from adacomed.scale.cluster import DEATHS, Devices, losses
from adacomed.store import write_durably
from adacomed.training.checkpoint import written_whole
from adacomed.training.engine import one_core, wants_card
from adacomed.training.grid import Cell, Grid
from adacomed.training.methods import Trainers

SLICES = 10_000  # of a card that Ray can tell apart
RUN = "run"  # the one folder of a grid beside its cells (`Grid.keep`)

Files = dict[str, bytes]  # path below a grid's folder → content


def run_on_ray(grid: Grid, devices: Devices, *, jobs: int, on_done: Callable[[Cell], None]) -> None:
    """Compute every cell that is not on disk yet, on the cluster that this process is connected to.

    Args:
        devices: of the cluster.
        jobs: cells at a time; 0: as many as the cluster takes.
        on_done: after every cell, also at once for those found finished.
    Raises:
        InputError: a card is asked for that is not there, a cell says so, or its processes keep
            dying; the finished cells stay on disk.
    """
    import ray

    gpus, todo = gpus_of_a_cell(grid, devices), []
    for cell in grid.cells():
        if grid.done(cell):
            on_done(cell)
        else:
            todo.append(cell)
    todo.sort(key=_shared)  # cells that can share come one after another
    compute = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=DEATHS)(_compute)
    store = grid.store
    held = [ray.put(grid)]  # in a list: a worker fetches it once, not every task
    running: dict[Any, Cell] = {}
    try:
        while todo or running:
            while todo and (not jobs or len(running) < jobs):
                cell = todo.pop(0)
                running[compute.remote(held, cell)] = cell
            [finished], _ = ray.wait(list(running), num_returns=1)
            cell = running.pop(finished)
            with losses(cell.name, "--jobs"):
                found = ray.get(finished)
            if isinstance(found, str):
                raise InputError(found)
            _write(grid, store, cell, found)
            on_done(cell)
    finally:
        for task in running:
            ray.cancel(task, force=True)


def gpus_of_a_cell(grid: Grid, devices: Devices) -> float:
    """What a cell asks Ray for, which shows a task no other card: all cores share the cards.

    Raises:
        InputError: the settings ask for a card, and the cluster has none.
    """
    device = grid.experiment.training.device
    if not wants_card(device, max(len(fold.train) for fold in grid.folds)):
        return 0.0
    if not devices.gpus and device != "auto":
        raise InputError(f"training.device: {device!r}, and the Ray cluster has no GPU")
    return min(1.0, devices.gpus * SLICES // devices.cpus / SLICES)


def _shared(cell: Cell) -> tuple[int, int, int]:
    """What two cells have in common that can share what they train."""
    return cell.fold.repeat, cell.fold.fold, cell.seed


def _write(grid: Grid, store: Path, cell: Cell, files: Files) -> None:
    """Write a cell's files, its predictions last: they say that it is done.

    Args:
        store: `grid.store`, which takes reading all inputs to find out.
    """
    last = store / f"{cell.name}.parquet"
    if last not in [grid.out / name for name in files]:
        raise InputError(
            "a worker of the Ray cluster reads the experiment in another way than this command; "
            "give every machine the same version of adacomed"
        )
    run = {name: content for name, content in files.items() if Path(name).parts[0] == RUN}
    if run:
        with written_whole(grid.out / RUN, replace=True) as folder:
            for name, content in run.items():
                path = folder / Path(name).relative_to(RUN)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    store.mkdir(parents=True, exist_ok=True)
    for name in sorted(files.keys() - run.keys(), key=lambda name: grid.out / name == last):
        write_durably(grid.out / name, files[name])


@dataclass
class _Here:
    """What a worker keeps from one cell to the next: the grid, and what its fold has trained."""

    grid: Grid
    held: Any
    shared: tuple[int, int, int]
    trainers: Trainers


_here: _Here | None = None


def _compute(held: list[Any], cell: Cell) -> Files | str:
    """In a worker: the files of a cell, or the message of its InputError."""
    import ray

    global _here
    one_core()
    if _here is None or _here.held != held[0]:
        _here = _Here(ray.get(held[0]), held[0], _shared(cell), Trainers())
    elif _here.shared != _shared(cell):
        _here.shared, _here.trainers = _shared(cell), Trainers()
    with TemporaryDirectory(prefix="adacomed-cell-") as name:
        folder = Path(name)
        try:
            replace(_here.grid, out=folder).run(cell, lambda stage: None, _here.trainers)
        except InputError as error:
            return str(error)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
