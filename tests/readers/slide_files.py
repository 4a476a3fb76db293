"""Slides that tests make: stained tissue on white glass, as pyramidal TIFF files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

Blob = tuple[float, float, float]  # centre x, centre y, radius, in fractions of the width


def tissue_image(
    width: int = 1536,
    height: int = 1024,
    blobs: Sequence[Blob] = ((0.35, 0.3, 0.2),),
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Pink, textured discs on white, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.full((height, width, 3), 244, np.float32)
    colour = np.array([190, 100, 150]) + rng.integers(-30, 30, 3)
    for centre_x, centre_y, radius in blobs:
        disc = np.hypot(x - centre_x * width, y - centre_y * width) < radius * width
        wave = 30 * np.sin(x / (5 + seed % 7)) * np.cos(y / 6)
        image = np.where(disc[..., None], colour + wave[..., None], image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def save_slide(
    path: Path,
    image: NDArray[np.uint8],
    *,
    mpp: float | None = 0.5,
    levels: int = 3,
    tile: int | None = 128,
    compression: str | None = "deflate",
) -> Path:
    """A TIFF of `levels` levels, each half of the one before by 2 × 2 averaging.

    Args:
        mpp: written as pixels per centimetre; None leaves it out.
        tile: side of the tiles; None writes strips.
    """
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            resolution = {} if mpp is None else {"resolution": (1e4 / mpp / 2**level,) * 2}
            file.write(
                image,
                photometric="rgb",
                compression=compression,
                resolutionunit="NONE" if mpp is None else "CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                tile=None if tile is None else (tile, tile),
                **resolution,
            )
            image = halved(image)
    return path


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of every 2 × 2 pixels, (H // 2, W // 2, 3)."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.rint(blocks.mean(axis=(1, 3), dtype=np.float64)).astype(np.uint8)
