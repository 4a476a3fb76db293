"""Table 1: how much to trust the large and the small branch, as pure functions of s.

Each returns (w_large, w_small), both (B,), non-negative, with sum 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

Weights = tuple[Tensor, Tensor]
STRATEGIES = ("ensemble", "learnable", "inverse", "gaussian", "threshold")


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
