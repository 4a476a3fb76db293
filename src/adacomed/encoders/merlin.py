"""Merlin: CT volumes → vectors, by the image tower of the published checkpoint.

Resampling is linear and by hand, not by scipy.ndimage.zoom: the published preprocessing (MONAI's
Spacing) keeps the first voxel's centre in its place and does not smooth, zoom stretches the grid
until both ends meet. Only voxels that the crop keeps are computed, plane by plane: the memory for a
scan of any length is that of the crop and a few of the scan's planes.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from adacomed.encoders.base import EncoderCard, hash_json
from adacomed.encoders.golden import GOLDEN, golden_item
from adacomed.encoders.i3resnet import TRUNK, I3ResNet, from_tensors
from adacomed.encoders.weights import Weights, find_weights, load_tensors
from adacomed.errors import InputError
from adacomed.readers.volume import Volume

PREFIX = "encode_image.i3_resnet."
CHECKPOINT = "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt"
PATTERNS = (CHECKPOINT, "model*.safetensors")
SUBSTITUTE = "bring another CT model's vectors (a modality of kind 'embedding')"
SHAPE = (224, 224, 160)  # voxels
SPACING = (1.5, 1.5, 3.0)  # mm
WINDOW = (-1000.0, 1000.0)  # HU → 0 … 1
LONGEST = 10_000.0  # mm; a longer scan has its spacing in another unit

CARDS = {
    "merlin": EncoderCard(
        name="merlin",
        kinds=("volume",),
        id="stanfordmimi/Merlin",
        licence="MIT",
        gated=False,
        pooling="global average of the last feature map",
        input="CT volume in HU with its spacing in mm, RAS+",
        trained_on="15,331 abdominal CTs of Stanford with reports and diagnosis codes",
        seen_datasets=(),
        width=2048,
    )
}


def merlin(
    id: str = "stanfordmimi/Merlin",
    *,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    revision: str | None = None,
    device: str = "cpu",
) -> Merlin:
    """Merlin's image tower, 2048-d; the text tower and the heads are left out.

    Args:
        id: hub id, or a folder with the checkpoint (or a model.safetensors with the same names).
        shape: voxels that the network sees (x, y, z), around the middle of the scan.
        spacing: their size in mm (x, y, z).
        revision: of a hub model.
        device: where to compute, "cpu" or "cuda".
    Raises:
        InputError: the model is not here, does not fit, or an option has no such value.
    """
    weights = find_weights(
        id, revision=revision, substitute=SUBSTITUTE, patterns=PATTERNS, config=False
    )
    prepare = Prepare(*_options(shape, spacing))
    network, ignored = load_trunk(weights)
    half = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    settings = prepare.describe() | {"dtype": "bfloat16" if half else "float32"}
    measured = {
        "id": id,
        "revision": weights.revision,
        "preprocessing": settings,
        "preprocessing_hash": hash_json(settings),
        "weights_hash": weights.sha256(),
        "libraries": {p: importlib.metadata.version(p) for p in ("torch", "numpy")},
    }
    card = CARDS["merlin"].model_copy(update=measured)
    return Merlin(network.to(device), prepare=prepare, card=card, ignored=ignored)


class Merlin:
    """CT volumes → vectors, (n, D) float32.

    A forward pass holds one volume: that fills any device, and makes every pass the same shape.

    Args:
        network: the trunk.
        prepare: a volume → what the network sees.
        card: measured but for width and golden vector, which are found here.
        ignored: tensors of the checkpoint that are not the trunk's (text tower, heads).
    """

    def __init__(
        self, network: I3ResNet, *, prepare: Prepare, card: EncoderCard, ignored: int = 0
    ) -> None:
        self.network, self.prepare, self.card, self.ignored = network, prepare, card, ignored
        golden = self.encode([golden_item("volume")])[0]
        found = {"width": len(golden), "golden_input": GOLDEN, "golden": tuple(golden.tolist())}
        self.card = card.model_copy(update=found)

    def encode(self, items: Sequence[Volume]) -> NDArray[np.float32]:
        """Vectors of n volumes, (n, D) float32, in their order."""
        vectors = [self._embed(self.prepare(item)) for item in items]  # one prepared at a time
        return self._stack(vectors)

    def forward(self, prepared: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Vectors of n prepared volumes, (n, D) float32, in their order."""
        return self._stack([self._embed(volume) for volume in prepared])

    def _stack(self, vectors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(vectors) if vectors else np.zeros((0, self.network.width), np.float32)

    @torch.inference_mode()
    def _embed(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        device = next(self.network.parameters()).device
        half = self.card.preprocessing["dtype"] == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            vector = self.network(torch.from_numpy(volume).to(device).unsqueeze(0))[0]
        found: NDArray[np.float32] = vector.cpu().numpy()
        return found


def load_trunk(weights: Weights) -> tuple[I3ResNet, int]:
    """The image tower of a checkpoint, and how many of its tensors belong to something else.

    Raises:
        InputError: unreadable, or not all of the trunk is in it.
    """
    origin = str(weights.files()[0])
    tensors = load_tensors(weights.files())
    tower = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(PREFIX) and isinstance(tensor, torch.Tensor)
    }
    if not tower:
        raise InputError(
            f"{origin}: {len(tensors)} entries, none named {PREFIX}…, so it is not Merlin's "
            f"checkpoint of images and reports ({CHECKPOINT})"
        )
    used = sum(TRUNK.match(name) is not None for name in tower)
    return from_tensors(tower, origin), len(tensors) - used


@dataclass(frozen=True)
class Prepare:
    """A `Volume` → (X, Y, Z) float32 in [0, 1]: resampled, windowed, centred, padded with air."""

    shape: tuple[int, int, int] = SHAPE
    spacing: tuple[float, float, float] = SPACING  # mm

    def __call__(self, item: Volume) -> NDArray[np.float32]:
        """Raises InputError: empty, not finite, too thin, without contrast or no such spacing."""
        hu = item.hu
        if hu.ndim != 3 or not hu.size or len(item.spacing) != 3:
            raise InputError(
                f"voxels of shape {hu.shape} and {len(item.spacing)} spacings; a volume has voxels "
                f"and a spacing along x, y and z"
            )
        grid = zip("xyz", hu.shape, item.spacing, self.spacing, self.shape, strict=True)
        x, y, z = (_sample(*numbers) for numbers in grid)
        hu = hu[:, y.source, z.source]
        prepared = np.zeros(self.shape, np.float32)
        kept = prepared[x.target, y.target, z.target]
        for i, (low, high, weight) in enumerate(zip(x.low, x.high, x.weight, strict=True)):
            first, second = (hu[x.source][j].astype(np.float32, copy=False) for j in (low, high))
            with np.errstate(invalid="ignore"):  # said below
                plane = first + (second - first) * weight
                plane = _interpolate(_interpolate(plane, y).T, z).T
            if not np.isfinite(plane).all():
                raise InputError("voxels that are not finite numbers, in the part that is used")
            kept[i] = (plane - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
        np.clip(kept, 0, 1, out=kept)
        if kept.min() == kept.max():
            raise InputError(
                f"the same value everywhere in the middle of the volume, within {WINDOW[0]:.0f} … "
                f"{WINDOW[1]:.0f} HU: nothing is seen in it (are these Hounsfield units?)"
            )
        return prepared

    def describe(self) -> dict[str, str | int | float | bool]:
        """The settings, for the card."""
        return {
            "orientation": "RAS+",
            "spacing_mm": "×".join(f"{s:g}" for s in self.spacing),
            "shape_voxels": "×".join(map(str, self.shape)),
            "window_hu": f"{WINDOW[0]:.0f} … {WINDOW[1]:.0f} → 0 … 1",
            "resampling": "linear, first voxel in place, no smoothing",
            "padding": "0, equal on both sides",
        }


@dataclass(frozen=True)
class _Axis:
    """Where the voxels along one axis come from and go; k are computed."""

    source: slice  # part of the scan that is needed
    low: NDArray[np.int64]  # (k,) neighbours, counted from the start of `source`
    high: NDArray[np.int64]  # (k,)
    weight: NDArray[np.float32]  # (k,) of the higher neighbour
    target: slice  # place in the crop


def _sample(name: str, voxels: int, spacing: float, target: float, wanted: int) -> _Axis:
    """The grid of one axis: spacings in mm; `wanted` voxels around the middle."""
    if not 0 < spacing * voxels <= LONGEST:
        raise InputError(f"{voxels} voxels of {spacing:g} mm along {name}: not a scan's spacing")
    if spacing * voxels < target / 2:
        raise InputError(
            f"{voxels} voxels of {spacing:g} mm along {name} are less than half of one at "
            f"{target:g} mm: give the whole scan, not a slice of it"
        )
    count = round((voxels - 1) * spacing / target + 1)
    start, kept = max(count // 2 - wanted // 2, 0), min(count, wanted)
    position = (start + np.arange(kept)) * (target / spacing)
    position = np.minimum(position, voxels - 1)  # the last half voxel holds the edge's value
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, voxels - 1)
    before = (wanted - kept) // 2
    return _Axis(
        source=slice(int(low[0]), int(high[-1]) + 1),
        low=low - low[0],
        high=high - low[0],
        weight=(position - low).astype(np.float32),
        target=slice(before, before + kept),
    )


def _interpolate(plane: NDArray[np.float32], axis: _Axis) -> NDArray[np.float32]:
    """(n, m) → (k, m), along the first axis."""
    low = plane[axis.low]
    found: NDArray[np.float32] = low + (plane[axis.high] - low) * axis.weight[:, None]
    return found


def _options(
    shape: Sequence[int], spacing: Sequence[float]
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    if len(shape) != 3 or not all(isinstance(n, int) and 1 <= n <= 1024 for n in shape):
        raise InputError(f"shape {shape!r}: expected three whole numbers of voxels, 1 … 1024")
    if len(spacing) != 3 or not all(0.1 <= s <= 100 for s in spacing):
        raise InputError(f"spacing {spacing!r}: expected three sizes in mm, 0.1 … 100")
    return (shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2])
