"""What a training step costs: parameters, memory and operations counted, time measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Of one training step of `batch` patients.

    Attributes:
        trained, frozen: parameters.
        memory: bytes; flops: operations of a step, forward and backward.
        seconds: of a step, measured here; None: not run here.
    """

    trained: int
    frozen: int
    memory: int
    flops: int
    batch: int
    seconds: float | None = None


def count(
    model: nn.Module,
    loss: Callable[[], Tensor],
    batch: int,
    *,
    run: bool = True,
    repeats: int = 1,
) -> Cost:
    """Count one step of `loss`, and time it where `run`."""
    model.train()
    kept = _Kept(model)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda x: x):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    used = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    memory = 4 * (trained + frozen) + 12 * sum(p.numel() for p in used) + kept.bytes
    seconds = _time(model, loss, repeats) if run else None
    return Cost(trained, frozen, memory, counter.get_total_flops(), batch, seconds)


@torch.no_grad()
def forward_flops(model: nn.Module, **given: object) -> int:
    """Operations of one forward pass of a model that is called with keywords."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(**given)
    return int(counter.get_total_flops())


class _Kept:
    """Bytes of what a backward pass keeps beside the weights; a storage counts once."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self._seen = {p.untyped_storage()._cdata for p in model.parameters()}
        self._alive: list[Tensor] = []

    def add(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(x)  # so that its address is not used again
            self.bytes += storage.nbytes()
        return x


def _time(model: nn.Module, loss: Callable[[], Tensor], repeats: int) -> float:
    """Median seconds of a whole step, optimiser included."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.0, fused=True)
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def throughput(n: int = 2048) -> float:
    """Operations per second of a large matrix product here."""
    a = torch.randn(n, n)
    a @ a
    started = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * n**3 / (time.perf_counter() - started)
