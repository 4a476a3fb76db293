"""One training by several processes, through Lightning Fabric (extra `scale`).

    torchrun --nproc-per-node 2 -m adacomed train experiment.yaml --out runs/first

Every process runs the whole command: it reads the cohort, fits the same scalers and small models,
and takes the same decisions. In the one loop they share each batch. All outputs are gathered before
the loss, so that Eq. 5 meets negatives of every process and every mean is over the whole batch; the
gradient is that of one process with the same global batch. Only the first one writes.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adacomed.errors import InputError
from adacomed.models.batch import Output
from adacomed.models.mome import PatientAttention
from adacomed.models.shared import Share
from adacomed.training.engine import Engine


def rank() -> int:
    """This process's number among those that torchrun has started; 0 where it has not."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes torchrun has started; 1 where it has not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@cache
def _fabric(accelerator: str) -> Any:
    """Fabric, once its processes have met."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError:
        raise InputError(
            "a training by several processes needs Lightning Fabric: pip install 'adacomed[scale]'"
        ) from None
    strategy = DDPStrategy(broadcast_buffers=False)  # buffers are computed alike everywhere
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = processes() // local
    fabric = Fabric(accelerator=accelerator, devices=local, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def distributed_engine(alone: Engine) -> DistributedEngine:
    """This process's part of an engine that would train alone."""
    fabric = _fabric("cuda" if alone.device.type == "cuda" else "cpu")
    return DistributedEngine(
        fabric.device,
        alone.dtype,
        rank=fabric.global_rank,
        world=fabric.world_size,
        fabric=fabric,
    )


@dataclass(frozen=True)
class DistributedEngine(Engine):
    """One of several processes.

    Attributes:
        fabric: lightning_fabric.Fabric, launched.
    """

    fabric: Any = None

    def ready(self, model: nn.Module) -> nn.Module:
        """The model under DistributedDataParallel.

        Raises:
            InputError: a model whose patients see each other in another way than through Eq. 4–5.
        """
        for module in model.modules():
            if isinstance(module, (PatientAttention, nn.modules.batchnorm._BatchNorm)):
                raise InputError(
                    f"{type(module).__name__} mixes the patients of a batch, which several "
                    "processes cannot share; train this model with one process"
                )
        # not fabric.setup: its wrapper would copy a Batch field by field in every step
        with warnings.catch_warnings():  # the new name of broadcast_buffers still sends them once
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
            wrapped: nn.Module = self.fabric.strategy.setup_module(model)
        return wrapped

    def own(self, rows: Tensor) -> tuple[Tensor, Share | None]:
        """A contiguous part of a batch's rows; parts differ by one row at most."""
        size, more = divmod(len(rows), self.world)
        start = self.rank * size + min(self.rank, more)
        stop = start + size + (self.rank < more)
        return rows[start:stop], Share(start, len(rows), lambda x: gathered(x, self.world))

    def everyone(self, output: Output, target: Tensor) -> tuple[Output, Tensor]:
        """Every field of all processes' patients, in the order of the batch."""
        there = {f.name: x for f in fields(output) if (x := getattr(output, f.name)) is not None}
        # whatever takes no part in the loss takes part with nothing: DDP waits for its gradient
        nothing = sum((x * 0).sum() for x in there.values() if x.requires_grad)
        output = replace(output, **{k: gathered(x, self.world) for k, x in there.items()})
        return replace(output, logits=output.logits + nothing), gathered(target, self.world)

    def backward(self, loss: Tensor) -> None:
        """Gradients, which DDP averages: each process counted its own once for every process."""
        self.fabric.strategy.backward(loss, None)


def gathered(x: Tensor, world: int) -> Tensor:
    """(B, …) of each process → those of all, in the order of their ranks, with a gradient."""
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    counts = [int(size) for size in sizes]
    found: Tensor = _Gather.apply(x, counts)  # type: ignore[no-untyped-call]
    return found


class _Gather(torch.autograd.Function):
    """All rows of all processes; backwards, the sum over processes of each row's gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        sent = x.to(torch.uint8) if x.dtype == torch.bool else x
        padded = sent.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = sent
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        kept = [part[:n] for part, n in zip(parts, counts, strict=True)]
        return torch.cat(kept).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        start = sum(ctx.counts[: dist.get_rank()])
        return grad[start : start + ctx.counts[dist.get_rank()]], None
