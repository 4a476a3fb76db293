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
        offset: (J,) added to the logits of sigmoids (`outcome.py`, base).
    """

    lambda_: float = 0.5
    tau: float = 0.07
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    beta: float = 0.0
    same_class: bool = True
    offset: Tensor | None = None

    def __call__(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        """Losses of a batch, scalars in nats: "task" (Eq. 7), "contrast" (Eq. 5), "loss" (Eq. 8).

        Args:
            output: logits (B, K) and, for AdaCoMed, z_large and z_small (B, d) and both branches'
                logits (B, K).
            target: (B,) int64 classes, or (B, J) float of what each column's sigmoid says, NaN
                where nothing was observed (`outcome.py`).
        """
        task = self._task(output.logits, target)
        losses = {"task": task, "loss": task}
        if output.z_large is None or output.z_small is None or output.router is None:
            return losses
        aligned = output.router.sum(-1) > 0  # a patient without a large modality has no z_large
        if self.lambda_ > 0 and int(aligned.sum()) > 1:
            z_large, z_small = output.z_large[aligned], output.z_small[aligned]
            y = target[aligned]
            negatives = None if self.same_class else _differ(y)
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
        if target.is_floating_point():
            return sigmoid_loss(logits if self.offset is None else logits + self.offset, target)
        return F.cross_entropy(
            logits, target, weight=self.class_weights, label_smoothing=self.label_smoothing
        )


def sigmoid_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of the observed entries of (B, J), a scalar in nats.

    Neither weighted nor smoothed, so that a sigmoid is the probability itself: weights would have
    to be undone column by column, and smoothing pulls what is rare, a finding or a hazard, up.

    Args:
        target: 0 or 1, NaN where nothing was observed; 0 where nothing was at all.
    """
    known = ~target.isnan()
    each = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(0.0), reduction="none")
    return torch.where(known, each, 0.0).sum() / known.sum().clamp_min(1)


def _differ(y: Tensor) -> Tensor:
    """Pairs of patients of unlike targets, (B, B) bool; what was not observed is alike."""
    if y.is_floating_point():
        return ((y[:, None] - y[None, :]).abs() > 0).any(dim=-1)
    return y[:, None] != y[None, :]


def class_weights(target: Tensor, classes: int) -> Tensor:
    """Balanced weights N / (K N_k) from the training labels, (K,); an unseen class gets 1."""
    counts = target.bincount(minlength=classes).double()
    weights = counts.sum() / (classes * counts.clamp_min(1))
    weights[counts == 0] = 1.0
    return weights.float()
