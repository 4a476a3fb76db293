"""The mean of several models of one kind that differ by their seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output

_AVERAGED = ("logits", "logits_large", "logits_small", "s", "w_large", "w_small", "router")


class Members(nn.Module):
    """Averages logits, s, weights and router over models trained from different seeds.

    Few patients make one seed's luck a part of the result; the mean of a few has less of it, and
    their spread says how much of it there is. The joint spaces differ between members, so z_large
    and z_small are left out.

    Args:
        sigmoids: every logit is a log-odds of its own, not one class against the others.
    """

    def __init__(self, members: Sequence[nn.Module], *, sigmoids: bool = False) -> None:
        super().__init__()
        self.sigmoids = sigmoids
        self.members = nn.ModuleList(members)

    def forward(self, batch: Batch) -> Output:
        """Mean of the members' outputs for B patients."""
        outputs: list[Output] = [member(batch) for member in self.members]
        means = {name: _mean([getattr(o, name) for o in outputs]) for name in _AVERAGED}
        logits = torch.stack([o.logits for o in outputs])  # (members, B, K)
        K = logits.shape[-1]
        against = logits
        if not self.sigmoids:
            against = (logits - logits.mean(dim=-1, keepdim=True)) * K / (K - 1)
        spread = against.std(dim=0, correction=0).amax(dim=-1)
        return Output(**means, spread=spread)  # type: ignore[arg-type]


def _mean(values: list[Tensor | None]) -> Tensor | None:
    there = [v for v in values if v is not None]
    return torch.stack(there).mean(dim=0) if there else None
