"""The tensors that go into and come out of every model, and the letters of their shapes.

| letter | meaning |
|---|---|
| B | patients (samples) in a batch |
| M | modalities on the large side |
| D_m | native width of modality m's embedding |
| H | shared width of the modality tokens |
| C | experts, 2^M − 1 |
| d | width of the joint space of large and small |
| K | classes |

Shapes stand at the end of the line: `# (B, M, H)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from adacomed.models.raw import Raw


@dataclass(frozen=True)
class Batch:
    """What a model sees of B patients.

    Attributes:
        embeddings: modality name → (B, D_m), frozen large encoders' vectors; the rows of an absent
            modality may hold anything, NaN included, and never reach an output.
        present: (B, M) bool, columns in the order of `embeddings`; at least one true per row.
        small: small-input name → (B, P), standardised; NaN = not observed.
        target: (B,) int64 class, or None for new patients.
        index: (B,) int64 row in the training set, −1 outside it; only the bank of Eq. 4 reads it,
            to keep a training patient from meeting itself twice.
        raw: modality → its raw inputs, for the models that read them; empty for all others.
        e_small: (B, width) of the frozen small model, where it is known already.
    """

    embeddings: dict[str, Tensor]
    present: Tensor
    small: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None
    index: Tensor | None = None
    raw: dict[str, Raw] = field(default_factory=dict)
    e_small: Tensor | None = None

    def __len__(self) -> int:
        return len(self.present)

    def rows(self, index: Tensor) -> Batch:
        """The patients at `index` (int64 or bool mask), in that order."""
        return Batch(
            embeddings={name: x[index] for name, x in self.embeddings.items()},
            present=self.present[index],
            small={name: x[index] for name, x in self.small.items()},
            target=None if self.target is None else self.target[index],
            index=None if self.index is None else self.index[index],
            raw={name: x.rows(index) for name, x in self.raw.items()},
            e_small=None if self.e_small is None else self.e_small[index],
        )

    def tensors(self) -> list[Tensor]:
        """All of them, the raw inputs' aside, in an order of their own."""
        given = [self.present, self.target, self.index, self.e_small]
        there = [x for x in given if x is not None]
        return [*self.embeddings.values(), *self.small.values(), *there]

    @staticmethod
    def concatenate(parts: list[Batch]) -> Batch:
        """Patients of several batches of vectors and tables, in order; raw inputs do not stack.

        Raises:
            ValueError: a batch with raw inputs, whose lengths are the patients' own.
        """
        first = parts[0]
        if any(part.raw for part in parts):
            raise ValueError("batches with raw inputs cannot be put together")
        return Batch(
            embeddings={m: torch.cat([p.embeddings[m] for p in parts]) for m in first.embeddings},
            present=torch.cat([part.present for part in parts]),
            small={m: torch.cat([p.small[m] for p in parts]) for m in first.small},
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """Move to a device; floating tensors also to `dtype` where one is given."""
        return Batch(
            embeddings={name: x.to(device, dtype) for name, x in self.embeddings.items()},
            present=self.present.to(device),
            small={name: x.to(device, dtype) for name, x in self.small.items()},
            target=None if self.target is None else self.target.to(device),
            index=None if self.index is None else self.index.to(device),
            raw={name: x.to(device, dtype) for name, x in self.raw.items()},
            e_small=None if self.e_small is None else self.e_small.to(device, dtype),
        )


@dataclass(frozen=True)
class Output:
    """What a model says of B patients; fields that a method does not have are None.

    Attributes:
        logits: (B, K), the prediction.
        logits_large, logits_small: (B, K), the two branches (Eq. 6).
        z_large, z_small: (B, d), the joint space (Eq. 3).
        s: (B,), similarity in (0, 1] (Eq. 4).
        w_large, w_small: (B,), weights of the two branches (Table 1).
        router: (B, C), weight of every expert (Eq. 2).
        spread: (B,), of several models averaged: the standard deviation between them of a class's
            logit less the mean of the others' (K = 2: of the log-odds), the largest over the
            classes, in nats. What another seed would have changed.
    """

    logits: Tensor
    logits_large: Tensor | None = None
    logits_small: Tensor | None = None
    z_large: Tensor | None = None
    z_small: Tensor | None = None
    s: Tensor | None = None
    w_large: Tensor | None = None
    w_small: Tensor | None = None
    router: Tensor | None = None
    spread: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Output:
        """The same with every tensor changed."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in values.items() if v is not None})

    def detach(self) -> Output:
        """The same values without a graph, on the CPU."""
        return self.map(lambda x: x.detach().cpu())

    @staticmethod
    def concatenate(parts: list[Output]) -> Output:
        """Stack batches in order; every part must have the same fields."""
        return Output(
            **{
                f.name: torch.cat([getattr(part, f.name) for part in parts])
                for f in fields(Output)
                if getattr(parts[0], f.name) is not None
            }
        )


class Outputs:
    """Outputs of groups of patients, each put where it belongs among all N of them.

    Pieces kept for `Output.concatenate` would take the room twice, and scatter it.
    """

    def __init__(self, patients: int) -> None:
        self.patients, self.done = patients, 0
        self.whole: dict[str, Tensor] = {}

    def add(self, output: Output) -> None:
        """The next patients' output, without its graph, on the CPU; the same fields every time."""
        end = self.done + len(output.logits)
        for field_ in fields(Output):
            x: Tensor | None = getattr(output, field_.name)
            if x is None:
                continue
            if field_.name not in self.whole:
                shape = (self.patients, *x.shape[1:])
                self.whole[field_.name] = torch.empty(shape, dtype=x.dtype)
            self.whole[field_.name][self.done : end] = x.detach()
        self.done = end

    def output(self) -> Output:
        """Of all patients, in order.

        Raises:
            ValueError: some have not been added.
        """
        if self.done != self.patients:
            raise ValueError(f"expected {self.patients} patients, got {self.done}")
        return Output(**self.whole)
