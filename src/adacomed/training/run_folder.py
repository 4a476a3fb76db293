"""A run folder's files: the model, and what it said of the patients that it was judged on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from adacomed.config import Experiment
from adacomed.evaluation.levels import with_groups
from adacomed.schema import CohortCard, RunFiles
from adacomed.training.checkpoint import save_run, write_json, write_parquet
from adacomed.training.loader import Inputs
from adacomed.training.methods import Result


def write_run(
    folder: Path,
    result: Result,
    *,
    experiment: Experiment,
    card: CohortCard,
    inputs: Inputs,
    task: str,
    method: str,
    samples: pl.DataFrame | None,
    flow: Mapping[str, Any] | None,
) -> None:
    """Write everything but metrics.json and the report.

    Args:
        folder: an empty folder (see `checkpoint.written_whole`).
        result: of a method that leaves a model.
        experiment: with the method's own settings.
        samples: the cohort's table, which the groups of its card are columns of.
        flow: who was left out, and why (`flow.data_flow`).
    """
    assert result.trained is not None
    save_run(
        folder,
        result.trained,
        experiment=experiment,
        card=card,
        task=task,
        classes=inputs.classes,
        method=method,
        encoders=inputs.encoders,
    )
    write_parquet(grouped(result.predictions, card, samples), folder / RunFiles.PREDICTIONS)
    write_parquet(result.history, folder / RunFiles.HISTORY)
    if result.stress.width:
        write_parquet(grouped(result.stress, card, samples), folder / RunFiles.STRESS)
    if flow is not None:
        write_json(folder / RunFiles.FLOW, flow)


def grouped(rows: pl.DataFrame, card: CohortCard, samples: pl.DataFrame | None) -> pl.DataFrame:
    """Rows with the cohort's groups beside them, as `group_<name>`."""
    return rows if samples is None else with_groups(rows, samples, card.groups)
