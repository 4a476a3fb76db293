"""MultimodalPred-Small, the joint variant: one branch a modality, concatenated, one Linear.

It reads raw series, images and notes, where `ShallowSmall` reads tables and vectors; as the small
model of AdaCoMed its Linear is the shared head f.
Source: Wang, Yin, Zhang, Heliyon 2024, and facts read off its public code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adacomed.models.batch import Batch, Output
from adacomed.models.raw import (
    ImageShape,
    Notes,
    SeriesShape,
    Shape,
    TableShape,
    TextShape,
    VectorShape,
)
from adacomed.models.small.events import EventEncoder, lstm_maximum
from adacomed.models.small.images import ImageEncoder, ResNetSize

# of its authors: weight of each class in the loss (class 0, class 1), and how they train it
CLASS_WEIGHTS = {"mortality": (1.0, 10.0), "longstay": (1.5, 1.0), "readmission": (1.0, 25.0)}
RECIPE: dict[str, Any] = {
    "optimizer": "adam",
    "lr": 1e-4,
    "weight_decay": 5e-3,
    "batch_size": 8,
    "epochs": 30,
}


class NoteEncoder(nn.Module):
    """A patient's notes, each a fixed document vector, in time order → (B, width).

    Args:
        name: of the modality in `Batch.raw`.
        width_in: of a document vector.
    """

    def __init__(self, *, name: str, width_in: int, width: int) -> None:
        super().__init__()
        self.name = name
        self.lstm = nn.LSTM(width_in, width, batch_first=True)

    def forward(self, batch: Batch) -> Tensor:
        """(B, width), maximum over a patient's notes; zeros for a patient without a note."""
        notes = batch.raw[self.name]
        assert isinstance(notes, Notes)
        here = notes.item >= 0  # (B, I)
        x = notes.vector.new_zeros(*here.shape, notes.vector.shape[1])
        x = x.index_put((here,), notes.vector[notes.item[here]])
        return lstm_maximum(self.lstm, x, here.sum(1))


class VectorEncoder(nn.Module):
    """A frozen large encoder's vector, for modalities that have no raw input → (B, width)."""

    def __init__(self, *, name: str, width_in: int, width: int) -> None:
        super().__init__()
        self.name = name
        self.layer = nn.Sequential(nn.Linear(width_in, width), nn.GELU())

    def forward(self, batch: Batch) -> Tensor:
        """(B, width); zeros where the modality is absent."""
        here = batch.present[:, list(batch.embeddings).index(self.name), None]  # (B, 1)
        y = self.layer(torch.where(here, batch.embeddings[self.name], 0.0))
        return torch.where(here, y, 0.0)


class MultimodalPred(nn.Module):
    """Branches side by side and one Linear over them.

    Args:
        branches: each maps a `Batch` to (B, branch_width), zeros for a patient without its input.
        branch_width: the width of every branch.
        classes: K.
    """

    def __init__(self, *, branches: Sequence[nn.Module], branch_width: int, classes: int) -> None:
        super().__init__()
        self.width = branch_width * len(branches)
        self.branches = nn.ModuleList(branches)
        self.head = nn.Linear(self.width, classes)

    def embed(self, batch: Batch) -> Tensor:
        """Raw inputs, tables and vectors → e_small (B, width)."""
        return torch.cat([branch(batch) for branch in self.branches], dim=1)

    def forward(self, batch: Batch) -> Output:
        """Logits (B, K), as the whole prediction and as the small branch."""
        logits = self.head(self.embed(batch))
        return Output(logits=logits, logits_small=logits)


def build_multimodal_pred(
    shapes: Mapping[str, Shape], *, classes: int, width: int = 512, resnet: ResNetSize = "18"
) -> MultimodalPred:
    """MultimodalPred for any mixture of modalities, one branch each, in the order of `shapes`.

    Tables have no branch of their own: they join every series, and make a branch together where
    there is no series.

    Args:
        shapes: modality → its shape.
        classes: K.
        width: of a branch, a multiple of 4; 512 in the original.
        resnet: size of the image networks; "tiny" is for tests.
    Raises:
        ValueError: no modality at all, or a width that is not a multiple of 4.
        InputError: images, and transformers is not installed.
    """
    if not shapes:
        raise ValueError("shapes holds no modality; at least one is needed")
    tables = {name: s.columns for name, s in shapes.items() if isinstance(s, TableShape)}
    branches: list[nn.Module] = []
    for name, shape in shapes.items():
        if isinstance(shape, SeriesShape):
            branches.append(
                EventEncoder(series=name, variables=shape.variables, tables=tables, width=width)
            )
        elif isinstance(shape, ImageShape):
            branches.append(ImageEncoder(name=name, views=shape.views, width=width, resnet=resnet))
        elif isinstance(shape, TextShape):
            branches.append(NoteEncoder(name=name, width_in=shape.width, width=width))
        elif isinstance(shape, VectorShape):
            branches.append(VectorEncoder(name=name, width_in=shape.width, width=width))
    if tables and not any(isinstance(branch, EventEncoder) for branch in branches):
        branches.append(EventEncoder(series=None, variables=0, tables=tables, width=width))
    return MultimodalPred(branches=branches, branch_width=width, classes=classes)
