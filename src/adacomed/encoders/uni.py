"""UNI and UNI2-h: whole-slide images → vectors, the mean over the tissue patches.

Both are DINOv2-trained vision transformers whose published file is timm's (`vit_state`). Facts of
UNI (ViT-L/16, 224 px, ImageNet mean and std, CLS after the final norm) and of UNI2-h (ViT-H/14,
width 1536, 24 blocks, 24 heads, packed SwiGLU of 2 × 4096, 8 registers, no class position, 224 px)
are from their authors' repository (github.com/mahmoodlab/UNI, README and get_encoder.py), as is the
licence, which forbids commercial use, and the resize: torchvision's Resize(224), bilinear. Not
verified, for want of the hub: what its config.json holds beside the architecture.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adacomed.encoders.base import EncoderCard, hash_json
from adacomed.encoders.golden import GOLDEN, golden_item
from adacomed.encoders.vit_state import load_vit
from adacomed.encoders.weights import find_weights, load_tensors
from adacomed.errors import InputError
from adacomed.readers.slide import Slide
from adacomed.readers.tissue import Patches, Segmentation, tissue_patches

PATTERNS = ("pytorch_model*.bin", "model*.safetensors")
SUBSTITUTE = "bring another pathology model's vectors (a modality of kind 'embedding')"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, RGB in 0 … 1
PATCH = 256  # px, as CLAM cuts them; resized to the network's input
PATCH_MPP = 0.5  # µm/px: 20×
ROWS = {"cpu": 4, "cuda": 64}  # patches of every forward pass
THREADS = 4  # that read patches ahead of the network

CARDS = {
    "uni": EncoderCard(
        name="uni",
        kinds=("slide",),
        id="MahmoodLab/UNI",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        pooling="mean over tissue patches of the normed CLS",
        input="whole-slide image with its µm per pixel, H&E",
        trained_on="Mass-100K: 100 million patches of 100,426 H&E slides (MGH, BWH, GTEx)",
        seen_datasets=("GTEx",),
        width=1024,
    ),
    "uni2-h": EncoderCard(
        name="uni2-h",
        kinds=("slide",),
        id="MahmoodLab/UNI2-h",
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        pooling="mean over tissue patches of the normed CLS",
        input="whole-slide image with its µm per pixel, H&E or IHC",
        trained_on="over 200 million patches of more than 350,000 H&E and IHC slides",
        seen_datasets=None,
        width=1536,
    ),
}


def uni(
    id: str = "MahmoodLab/UNI",
    *,
    mpp: float | None = None,
    patch_mpp: float = PATCH_MPP,
    paper: bool = False,
    threshold: int = 8,
    tissue_area: float = 100.0,
    heads: int | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> Uni:
    """UNI, ViT-L/16, 1024-d.

    Args:
        id: hub id, or a folder with pytorch_model.bin or model.safetensors in timm's naming.
        mpp: µm per level-0 pixel of slides that do not say.
        patch_mpp: µm per patch pixel; 0.5 is 20×.
        paper: patches of 256 level-0 pixels, whatever the magnification.
        threshold: saturation (0 … 255) above which a pixel is tissue.
        tissue_area: smallest piece of tissue, in patches of 512 × 512 level-0 pixels.
        heads: attention heads; default: as config.json says, else width / 64.
        revision: of a hub model.
        device: where to compute, "cpu" or "cuda".
    Raises:
        InputError: the model is not here, does not fit, or an option has no such value.
    """
    cut = Cut(mpp, patch_mpp, paper, _segmentation(threshold, tissue_area))
    return _assemble("uni", id, cut, heads, revision, device)


def uni2_h(
    id: str = "MahmoodLab/UNI2-h",
    *,
    mpp: float | None = None,
    patch_mpp: float = PATCH_MPP,
    paper: bool = False,
    threshold: int = 8,
    tissue_area: float = 100.0,
    heads: int | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> Uni:
    """UNI2-h, ViT-H/14 with 8 registers, 1536-d; arguments and errors as in `uni`."""
    cut = Cut(mpp, patch_mpp, paper, _segmentation(threshold, tissue_area))
    return _assemble("uni2-h", id, cut, heads, revision, device)


@dataclass(frozen=True)
class Cut:
    """A `Slide` → its tissue `Patches`; the fields are those of `tissue_patches`."""

    mpp: float | None = None
    patch_mpp: float = PATCH_MPP
    paper: bool = False
    segmentation: Segmentation = field(default_factory=Segmentation)

    def __call__(self, slide: Slide) -> Patches:
        """Raises InputError: no tissue, no mpp, or level 0 is too coarse."""
        return tissue_patches(
            slide,
            mpp=self.mpp,
            patch_mpp=self.patch_mpp,
            paper=self.paper,
            size=PATCH,
            segmentation=self.segmentation,
        )

    def describe(self) -> dict[str, str | int | float | bool]:
        """The settings, for the card."""
        how = self.segmentation
        return {
            "patch_px": PATCH,
            "patch_um_per_px": "level 0" if self.paper else self.patch_mpp,
            "slide_um_per_px": "as stated" if self.mpp is None else f"as stated, or {self.mpp:g}",
            "tissue": f"saturation > {how.threshold}, median {how.median}, closing {how.closing}, "
            f"at {how.downsample:g}×",
            "tissue_area": how.tissue_area,
            "holes": f"{how.max_holes} of {how.hole_area:g}",
            "kept": "any of four points on tissue, centre not in a hole",
            "resize": "bilinear, antialiased",
            "mean": ", ".join(map(str, MEAN)),
            "std": ", ".join(map(str, STD)),
        }


class Uni:
    """Slides → vectors, (n, D) float32.

    A forward pass holds a fixed number of patches, all of one slide, in the order of its grid; a
    slide's vector therefore knows no other slide. Patches are read by threads a few passes ahead,
    so memory does not grow with the slide.

    Args:
        network: (rows, 3, side, side) → an output whose `pooler_output` is (rows, D).
        side: of its input, px.
        prepare: a slide → its patches.
        card: measured but for width and golden vector, which are found here.
        rows: patches of a forward pass; default: 4, on a GPU 64.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        side: int,
        prepare: Cut,
        card: EncoderCard,
        rows: int | None = None,
    ) -> None:
        self.network, self.side, self.prepare, self.card = network, side, prepare, card
        self.device = next(network.parameters()).device
        self.rows = rows or ROWS.get(self.device.type, 4)
        golden = self.encode([golden_item("slide")])[0]
        found = {"width": len(golden), "golden_input": GOLDEN, "golden": tuple(golden.tolist())}
        self.card = card.model_copy(update=found)

    def encode(self, items: Sequence[Slide]) -> NDArray[np.float32]:
        """Vectors of n slides, (n, D) float32, in their order."""
        return self.forward([self.prepare(item) for item in items])

    def forward(self, prepared: Sequence[Patches]) -> NDArray[np.float32]:
        """Vectors of n slides' patches, (n, D) float32, in their order.

        Raises:
            InputError: a slide's file is damaged where a patch lies.
        """
        if not prepared:
            return np.zeros((0, self.card.width or 0), np.float32)
        return np.stack([self._mean(patches) for patches in prepared])

    def _mean(self, patches: Patches) -> NDArray[np.float32]:
        """Mean of the patches' vectors, summed in float64 in the grid's order, (D,)."""
        total, count = np.zeros(1, np.float64), len(patches.xy)
        for start, pixels in self._passes(patches):
            vectors = self._states(pixels)[: count - start]  # what is left are spare rows
            total = total + vectors.sum(axis=0, dtype=np.float64)
        mean: NDArray[np.float32] = (total / count).astype(np.float32)
        return mean

    def _passes(self, patches: Patches) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First patch, and images (rows, side, side, 3), of every forward pass."""
        threads = min(THREADS, os.cpu_count() or 1)
        waiting: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(patches.xy), self.rows):
                waiting.append((start, pool.submit(self._read, patches, start)))
                if len(waiting) > threads:
                    first, images = waiting.popleft()
                    yield first, images.result()
            for first, images in waiting:
                yield first, images.result()

    def _read(self, patches: Patches, start: int) -> NDArray[np.uint8]:
        """Images of one pass, resized to the network's input; a spare row repeats the last."""
        from PIL import Image

        images = np.empty((self.rows, self.side, self.side, 3), np.uint8)
        for row in range(self.rows):
            if start + row >= len(patches.xy):
                images[row:] = images[row - 1]
                break
            image = Image.fromarray(patches.read(start + row))
            size = (self.side, self.side)
            images[row] = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        return images

    @torch.inference_mode()
    def _states(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(rows, side, side, 3) uint8 → (rows, D)."""
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(c, device=self.device).view(3, 1, 1) for c in (MEAN, STD))
        half = self.card.preprocessing["dtype"] == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            states = self.network((pixels - mean) / std).pooler_output
        found: NDArray[np.float32] = states.float().cpu().numpy()
        return found


def _assemble(
    name: str, id: str, cut: Cut, heads: int | None, revision: str | None, device: str
) -> Uni:
    weights = find_weights(
        id, revision=revision, substitute=SUBSTITUTE, patterns=PATTERNS, config=False
    )
    files = weights.files()
    network: Any = load_vit(load_tensors(files), str(files[0]), heads or _heads(weights.folder))
    side = int(network.config.image_size)
    half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    settings = cut.describe() | {"input_px": side, "dtype": "bfloat16" if half else "float32"}
    measured = {
        "id": id,
        "revision": weights.revision,
        "preprocessing": settings,
        "preprocessing_hash": hash_json({**settings, "heads": network.config.num_attention_heads}),
        "weights_hash": weights.sha256(),
        "libraries": {
            p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy", "pillow")
        },
    }
    card = CARDS[name].model_copy(update=measured)
    return Uni(network.to(device), side=side, prepare=cut, card=card)


def _heads(folder: Path) -> int | None:
    """num_heads of timm's config.json, where it has one."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        heads = stated.get("model_args", {}).get("num_heads")
    except (ValueError, AttributeError):
        raise InputError(f"{file}: not a timm model's configuration") from None
    if heads is not None and (not isinstance(heads, int) or heads < 1):
        raise InputError(f"{file}: num_heads {heads!r}; expected a whole number")
    return heads


def _segmentation(threshold: int, tissue_area: float) -> Segmentation:
    if not 0 <= threshold < 255 or not 0 <= tissue_area < 1e6:
        raise InputError(
            f"threshold {threshold} and tissue_area {tissue_area}: expected 0 … 254 and 0 or more"
        )
    return Segmentation(threshold=threshold, tissue_area=tissue_area)
