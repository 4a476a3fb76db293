"""Eq. 7 and Eq. 8: what is minimised, for AdaCoMed and for every neural baseline alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adacomed.models.alignment import contrastive_loss
from adacomed.models.batch import Output


@dataclass(frozen=True)
class Objective:
    """L_total = L_task + λ L_contrast + β L_branch.

    L_branch is the mean task loss of the two branches' own predictions ŷ_large and ŷ_small (Eq. 6).
    Without it (β = 0, the paper) only the mixture is trained: the large branch then learns what the
    small model, which has seen the same patients, left over, and that is mostly noise.

    Args:
        lambda_: λ of Eq. 8; a method without z_large and z_small has no second term.
        tau: τ of Eq. 4.
        beta: β, ours; a method without both branches has no third term.
        class_weights: (K,), from the training labels; None = unweighted.
        label_smoothing: dimensionless, in [0, 1).
        same_class: whether a patient of the same class is a negative of Eq. 5.
    """

    lambda_: float = 0.5
    tau: float = 0.07
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    beta: float = 0.0
    same_class: bool = True

    def __call__(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        """Losses of a batch, scalars in nats: "task" (Eq. 7), "contrast" (Eq. 5), "loss" (Eq. 8).

        Args:
            output: logits (B, K) and, for AdaCoMed, z_large and z_small (B, d) and both branches'
                logits (B, K).
            target: (B,) int64 classes.
        """
        task = self._task(output.logits, target)
        losses = {"task": task, "loss": task}
        if output.z_large is None or output.z_small is None or output.router is None:
            return losses
        aligned = output.router.sum(-1) > 0  # a patient without a large modality has no z_large
        if self.lambda_ > 0 and int(aligned.sum()) > 1:
            z_large, z_small = output.z_large[aligned], output.z_small[aligned]
            y = target[aligned]
            negatives = None if self.same_class else y[:, None] != y[None, :]
            losses["contrast"] = contrastive_loss(z_large, z_small, self.tau, negatives).mean()
            losses["loss"] = losses["loss"] + self.lambda_ * losses["contrast"]
        if self.beta > 0 and output.logits_large is not None and output.logits_small is not None:
            branches = [self._task(output.logits_small, target)]
            if bool(aligned.any()):
                branches.append(self._task(output.logits_large[aligned], target[aligned]))
            losses["branch"] = torch.stack(branches).mean()
            losses["loss"] = losses["loss"] + self.beta * losses["branch"]
        return losses

    def _task(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            logits, target, weight=self.class_weights, label_smoothing=self.label_smoothing
        )


def class_weights(target: Tensor, classes: int) -> Tensor:
    """Balanced weights N / (K N_k) from the training labels, (K,); an unseen class gets 1."""
    counts = target.bincount(minlength=classes).double()
    weights = counts.sum() / (classes * counts.clamp_min(1))
    weights[counts == 0] = 1.0
    return weights.float()
