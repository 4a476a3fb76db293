"""A run on disk: written whole or not at all, safetensors and JSON only, never pickle."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
from adacomed.training.build import build_from_spec, restore, stored
from adacomed.training.outcome import Classes, Outcome, outcome_of, outcome_state
from adacomed.training.raw_fit import FittedRaw
from adacomed.training.scaling import FittedInputs, Standardiser
from adacomed.training.trained import Trained
from adacomed.training.upgrade import upgraded
from adacomed.training.writing import write_json as write_json
from adacomed.training.writing import write_parquet as write_parquet
from adacomed.training.writing import written_whole as written_whole

FORMAT = 3  # of inputs.json: 2 has one layer for each modality's projection (`upgrade.py`)
READ = (2, FORMAT)
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
    subsets = modality_subsets(len(names), trained.spec["preset"]["max_order"])
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
        "experts": [" + ".join(names[m] for m in s) for s in subsets],
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
        if meta["format"] not in READ:
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
    weights = upgraded(weights, meta["format"])
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
