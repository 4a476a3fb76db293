"""`adacomed compare`: every method on the same folds, one table with intervals."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from adacomed.commands.console import claim_folder, embedding_progress, grid_progress, note, say
from adacomed.config import Experiment, load_experiment
from adacomed.errors import InputError
from adacomed.evaluation.compare import paired_headlines, summarise
from adacomed.evaluation.other_tasks import other_tables, text_other
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.evaluation.tables import text_paired, text_table
from adacomed.report.report import write_report
from adacomed.scale.cluster import Engine, check_engine, joined
from adacomed.scale.grid import run_on_ray
from adacomed.schema import Predictions, RunFiles
from adacomed.tracking.tracker import tracker
from adacomed.training.checkpoint import environment
from adacomed.training.flow import data_flow
from adacomed.training.grid import Grid, run_grid
from adacomed.training.names import BAYES, check_methods
from adacomed.training.prepare import Prepared, comparison_folds, describe, prepare
from adacomed.training.size import mixture_size
from adacomed.training.writing import write_csv, write_json, write_parquet

PAIRED = "paired.csv"


def compare(
    experiment: Path,
    overrides: list[str] = [],  # noqa: B006  (Typer copies it)
    out: Path = Path("runs/compare"),
    methods: str = "",
    jobs: int = 0,
    resamples: int = 1000,
    store: Path | None = None,
    engine: Engine = "local",
    address: str | None = None,
    track: bool = False,
    tracking_uri: str | None = None,
) -> None:
    """Train every method on the same folds and compare them, with paired 95 % intervals.

    Stopped at any point, the same command goes on where it was; finished cells are kept under
    OUT/cells. The split is repeated k-fold (split.folds, split.repeats) unless split.kind says
    official or holdout.

    Args:
        experiment: YAML with at least cohort: (a cohort folder or YAML).
        overrides: settings over the file's, such as split.repeats=3 seeds=2.
        out: folder for table.csv, paired.csv, predictions.parquet and report.html.
        methods: comma-separated [default: every method].
        jobs: processes [default: one per core, of a cluster every core].
        resamples: bootstrap resamples of the patients behind each interval.
        store: embedding store [default: store/ beside the cohort's YAML].
        engine: ray computes every cell in a task of a Ray cluster (docs/scale.md).
        address: of the cluster, auto or HOST:PORT [default: a cluster of this machine's cores].
        track: log to MLflow, a run for each method (docs/tuning.md).
        tracking_uri: where to, and --track [default: MLFLOW_TRACKING_URI, else a file beside OUT].

    Example:
        adacomed compare experiment.yaml --out runs/cv --methods adacomed,small,forest
        adacomed compare experiment.yaml --out runs/cv --engine ray --address auto
    """
    if jobs < 0:
        raise InputError(f"--jobs {jobs}: expected the number of processes, or 0: one per core")
    if resamples < 1:
        raise InputError(f"--resamples {resamples}: expected 1 or more")
    check_engine(engine, address)
    settings = load_experiment(experiment, overrides)
    tracking = tracker(tracking_uri, out, on_fail=note) if track or tracking_uri else None
    asked = [m.strip() for m in methods.split(",") if m.strip()] or settings.methods
    with embedding_progress() as progress:
        prepared = prepare(settings, store=store, progress=progress, methods=asked or ())
    names = check_methods(asked, prepared.inputs, settings)
    grid = comparison_grid(settings, prepared, names, out)
    claim_folder(out)
    note(describe(prepared, grid.folds))
    if "adacomed" in names:
        note(mixture_size(settings, len(prepared.inputs.vectors)))
    compute(grid, jobs, engine=engine, address=address)
    table = write_comparison(grid, resamples=resamples)
    say(f"{prepared.title}\n{text_table(table)}")
    if (out / PAIRED).is_file():
        say(text_paired(pl.read_csv(out / PAIRED)))
    say(f"table: {out / RunFiles.TABLE}\nreport: {out / RunFiles.REPORT}")
    if tracking is not None:
        name, data = prepared.cohort.card.name, prepared.inputs.fingerprint()
        key = tracking.log_comparison(out, cohort=name, task=prepared.task, data=data)
        if key:
            note(f"tracked: {tracking.shown} run {key}")


def comparison_grid(
    settings: Experiment, prepared: Prepared, names: list[str], out: Path, keep: str | None = None
) -> Grid:
    """The grid of an experiment's folds and methods."""
    folds = comparison_folds(settings, prepared)
    return Grid(
        experiment=settings,
        inputs=prepared.inputs,
        card=prepared.cohort.card,
        task=prepared.task,
        folds=folds,
        methods=names,
        out=out,
        keep=keep,
        samples=prepared.cohort.samples,
        flow=data_flow(prepared, folds),
    )


def compute(grid: Grid, jobs: int, *, engine: Engine = "local", address: str | None = None) -> None:
    """Run what is missing of a grid, with a progress bar.

    Args:
        jobs: processes; 0: one per core.
        engine, address: where they run.
    """
    grid.out.mkdir(parents=True, exist_ok=True)
    with grid_progress(len(grid.cells())) as progress:
        if engine == "ray":
            with joined(address, cpus=jobs or None) as devices:
                run_on_ray(grid, devices, jobs=jobs, on_done=progress.done)
            return
        run_grid(
            grid,
            jobs=jobs or os.cpu_count() or 1,
            on_tick=progress.tick,
            on_done=progress.done,
        )


def _reference(methods: list[str]) -> str:
    """Whom the others are compared with: AdaCoMed, else the method that was named first."""
    return "adacomed" if "adacomed" in methods else methods[0]


def write_comparison(
    grid: Grid, *, resamples: int, extra: Mapping[str, pl.DataFrame] | None = None
) -> pl.DataFrame:
    """Evaluate a finished grid and write its tables and report; the headline table is returned."""
    predictions, stress = grid.grouped(grid.collect()), grid.grouped(grid.stressed())
    table = summarise(at_horizon(predictions), n=resamples)
    write_parquet(predictions, grid.out / RunFiles.PREDICTIONS)
    write_parquet(grid.collect(".history.parquet"), grid.out / RunFiles.HISTORY)
    if stress.width:
        write_parquet(stress, grid.out / RunFiles.STRESS)
    else:
        (grid.out / RunFiles.STRESS).unlink(missing_ok=True)  # of an earlier comparison
    if grid.flow is not None:
        write_json(grid.out / RunFiles.FLOW, grid.flow)
    title = grid.card.title or grid.card.name
    titled = table.with_columns(pl.lit(title).alias("cohort"))  # "Simulated …" travels with it
    write_csv(titled, grid.out / RunFiles.TABLE)
    differences = None
    rivals = [method for method in grid.methods if method != BAYES]  # nobody can beat it
    if len(rivals) > 1:
        found = at_horizon(predictions.filter(pl.col(Predictions.METHOD).is_in(rivals)))
        differences = paired_headlines(found, reference=_reference(rivals), n=resamples)
        write_csv(differences, grid.out / PAIRED)
    else:
        (grid.out / PAIRED).unlink(missing_ok=True)  # of an earlier comparison
    reference = _reference(rivals) if rivals else None  # bayes alone has none
    others = other_tables(predictions, grid.task, reference=reference, n=resamples)
    if others:
        say(text_other(others))
    metrics = {
        **{name: found.to_dicts() for name, found in others.items()},
        "title": title,
        "simulated": grid.card.simulated,
        "experiment": grid.experiment.model_dump(mode="json", by_alias=True),
        "environment": environment(),
        "cells": grid.about(),
    }
    write_json(grid.out / RunFiles.METRICS, metrics)
    if differences is not None:
        differences = differences.filter(pl.col("metric") == "auroc")  # the report's figure
    write_report(grid.out, table=table, paired=differences, extra=dict(extra or {}))
    return table
