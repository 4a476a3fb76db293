"""Training steps that a card is given as one launch (CUDA graphs)."""

from __future__ import annotations

from collections import Counter

import torch

from adacomed.errors import InputError
from adacomed.models.batch import Batch
from adacomed.models.shared import Share
from adacomed.training.engine import Engine
from adacomed.training.objective import Objective
from adacomed.training.step import Step, Taken

FIRST = 3  # steps before anything is recorded: libraries make their plans and buffers
SIZES = 4  # of batches that are recorded: the usual one, the last of an epoch


def training_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    engine: Engine,
) -> Step:
    """The step that suits the engine and the model."""
    kind = Replayed if engine.graphs and hasattr(model, "replayable") else Step
    return kind(model, optimizer, objective, engine)


class Replayed(Step):
    """A step that is recorded once and then launched as a whole.

    A step is hundreds of small kernels, and the card is done with each before the processor has
    launched the next. The numbers are those of the plain step, to the bit: the same kernels on the
    same random numbers. Only for models that say `replayable`: one that asks the card for a number
    halfway, or takes another way from batch to batch, cannot be recorded.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        engine: Engine,
    ) -> None:
        super().__init__(model, optimizer, objective, engine)
        self.stream = torch.cuda.Stream(engine.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()
        self.met: Counter[int] = Counter()
        self.recorded: dict[int, Recording] = {}

    def gradients(self, batch: Batch, share: Share | None) -> Taken:
        """As the plain step's; what is returned is overwritten by the next step."""
        size = len(batch)
        if size in self.recorded:
            return self.recorded[size].replay(batch)
        if batch.raw or not self.model.replayable(batch):  # type: ignore[operator]
            return super().gradients(batch, share)
        self.met[size] += 1
        if self.met.total() > FIRST and self.met[size] > 1 and len(self.recorded) < SIZES:
            self.recorded[size] = Recording(self, batch)
            return self.recorded[size].replay(batch)
        # on the stream that is recorded: what a library sets up there must be there before
        here = torch.cuda.current_stream(self.engine.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            taken = super().gradients(batch, share)
        here.wait_stream(self.stream)
        return taken


class Recording:
    """A step on batches of one size.

    Args:
        batch: the first; its tensors are where every later one is put.
    Raises:
        InputError: it cannot be recorded; this process can use the card no more.
    """

    def __init__(self, step: Replayed, batch: Batch) -> None:
        self.batch, self.graph = batch, torch.cuda.CUDAGraph()
        step.optimizer.zero_grad(set_to_none=True)  # or it would add to what is there
        try:
            with torch.cuda.graph(
                self.graph, pool=step.pool, stream=step.stream, capture_error_mode="thread_local"
            ):
                self.taken = Step.gradients(step, batch, None)
        except RuntimeError as error:
            reason = f"{error.__context__ or error}".partition("\n")[0]
            raise InputError(
                f"a card cannot be given this training step as a whole ({reason}); "
                "training.cuda_graphs=false trains without"
            ) from error
        groups = step.optimizer.param_groups
        self.gradients = [(p, p.grad) for group in groups for p in group["params"]]

    def replay(self, batch: Batch) -> Taken:
        """Gradients of a batch of the same size, kinds and types."""
        for there, x in zip(self.batch.tensors(), batch.tensors(), strict=True):
            if there is not x:
                there.copy_(x)
        for p, gradient in self.gradients:
            p.grad = gradient  # a step of another size has put its own there
        self.graph.replay()
        return self.taken
