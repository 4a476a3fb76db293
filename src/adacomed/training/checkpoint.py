"""A run on disk: written whole or not at all, safetensors and JSON only, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from adacomed import __version__
from adacomed.config import Experiment
from adacomed.errors import InputError
from adacomed.evaluation.conformal import Sets
from adacomed.evaluation.recalibration import Calibrator
from adacomed.models.batch import Output
from adacomed.models.mome import modality_subsets
from adacomed.readers.tabular import TableEncoder
from adacomed.schema import CohortCard, RunFiles
from adacomed.strict_json import dumps
from adacomed.training.build import build_from_spec, restore, stored
from adacomed.training.outcome import Classes, Outcome, outcome_of, outcome_state
from adacomed.training.raw_fit import FittedRaw
from adacomed.training.scaling import FittedInputs, Standardiser
from adacomed.training.trained import Trained

FORMAT = 2  # of inputs.json: 2 keeps the settings of the small model and of the baselines
_PACKAGES = ("torch", "numpy", "polars", "scikit-learn", "scipy", "safetensors", "transformers")


@dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    Attributes:
        trained: the model with its inputs, ready for `inference.forward`.
        task, classes, method: what it predicts.
        card: card of the cohort it was trained on.
        meta: inputs.json as it stands on disk.
        model_hash: sha256 of model.safetensors, for provenance.
        bundled: it came in one file, perhaps from elsewhere: no code that it names is run.
    """

    folder: Path
    trained: Trained
    task: str
    classes: tuple[str, ...]
    method: str
    card: CohortCard
    meta: dict[str, Any]
    model_hash: str
    bundled: bool = False


@contextmanager
def written_whole(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well, and vanishes otherwise.

    Raises:
        InputError: `folder` exists and may not be replaced.
    """
    if folder.exists() and not replace:
        raise InputError(f"{folder} exists; give another --out, or --force to replace it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old)
        else:
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_run(
    folder: Path,
    trained: Trained,
    *,
    experiment: Experiment,
    card: CohortCard,
    task: str,
    classes: tuple[str, ...],
    method: str,
    encoders: dict[str, str],
) -> None:
    """Write config.yaml, environment.json, model.safetensors and inputs.json into `folder`."""
    tensors = {f"model.{k}": v.contiguous() for k, v in stored(trained.model).items()}
    for m, s in trained.fitted.large.items():
        tensors[f"inputs.{m}.mean"] = torch.from_numpy(s.mean.copy())
        tensors[f"inputs.{m}.scale"] = torch.from_numpy(s.scale.copy())
        if s.components is not None:
            tensors[f"inputs.{m}.components"] = torch.from_numpy(s.components.copy())
    tensors["log_prior"] = trained.log_prior
    raw_tensors, raw_state = trained.fitted.raw.save()
    tensors |= raw_tensors
    (folder / RunFiles.MODEL).write_bytes(save(tensors))
    fitted = trained.fitted
    names = list(fitted.large)
    meta = {
        "format": FORMAT,
        "adacomed": __version__,
        "method": method,
        "task": task,
        "classes": list(classes),
        "preset": experiment.preset,
        "seed": experiment.seed,
        "title": card.title or card.name,
        "simulated": card.simulated,
        "threshold": trained.threshold,
        "outcome": outcome_state(trained.outcome),
        "calibrator": None if trained.calibrator is None else trained.calibrator.to_dict(),
        "sets": None if trained.sets is None else trained.sets.to_dict(),
        "choices": trained.choices,
        "experts": [" + ".join(names[m] for m in s) for s in modality_subsets(len(names))],
        "spec": trained.spec,
        "native": fitted.native,
        "small": fitted.small,
        "own": fitted.own,
        "encoders": encoders,  # modality → fingerprint
        "tables": {m: encoder.to_dict() for m, encoder in fitted.tables.items()},
        "raw": raw_state,
        "cohort": card.model_dump(mode="json", exclude_defaults=True),
    }
    write_json(folder / RunFiles.INPUTS, meta)
    write_json(folder / RunFiles.ENVIRONMENT, environment())
    resolved = experiment.model_dump(mode="json", by_alias=True)
    (folder / RunFiles.CONFIG).write_text(yaml.safe_dump(resolved, sort_keys=False), "utf-8")


def load_run(folder: Path) -> Run:
    """Read a run written by `save_run`.

    Raises:
        InputError: not a run folder, a damaged file, or a run of a newer format.
    """
    file = folder / RunFiles.INPUTS
    if not file.is_file():
        inner = folder / "run"
        hint = f"; did you mean {inner}?" if (inner / RunFiles.INPUTS).is_file() else ""
        raise InputError(f"{folder}: not a run folder (it has no {RunFiles.INPUTS}){hint}")
    try:
        meta = json.loads(file.read_text("utf-8"))
        tensors = load_file(folder / RunFiles.MODEL)
        if meta["format"] != FORMAT:
            age = "a newer" if meta["format"] > FORMAT else "an older"
            raise InputError(
                f"{folder}: written by {age} adacomed ({meta['adacomed']}); train it again, or "
                f"read it with that version"
            )
        trained = _rebuild(meta, tensors)
        card = CohortCard.model_validate(meta["cohort"])
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the run is damaged ({type(error).__name__}); train it again"
        ) from None
    digest = hashlib.sha256((folder / RunFiles.MODEL).read_bytes()).hexdigest()
    classes = tuple(meta["classes"])
    return Run(folder, trained, meta["task"], classes, meta["method"], card, meta, digest)


def _rebuild(meta: dict[str, Any], tensors: dict[str, Tensor]) -> Trained:
    large = {
        m: Standardiser(
            tensors[f"inputs.{m}.mean"].numpy(),
            tensors[f"inputs.{m}.scale"].numpy(),
            c.numpy() if (c := tensors.get(f"inputs.{m}.components")) is not None else None,
        )
        for m in meta["native"]
    }
    tables = {m: TableEncoder.from_dict(state) for m, state in meta["tables"].items()}
    raw = FittedRaw.load(tensors, meta["raw"]) if "raw" in meta else FittedRaw()
    fitted = FittedInputs(large, meta["native"], tables, meta["small"], meta["own"], raw)
    outcome: Outcome = Classes(tuple(meta["classes"]))
    if "outcome" in meta:
        outcome = outcome_of(meta["outcome"])
    width = outcome.width or len(meta["classes"])
    model = build_from_spec(meta["spec"], fitted, width)
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    restore(model, weights)
    return Trained(
        model=model.eval(),
        fitted=fitted,
        spec=meta["spec"],
        log_prior=tensors["log_prior"],
        threshold=meta["threshold"],
        val_output=Output(logits=torch.zeros(0, width)),
        outcome=outcome,
        choices=meta["choices"],
        # a run of before there were these has neither
        calibrator=Calibrator.from_dict(state) if (state := meta.get("calibrator")) else None,
        sets=Sets.from_dict(state) if (state := meta.get("sets")) else None,
    )


def environment() -> dict[str, Any]:
    """What the numbers were computed with."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "adacomed": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "packages": packages,
    }


def write_json(path: Path, data: Any) -> None:
    """Indented UTF-8 JSON; NaN and infinity become null."""
    path.write_text(dumps(data, indent=2) + "\n", "utf-8")


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write through a temporary name, so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    frame.write_parquet(partial)
    partial.replace(path)
