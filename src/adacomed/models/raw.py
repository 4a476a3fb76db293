"""Raw inputs as tensors, for the models that read more than vectors (B patients throughout).

`Events` is a series on a patient's own time stamps, `Images` and `Notes` are several items a
patient over one shared array. `Shape`s say what a model must be built for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

NONE = -1  # in `item`: the patient has no further item


@dataclass(frozen=True)
class SeriesShape:
    """A series of V variables."""

    variables: int  # V


@dataclass(frozen=True)
class ImageShape:
    """Square grey images, each of one of `views` kinds of view."""

    views: int
    size: int  # pixels along a side


@dataclass(frozen=True)
class TextShape:
    """Notes, each as a document vector and as word numbers."""

    vocabulary: int  # word numbers are 1 … vocabulary − 1; 0 is padding
    width: int  # of a document vector


@dataclass(frozen=True)
class VectorShape:
    """A frozen large encoder's vector (or the user's own): `Batch.embeddings`."""

    width: int  # D_m


@dataclass(frozen=True)
class TableShape:
    """A table's encoded columns: `Batch.small`."""

    columns: int  # P


Shape = SeriesShape | ImageShape | TextShape | VectorShape | TableShape


@dataclass(frozen=True)
class Events:
    """A series: what was measured at each of a patient's distinct time stamps.

    Attributes:
        hours: (B, T) hours from the index time, ascending; NaN after a patient's last time stamp.
        value: (B, T, V) in [0, 1], scaled per variable on training patients; NaN = not measured.
    """

    hours: Tensor
    value: Tensor

    def rows(self, index: Tensor) -> Events:
        """The patients at `index`, cut to their longest series."""
        hours, value = self.hours[index], self.value[index]
        T = max(int((~hours.isnan()).sum(1).max()) if len(hours) else 0, 1)
        return Events(hours[:, :T], value[:, :T])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Events:
        """Move to a device, and to `dtype` where one is given."""
        return Events(self.hours.to(device, dtype), self.value.to(device, dtype))


@dataclass(frozen=True)
class Images:
    """Several images a patient.

    Attributes:
        pixels: (N, S, S) uint8, grey, of all patients' images.
        view: (N,) int64, kind of view in [0, views).
        item: (B, I) int64 rows of `pixels`, `NONE` after a patient's last image.
        hours: (B, I) hours from the index time; 0 where unknown, NaN where there is no image.
    """

    pixels: Tensor
    view: Tensor
    item: Tensor
    hours: Tensor

    def rows(self, index: Tensor) -> Images:
        """The patients at `index`; the pixels stay shared."""
        return replace(self, item=self.item[index], hours=self.hours[index])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Images:
        """Move to a device; hours also to `dtype` where one is given."""
        return Images(
            self.pixels.to(device),
            self.view.to(device),
            self.item.to(device),
            self.hours.to(device, dtype),
        )


@dataclass(frozen=True)
class Notes:
    """Several notes a patient, in time order.

    Attributes:
        vector: (N, width) document vectors of all patients' notes.
        token: (N, L) int64 word numbers, 0 = padding.
        item: (B, I) int64 rows of `vector`, `NONE` after a patient's last note.
    """

    vector: Tensor
    token: Tensor
    item: Tensor

    def rows(self, index: Tensor) -> Notes:
        """The patients at `index`; the notes stay shared."""
        return replace(self, item=self.item[index])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Notes:
        """Move to a device; vectors also to `dtype` where one is given."""
        return Notes(self.vector.to(device, dtype), self.token.to(device), self.item.to(device))


Raw = Events | Images | Notes
