"""How large the mixture of experts is, said before anything is trained."""

from __future__ import annotations

from math import comb

from adacomed.config import Experiment
from adacomed.errors import InputError
from adacomed.training.recipes import resolve_preset

MOST = 4095  # experts: of 12 modalities
BYTES = 16  # of a parameter while training: weight, gradient and Adam's two moments


def experts(M: int, max_order: int | None) -> dict[int, int]:
    """Modalities of a subset → how many experts have so many.

    >>> experts(3, None)
    {1: 3, 2: 3, 3: 1}
    """
    return {size: comb(M, size) for size in range(1, min(M, max_order or M) + 1)}


def mixture_size(experiment: Experiment, M: int) -> str:
    """One line: AdaCoMed's experts for M modalities, and their parameters.

    Raises:
        InputError: more than 4,095 experts.
    """
    preset = resolve_preset(experiment)
    H, counts = preset.H, experts(M, preset.max_order)
    C = sum(counts.values())
    sees = {size: size if preset.expert_view == "subset" else M for size in counts}
    parameters = sum(n * ((sees[size] + 1) * H * H + 2 * H) for size, n in counts.items())
    parameters += C * (M * H + 1)  # the router
    told = f"{C:,} experts of at most {max(counts)} of {M} modalities, {parameters / 1e6:,.2f} M"
    if C > MOST:
        raise InputError(
            f"AdaCoMed would have {told} parameters ({parameters * BYTES / 2**30:,.1f} GiB while "
            f"training); set model.max_order, such as {_largest(M)}, the most modalities that an "
            "expert sees together"
        )
    return f"mixture: {told} parameters"


def _largest(M: int) -> int:
    """The largest max_order that stays within `MOST` experts."""
    return max(k for k in range(1, M + 1) if sum(experts(M, k).values()) <= MOST or k == 1)
