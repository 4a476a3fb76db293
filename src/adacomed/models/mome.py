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

from adacomed.models.shared import Dropout, drawn

Subset = tuple[int, ...]


def modality_subsets(M: int, max_order: int | None = None) -> list[Subset]:
    """The 2^M − 1 non-empty subsets of M modalities, by size, then in order.

    Args:
        max_order: no subset is larger; a patient's single modalities are always among them.

    >>> modality_subsets(3)
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    >>> len(modality_subsets(20, max_order=2))
    210
    """
    largest = M if max_order is None else min(M, max_order)
    return [s for size in range(1, largest + 1) for s in combinations(range(M), size)]


def mlp(
    width_in: int, width_out: int, *, hidden: int, dropout: float, rows: int = 0
) -> nn.Sequential:
    """Linear → GELU → dropout → Linear: the MLP of Eq. 1 and Eq. 3.

    Args:
        rows: axis of the patients.
    """
    drop = Dropout(dropout, rows=rows)
    return nn.Sequential(nn.Linear(width_in, hidden), nn.GELU(), drop, nn.Linear(hidden, width_out))


def drop_modalities(present: Tensor, rate: float) -> Tensor:
    """Modality dropout: `present` (B, M) with each modality of a patient gone with chance `rate`.

    The router then meets every subset of a patient's modalities, not only those that the cohort
    happens to have, and no expert can lean on one modality alone. A patient who would lose all
    keeps all.
    """
    like = torch.empty(0, device=present.device)
    kept = present & (drawn(present.shape, 1 - rate, 0, like) > 0)
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
        self.heads, self.residual, self.dropout = heads, residual, Dropout(dropout)
        self.qkv = nn.Linear(H, 3 * H)
        self.out = nn.Linear(H, H)
        self.norm = nn.LayerNorm(H) if residual else nn.Identity()

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (B, M, H) and present (B, M) → attended tokens (B, M, H), absent ones zero."""
        B, M, H = tokens.shape
        q, k, v = self.qkv(tokens).view(B, M, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(H // self.heads)  # (B, heads, M, M)
        # the lowest finite number: a patient without any modality must not make a NaN
        scores = scores.masked_fill(~present[:, None, None, :], torch.finfo(scores.dtype).min)
        attended = self.dropout(torch.softmax(scores, dim=-1)) @ v  # (B, heads, M, H/heads)
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
    """Expert_i of Eq. 2, each a two-layer MLP over the tokens it sees, one product per size.

    Inside, patients are the last axis: what an expert sees is then a block of memory, and so are
    the stacked hidden units that the second layer reads.

    Args:
        views: tokens that expert i sees; its subset (default), or all of them (`paper`).
    """

    order: Tensor

    def __init__(self, H: int, views: Sequence[Subset], *, dropout: float) -> None:
        super().__init__()
        self.views = list(views)
        self.sizes = sorted({len(v) for v in views})
        self.w1, self.b1 = nn.ParameterList(), nn.ParameterList()
        self.w2, self.b2 = nn.ParameterList(), nn.ParameterList()
        self.dropout = Dropout(dropout, rows=2)
        order: list[int] = []
        for size in self.sizes:
            group = [i for i, v in enumerate(views) if len(v) == size]
            order += group
            n = len(group)
            tokens = torch.tensor([views[i] for i in group])  # (n, size)
            self.register_buffer(f"tokens_{size}", tokens.flatten(), persistent=False)
            self.w1.append(_uniform(n, H, size * H, fan_in=size * H))
            self.b1.append(_uniform(n, H, fan_in=size * H))
            self.w2.append(_uniform(n, H, H, fan_in=H))
            self.b2.append(_uniform(n, H, fan_in=H))
        self.sorted = order == sorted(order)  # subsets come by size; other views may not
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, M, H) → every expert's output (B, C, H)."""
        groups = zip(self._hidden(h), self.w2, self.b2, strict=True)
        outputs = [torch.baddbmm(b2[:, None], x.mT, w2) for x, w2, b2 in groups]  # (n, B, H)
        grouped = torch.cat(outputs).transpose(0, 1)
        return grouped if self.sorted else grouped[:, torch.argsort(self.order)]

    def mixture(self, h: Tensor, weights: Tensor) -> Tensor:
        """Σ_i weights_i · Expert_i(h), (B, H), without an output for every expert.

        The second layer is linear: Σ_i w_i (x_i W_i + b_i) is one product of the weighed hidden
        units of all experts of a size with their stacked W.

        Args:
            h: (B, M, H).
            weights: (B, C) of the router.
        """
        H = h.shape[-1]
        weights = weights if self.sorted else weights[:, self.order]
        parts = torch.split(weights, [len(b) for b in self.b2], dim=1)
        total = weights @ torch.cat(list(self.b2))  # (B, H)
        for x, w, w2 in zip(self._hidden(h), parts, self.w2, strict=True):
            weighed = (x * w.t()[:, None]).flatten(0, 1)  # (n·H, B)
            total = torch.addmm(total, weighed.t(), w2.view(-1, H))
        return total

    def _hidden(self, h: Tensor) -> list[Tensor]:
        """Every expert's hidden units, by size (n, H, B)."""
        B, tokens = h.shape[0], h.permute(1, 2, 0).contiguous()  # (M, H, B)
        found = []
        for size, w1, b1 in zip(self.sizes, self.w1, self.b1, strict=True):
            seen = tokens.index_select(0, getattr(self, f"tokens_{size}")).view(len(b1), -1, B)
            hidden = torch.baddbmm(b1[..., None], w1, seen)
            found.append(self.dropout(F.gelu(hidden)))
        return found


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)  # the range nn.Linear starts from
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class Projections(nn.Module):
    """Proj_m of Eq. 1 for all modalities: a first layer each, since their widths differ, then one
    batched layer.

    Args:
        widths: modality name → D_m; their order is the order of M.
        hidden: False: the first layer, after dropout, is all (an ablation).
    """

    def __init__(
        self, widths: Mapping[str, int], H: int, *, dropout: float, hidden: bool = True
    ) -> None:
        super().__init__()
        self.modalities, self.hidden = list(widths), hidden
        self.first = nn.ModuleList(nn.Linear(D, H) for D in widths.values())
        self.dropout = Dropout(dropout, rows=1 if hidden else 0)
        if hidden:
            self.w2 = _uniform(len(widths), H, H, fan_in=H)
            self.b2 = _uniform(len(widths), H, fan_in=H)

    def forward(self, embeddings: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Tokens (B, M, H), zero where absent, whatever the absent row held."""
        units = []
        for m, (name, layer) in enumerate(zip(self.modalities, self.first, strict=True)):
            # filled before the layer, so that a NaN of an absent row reaches no gradient either
            x = torch.where(present[:, m, None], embeddings[name], 0.0)
            units.append(layer(x if self.hidden else self.dropout(x)))
        tokens = torch.stack(units)  # (M, B, H)
        if self.hidden:
            tokens = torch.baddbmm(self.b2[:, None], self.dropout(F.gelu(tokens)), self.w2)
        return tokens.transpose(0, 1).masked_fill(~present[..., None], 0.0)


class MoME(nn.Module):
    """Eq. 1–2 put together from their parts.

    Args:
        projections: (embeddings, present) → tokens (B, M, H).
        attention: (tokens (B, M, H), present (B, M)) → h (B, M, H).
        router: (h, present) → weights (B, C).
        experts: `mixture` of h under the router's weights → (B, H).
    """

    def __init__(
        self,
        *,
        projections: Projections,
        attention: nn.Module,
        router: nn.Module,
        experts: Experts,
    ) -> None:
        super().__init__()
        self.projections = projections
        self.attention, self.router, self.experts = attention, router, experts

    def forward(self, embeddings: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings m → (B, D_m), present (B, M) → e_large (B, H), router weights (B, C).

        A patient with no modality at all gets e_large = 0 and no expert (all weights zero).
        """
        tokens = self.projections(embeddings, present)
        h = self.attention(tokens, present)  # (B, M, H)
        weights = self.router(h, present)  # (B, C)
        return self.experts.mixture(h, weights), weights
