"""OneLLM's Universal Projection Module: soft-routed experts that all modalities share.

Source: Han et al. 2024, arXiv 2312.03700.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.models.baselines.tokenisers import Tokens, join


class ExpertBlock(nn.Module):
    """A LLaMA-style block without positions or a causal mask, and without biases."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        hidden = (
            -(-(8 * width // 3) // 256) * 256
        )  # LLaMA: 2/3 · 4 · width, up to a multiple of 256
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, here: Tensor) -> Tensor:
        """x (B, L, width); nobody attends to a token where `here` (B, L) is false."""
        B, L, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, L, 3, self.heads, width // self.heads)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, heads, L, width/heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=here[:, None, None])
        x = x + self.out(mixed.transpose(1, 2).reshape(B, L, width))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        y: Tensor = x + self.down(F.silu(gate) * up)
        return y


class Route(nn.Module):
    """What a modality has of its own in the projection module.

    The router reads tokens before the experts, so on the learned `queries` its weights depend on
    the modality alone, in the original too.
    """

    def __init__(
        self, width_in: int, width_out: int, *, width: int, tokens: int, experts: int
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(width_in, width), nn.LayerNorm(width))
        self.queries = nn.Parameter(torch.empty(tokens, width).normal_(std=0.02))
        self.router = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, experts)
        )
        self.leave = nn.Sequential(nn.Linear(width, width_out), nn.LayerNorm(width_out))
        self.start, self.end = (nn.Parameter(torch.rand(1, width_out)) for _ in range(2))


class UniversalProjection(nn.Module):
    """A modality's tokens → a start tag, `tokens` tokens and an end tag for the language model.

    Args:
        modalities: names, each with a `Route` of its own.
        experts, depth, heads, width: experts shared by all modalities, blocks in each, their shape.
        width_in, width_out: of the encoder's tokens and of the language model's.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        width_in: int,
        width_out: int,
        experts: int,
        depth: int,
        heads: int,
        width: int,
        tokens: int,
    ) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.routes = nn.ModuleList(
            Route(width_in, width_out, width=width, tokens=tokens, experts=experts)
            for _ in modalities
        )
        self.experts = nn.ModuleList(
            nn.ModuleList(ExpertBlock(width, heads=heads) for _ in range(depth))
            for _ in range(experts)
        )

    def forward(self, found: Mapping[str, Tokens]) -> Tokens:
        """Modality → tokens; all modalities one after the other, an absent one's masked."""
        parts = []
        for name, route in zip(self.modalities, self.routes, strict=True):
            here, x = found[name].here, found[name].x
            rows = here.any(1).nonzero()[:, 0]  # who has the modality at all
            y = self.project(route, x[rows], here[rows])
            full = y.new_zeros(len(here), *y.shape[1:]).index_copy(0, rows, y)
            parts.append(Tokens(full, here.any(1, keepdim=True).expand(full.shape[:2])))
        return join(parts)

    def project(self, route: Any, x: Tensor, here: Tensor) -> Tensor:
        """x (R, L, width_in), here (R, L) → (R, 1 + tokens + 1, width_out)."""
        R, T = len(x), len(route.queries)
        x = route.enter(x.to(route.queries.dtype))  # CLIP's dtype may be coarser
        x = torch.cat([route.queries.expand(R, -1, -1), x], 1)
        here = torch.cat([here.new_ones(R, T), here], 1)
        weight = route.router(x[:, :T]).sigmoid()  # (R, tokens, experts)
        weight = weight / weight.sum(-1, keepdim=True)
        mixed = torch.zeros_like(x[:, :T])
        for e, blocks in enumerate(self.experts):
            y = x
            for block in blocks.children():
                y = block(y, here)
            mixed = mixed + weight[..., e, None] * y[:, :T]
        start, end = (tag.expand(R, 1, -1) for tag in (route.start, route.end))
        return torch.cat([start, route.leave(mixed), end], 1)
