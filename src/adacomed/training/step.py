"""One training step: forward pass, losses, gradients, and the optimiser's move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.shared import Share, sharing
from adacomed.training.engine import ALONE, Engine
from adacomed.training.objective import Objective


@dataclass(frozen=True)
class Taken:
    """What a step says of its batch, without a graph.

    Attributes:
        names: of the losses, s and w_large, as far as there are any.
        means: (len(names),) float64, over the batch's patients.
    """

    output: Output
    names: list[str]
    means: Tensor


class Step:
    """A model's step under an engine.

    Args:
        model: on the engine's device.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        engine: Engine = ALONE,
    ) -> None:
        self.model, self.optimizer, self.engine = model, optimizer, engine
        self.objective = objective.to(engine.device)
        self.called = engine.ready(model)

    def take(self, batch: Batch, share: Share | None = None) -> Taken:
        """Train on a batch with a target."""
        with self.engine.products():
            taken = self.gradients(batch, share)
        self.optimizer.step()
        return taken

    def gradients(self, batch: Batch, share: Share | None) -> Taken:
        """Put the gradients of the batch's loss where the optimiser reads them."""
        assert batch.target is not None
        with self.engine.autocast(), sharing(share):
            output = self.called(batch)
        output, target = self.engine.everyone(output.map(Tensor.float), batch.target)
        losses = self.objective(output, target)
        own = getattr(self.model, "auxiliary", None)  # a loss of the model's, such as a router's
        if own is not None:
            losses["loss"] = losses["loss"] + own
            self.model.auxiliary = None  # type: ignore[assignment]  # of this batch alone
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.backward(losses["loss"])
        told = {**losses, "s": output.s, "w_large": output.w_large}
        return Taken(output.map(Tensor.detach), *averaged(told))


def averaged(values: Mapping[str, Tensor | None]) -> tuple[list[str], Tensor]:
    """Names and means of a batch's values that are there, (n,) float64, where they are."""
    there = {name: x for name, x in values.items() if x is not None}
    return list(there), torch.stack([x.detach().mean() for x in there.values()]).double()
