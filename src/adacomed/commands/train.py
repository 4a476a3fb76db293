"""`adacomed train`: one model, from an experiment YAML to a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adacomed.commands.console import (
    claim_folder,
    embedding_progress,
    grid_progress,
    hush,
    note,
    say,
)
from adacomed.config import Experiment, load_experiment
from adacomed.errors import FullDiskError, InputError
from adacomed.evaluation.compare import summarise
from adacomed.evaluation.other_tasks import other_tables, text_other
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.evaluation.tables import text_table
from adacomed.report.report import write_report
from adacomed.schema import RunFiles
from adacomed.tracking.tracker import tracker
from adacomed.training.distributed import rank
from adacomed.training.flow import data_flow
from adacomed.training.grid import Cell
from adacomed.training.loader import Inputs
from adacomed.training.methods import NEURAL, Problem, Result, run_method
from adacomed.training.names import SINGLE, check_methods, variant
from adacomed.training.on_disk import hand_back
from adacomed.training.prepare import Prepared, describe, one_fold, prepare
from adacomed.training.run_folder import write_run
from adacomed.training.size import mixture_size
from adacomed.training.snapshots import MARK, begun_with, unfinished
from adacomed.training.writing import settle, write_json, written_whole


def train(
    experiment: Path,
    overrides: list[str] = [],  # noqa: B006  (Typer copies it)
    out: Path = Path("runs/run"),
    method: str = "adacomed",
    store: Path | None = None,
    force: bool = False,
    resume: bool = False,
    track: bool = False,
    tracking_uri: str | None = None,
) -> None:
    """Train one model and write a run folder: model, predictions, metrics, report.

    Every choice (epochs, weighting strategy, threshold) is made on validation patients; the test
    patients are predicted once, at the end.

    Args:
        experiment: YAML with at least cohort: (a cohort folder or YAML).
        overrides: settings over the file's, such as training.epochs=3 model.strategy=threshold.
        out: run folder to write.
        method: adacomed, or another method that makes a model: small, large-ensemble, average,
          <modality>-large, multimodal-pred, meta-transformer, onellm, flex-moe, healnet.
        store: embedding store [default: store/ beside the cohort's YAML].
        force: replace an existing run folder.
        resume: go on where a training of the same was stopped or killed (docs/crash_safety.md).
        track: log the run to MLflow (docs/tuning.md).
        tracking_uri: where to, and --track [default: MLFLOW_TRACKING_URI, else a file beside OUT].

    Example:
        adacomed train experiment.yaml --out runs/first seed=1 training.epochs=30
        torchrun --nproc-per-node 2 -m adacomed train experiment.yaml --out runs/first
    """
    settings = load_experiment(experiment, overrides)
    first = rank() == 0  # of the processes that torchrun has started; the others write nothing
    if first:
        settle(out)
    else:
        hush()
    if not resume:
        _check_free(out, force)
    tracked = first and (track or tracking_uri)
    tracking = tracker(tracking_uri, out, on_fail=note) if tracked else None
    with embedding_progress() as progress:
        prepared = prepare(settings, store=store, progress=progress, methods=[method])
    _check_method(method, prepared.inputs, settings)
    fold = one_fold(settings, prepared)
    claim_folder(out.parent)
    note(describe(prepared, [fold]))
    if variant(method, settings)[0] == "adacomed":
        note(mixture_size(variant(method, settings)[1], len(prepared.inputs.vectors)))
    begun = begun_with(settings, prepared.inputs, fold, method=method, task=prepared.task)
    found = unfinished(out, begun, resume=resume, tell=note, follows=not first)
    with _stoppable(), found as kept:
        if not kept.finished:
            _check_free(out, force)
            problem = Problem(
                settings,
                prepared.inputs,
                fold,
                prepared.task,
                settings.seed,
                snapshots=kept.snapshots,
            )
            cell = Cell(method, fold, settings.seed)
            with grid_progress(1) as bar:
                result = run_method(method, problem, lambda stage: bar.tick(cell.name, stage))
                bar.done(cell)
            if first:
                say(_write(out, result, method, prepared, problem, replace=force, mark=kept.mark))
        kept.over = True
    say(f"run: {out}\nreport: {out / RunFiles.REPORT}")
    if tracking is not None:
        key = tracking.log_run(out, data=prepared.inputs.fingerprint())
        if key:
            note(f"tracked: {tracking.shown} run {key}")


def _check_free(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise InputError(f"{out} exists; give another --out, or --force to replace it")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Say how a training goes on that was stopped here, by the user or by a full disk."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped; what was finished is kept: the same command with --resume goes on"
        ) from None
    except FullDiskError as error:
        raise InputError(f"{error} with --resume") from None


def _write(
    out: Path,
    result: Result,
    method: str,
    prepared: Prepared,
    problem: Problem,
    *,
    replace: bool,
    mark: str,
) -> str:
    """Write the run folder; its metrics as a table of text are returned."""
    assert result.trained is not None
    table = summarise(at_horizon(result.predictions))
    others = other_tables(result.predictions, prepared.task)
    with written_whole(out, replace=replace) as folder:
        write_run(
            folder,
            result,
            experiment=variant(method, problem.experiment)[1],
            card=prepared.cohort.card,
            inputs=prepared.inputs,
            task=prepared.task,
            method=method,
            samples=prepared.cohort.samples,
            flow=data_flow(prepared, [problem.fold]),
        )
        metrics = {
            "title": prepared.title,
            "simulated": prepared.cohort.card.simulated,
            MARK: mark,
            "choices": result.choices,
            "test": table.to_dicts(),
            **{name: found.to_dicts() for name, found in others.items()},
        }
        write_json(folder / RunFiles.METRICS, metrics)
        hand_back()
        write_report(folder, table=table)
    return f"{prepared.title}\n{text_table(table)}{text_other(others)}"


def _check_method(method: str, inputs: Inputs, settings: Experiment) -> None:
    """Raise an InputError for an unknown method, or one that leaves no model to predict with."""
    check_methods([method], inputs, settings)
    base, _ = variant(method, settings)
    if base not in NEURAL and not base.endswith(SINGLE):
        raise InputError(f"method {method!r} has no model to save; use adacomed compare for it")
