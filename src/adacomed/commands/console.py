"""What the commands print: progress on a terminal, plain lines when piped."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from adacomed.errors import InputError
from adacomed.training.grid import Cell

err = Console(stderr=True, highlight=False)  # progress and notes; results go to stdout


class GridProgress:
    """Progress of a grid: cells done, and inside the running ones epochs by stage."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._finished = progress, total, 0
        self._epochs: dict[str, int] = {}
        self._started = time.perf_counter()
        self._task = progress.add_task("training", total=total) if progress else None

    def tick(self, cell: str, stage: str) -> None:
        """One more epoch of `cell` is done."""
        self._epochs[cell] = self._epochs.get(cell, 0) + 1
        if self._progress and self._task is not None and self._epochs[cell] % 5 == 0:
            method = cell.partition("~")[0]
            line = f"{method}: {stage}, epoch {self._epochs[cell]}"
            self._progress.update(self._task, description=line)

    def done(self, cell: Cell) -> None:
        """A cell is finished."""
        self._finished += 1
        if self._progress and self._task is not None:
            self._progress.advance(self._task)
        else:
            seconds = time.perf_counter() - self._started
            note(f"[{self._finished}/{self._total}] {cell.name} ({seconds:.0f} s)")


@contextmanager
def grid_progress(total: int) -> Iterator[GridProgress]:
    """A live bar on a terminal; one line per finished cell when piped."""
    if not err.is_terminal:
        yield GridProgress(None, total)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as progress:
        yield GridProgress(progress, total)


class SpeedColumn(ProgressColumn):
    """Items per second, once some are done."""

    def render(self, task: Task) -> Text:
        """The text of one bar."""
        return Text("" if task.speed is None else f"{task.speed:.1f} items/s")


@contextmanager
def embedding_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per modality that is being embedded; when piped, a line as it starts and as it ends.

    Yields:
        (modality, items done, items to do), to be called as they are done; 0 to do shows nothing.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), SpeedColumn())
    bars: dict[str, TaskID] = {}
    started: dict[str, float] = {}
    with Progress(
        *columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal
    ) as progress:

        def update(modality: str, done: int, total: int) -> None:
            if modality not in bars and total:
                bars[modality] = progress.add_task(f"embedding {modality}", total=total)
                started[modality] = time.perf_counter()
                if not err.is_terminal:
                    note(f"embedding {modality}: {total} items")
            if modality in bars:
                progress.update(bars[modality], completed=done)
                if done == total and not err.is_terminal:
                    speed = total / max(time.perf_counter() - started[modality], 1e-9)
                    note(f"embedded {modality}: {total} items, {speed:.1f} items/s")

        yield update


def claim_folder(folder: Path) -> None:
    """Make sure that results can be written into `folder`, before hours go into them.

    Raises:
        InputError: it is a file, or cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write into the folder {folder} ({error.strerror})") from None


def hush() -> None:
    """Say nothing more but errors: another process of the same command speaks."""
    err.quiet = True
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the process ends)


def note(text: str) -> None:
    """A line about what is going on, on stderr."""
    err.print(text, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """A result, on stdout."""
    print(text, file=sys.stdout, flush=True)
