"""HEALNet: one latent array per patient, updated by each modality that the patient has, in turn.

Source: Hemker, Simidjievski, Jamnik, NeurIPS 2024, "HEALNet: Multimodal Fusion for Heterogeneous
Biomedical Data" (the hybrid early-fusion attention learning network), constants by its public code
(pre-norm, attention at temperature 0.5, leaky ReLU behind attention, gated SELU feed-forward of
four times the width, latents started from a normal distribution). A modality here is one vector
and not a raw image or table: it is cut into patches, with a learned position each in the place of
the Fourier encoding, so that cross-attention has something to attend to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.models.batch import Batch, Output


class Patches(nn.Module):
    """A vector of width D as at most `patches` tokens of width H; the last is padded with zeros."""

    def __init__(self, D: int, H: int, *, patches: int) -> None:
        super().__init__()
        self.size = math.ceil(D / patches)
        self.number = math.ceil(D / self.size)  # fewer where D is small: none is only padding
        self.linear = nn.Linear(self.size, H)
        self.position = nn.Parameter(torch.randn(self.number, H) / math.sqrt(H))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, D) → (B, patches, H)."""
        padded = F.pad(x, (0, self.number * self.size - x.shape[-1]))
        tokens: Tensor = self.linear(padded.view(x.shape[0], self.number, self.size))
        return tokens + self.position


class Attention(nn.Module):
    """Pre-norm attention of the latents to a context, or to themselves."""

    def __init__(self, H: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        if H % heads:
            raise ValueError(f"H={H} must be a multiple of heads={heads}")
        self.heads, self.dropout = heads, dropout
        self.norm, self.norm_context = nn.LayerNorm(H), nn.LayerNorm(H)
        self.q = nn.Linear(H, H, bias=False)
        self.kv = nn.Linear(H, 2 * H, bias=False)
        self.out = nn.Sequential(nn.Linear(H, H), nn.LeakyReLU(0.01))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, L, H), context (B, T, H) → what x reads of it, (B, L, H)."""
        q = self._split(self.q(self.norm(x)))  # (B, heads, L, H/heads)
        k, v = (self._split(y) for y in self.kv(self.norm_context(context)).chunk(2, dim=-1))
        read = F.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=self.dropout if self.training else 0.0,
            scale=2 / math.sqrt(q.shape[-1]),  # temperature 0.5
        )
        y: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return y

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Pre-norm, gated by a SELU (self-normalising), four times as wide inside."""

    def __init__(self, H: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(H)
        self.enter, self.leave = nn.Linear(H, 8 * H), nn.Linear(4 * H, H)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, H) → (B, L, H)."""
        value, gate = self.enter(self.norm(x)).chunk(2, dim=-1)
        y: Tensor = self.dropout(self.leave(value * F.selu(gate)))
        return y


class HEALNet(nn.Module):
    """Iterative cross-attention over the modalities of a patient.

    An iteration is: for each modality in order cross-attention and a feed-forward, both with a
    residual and both skipped for the patients without the modality; then self-attention and a
    feed-forward over the latents. All iterations share their weights.

    Args:
        widths: modality name → D_m; their order is the order of the updates.
        latents: L, rows of the latent array.
        depth: iterations.
        patches: tokens that a modality's vector is cut into.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        classes: int,
        H: int,
        heads: int,
        latents: int,
        depth: int,
        patches: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.modalities, self.depth = list(widths), depth
        self.latents = nn.Parameter(torch.randn(latents, H))
        self.patches = nn.ModuleList(Patches(D, H, patches=patches) for D in widths.values())
        self.cross = nn.ModuleList(Attention(H, heads=heads, dropout=dropout) for _ in widths)
        self.cross_feed_forward = nn.ModuleList(FeedForward(H, dropout=dropout) for _ in widths)
        self.attention = Attention(H, heads=heads, dropout=dropout)
        self.feed_forward = FeedForward(H, dropout=dropout)
        self.head = nn.Sequential(nn.LayerNorm(H), nn.Linear(H, classes))

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the large branch."""
        tokens = []
        for m, (name, patches) in enumerate(zip(self.modalities, self.patches, strict=True)):
            here = batch.present[:, m, None]  # (B, 1)
            # filled before the projection, so that a NaN reaches no gradient either
            tokens.append(patches(torch.where(here, batch.embeddings[name], 0.0)))
        x = self.latents.expand(batch.present.shape[0], -1, -1)  # (B, L, H)
        for _ in range(self.depth):
            for m, (cross, feed_forward) in enumerate(
                zip(self.cross, self.cross_feed_forward, strict=True)
            ):
                read = x + cross(x, tokens[m])
                read = read + feed_forward(read)
                x = torch.where(batch.present[:, m, None, None], read, x)
            x = x + self.attention(x, x)
            x = x + self.feed_forward(x)
        logits = self.head(x.mean(1))
        return Output(logits=logits, logits_large=logits)


def build_healnet(
    widths: Mapping[str, int],
    *,
    classes: int,
    H: int = 64,
    heads: int = 4,
    latents: int = 8,
    depth: int = 2,
    patches: int = 8,
    dropout: float = 0.5,
) -> HEALNet:
    """HEALNet at the size of this project's fusion models (the original's have 8–31 latents)."""
    return HEALNet(
        widths,
        classes=classes,
        H=H,
        heads=heads,
        latents=latents,
        depth=depth,
        patches=patches,
        dropout=dropout,
    )
