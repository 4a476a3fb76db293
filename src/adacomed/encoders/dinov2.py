"""DINOv2 on chest X-rays and other images: the state of the class token.

Preprocessing is the paper's: grey to three channels, the whole image resized to 224 × 224 without a
crop (bicubic, antialiased), ImageNet's mean and deviation. The hub's own processor resizes to 256
and crops the centre, which cuts the borders of an X-ray off.

Source: Oquab et al. 2023, arXiv 2304.07193; with registers, Darcet et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adacomed.encoders.base import EncoderCard
from adacomed.encoders.golden import GOLDEN, golden_item
from adacomed.encoders.lanes import columns_first, run_passes
from adacomed.encoders.pretrained import device_dtype, load_model, measured
from adacomed.encoders.weights import Weights, find_weights
from adacomed.errors import InputError

SUBSTITUTE = "give vectors of any model as kind: embedding"
ROWS = {"cpu": 2, "cuda": 64}  # images of every forward pass
LONGEST = 2048  # pixels; a larger size of the model's input is a mistake
STRIP = 20  # times as long as wide: no image, and resized by its shorter side it would be huge
SIZES = {"dinov2": 1536, "dinov2-large": 1024, "dinov2-base": 768, "dinov2-small": 384}


def _card(name: str, width: int) -> EncoderCard:
    size = name.partition("-")[2] or "giant"
    return EncoderCard(
        name=name,
        kinds=("image",),
        id=f"facebook/dinov2-with-registers-{size}",
        licence="Apache-2.0",
        gated=False,
        pooling="class token, normalised by the last layer",
        input="image (H, W, 1 or 3) with values in [0, 1]",
        trained_on="LVD-142M: 142 million natural images",
        seen_datasets=(),
        width=width,
    )


CARDS = {name: _card(name, width) for name, width in SIZES.items()}


@dataclass(frozen=True)
class Prepare:
    """Image (H, W, C) in [0, 1] → (3, size, size) float32.

    Attributes:
        size: pixels.
        mean, std: per channel, after scaling to [0, 1].
        crop: False: the whole image is squeezed into the square; True: its shorter side becomes
            `size` and the centre is kept.
    """

    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop: bool = False

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raises InputError: not an image, a strip, or one value everywhere."""
        if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
            raise InputError(f"expected an image (H, W, 1 or 3), got shape {image.shape}")
        if max(image.shape[:2]) > STRIP * min(image.shape[:2]):
            raise InputError(
                f"an image of {image.shape[1]} × {image.shape[0]} pixels; expected sides that "
                f"differ at most {STRIP} times"
            )
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise InputError("expected an image with values in [0, 1]")
        if image.min() == image.max():
            raise InputError("the image has one value everywhere")
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        _, _, height, width = pixels.shape
        shape = (self.size, self.size)
        if self.crop:
            scale = self.size / min(height, width)
            shape = (max(self.size, round(height * scale)), max(self.size, round(width * scale)))
        # clamped as 8-bit resizing does: bicubic overshoots at edges
        resized = F.interpolate(pixels, shape, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
        square = resized[0, :, top : top + self.size, left : left + self.size]
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        prepared: NDArray[np.float32] = ((square.expand(3, -1, -1) - mean) / std).numpy()
        return prepared


class VisionEncoder:
    """Images → vectors, (n, D) float32: the class token of a DINOv2-type model.

    Args:
        model: takes pixel values (rows, 3, S, S), gives `last_hidden_state` (rows, tokens, D).
        prepare: an image → pixel values.
        card: measured but for width and golden vector, which are found here.
        rows: images of every forward pass; a spare row repeats one.
    """

    def __init__(
        self, model: torch.nn.Module, *, prepare: Prepare, card: EncoderCard, rows: int
    ) -> None:
        self.model, self.prepare, self.card, self.rows = model, prepare, card, rows
        golden = self.encode([golden_item("image")])[0]
        found = {"width": len(golden), "golden_input": GOLDEN, "golden": tuple(golden.tolist())}
        self.card = card.model_copy(update=found)

    def encode(self, items: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Vectors of n images, (n, D) float32, in their order."""
        return self.forward([self.prepare(item) for item in items])

    def forward(self, prepared: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Vectors of n prepared images, (n, D) float32, in their order."""
        parts = [prepared[i : i + self.rows] for i in range(0, len(prepared), self.rows)]
        if not parts:
            return np.zeros((0, self.card.width or 0), np.float32)
        device = next(self.model.parameters()).device
        vectors: NDArray[np.float32] = np.concatenate(run_passes(self._pass, parts, device))
        return vectors

    @torch.inference_mode()
    def _pass(self, some: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Vectors of up to `rows` images, always computed as `rows`."""
        rows = [*some, *[some[0]] * (self.rows - len(some))]
        weight: Tensor = next(self.model.parameters())
        pixels = torch.from_numpy(np.stack(rows)).to(weight.device, weight.dtype)
        states: Tensor = self.model(pixel_values=pixels).last_hidden_state[: len(some), 0]
        found: NDArray[np.float32] = states.float().cpu().numpy()
        return found


def dinov2(
    id: str = CARDS["dinov2"].id,
    *,
    size: int = 224,
    revision: str | None = None,
    device: str = "cpu",
) -> VisionEncoder:
    """DINOv2 giant with registers, 1536-d, as in the paper.

    Args:
        id: folder as save_pretrained writes it, or hub id; Dinov2 without registers works too.
        size: of the model's square input, pixels; a multiple of its patch, 14.
        revision: of a hub model.
        device: where to compute, "cpu" or "cuda".
    Raises:
        InputError: the model is not here or does not fit, or a size that it cannot take.
    """
    return _dinov2("dinov2", id, size, revision, device)


def dinov2_large(
    id: str = CARDS["dinov2-large"].id,
    *,
    size: int = 224,
    revision: str | None = None,
    device: str = "cpu",
) -> VisionEncoder:
    """DINOv2 large with registers, 1024-d; arguments as in `dinov2`."""
    return _dinov2("dinov2-large", id, size, revision, device)


def dinov2_base(
    id: str = CARDS["dinov2-base"].id,
    *,
    size: int = 224,
    revision: str | None = None,
    device: str = "cpu",
) -> VisionEncoder:
    """DINOv2 base with registers, 768-d; arguments as in `dinov2`."""
    return _dinov2("dinov2-base", id, size, revision, device)


def dinov2_small(
    id: str = CARDS["dinov2-small"].id,
    *,
    size: int = 224,
    revision: str | None = None,
    device: str = "cpu",
) -> VisionEncoder:
    """DINOv2 small with registers, 384-d; arguments as in `dinov2`."""
    return _dinov2("dinov2-small", id, size, revision, device)


def _dinov2(name: str, id: str, size: int, revision: str | None, device: str) -> VisionEncoder:
    weights = find_weights(id, revision=revision, substitute=SUBSTITUTE)
    card = CARDS[name]
    if id != card.id:  # whatever these weights have seen, the published ones' list is not theirs
        card = card.model_copy(update={"id": id, "trained_on": "not known", "seen_datasets": None})
    return assemble(card, weights, Prepare(size), device)


def assemble(card: EncoderCard, weights: Weights, prepare: Prepare, device: str) -> VisionEncoder:
    """The encoder of these weights.

    Raises:
        InputError: another type of model, or a size that is no multiple of its patch.
    """
    model: Any = load_model(weights, extra="image", device=device, attention="sdpa")
    if model.config.model_type not in ("dinov2", "dinov2_with_registers"):
        raise InputError(f"{card.id}: {model.config.model_type} is not a DINOv2-type model")
    patch = model.config.patch_size
    if not patch <= prepare.size <= LONGEST or prepare.size % patch:
        raise InputError(
            f"{card.id}: size {prepare.size}; expected a multiple of its patch of {patch} pixels, "
            f"at most {LONGEST}"
        )
    dtype = str(device_dtype(device)).removeprefix("torch.")
    settings = {
        **{k: str(v) if isinstance(v, tuple) else v for k, v in asdict(prepare).items()},
        "resize": "bicubic, antialiased",
        "dtype": dtype,
    }
    files = ("config.json", "preprocessor_config.json")
    found = measured(weights, settings, files=files, libraries=("torch", "transformers"))
    card = card.model_copy(update=found)
    on_cpu = device.startswith("cpu")
    rows = ROWS["cpu" if on_cpu else "cuda"]
    model = columns_first(model) if on_cpu else model
    return VisionEncoder(model, prepare=prepare, card=card, rows=rows)
