"""`large-ensemble` (concatenated embeddings and a head) and `average` (mean of the two logits)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.mome import mlp


class LargeEnsemble(nn.Module):
    """The paper's naive fusion: every modality's embedding side by side, then an MLP head.

    Absent modalities are zero (the training mean, inputs are standardised) with a presence flag.
    """

    def __init__(self, widths: Mapping[str, int], *, H: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.modalities = list(widths)
        self.head = mlp(sum(widths.values()) + len(widths), classes, hidden=H, dropout=dropout)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the large branch."""
        logits = self.head(self.combine(batch.embeddings, batch.present))
        return Output(logits=logits, logits_large=logits)

    def replayable(self, batch: Batch) -> bool:
        """Whether a card may be given a step as a whole (`training/replayed.py`)."""
        return True

    def combine(self, embeddings: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Embeddings m → (B, D_m), present (B, M) → side by side with flags, (B, Σ D_m + M)."""
        parts = [
            torch.where(present[:, m, None], embeddings[name], 0.0)
            for m, name in enumerate(self.modalities)
        ]
        return torch.cat([*parts, present.to(parts[0].dtype)], dim=-1)

    def hidden(self, embeddings: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """The head's hidden layer, (B, H): the fused representation of direct combination."""
        h: Tensor = self.head[:2](self.combine(embeddings, present))
        return h


class Average(nn.Module):
    """Mean of the logits of a trained large-ensemble and a trained small model."""

    def __init__(self, large: nn.Module, small: nn.Module) -> None:
        super().__init__()
        self.large, self.small = large, small

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K) and both branches with equal weight."""
        a, b = self.large(batch).logits, self.small(batch).logits
        half = torch.full_like(a[:, 0], 0.5)
        return Output(
            logits=(a + b) / 2, logits_large=a, logits_small=b, w_large=half, w_small=half
        )
