"""Experiment settings, and the strict reading of every YAML: unknown keys name the nearest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adacomed.errors import InputError, nearest

T = TypeVar("T", bound=BaseModel)


class Settings(BaseModel):
    """A group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class SmallSettings(Settings):
    """The small multimodal model (frozen after pretraining, except its head f)."""

    modalities: list[str] | None = None  # None: the cohort's tables, else everything
    width: int = Field(64, ge=1, description="width of each shallow encoder and of e_small")
    dropout: float = Field(0.3, ge=0, lt=1)
    epochs: int | None = Field(None, ge=1, description="None: training.epochs, else the preset's")


class ModelSettings(Settings):
    """The fusion model; a value left out comes from the preset (models/presets.py)."""

    H: int | None = Field(None, ge=1, description="width of the modality tokens")
    d: int | None = Field(None, ge=1, description="width of the joint space")
    heads: int | None = Field(None, ge=1)
    dropout: float | None = Field(None, ge=0, lt=1)
    strategy: (
        Literal["auto", "ensemble", "learnable", "inverse", "gaussian", "threshold"] | None
    ) = None
    lambda_: float | None = Field(None, ge=0, alias="lambda", description="weight of L_contrast")
    tau: float | None = Field(None, gt=0, description="temperature of Eq. 4")
    sigma: float | None = Field(None, gt=0, description="gaussian strategy")
    T: float | None = Field(None, gt=0, description="inverse strategy")
    alpha: float | None = Field(None, gt=0, description="inverse strategy")
    t: float | Literal["median"] | None = Field(None, description="threshold strategy")
    k: float | None = Field(None, description="threshold strategy: steepness")
    bank_size: int | None = Field(None, ge=2, description="training z_small kept for s")

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True
    )


class TrainingSettings(Settings):
    """The one loop, for every neural method alike."""

    epochs: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    batch_size: int = Field(64, ge=2)
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    class_weights: bool = True
    validation: Literal["auto", "holdout", "cv"] = "auto"
    inner_folds: int = Field(5, ge=2)
    patience: int = Field(10, ge=1)
    members: int | None = Field(None, ge=1, description="cv: models averaged, a seed each")
    val_fraction: float = Field(0.15, gt=0, lt=0.5)


class SplitSettings(Settings):
    """Who is trained on, validated on, tested on. One subject is never on two sides."""

    kind: Literal["auto", "official", "holdout", "kfold"] = "auto"
    folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=1)
    seed: int = 0
    test_fraction: float = Field(0.2, gt=0, lt=1)


class InputSettings(Settings):
    """How vectors become model inputs; everything here is fitted on training patients only."""

    standardise: bool = True
    pca: int | None = Field(None, ge=2, description="components per modality, None = no PCA")


class Experiment(Settings):
    """One experiment: a cohort, a task, and whatever differs from the defaults."""

    cohort: Path
    task: str | None = None  # may be left out where the cohort has one task
    preset: Literal["default", "paper", "authors"] = "default"
    seed: int = Field(0, ge=0)
    seeds: int = Field(1, ge=1, description="compare: seeds per fold")
    modalities: list[str] | None = None  # large side; None = every modality that has vectors
    methods: list[str] | None = None
    small: SmallSettings = SmallSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    split: SplitSettings = SplitSettings()
    inputs: InputSettings = InputSettings()

    @model_validator(mode="before")
    @classmethod
    def _needs_cohort(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("cohort"):
            raise ValueError("an experiment needs cohort: (a cohort folder or YAML)")
        return data


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping safely.

    Raises:
        InputError: no such file, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason})") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise InputError(f"{path}: not valid YAML{line}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected keys and values, found {type(data).__name__}")
    return data


def parse(model: type[T], data: dict[str, Any], where: str) -> T:
    """Validate `data` as `model`; every problem becomes one sentence.

    Args:
        where: what the data came from, named in the message (a file).
    Raises:
        InputError: with up to five problems, each with its key and what would work.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(model, dict(e)) for e in error.errors()[:5]]
        more = len(error.errors()) - len(problems)
        tail = f" (+{more} more)" if more > 0 else ""
        raise InputError(f"{where}: {'; '.join(problems)}{tail}") from None


def _problem(model: type[BaseModel], error: dict[str, Any]) -> str:
    """One pydantic error as a clause; input values are left out, they may be a patient's."""
    loc: Sequence[Any] = error["loc"]
    key = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
    if error["type"] == "missing":
        return f"key {key!r} is missing"
    if error["type"].startswith("union_tag"):
        return f"{key}: {error['msg']}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _keys_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """The keys that would be accepted at `loc` inside `model`."""
    candidates: list[Any] = [model]
    for part in loc:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                for name, info in candidate.model_fields.items():
                    if part in (name, info.alias):
                        following += _models_in(info.annotation)
        if following:
            candidates = following
    tagged = [c for c in candidates if _tag(c) in loc]
    return sorted({name for c in (tagged or candidates) for name in _names(c)})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in _models_in(inner)]


def _tag(model: Any) -> str | None:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation)[0] if kind else None


def _names(model: Any) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `key.sub=value` overrides (value read as YAML) to a nested mapping, as a new one.

    >>> override({"training": {"lr": 0.1}}, ["training.epochs=3", "seed=1"])
    {'training': {'lr': 0.1, 'epochs': 3}, 'seed': 1}
    """
    result: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in data.items()}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key:
            raise InputError(
                f"override {assignment!r}: expected key=value, such as training.epochs=3"
            )
        *groups, last = key.split(".")
        node = result
        for group in groups:
            inner = node.setdefault(group, {})
            if not isinstance(inner, dict):
                raise InputError(f"override {assignment!r}: {group!r} is a value, not a group")
            node[group] = dict(inner)
            node = node[group]
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"override {assignment!r}: the value is not valid YAML") from None
    return result


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment YAML; a relative `cohort:` is relative to the file.

    Raises:
        InputError: unreadable, unknown key, wrong type.
    """
    data = override(read_yaml(path), overrides)
    experiment = parse(Experiment, data, str(path))
    cohort = (
        experiment.cohort if experiment.cohort.is_absolute() else path.parent / experiment.cohort
    )
    if not cohort.exists() and experiment.cohort.exists():
        cohort = experiment.cohort  # given relative to where the command runs
    return experiment.model_copy(update={"cohort": cohort})
