"""A trained neural method: what a prediction, a run on disk and a report need of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from adacomed.models.baselines.ensemble import Average, LargeEnsemble
from adacomed.models.baselines.single import SingleLarge
from adacomed.models.batch import Output
from adacomed.models.members import Members
from adacomed.models.presets import Preset, build_adacomed
from adacomed.models.small.shallow import ShallowSmall
from adacomed.training.scaling import FittedInputs


@dataclass
class Trained:
    """A neural method, trained, with everything that a prediction needs.

    Attributes:
        model: in evaluation mode.
        fitted: scalers and vocabularies.
        spec: what rebuilds the model before its weights are loaded (`build_from_spec`).
        log_prior: (K,) subtracted from the logits: undoes the class weights' shift.
        threshold: on the positive class's probability, chosen on validation.
        val_output: validation patients' output in the order of the plan, prior corrected.
        history: stage, epoch, part, metric, value.
        choices: what was chosen on validation, for people.
    """

    model: nn.Module
    fitted: FittedInputs
    spec: dict[str, Any]
    log_prior: Tensor
    threshold: float
    val_output: Output
    history: list[tuple[str, int, str, str, float]] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)


def correct_prior(output: Output, log_prior: Tensor) -> Output:
    """Subtract the log class weights from every logit.

    A model trained with class weights w_k estimates p_k w_k / Σ p w; dividing w out again makes its
    output a probability at the training prevalence. It changes no ranking between two patients of a
    binary task.
    """
    return replace(
        output,
        **{
            name: logits - log_prior.to(logits)
            for name in ("logits", "logits_large", "logits_small")
            if (logits := getattr(output, name)) is not None
        },
    )


def build_from_spec(spec: dict[str, Any], fitted: FittedInputs, classes: int) -> nn.Module:
    """An untrained model of the shape that `spec` and the fitted inputs describe."""
    if spec.get("members", 1) > 1 and spec["model"] != "average":
        one = {**spec, "members": 1}
        return Members([build_from_spec(one, fitted, classes) for _ in range(spec["members"])])
    kind = spec["model"]
    if kind == "average":
        large = build_from_spec({**spec, "model": "large-ensemble"}, fitted, classes)
        return Average(large, build_from_spec({**spec, "model": "small"}, fitted, classes))
    if kind == "large-ensemble":
        p = Preset(**spec["preset"])
        return LargeEnsemble(fitted.widths, H=p.H, classes=classes, dropout=p.dropout)
    if kind == "single":
        p, name = Preset(**spec["preset"]), spec["modality"]
        return SingleLarge(
            name,
            column=list(fitted.widths).index(name),
            width_in=fitted.widths[name],
            H=p.H,
            classes=classes,
            dropout=p.dropout,
        )
    small = ShallowSmall(
        fitted.small_widths, width=spec["small_width"], classes=classes, dropout=0.0
    )
    if kind == "small":
        return small
    preset = replace(Preset(**spec["preset"]), bank_size=spec["bank"] or None)
    return build_adacomed(preset, fitted.widths, small, strategy=spec["strategy"])
