"""A comparison's grid on all cores against a serial loop over the same runs.

    python benchmarks/grid.py --cohort cohorts/mmist-ccrcc --folds 5 --seeds 3

The loop is what a script would do: one method after the other on every fold and seed, in one
process that may use every core, each from the same inputs. Ours is what `adacomed compare` does:
a process per core, and methods of a fold share what they train. The same numbers are asked of both.
`--only N` takes the first N folds of a split into `--folds`, where all of it would take hours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import polars as pl

from adacomed.commands.compare import comparison_grid
from adacomed.config import Experiment
from adacomed.schema import Predictions
from adacomed.training.grid import Grid, run_grid
from adacomed.training.methods import Problem, run_method
from adacomed.training.names import check_methods
from adacomed.training.prepare import prepare

KEY = [
    Predictions.METHOD,
    Predictions.SEED,
    Predictions.REPEAT,
    Predictions.FOLD,
    Predictions.SPLIT,
]
KEY.append(Predictions.SAMPLE_ID)


def main() -> None:
    """Print seconds of both, their ratio and how far their probabilities are apart."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, help="folds that are run")
    parser.add_argument("--methods", default="", help="comma-separated [default: all]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    settings = Experiment.model_validate(
        {"cohort": args.cohort, "seeds": args.seeds, "split": {"folds": args.folds}}
    )
    prepared = prepare(settings)
    names = check_methods([m for m in args.methods.split(",") if m], prepared.inputs, settings)
    out = Path(mkdtemp(prefix="grid-"))
    try:
        grid = comparison_grid(settings, prepared, names, out)
        grid = replace(grid, folds=grid.folds[: args.only])
        print(
            f"{len(grid.cells())} runs: {len(names)} methods, {len(grid.folds)} folds", flush=True
        )
        started = time.perf_counter()
        run_grid(grid, jobs=args.jobs, on_tick=lambda *_: None, on_done=lambda _: None)
        ours = time.perf_counter() - started
        print(f"grid, {args.jobs} processes: {ours:,.1f} s", flush=True)
        seconds, rows = serial(grid)
        looped = sum(map(sum, seconds.values()))
        print(f"serial loop: {looped:,.1f} s; ratio {ours / looped:.2f}")
        both = grid.collect().join(rows, on=KEY, suffix="_looped")
        assert len(both) == len(rows)
        apart = (both["prob"] - both["prob_looped"]).abs()
        print(f"{len(both)} probabilities, at most {apart.max():.1e} apart")
        for method, each in seconds.items():
            print(f"  {method:24}{statistics.median(each):8.1f} s alone")
    finally:
        shutil.rmtree(out)


def serial(grid: Grid) -> tuple[dict[str, list[float]], pl.DataFrame]:
    """Every run of a grid by itself: method → seconds of each, and all predictions."""
    seconds: dict[str, list[float]] = {}
    frames = []
    for cell in grid.cells():
        experiment = grid.experiment.model_copy(update={"seed": cell.seed})
        started = time.perf_counter()
        problem = Problem(experiment, grid.inputs, cell.fold, grid.task, cell.seed)
        frames.append(run_method(cell.method, problem).predictions)
        seconds.setdefault(cell.method, []).append(time.perf_counter() - started)
    return seconds, pl.concat(frames, how="diagonal").select(*KEY, "prob")


if __name__ == "__main__":
    main()
