"""Experiment settings: everything that can be set, with its default and its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adacomed.strict_yaml import override, parse, read_yaml

__all__ = ["Experiment", "load_experiment", "override", "parse", "read_yaml"]

Strategy = Literal["auto", "ensemble", "learnable", "inverse", "gaussian", "threshold", "reliable"]
SmallKind = Literal["auto", "stack", "shallow", "logistic", "forest", "boosting", "multimodal-pred"]


class Settings(BaseModel):
    """A group of settings; an unknown key is an error, and so is NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        populate_by_name=True,
        allow_inf_nan=False,
    )


class SmallSettings(Settings):
    """The small multimodal model (frozen after pretraining, except its head f)."""

    modalities: list[str] | None = Field(
        None,
        min_length=1,
        description="what it reads; None: the cohort's tables, else everything (stack: everything)",
    )
    kind: SmallKind | None = Field(
        None,
        description="None: the preset's. stack: classical models of every modality, cross-fitted; "
        "logistic, forest, boosting: one of them on the small side's modalities; shallow: a small "
        "network; multimodal-pred: the paper's, reads series, images and notes raw; auto: stack "
        "or shallow, chosen on validation",
    )
    width: int = Field(64, ge=2, description="of each encoder (multimodal-pred's authors: 512)")
    resnet: Literal["18", "tiny"] = Field("18", description="multimodal-pred: image network")
    recipe: Literal["ours", "authors"] = Field(
        "ours", description="authors: multimodal-pred's own step, batch, epochs and class weights"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="in its encoders")
    epochs: int | None = Field(None, ge=1, description="None: training.epochs, else the preset's")

    @model_validator(mode="after")
    def _width(self) -> SmallSettings:
        if self.kind == "multimodal-pred" and self.width % 4:
            raise ValueError(f"small.width: {self.width} is not a multiple of 4")
        return self


class ModelSettings(Settings):
    """The fusion model; a value left out comes from the preset (models/presets.py)."""

    H: int | None = Field(None, ge=1, description="width of the modality tokens")
    d: int | None = Field(None, ge=1, description="width of the joint space")
    heads: int | None = Field(None, ge=1, description="of the self-attention; must divide H")
    dropout: float | None = Field(None, ge=0, lt=1, description="in the large branch")
    strategy: Strategy | None = Field(None, description="Table 1; auto: chosen on validation")
    lambda_: float | None = Field(None, ge=0, alias="lambda", description="weight of L_contrast")
    beta: float | None = Field(None, ge=0, description="weight of the branches' own task losses")
    modality_dropout: float | None = Field(None, ge=0, lt=1, description="in the large branch")
    tau: float | None = Field(None, gt=0, description="temperature of Eq. 4")
    sigma: float | None = Field(None, gt=0, description="gaussian strategy")
    T: float | None = Field(None, gt=0, description="inverse strategy")
    alpha: float | None = Field(None, gt=0, description="inverse strategy")
    scale: Literal["quantile", "raw"] | None = Field(None, description="of s, for the strategies")
    t: float | None = Field(None, description="threshold strategy")
    k: float | None = Field(None, description="threshold strategy: steepness")
    bank_size: Annotated[int, Field(ge=2)] | Literal["batch"] | None = Field(
        None, description="training z_small kept for s; batch: the batch itself, as in the paper"
    )
    projection: Literal["mlp", "linear"] | None = Field(None, description="of a modality (Eq. 1)")
    attention: Literal["tokens", "patients", "none"] | None = Field(
        None, description="who attends to whom"
    )
    expert_view: Literal["subset", "all"] | None = Field(None, description="what an expert sees")
    max_order: int | None = Field(
        None, ge=1, description="modalities of the largest expert; None: an expert for every set"
    )
    residual: bool | None = Field(None, description="around attention and in p")
    keep_small: bool | None = Field(None, description="ŷ_small stays the pretrained model's")
    masks: bool | None = Field(None, description="false: an absent modality is a zero vector")
    score: Literal["own", "mean_negative"] | None = Field(None, description="Eq. 4, or the code's")
    negatives: Literal["all", "other-class"] | None = Field(
        None, description="of Eq. 5; other-class: patients of the same class are none"
    )
    detach: bool | None = Field(None, description="no gradient through s into the weights")
    batch_mean: bool | None = Field(None, description="the batch's mean s weighs every patient")
    mix: Literal["logits", "probabilities"] | None = Field(None, description="inside Eq. 7")
    head_init: bool | None = Field(None, description="p and f start from the small model")


class TrainingSettings(Settings):
    """The one loop, for every neural method alike."""

    epochs: int | None = Field(None, ge=1, description="at most; None: the preset's")
    lr: float | None = Field(None, gt=0, le=1, description="at the start of the cosine schedule")
    weight_decay: float | None = Field(None, ge=0, description="of every weight")
    batch_size: int = Field(64, ge=2, description="patients; Eq. 5 needs two")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="of the task loss")
    class_weights: bool = Field(True, description="a rare class weighs more in the task loss")
    validation: Literal["auto", "holdout", "cv"] = Field(
        "auto", description="what choices are made on; auto: cv where patients are few"
    )
    inner_folds: int = Field(5, ge=2, description="cv: folds inside the training patients")
    patience: int = Field(10, ge=1, description="holdout: epochs without a gain before the stop")
    members: int | None = Field(None, ge=1, description="cv: models averaged, a seed each")
    device: str = Field("auto", description="cpu, cuda, cuda:1; auto: cuda where it pays")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrix products; auto: bfloat16 on a card that has it"
    )
    stream: Literal["auto"] | bool = Field(
        "auto", description="vectors stay on disk and are read batch by batch; auto: where many"
    )
    compile: bool = Field(False, description="through torch.compile; pays in long trainings only")
    cuda_graphs: bool = Field(True, description="a card is given a whole step at a time")
    val_fraction: float = Field(0.15, gt=0, lt=0.5, description="holdout: of the subjects")


class BaselineSettings(Settings):
    """The paper's rivals and the modern ones."""

    size: Literal["tiny", "small", "published"] = Field(
        "small", description="of meta-transformer and onellm"
    )
    weights: Path | None = Field(
        None, description="meta-transformer: published encoder (.pth or .safetensors)"
    )
    clip: str | None = Field(None, description="onellm: frozen CLIP, a folder or hub id")
    lm: str | None = Field(None, description="onellm: frozen language model, a folder or hub id")
    full_grid: bool = Field(False, description="haim: its authors' grid of constants (slow)")


class SplitSettings(Settings):
    """Who is trained on, validated on, tested on. One subject is never on two sides."""

    kind: Literal["auto", "official", "holdout", "kfold"] = Field(
        "auto", description="auto: train takes the cohort's own or a holdout, compare a kfold"
    )
    folds: int = Field(5, ge=2, description="kfold: test parts")
    repeats: int = Field(1, ge=1, description="kfold: times, each shuffled anew")
    seed: int = Field(0, ge=0, description="of who is tested; apart from the training's seed")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="holdout: of the subjects")


class InputSettings(Settings):
    """How vectors become model inputs; everything here is fitted on training patients only."""

    standardise: bool = Field(True, description="every dimension to mean 0, deviation 1")
    pca: int | None = Field(None, ge=2, description="components per modality, None = no PCA")


class EvidenceSettings(Settings):
    """What is kept beside the predictions, so that a reviewer can be answered."""

    calibration: Literal["auto", "none", "temperature", "platt", "isotonic"] = Field(
        "auto", description="of the probabilities, fitted on validation; auto: where clearly better"
    )
    coverage: float = Field(0.9, gt=0, lt=1, description="of the prediction sets, in every class")
    stress: bool = Field(True, description="predict test patients without each set of modalities")
    noise: list[Annotated[float, Field(gt=0)]] = Field(
        [0.5, 1.0, 2.0], description="stress: of the inputs, in training deviations"
    )


class Experiment(Settings):
    """One experiment: a cohort, a task, and whatever differs from the defaults."""

    cohort: Path = Field(description="a cohort folder or YAML")
    task: str | None = Field(None, description="may be left out where the cohort has one")
    preset: Literal["default", "paper", "authors"] = Field(
        "default", description="where a value that is left out comes from"
    )
    seed: int = Field(0, ge=0, description="decides everything that is random in training")
    seeds: int = Field(1, ge=1, description="compare: seeds per fold")
    modalities: list[str] | None = Field(
        None, min_length=1, description="large side; None: every modality that has vectors"
    )
    methods: list[str] | None = Field(None, min_length=1, description="compare; None: all")
    small: SmallSettings = Field(SmallSettings(), description="the small multimodal model")
    model: ModelSettings = Field(ModelSettings(), description="the fusion model")
    training: TrainingSettings = Field(TrainingSettings(), description="the training loop")
    baselines: BaselineSettings = Field(BaselineSettings(), description="large rivals")
    split: SplitSettings = Field(SplitSettings(), description="train, validation and test")
    inputs: InputSettings = Field(InputSettings(), description="from vectors to model inputs")
    evidence: EvidenceSettings = Field(EvidenceSettings(), description="calibration, sets, stress")

    @model_validator(mode="before")
    @classmethod
    def _needs_cohort(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("cohort"):
            raise ValueError("an experiment needs cohort: (a cohort folder or YAML)")
        return data


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
