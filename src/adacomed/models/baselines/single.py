"""`<modality>-large`: one frozen large encoder and a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.mome import mlp


class SingleLarge(nn.Module):
    """An MLP head on one modality's embedding.

    A patient without the modality gets one learnt row of logits: what the head knows of them is
    only that the modality is absent.
    """

    def __init__(
        self, modality: str, *, column: int, width_in: int, H: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.modality, self.column = modality, column
        self.head = mlp(width_in, classes, hidden=H, dropout=dropout)
        self.absent = nn.Parameter(torch.zeros(classes))

    def replayable(self, batch: Batch) -> bool:
        """Whether a card may be given a step as a whole (`training/replayed.py`)."""
        return True

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the large branch."""
        here = batch.present[:, self.column, None]  # (B, 1)
        x: Tensor = torch.where(here, batch.embeddings[self.modality], 0.0)
        logits = torch.where(here, self.head(x), self.absent)
        return Output(logits=logits, logits_large=logits)
