"""A trained neural method: what a prediction, a run on disk and a report need of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from adacomed.evaluation.conformal import Sets
from adacomed.evaluation.recalibration import Calibrator
from adacomed.models.batch import Output
from adacomed.training.outcome import UNNAMED, Outcome, Threshold
from adacomed.training.scaling import FittedInputs


@dataclass
class Trained:
    """A neural method, trained, with everything that a prediction needs.

    Attributes:
        model: in evaluation mode.
        fitted: scalers and vocabularies.
        spec: what rebuilds the model before its weights are loaded (`build_from_spec`).
        log_prior: (K,) subtracted from the logits: undoes the class weights' shift.
        threshold: on the positive class's calibrated probability, chosen on validation.
        val_output: validation patients' output in the order of the plan, prior corrected.
        history: stage, epoch, part, metric, value.
        choices: what was chosen on validation, for people.
        calibrator: of the probabilities that the prior-corrected logits say; None: as they are.
        sets: prediction sets of calibrated probabilities; None: there are none.
    """

    model: nn.Module
    fitted: FittedInputs
    spec: dict[str, Any]
    log_prior: Tensor
    threshold: Threshold
    val_output: Output
    history: list[tuple[str, int, str, str, float]] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome = UNNAMED
    calibrator: Calibrator | None = None
    sets: Sets | None = None


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
