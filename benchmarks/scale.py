"""What a Ray cluster of two workers on this machine takes, and whether it gives the same bits.

    .venv/bin/python benchmarks/scale.py              # both, about 5 minutes on 2 cores
    .venv/bin/python benchmarks/scale.py --only embed --notes 1000

embed: MiniLM on the 190 notes of ../shared/data/covid-cxr repeated to 5,000 different ones, by the
local engine and by two workers, one of which is killed with SIGKILL when half of them are done.
grid: 12 runs (3 methods × 2 folds × 2 seeds) on 600 simulated patients, by two processes of the
local engine and by two workers, one of which is killed with SIGKILL when half of them are done.
Seconds are those of the work, loading included; starting the cluster stands beside them.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from embed import write_notes  # the script beside this one

from adacomed.cohort.cohort import load_cohort
from adacomed.commands.compare import comparison_grid
from adacomed.config import Experiment, parse
from adacomed.datasets.simulated import build
from adacomed.embed import fill_store, fill_with
from adacomed.encoders.text_encoder import minilm
from adacomed.scale.cluster import joined
from adacomed.scale.embedding import open_encoder
from adacomed.scale.grid import run_on_ray
from adacomed.training.grid import Cell, Grid, run_grid
from adacomed.training.prepare import prepare

METHODS = ["adacomed", "small", "large-ensemble"]


@contextmanager
def timed(into: dict[str, float], name: str) -> Iterator[None]:
    """Seconds of a block."""
    started = time.perf_counter()
    yield
    into[name] = time.perf_counter() - started


class Killer:
    """Kills one of our cluster's busy workers, once."""

    def __init__(self, title: str) -> None:
        self.title, self.killed = f"ray::{title}", 0

    def strike(self) -> None:
        """Kill one, if one is busy just now."""
        for process in psutil.Process().children(recursive=True):
            if not self.killed and process.cmdline()[:1][0].startswith(self.title):
                os.kill(process.pid, signal.SIGKILL)
                self.killed = process.pid


def same(one: Path, other: Path, *, but: tuple[str, ...] = ()) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    left, right = (
        {
            str(p.relative_to(root)): p.read_bytes()
            for p in root.rglob("*")
            if p.is_file() and p.suffix not in but and p.name != ".lock"
        }
        for root in (one, other)
    )
    return left == right and bool(left)


def tell(what: str, took: dict[str, float], killer: Killer, identical: bool) -> None:
    """One line of figures."""
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in took.items())
    ratio = took["ray"] / took["local"]
    print(
        f"{what}: {seconds}; ray / local {ratio:.2f}; one worker killed: "
        f"{'yes' if killer.killed else 'NO'}; identical: {'yes' if identical else 'NO'}",
        flush=True,
    )


def embed(notes: int, seeds: int) -> None:
    """Notes → store."""
    took: dict[str, float] = {}
    killer = Killer("MapWorker")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        card, _ = write_notes(folder, notes, distinct=True)
        cohort = load_cohort(card)
        with timed(took, "local"):
            fill_store(cohort, "note", minilm(), folder / "local")

        def halfway(done: int, total: int) -> None:
            if 2 * done >= total and done < total:
                killer.strike()

        with timed(took, "ray with its start"), joined(None, cpus=2) as devices, timed(took, "ray"):
            root = folder / "ray"
            encoder = open_encoder(cohort, "note", "minilm", root=root, devices=devices)
            fill_with(encoder.pieces, cohort, "note", encoder.card, root, halfway)
        identical = same(folder / "local", folder / "ray")
        tell(f"embed, {notes} notes, MiniLM", took, killer, identical)


def grid(notes: int, seeds: int) -> None:
    """Folds × seeds × methods → cells."""
    took: dict[str, float] = {}
    killer, done = Killer("_compute"), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder / "cohort", samples=600)
        text = {"cohort": str(folder / "cohort"), "seeds": seeds, "split": {"folds": 2}}
        settings = parse(Experiment, text, "benchmark")
        prepared = prepare(settings, methods=METHODS)
        local, ours = (comparison_grid(settings, prepared, METHODS, folder / n) for n in "ab")
        for one in (local, ours):
            one.out.mkdir()
        with timed(took, "local"):
            run_grid(local, jobs=2, on_tick=lambda cell, stage: None, on_done=lambda cell: None)

        def halfway(cell: Cell) -> None:
            done.append(cell)
            if 2 * len(done) >= len(ours.cells()):
                killer.strike()

        with timed(took, "ray with its start"), joined(None, cpus=2), timed(took, "ray"):
            run_on_ray(ours, jobs=0, on_done=halfway)
        tell(f"grid, {len(done)} runs", took, killer, same_numbers(local, ours))


def same_numbers(one: Grid, other: Grid) -> bool:
    """Every file of the cells but the seconds that each took, byte for byte; and the choices."""
    choices = [[cell["choices"] for cell in each.about().values()] for each in (one, other)]
    return choices[0] == choices[1] and same(one.store, other.store, but=(".json",))


def main() -> None:
    """Run the parts that were asked for."""
    parts = {"embed": embed, "grid": grid}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=list(parts))
    parser.add_argument("--notes", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in [asked.only] if asked.only else parts:
        parts[name](asked.notes, asked.seeds)


if __name__ == "__main__":
    main()
