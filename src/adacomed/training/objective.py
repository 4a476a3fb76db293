"""Eq. 7 and Eq. 8: what is minimised, for AdaCoMed and for every neural baseline alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        # a patient without a large modality has no z_large. All of this is masks, not indices: an
        # accelerator would have to wait for the processor to count them
        aligned = output.router.sum(-1) > 0
        if self.lambda_ > 0 and len(target) > 1:
            losses["contrast"] = self._contrast(output.z_large, output.z_small, aligned, target)
            losses["loss"] = losses["loss"] + self.lambda_ * losses["contrast"]
        if self.beta > 0 and output.logits_large is not None and output.logits_small is not None:
            large = self._task(output.logits_large, target, aligned)
            small = self._task(output.logits_small, target)
            losses["branch"] = (large + small) / (1 + aligned.any().to(small))
            losses["loss"] = losses["loss"] + self.beta * losses["branch"]
        return losses

    def to(self, device: torch.device) -> Objective:
        """The same, its tensors on a device."""
        moved = {
            name: x.to(device)
            for name in ("class_weights", "offset")
            if (x := getattr(self, name)) is not None
        }
        return replace(self, **moved)

    def _contrast(
        self, z_large: Tensor, z_small: Tensor, aligned: Tensor, target: Tensor
    ) -> Tensor:
        """Mean of Eq. 5 over the aligned patients, who alone are negatives; 0 for one alone."""
        negatives = aligned.expand(len(target), -1)  # (B, B)
        if not self.same_class:
            negatives = negatives & _differ(target)
        each = contrastive_loss(z_large, z_small, self.tau, negatives)
        return torch.where(aligned, each, 0.0).sum() / aligned.sum().clamp_min(1)

    def _task(self, logits: Tensor, target: Tensor, rows: Tensor | None = None) -> Tensor:
        """Mean task loss, of the patients `rows` (B,) bool; 0 where they are none."""
        if target.is_floating_point():
            seen = target if rows is None else target.masked_fill(~rows[:, None], torch.nan)
            return sigmoid_loss(logits if self.offset is None else logits + self.offset, seen)
        weight = self.class_weights
        each = F.cross_entropy(
            logits, target, weight, reduction="none", label_smoothing=self.label_smoothing
        )
        # PyTorch's own mean of smoothed and weighted classes has a card wait for the processor
        counted = torch.ones_like(each) if weight is None else weight[target].to(each)
        if rows is not None:
            each, counted = torch.where(rows, each, 0.0), torch.where(rows, counted, 0.0)
        return each.sum() / counted.sum().clamp_min(torch.finfo(each.dtype).tiny)


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
