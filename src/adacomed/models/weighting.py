"""Table 1: how much to trust the large and the small branch, as pure functions of s.

Each returns (w_large, w_small), both (B,), non-negative, with sum 1. `reliable` is ours: it is
fitted on validation patients, and so can keep what the weights promise. `Weighting` is the thin
stateful twin of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adacomed.models.shared import whole

Weights = tuple[Tensor, Tensor]
TABLE_1 = ("ensemble", "learnable", "inverse", "gaussian", "threshold")
RELIABLE = "reliable"
STRATEGIES = (*TABLE_1, RELIABLE)
RANKS = 101  # points of the quantile scale


def ensemble(s: Tensor) -> Weights:
    """Half and half, the plain ensemble of Table 3.

    >>> ensemble(torch.tensor([0.2]))
    (tensor([0.5000]), tensor([0.5000]))
    """
    half = torch.full_like(s, 0.5)
    return half, half


def learnable(s: Tensor, theta: Tensor) -> Weights:
    """softmax(θ), the same for every patient.

    Args:
        s: (B,), only its shape is used.
        theta: (2,), learnt.
    Source: AdaCoMed Table 1, "Learnable Weighted".
    """
    w = torch.softmax(theta, dim=0)
    return w[0].expand_as(s), w[1].expand_as(s)


def inverse(s: Tensor, *, T: float = 1.0, alpha: float = 1.0) -> Weights:
    """Norm[1 / (1 + e^−s), 1 / (α s / T + 1e−6)], Norm = division by the sum.

    With α = T = 1 and s in [0, 1] w_large never exceeds .4224.

    Source: AdaCoMed Table 1, "Inverse Contrastive".
    """
    large, small = torch.sigmoid(s), 1 / (alpha * s / T + 1e-6)
    return large / (large + small), small / (large + small)


def inverse_authors(s: Tensor, *, T: float = 1.0, alpha: float = 1.0) -> Weights:
    """The released code's variant, Norm[1 / (1 + e^−s), 1 / (1 + α s / T)].

    Source: reference/released-code.md (w_large .333, .483, .594 at s = 0, .5, 1).
    """
    large, small = torch.sigmoid(s), 1 / (1 + alpha * s / T)
    return large / (large + small), small / (large + small)


def gaussian(s: Tensor, *, sigma: float = 1.0) -> Weights:
    """[1 − e^(−s² / 2σ²), e^(−s² / 2σ²)]. With σ = 1 and s ≤ 1 w_large never exceeds .3935.

    Source: AdaCoMed Table 1, "Gaussian Contrastive".
    """
    small = torch.exp(-(s**2) / (2 * sigma**2))
    return 1 - small, small


def threshold(s: Tensor, *, t: float | Tensor, k: float = 10.0) -> Weights:
    """[.5 + .5 tanh(k (s − t)), .5 − .5 tanh(k (s − t))].

    Source: AdaCoMed Table 1, "Threshold Contrastive".
    """
    tilt = 0.5 * torch.tanh(k * (s - t))
    return 0.5 + tilt, 0.5 - tilt


def reliable(cues: Tensor, theta: Tensor) -> Weights:
    """[σ(θ · cues), 1 − σ(θ · cues)], θ fitted on validation patients by the mixture's log loss.

    Args:
        cues: (B, F), see `cues_of`.
        theta: (F,); zero is the plain ensemble.
    Source: ours, beside the four of Table 1.
    """
    large = torch.sigmoid(cues @ theta)
    return large, 1 - large


def cues_of(s: Tensor, large: Tensor, small: Tensor, present: Tensor) -> Tensor:
    """What a patient shows of which branch to trust, before it is centred: (B, 3 + M).

    A constant, s, the larger of each branch's class probabilities (large less small), and which
    modalities are present.

    Args:
        s: (B,), on the quantile scale.
        large, small: logits (B, K).
        present: (B, M) bool.
    """
    sure = large.softmax(-1).amax(-1) - small.softmax(-1).amax(-1)
    told = torch.stack([torch.ones_like(s), 2 * s - 1, sure], dim=1)
    return torch.cat([told, present.to(s)], dim=1)


def to_ranks(s: Tensor, scale: Tensor) -> Tensor:
    """s (B,) as its quantile in [0, 1] among the patients whose quantiles are `scale` (RANKS,)."""
    upper = (scale < s[:, None]).sum(dim=-1).clamp(1, len(scale) - 1)
    low, high = scale[upper - 1], scale[upper]
    within = ((s - low) / (high - low).clamp_min(torch.finfo(s.dtype).tiny)).clamp(0, 1)
    return (upper - 1 + within) / (len(scale) - 1)


def mixture(
    large: Tensor,
    small: Tensor,
    weights: Weights,
    mix: Literal["logits", "probabilities", "sigmoids"],
) -> Tensor:
    """Inside Eq. 7: the weighted branches, (B, K) each, as logits (B, K).

    Args:
        mix: "probabilities" of classes, or "sigmoids", where every column has its own.
    """
    wl, ws = weights[0][:, None], weights[1][:, None]
    if mix == "logits":
        return wl * large + ws * small
    # log-probabilities are logits of the mixture; logaddexp keeps a weight of zero finite
    tiny = torch.finfo(large.dtype).tiny
    if mix == "sigmoids":
        log_wl, log_ws = wl.clamp_min(tiny).log(), ws.clamp_min(tiny).log()
        yes = torch.logaddexp(F.logsigmoid(large) + log_wl, F.logsigmoid(small) + log_ws)
        no = torch.logaddexp(F.logsigmoid(-large) + log_wl, F.logsigmoid(-small) + log_ws)
        return yes - no
    return torch.logaddexp(
        large.log_softmax(-1) + wl.clamp_min(tiny).log(),
        small.log_softmax(-1) + ws.clamp_min(tiny).log(),
    )


class Weighting(nn.Module):
    """One strategy with its constants and what it has learnt of the patients.

    Args:
        strategy: a name of `STRATEGIES`, or `inverse_authors`.
        modalities: M, for `reliable`.
        scale: "quantile" reads s as its quantile among patients, so that every strategy works over
            its whole range whatever τ is; "raw" is s itself. Quantiles are of s against chance,
            s times the number of candidates of Eq. 4: models with banks of different sizes agree.
        detach: no gradient through s into the weights (the default preset).
        batch_mean: preset `authors`: the batch mean of s weighs every patient, in evaluation too.
    Attributes:
        ranks: (RANKS,) quantiles of s against chance: a running mean over batches while training,
            those of the validation patients afterwards (`rest`).
        theta, centre: (3 + M,), of `reliable`.
    """

    ranks: Tensor
    theta: Tensor
    centre: Tensor

    def __init__(
        self,
        strategy: str,
        *,
        modalities: int = 1,
        scale: Literal["quantile", "raw"] = "raw",
        T: float = 1.0,
        alpha: float = 1.0,
        sigma: float = 1.0,
        t: float = 0.5,
        k: float = 10.0,
        detach: bool = True,
        batch_mean: bool = False,
    ) -> None:
        super().__init__()
        self.strategy, self.scale = strategy, scale
        self.detach, self.batch_mean = detach, batch_mean
        self.register_buffer("ranks", torch.full((RANKS,), torch.nan))
        if strategy == "learnable":
            self.theta = nn.Parameter(torch.zeros(2))
        if strategy == RELIABLE:
            self.register_buffer("theta", torch.zeros(3 + modalities))
            self.register_buffer("centre", torch.zeros(3 + modalities))
        constants: dict[str, Callable[[Tensor], Weights]] = {
            "ensemble": ensemble,
            "learnable": lambda s: learnable(s, self.theta),
            "inverse": lambda s: inverse(s, T=T, alpha=alpha),
            "inverse_authors": lambda s: inverse_authors(s, T=T, alpha=alpha),
            "gaussian": lambda s: gaussian(s, sigma=sigma),
            "threshold": lambda s: threshold(s, t=t, k=k),
        }
        self.weigh = constants.get(strategy)
        # while training; `reliable` is put in once the model is trained
        self.reads_s = strategy not in ("ensemble", "learnable", RELIABLE)

    def forward(
        self,
        s: Tensor,
        large: Tensor,
        small: Tensor,
        present: Tensor,
        candidates: int | Tensor = 1,
    ) -> Weights:
        """s (B,), the branches' logits (B, K), present (B, M) → w_large, w_small (B,).

        Args:
            candidates: of Eq. 4, one number or one for each patient.
        """
        if self.detach:
            s = s.detach()
        if self.batch_mean:
            s = whole(s).mean().expand_as(s)
        if self.scale == "quantile" and (self.reads_s or self.strategy == RELIABLE):
            s = self._rank(s * candidates)
        if self.weigh is not None:
            large_weight, small_weight = self.weigh(s)
        else:
            cues = cues_of(s, large.detach(), small.detach(), present) - self.centre
            large_weight, small_weight = reliable(cues, self.theta)
        alone = ~present.any(-1)  # no large modality: the small model speaks alone
        return large_weight.masked_fill(alone, 0.0), small_weight.masked_fill(alone, 1.0)

    def rest(self, lift: Tensor) -> None:
        """Take the quantiles of s against chance (N,) of the validation patients from now on."""
        self.ranks.copy_(_quantiles(lift))

    def _rank(self, lift: Tensor) -> Tensor:
        if self.training:
            seen = _quantiles(whole(lift.detach()))
            first = self.ranks.isnan()  # all of them, before the first batch
            self.ranks.copy_(torch.where(first, seen, 0.9 * self.ranks + 0.1 * seen))
        return to_ranks(lift, self.ranks.to(lift))


def _quantiles(x: Tensor) -> Tensor:
    return torch.quantile(x, torch.linspace(0, 1, RANKS, dtype=x.dtype, device=x.device))
