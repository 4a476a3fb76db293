"""What a tracking server is told of a folder of results: never a patient's row or prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from adacomed.config import Experiment, parse
from adacomed.schema import History, RunFiles
from adacomed.training.names import variant
from adacomed.training.recipes import resolve_preset

PAIRED = "paired.csv"  # of a comparison
Metrics = Mapping[str, float | Sequence[tuple[int, float]]]  # a value, or (step, value) of a curve


@dataclass(frozen=True)
class Sent:
    """One run for MLflow.

    Attributes:
        files: to be kept with it, where they exist.
        runs: nested in it.
    """

    name: str
    params: Mapping[str, Any]
    metrics: Metrics
    tags: Mapping[str, str]
    files: Sequence[Path] = ()
    runs: Sequence[Sent] = ()


def of_run(folder: Path, data: str) -> Sent:
    """A run folder of `adacomed train`.

    Args:
        data: `Inputs.fingerprint()`.
    """
    meta, said = _json(folder / RunFiles.INPUTS), _json(folder / RunFiles.METRICS)
    settings = yaml.safe_load((folder / RunFiles.CONFIG).read_text("utf-8"))
    params, changed = settings_of(parse(Experiment, settings, RunFiles.CONFIG))
    digest = hashlib.sha256((folder / RunFiles.MODEL).read_bytes()).hexdigest()
    tags = about(meta["cohort"]["name"], meta["task"], meta["simulated"], data, "train")
    tags |= {"method": meta["method"], "model_hash": digest, "changed": changed}
    tables = [said["test"], *(said.get(name, []) for name in ("survival", "findings"))]
    metrics = _curves(pl.read_parquet(folder / RunFiles.HISTORY))
    for rows in tables:
        metrics |= _numbers(rows)
    kept = (RunFiles.CONFIG, RunFiles.METRICS, RunFiles.MODEL_CARD, RunFiles.REPORT)
    name = f"{meta['method']} {folder.name}"
    return Sent(name, params, metrics, tags, [folder / file for file in kept])


def of_comparison(folder: Path, cohort: str, task: str, data: str) -> Sent:
    """A folder of `adacomed compare`: a run, and one nested in it for each method.

    Args:
        cohort: name on its card.
        data: `Inputs.fingerprint()`.
    """
    said = _json(folder / RunFiles.METRICS)
    experiment = parse(Experiment, said["experiment"], RunFiles.METRICS)
    params, changed = settings_of(experiment)
    tags = about(cohort, task, said["simulated"], data, "compare")
    tables = [pl.read_csv(folder / RunFiles.TABLE).to_dicts()]
    tables += [said.get(name, []) for name in ("survival", "findings")]
    runs = []
    for method in dict.fromkeys(row["method"] for rows in tables for row in rows):
        own, differs = settings_of(variant(method, experiment)[1])
        cells = [cell for cell in said["cells"].values() if cell["method"] == method]
        metrics: dict[str, Any] = {"seconds": float(sum(cell["seconds"] for cell in cells))}
        for rows in tables:
            metrics |= _numbers([row for row in rows if row["method"] == method])
        runs.append(Sent(method, own, metrics, {**tags, "method": method, "changed": differs}))
    kept = (RunFiles.METRICS, RunFiles.TABLE, PAIRED, RunFiles.MODEL_CARD, RunFiles.REPORT)
    files = [folder / file for file in kept]
    differences = _differences(folder / PAIRED)
    return Sent(
        f"compare {folder.name}", params, differences, tags | {"changed": changed}, files, runs
    )


def settings_of(experiment: Experiment) -> tuple[dict[str, Any], str]:
    """Every setting, flat, as it is in force; and which differ from the defaults, `name=value`.

    The cohort's path is left out: it may name a person or a disk.
    """
    plain = experiment.model_dump(mode="json", by_alias=True, exclude={"cohort"})
    usual = Experiment(cohort=experiment.cohort).model_dump(
        mode="json", by_alias=True, exclude={"cohort"}
    )
    flat, default, preset = _flat(plain), _flat(usual), resolve_preset(experiment)
    changed = [f"{name}={flat[name]}" for name in flat if flat[name] != default.get(name)]
    for name, value in flat.items():
        group, _, key = name.partition(".")
        if value is None and group in ("model", "training"):
            flat[name] = getattr(preset, "lambda_" if key == "lambda" else key, None)
    return flat, ", ".join(changed) or "nothing"


def _flat(data: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
    return flat


def about(cohort: str, task: str, simulated: bool, data: str, verb: str) -> dict[str, str]:
    """The tags that every run has.

    Args:
        data: `Inputs.fingerprint()`.
        verb: the command that made it.
    """
    source = {"mlflow.source.name": f"adacomed {verb}"}
    about = {"cohort": cohort, "task": task, "simulated": str(bool(simulated)).lower()}
    return {**source, **about, "data": data}


def _curves(history: pl.DataFrame) -> dict[str, Any]:
    """`stage/part/metric` → its value after every epoch."""
    curves: dict[str, Any] = {}
    for row in history.iter_rows(named=True):
        name = f"{row[History.STAGE]}/{row[History.PART]}/{row[History.METRIC]}"
        if row[History.VALUE] is not None:
            curves.setdefault(name, []).append((row[History.EPOCH], row[History.VALUE]))
    return curves


def _numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of an evaluation's rows: `test/auroc`, `test/auroc_low`, and of several tasks
    `test/<task>/auroc`."""
    several = len({row.get("task") for row in rows}) > 1
    return {
        f"test/{row['task']}/{key}" if several else f"test/{key}": float(value)
        for row in rows
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _differences(file: Path) -> dict[str, Any]:
    """`difference/<method>/<metric>` and its interval's ends: the reference less that method."""
    if not file.is_file():
        return {}
    return {
        f"difference/{row['method']}/{row['metric']}{end}": float(row[column])
        for row in pl.read_csv(file).iter_rows(named=True)
        for end, column in (("", "difference"), ("_low", "low"), ("_high", "high"))
        if row[column] is not None
    }


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found
