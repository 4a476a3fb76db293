"""Patients whose vectors stay on disk: what a fit reads, a batch at a time (`engine.Patients`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adacomed.models.batch import Batch
from adacomed.training.engine import Patients
from adacomed.training.loader import Inputs
from adacomed.training.outcome import Outcome
from adacomed.training.scaling import FittedInputs


@dataclass(frozen=True)
class Streamed:
    """N patients of a cohort, as the tensors that a fitted method reads.

    Attributes:
        inputs: of the whole cohort; `where` (N,) are the patients' rows in it.
        outcome: what the task asks, fitted.
        numbered: they are the training set: each knows its own row there.
    """

    inputs: Inputs
    fitted: FittedInputs
    where: NDArray[np.int64]
    outcome: Outcome
    numbered: bool = False

    def __len__(self) -> int:
        return len(self.where)

    @property
    def target(self) -> Tensor:
        """Of all of them, as in a `Batch`."""
        return self.outcome.target(self.inputs.seen[self.where])

    @property
    def present(self) -> Tensor:
        """(N, M) bool."""
        return torch.from_numpy(self.inputs.present[self.where])

    def rows(self, index: Tensor) -> Batch:
        """The patients at `index` (int64), read and scaled, in that order."""
        mine = self.inputs.take(self.where[index.numpy()])
        number = index if self.numbered else None
        target = self.outcome.target(mine.seen)
        return replace(self.fitted.batch(mine), target=target, index=number)


def patients(
    inputs: Inputs,
    fitted: FittedInputs,
    where: NDArray[np.int64],
    outcome: Outcome,
    *,
    numbered: bool = False,
) -> Patients:
    """Patients to train or to validate on: in memory, or read where their vectors are on disk."""
    if inputs.streamed:
        return Streamed(inputs, fitted, where, outcome, numbered)
    mine = inputs.take(where)
    batch = replace(fitted.batch(mine), target=outcome.target(mine.seen))
    return replace(batch, index=torch.arange(len(where))) if numbered else batch
