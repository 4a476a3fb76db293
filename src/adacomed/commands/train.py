"""`adacomed train`: one model, from an experiment YAML to a run folder."""

from __future__ import annotations

from pathlib import Path

from adacomed.commands.console import claim_folder, embedding_progress, grid_progress, note, say
from adacomed.config import Experiment, load_experiment
from adacomed.errors import InputError
from adacomed.evaluation.compare import summarise
from adacomed.evaluation.other_tasks import other_tables, text_other
from adacomed.evaluation.survival_tables import at_horizon
from adacomed.evaluation.tables import text_table
from adacomed.report.report import write_report
from adacomed.schema import RunFiles
from adacomed.training.checkpoint import write_json, written_whole
from adacomed.training.flow import data_flow
from adacomed.training.grid import Cell
from adacomed.training.loader import Inputs
from adacomed.training.methods import NEURAL, Problem, run_method
from adacomed.training.names import SINGLE, check_methods, variant
from adacomed.training.prepare import describe, one_fold, prepare
from adacomed.training.run_folder import write_run


def train(
    experiment: Path,
    overrides: list[str] = [],  # noqa: B006  (Typer copies it)
    out: Path = Path("runs/run"),
    method: str = "adacomed",
    store: Path | None = None,
    force: bool = False,
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

    Example:
        adacomed train experiment.yaml --out runs/first seed=1 training.epochs=30
    """
    settings = load_experiment(experiment, overrides)
    if out.exists() and not force:
        raise InputError(f"{out} exists; give another --out, or --force to replace it")
    with embedding_progress() as progress:
        prepared = prepare(settings, store=store, progress=progress, methods=[method])
    _check_method(method, prepared.inputs, settings)
    fold = one_fold(settings, prepared)
    claim_folder(out.parent)
    note(describe(prepared, [fold]))
    problem = Problem(settings, prepared.inputs, fold, prepared.task, settings.seed)
    cell = Cell(method, fold, settings.seed)
    with grid_progress(1) as bar:
        result = run_method(method, problem, lambda stage: bar.tick(cell.name, stage))
        bar.done(cell)
    assert result.trained is not None
    table = summarise(at_horizon(result.predictions))
    others = other_tables(result.predictions, prepared.task)
    with written_whole(out, replace=force) as folder:
        write_run(
            folder,
            result,
            experiment=variant(method, settings)[1],
            card=prepared.cohort.card,
            inputs=prepared.inputs,
            task=prepared.task,
            method=method,
            samples=prepared.cohort.samples,
            flow=data_flow(prepared, [fold]),
        )
        metrics = {
            "title": prepared.title,
            "simulated": prepared.cohort.card.simulated,
            "choices": result.choices,
            "test": table.to_dicts(),
            **{name: found.to_dicts() for name, found in others.items()},
        }
        write_json(folder / RunFiles.METRICS, metrics)
        write_report(folder, table=table)
    say(f"{prepared.title}\n{text_table(table)}{text_other(others)}")
    say(f"run: {out}\nreport: {out / RunFiles.REPORT}")


def _check_method(method: str, inputs: Inputs, settings: Experiment) -> None:
    """Raise an InputError for an unknown method, or one that leaves no model to predict with."""
    check_methods([method], inputs, settings)
    base, _ = variant(method, settings)
    if base not in NEURAL and not base.endswith(SINGLE):
        raise InputError(f"method {method!r} has no model to save; use adacomed compare for it")
