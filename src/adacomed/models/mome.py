"""Mixture of modality experts: from M embeddings of a patient to one large representation.

Eq. 1: project each modality to a token of width H and let the patient's own tokens attend to each
other. Eq. 2: a router weighs C = 2^M − 1 experts, one per non-empty subset of the modalities.

An absent modality is masked three times — its token is zero, nobody attends to it, and the router
gives exactly zero to every expert whose subset holds it — so any non-empty subset is a valid
patient, in training and in inference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Subset = tuple[int, ...]


def modality_subsets(M: int) -> list[Subset]:
    """The 2^M − 1 non-empty subsets of M modalities, by size, then in order.

    >>> modality_subsets(3)
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    """
    return [s for size in range(1, M + 1) for s in combinations(range(M), size)]


def mlp(width_in: int, width_out: int, *, hidden: int, dropout: float) -> nn.Sequential:
    """Linear → GELU → dropout → Linear: the MLP of Eq. 1 and Eq. 3."""
    return nn.Sequential(
        nn.Linear(width_in, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width_out)
    )


def drop_modalities(present: Tensor, rate: float) -> Tensor:
    """Modality dropout: `present` (B, M) with each modality of a patient gone with chance `rate`.

    The router then meets every subset of a patient's modalities, not only those that the cohort
    happens to have, and no expert can lean on one modality alone. A patient who would lose all
    keeps all.
    """
    kept = present & (torch.rand(present.shape, device=present.device) >= rate)
    return torch.where(kept.any(-1, keepdim=True), kept, present)


class TokenAttention(nn.Module):
    """SelfAttn of Eq. 1 over a patient's own modality tokens; absent ones are masked as keys.

    Args:
        residual: add the tokens back and normalise (the default); False is Eq. 1 to the letter.
    """

    def __init__(self, H: int, *, heads: int, dropout: float, residual: bool = True) -> None:
        super().__init__()
        if H % heads:
            raise ValueError(f"H={H} must be a multiple of heads={heads}")
        self.heads, self.dropout, self.residual = heads, dropout, residual
        self.qkv = nn.Linear(H, 3 * H)
        self.out = nn.Linear(H, H)
        self.norm = nn.LayerNorm(H) if residual else nn.Identity()

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (B, M, H) and present (B, M) → attended tokens (B, M, H), absent ones zero."""
        B, M, H = tokens.shape
        q, k, v = self.qkv(tokens).view(B, M, 3, self.heads, H // self.heads).unbind(2)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2),  # (B, heads, M, H/heads)
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=(present | ~present.any(1, keepdim=True))[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        h: Tensor = self.out(attended.transpose(1, 2).reshape(B, M, H))
        if self.residual:
            h = self.norm(tokens + h)
        return h.masked_fill(~present[..., None], 0.0)


class PatientAttention(nn.Module):
    """Preset `authors` only: the released code attends over (B, M·H), so patients see each other.

    A patient's features then depend on who else is in the batch (reference/released-code.md).
    """

    def __init__(self, H: int, *, modalities: int, heads: int, dropout: float) -> None:
        super().__init__()
        width = modalities * H
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (B, M, H) → (B, M, H), mixed across patients; absent tokens zero."""
        rows = tokens.flatten(1)  # (B, M·H): an unbatched sequence of B patients
        mixed, _ = self.attention(rows, rows, rows, need_weights=False)
        h: Tensor = mixed.view_as(tokens)
        return h.masked_fill(~present[..., None], 0.0)


class NoAttention(nn.Module):
    """An ablation: the tokens as they are, absent ones zero; only the experts see several."""

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (B, M, H) → (B, M, H)."""
        return tokens


class Router(nn.Module):
    """Router of Eq. 2: softmax(Linear(h)) over the experts whose modalities are all present."""

    needs: Tensor

    def __init__(self, H: int, subsets: Sequence[Subset]) -> None:
        super().__init__()
        M = 1 + max(max(s) for s in subsets)
        needs = torch.zeros(len(subsets), M, dtype=torch.bool)
        for row, subset in enumerate(subsets):
            needs[row, list(subset)] = True
        self.register_buffer("needs", needs, persistent=False)  # (C, M)
        self.linear = nn.Linear(M * H, len(subsets))

    def forward(self, h: Tensor, present: Tensor) -> Tensor:
        """h (B, M, H), present (B, M) → weights (B, C), exactly zero where a modality is absent."""
        missing = (self.needs & ~present[:, None, :]).any(-1)  # (B, C)
        # the lowest finite number, not −inf: a patient with no modality must not make a NaN
        logits = self.linear(h.flatten(1))
        logits = logits.masked_fill(missing, torch.finfo(logits.dtype).min)
        return torch.softmax(logits, dim=-1).masked_fill(missing, 0.0)


class Experts(nn.Module):
    """Expert_i of Eq. 2, each a two-layer MLP over the tokens it sees, vectorised by their number.

    Args:
        views: tokens that expert i sees; its subset (default), or all of them (`paper`).
    """

    back: Tensor

    def __init__(self, H: int, views: Sequence[Subset], *, dropout: float) -> None:
        super().__init__()
        self.views = list(views)
        self.sizes = sorted({len(v) for v in views})
        self.w1, self.b1 = nn.ParameterList(), nn.ParameterList()
        self.w2, self.b2 = nn.ParameterList(), nn.ParameterList()
        self.dropout = nn.Dropout(dropout)
        order: list[int] = []
        for size in self.sizes:
            group = [i for i, v in enumerate(views) if len(v) == size]
            order += group
            n = len(group)
            tokens = torch.tensor([views[i] for i in group])  # (n, size)
            self.register_buffer(f"tokens_{size}", tokens, persistent=False)
            self.w1.append(_uniform(n, size * H, H, fan_in=size * H))
            self.b1.append(_uniform(n, H, fan_in=size * H))
            self.w2.append(_uniform(n, H, H, fan_in=H))
            self.b2.append(_uniform(n, H, fan_in=H))
        back = torch.argsort(torch.tensor(order))  # from grouped order to the order of `views`
        self.register_buffer("back", back, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, M, H) → every expert's output (B, C, H)."""
        outputs = []
        for size, w1, b1, w2, b2 in zip(
            self.sizes, self.w1, self.b1, self.w2, self.b2, strict=True
        ):
            seen = h[:, getattr(self, f"tokens_{size}")].flatten(2)  # (B, n, size·H)
            hidden = self.dropout(F.gelu(torch.einsum("bni,nio->bno", seen, w1) + b1))
            outputs.append(torch.einsum("bni,nio->bno", hidden, w2) + b2)  # (B, n, H)
        return torch.cat(outputs, dim=1)[:, self.back]


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)  # the range nn.Linear starts from
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class MoME(nn.Module):
    """Eq. 1–2 put together from their parts.

    Args:
        projections: modality name → Proj_m, (B, D_m) → (B, H); their order is the order of M.
        attention: (tokens (B, M, H), present (B, M)) → h (B, M, H).
        router: (h, present) → weights (B, C).
        experts: h → (B, C, H).
    """

    def __init__(
        self,
        *,
        projections: Mapping[str, nn.Module],
        attention: nn.Module,
        router: nn.Module,
        experts: nn.Module,
    ) -> None:
        super().__init__()
        self.modalities = list(projections)
        self.projections = nn.ModuleList(projections.values())
        self.attention, self.router, self.experts = attention, router, experts

    def forward(self, embeddings: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings m → (B, D_m), present (B, M) → e_large (B, H), router weights (B, C).

        A patient with no modality at all gets e_large = 0 and no expert (all weights zero).
        """
        tokens = project_tokens(self.modalities, self.projections, embeddings, present)
        h = self.attention(tokens, present)  # (B, M, H)
        weights = self.router(h, present)  # (B, C)
        e_large = torch.einsum("bc,bch->bh", weights, self.experts(h))  # (B, H)
        return e_large, weights


def project_tokens(
    modalities: Sequence[str],
    projections: nn.ModuleList,
    embeddings: Mapping[str, Tensor],
    present: Tensor,
) -> Tensor:
    """Proj_m of Eq. 1: tokens (B, M, H), zero where absent, whatever the absent row held."""
    columns = []
    for m, (name, projection) in enumerate(zip(modalities, projections, strict=True)):
        here = present[:, m, None]  # (B, 1)
        # filled before the projection, so that a NaN of an absent row reaches no gradient either
        token = projection(torch.where(here, embeddings[name], 0.0))
        columns.append(torch.where(here, token, 0.0))
    return torch.stack(columns, dim=1)
