"""A small multimodal model for tables and vectors: shallow encoders → concatenation → f."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.shared import Dropout


class ShallowEncoder(nn.Module):
    """One layer over a modality's values and over which of them were observed."""

    def __init__(self, width_in: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2 * width_in, width), nn.GELU(), Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, P), NaN = not observed → (B, width)."""
        observed = ~x.isnan()
        values = torch.where(observed, x, 0.0)
        y: Tensor = self.layer(torch.cat([values, observed.to(x.dtype)], dim=-1))
        return y


class ShallowSmall(nn.Module):
    """The default small model: pretrained on the task, then frozen but for its head.

    Args:
        widths: small-input name → P, its number of columns.
        width: of each shallow encoder and of e_small.
        classes: K.
    """

    def __init__(
        self, widths: Mapping[str, int], *, width: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.inputs = list(widths)
        self.width = width
        self.encoders = nn.ModuleList(
            ShallowEncoder(P, width, dropout=dropout) for P in widths.values()
        )
        self.projection = nn.Sequential(
            nn.Linear(width * len(widths), width), nn.GELU(), Dropout(dropout)
        )
        self.head = nn.Linear(width, classes)

    def embed(self, batch: Batch) -> Tensor:
        """Small inputs, each (B, P) with NaN = not observed → e_small (B, width)."""
        parts = [
            encoder(batch.small[name])
            for name, encoder in zip(self.inputs, self.encoders, strict=True)
        ]
        e_small: Tensor = self.projection(torch.cat(parts, dim=-1))
        return e_small

    def replayable(self, batch: Batch) -> bool:
        """Whether a card may be given a step as a whole (`training/replayed.py`)."""
        return True

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the small branch."""
        logits = self.head(self.embed(batch))
        return Output(logits=logits, logits_small=logits)
