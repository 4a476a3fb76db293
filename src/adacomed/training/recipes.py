"""How each stage is optimised: constants of the loop and of the loss, by the stage's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adacomed.config import Experiment
from adacomed.errors import InputError
from adacomed.models.presets import PRESETS, Preset
from adacomed.models.small.multimodal_pred import CLASS_WEIGHTS, RECIPE
from adacomed.training.fit import Recipe
from adacomed.training.objective import Objective, class_weights

FINE_TUNED = ("meta-transformer", "onellm")  # trained as a whole: a smaller step
FINE_TUNED_LR = 1e-4  # Sec. 4.1


def resolve_preset(experiment: Experiment) -> Preset:
    """The experiment's preset with its own values put over it."""
    values = {
        **experiment.model.model_dump(exclude_none=True),
        **{
            name: value
            for name in ("epochs", "members", "lr", "weight_decay", "label_smoothing")
            if (value := getattr(experiment.training, name)) is not None
        },
    }
    small = experiment.small.epochs or experiment.training.epochs
    if small is not None:
        values["small_epochs"] = small
    preset = replace(PRESETS[experiment.preset], **values)
    if preset.H % preset.heads:
        raise InputError(f"model.H={preset.H} is not a multiple of model.heads={preset.heads}")
    return preset


def recipe_of(stage: str, experiment: Experiment, preset: Preset) -> Recipe:
    """The loop's constants for "small", "adacomed" or a baseline's name."""
    training = experiment.training
    recipe = Recipe(
        epochs=preset.small_epochs if stage == "small" else preset.epochs,
        lr=preset.lr,
        weight_decay=preset.weight_decay,
        optimizer=preset.optimizer,
        batch_size=training.batch_size,
        patience=training.patience,
    )
    if stage == "small" and _by_its_authors(experiment):
        return Recipe(**{**RECIPE, "epochs": experiment.small.epochs or RECIPE["epochs"]})
    if stage in FINE_TUNED and experiment.baselines.size == "published":
        return Recipe(epochs=preset.epochs, lr=training.lr or FINE_TUNED_LR, weight_decay=0.05)
    return recipe


def objective_of(
    stage: str,
    experiment: Experiment,
    preset: Preset,
    target: Tensor,
    classes: int,
    task: str,
    base: Sequence[float] = (),
) -> Objective:
    """What a stage minimises on training patients of classes `target`, or (N, J) sigmoids'.

    Args:
        base: (J,) of sigmoids, what their logits are added to.
    """
    if target.is_floating_point():
        return Objective(
            lambda_=preset.lambda_,
            tau=preset.tau,
            beta=preset.beta,
            same_class=preset.negatives == "all",
            offset=torch.tensor(base) if base else None,
        )
    weighted = experiment.training.class_weights
    weighted = weighted and (preset.fusion_class_weights or stage != "adacomed")
    weights = class_weights(target, classes) if weighted else None
    own = stage == "small" and _by_its_authors(experiment) and task in CLASS_WEIGHTS
    if own and classes == len(CLASS_WEIGHTS[task]):
        weights = torch.tensor(CLASS_WEIGHTS[task], dtype=torch.float32)
    return Objective(
        lambda_=preset.lambda_,
        tau=preset.tau,
        beta=preset.beta,
        class_weights=weights,
        label_smoothing=preset.label_smoothing,
        same_class=preset.negatives == "all",
    )


def _by_its_authors(experiment: Experiment) -> bool:
    small = experiment.small
    return small.kind == "multimodal-pred" and small.recipe == "authors"
