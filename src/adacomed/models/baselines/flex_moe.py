"""Flex-MoE: a bank of learned tokens for what is missing, experts for what is there.

Source: Yun et al., NeurIPS 2024, "Flex-MoE: Modeling Arbitrary Modality Combination via the
Flexible Mixture-of-Experts", equations by the paper, constants by its public code (bank started
from a normal distribution, noisy top-k gate, auxiliary loss × 0.01, a linear head over all tokens).
Ours differs in that a modality is one token (it is one vector here, not 16 patches) and that the
blocks are plain pre-norm ones, all of them sparse (the public code's second is dense).

The paper trains in two steps: its G-router learns on complete patients first, then its S-router
sends each incomplete patient to the expert of that patient's combination. Both are one gate under
two losses; `complete_first` is the order of the patients for the first epochs (5 of 50).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.models.batch import Batch, Output
from adacomed.models.mome import Projections, TokenAttention, mlp, modality_subsets


def complete_first(present: Tensor) -> Tensor:
    """Order of the warm-up epochs: present (B, M) → rows (B,), most modalities first, stable."""
    return torch.argsort(present.sum(-1), descending=True, stable=True)


class MissingBank(nn.Module):
    """A learned token for each (combination of modalities that is there, modality that is not).

    Rows stand in the order of `mome.modality_subsets`. A patient with no modality has no row: such
    a patient's tokens stay zero.
    """

    row: Tensor
    bit: Tensor

    def __init__(self, M: int, H: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(2**M - 1, M, H))
        row = [-1] * 2**M  # by bit pattern; −1: nothing is there
        for i, subset in enumerate(modality_subsets(M)):
            row[sum(2**m for m in subset)] = i
        self.register_buffer("row", torch.tensor(row), persistent=False)
        self.register_buffer("bit", 2 ** torch.arange(M), persistent=False)

    def combination(self, present: Tensor) -> Tensor:
        """present (B, M) → each patient's combination (B,) in [0, 2^M − 1), −1 without any."""
        return self.row[(present * self.bit).sum(-1)]

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (B, M, H) → (B, M, H), those of absent modalities from the bank."""
        combination = self.combination(present)
        fill = self.tokens[combination.clamp_min(0)]  # (B, M, H)
        fill = fill.masked_fill((combination < 0)[:, None, None], 0.0)
        return torch.where(present[..., None], tokens, fill)


class NoisyTopK(nn.Module):
    """Noisy top-k gate (Shazeer et al. 2017); the noise is there in training only."""

    def __init__(self, H: int, experts: int, *, top_k: int) -> None:
        super().__init__()
        self.top_k = min(top_k, experts)
        self.clean = nn.Linear(H, experts, bias=False)
        self.noise = nn.Linear(H, experts, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens x (…, H) → gates, logits and load, each (…, C).

        Gates: `top_k` of them, summing to one. Load: how likely an expert is to be among these
        under the noise, which has a gradient where a count would have none.
        """
        logits = clean = self.clean(x)
        if self.training:
            std = F.softplus(self.noise(x)) + 1e-2
            logits = clean + torch.randn_like(clean) * std
        top, chosen = logits.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(logits).scatter(-1, chosen, top.softmax(-1))
        if not self.training or self.top_k == logits.shape[-1]:
            return gates, logits, (gates > 0).to(gates)
        # an expert is chosen if it beats the k-th best of the others: the k+1-th if it is in
        others = logits.topk(self.top_k + 1, dim=-1).values
        bar = torch.where(gates > 0, others[..., -1:], others[..., -2:-1])
        return gates, logits, torch.special.ndtr((clean - bar) / std)


class SparseExperts(nn.Module):
    """Mixture of MLPs, `top_k` for each token; the first 2^M − 1 are the combinations' own."""

    def __init__(self, H: int, *, experts: int, top_k: int, dropout: float) -> None:
        super().__init__()
        self.gate = NoisyTopK(H, experts, top_k=top_k)
        self.experts = nn.ModuleList(
            mlp(H, H, hidden=2 * H, dropout=dropout) for _ in range(experts)
        )

    def forward(self, h: Tensor, combination: Tensor, full: int) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, M, H) → (B, M, H), gates (B, M, C), `router_loss`; combination (B,) of the bank."""
        x = h.flatten(0, 1)  # (B·M, H)
        gates, logits, load = self.gate(x)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            if torch.compiler.is_compiling():  # a graph has every expert read every token
                y = y + gates[:, i, None] * expert(x)
                continue
            [rows] = torch.where(gates[:, i] > 0)
            if len(rows):
                y = y.index_add(0, rows, (gates[rows, i, None] * expert(x[rows])).to(y))
        whose = combination.repeat_interleave(h.shape[1])  # (B·M,)
        loss = router_loss(gates, logits, load, whose, full) if self.training else x.new_zeros(())
        return y.view_as(h), gates.view(*h.shape[:2], -1), loss


def router_loss(
    gates: Tensor, logits: Tensor, load: Tensor, combination: Tensor, full: int
) -> Tensor:
    """Balance the experts, and send incomplete patients' tokens to their combination's expert.

    Args:
        gates, logits, load: (N, C) of N tokens, from `NoisyTopK`.
        combination: (N,) of the tokens' patients; −1 (no modality) takes no part.
        full: combination of the complete patients, who are balanced over all experts (G-router);
            the incomplete have their own expert as the target of a cross-entropy (S-router) and
            are balanced over all experts but that of the complete.
    Source: Flex-MoE, Sec. 3.3; importance and load of Shazeer et al. 2017.
    """
    loss = logits.new_zeros(())
    complete, incomplete = combination == full, (combination >= 0) & (combination != full)
    if complete.any():
        loss = loss + _unevenness(gates[complete]) + _unevenness(load[complete])
    if incomplete.any():
        loss = loss + F.cross_entropy(logits[incomplete], combination[incomplete])
        own = torch.arange(gates.shape[-1], device=gates.device) != full
        loss = loss + _unevenness(gates[incomplete][:, own])
        loss = loss + _unevenness(load[incomplete][:, own])
    return loss


def _unevenness(x: Tensor) -> Tensor:
    """Squared coefficient of variation of the experts' totals, x (N, C)."""
    total = x.sum(0)
    return total.var() / (total.mean() ** 2 + 1e-10) if len(total) > 1 else total.new_zeros(())


class Block(nn.Module):
    """Self-attention over a patient's M tokens, then the experts, each residual (pre-norm)."""

    def __init__(
        self, H: int, *, attention: TokenAttention, experts: SparseExperts, dropout: float
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(H), nn.LayerNorm(H)
        self.attention, self.experts = attention, experts
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, combination: Tensor, full: int) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, M, H) → h, gates (B, M, C) and the routers' loss."""
        everyone = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device)  # the bank filled all
        h = h + self.dropout(self.attention(self.norm1(h), everyone))
        y, gates, loss = self.experts(self.norm2(h), combination, full)
        return h + self.dropout(y), gates, loss


class FlexMoE(nn.Module):
    """Projections → bank → blocks → linear head over all tokens.

    Args:
        projections: (embeddings, present) → tokens (B, M, H).
        bank: fills absent tokens.
        head: (B, M·H) → (B, K).
        auxiliary_weight: scale of `auxiliary`.
    Attributes:
        auxiliary: scaled `router_loss` of the last forward, for the caller to add to the task loss;
            None in evaluation.
    """

    auxiliary: Tensor | None

    def __init__(
        self,
        *,
        projections: Projections,
        bank: MissingBank,
        blocks: nn.ModuleList,
        head: nn.Linear,
        auxiliary_weight: float = 0.01,
    ) -> None:
        super().__init__()
        self.projections = projections
        self.bank, self.blocks, self.head = bank, blocks, head
        M, H = len(projections.modalities), bank.tokens.shape[-1]
        self.position = nn.Parameter(torch.zeros(M, H))
        self.auxiliary_weight, self.auxiliary = auxiliary_weight, None

    def warm_up_order(self, batch: Batch) -> Tensor:
        """Rows (B,) in which the first epochs meet the training patients."""
        return complete_first(batch.present)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), and the gates, mean over tokens and blocks, as `router` (B, 2^M − 1)."""
        present = batch.present
        tokens = self.projections(batch.embeddings, present)
        h = self.bank(tokens, present) + self.position  # (B, M, H)
        combination, full = self.bank.combination(present), len(self.bank.tokens) - 1
        gates, losses = [], []
        for block in self.blocks:
            h, gate, loss = block(h, combination, full)
            gates.append(gate.mean(1))  # (B, C)
            losses.append(loss)
        loss = self.auxiliary_weight * torch.stack(losses).sum()
        self.auxiliary = loss if self.training else None
        logits, router = self.head(h.flatten(1)), torch.stack(gates).mean(0)
        named = router.shape[-1] == len(self.bank.tokens)  # else an expert is no combination
        return Output(logits=logits, logits_large=logits, router=router if named else None)


def build_flex_moe(
    widths: Mapping[str, int],
    *,
    classes: int,
    H: int = 64,
    heads: int = 4,
    depth: int = 1,
    top_k: int = 2,
    dropout: float = 0.5,
    experts: int | None = None,
) -> FlexMoE:
    """Flex-MoE for modalities of native widths D_m.

    Args:
        experts: None: one per combination, 2^M − 1 (the public code has one more at M = 4).
    Raises:
        ValueError: fewer experts than combinations, or depth < 1.
    """
    M, C = len(widths), experts or 2 ** len(widths) - 1
    if C < 2**M - 1 or depth < 1:
        raise ValueError(f"{M} modalities need ≥ {2**M - 1} experts (got {C}) and depth ≥ 1")
    blocks = nn.ModuleList(
        Block(
            H,
            attention=TokenAttention(H, heads=heads, dropout=dropout, residual=False),
            experts=SparseExperts(H, experts=C, top_k=top_k, dropout=dropout),
            dropout=dropout,
        )
        for _ in range(depth)
    )
    return FlexMoE(
        projections=Projections(widths, H, dropout=dropout),
        bank=MissingBank(M, H),
        blocks=blocks,
        head=nn.Linear(M * H, classes),
    )
