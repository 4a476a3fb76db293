"""One fixed item of every kind: the golden vector of an encoder's card is the vector of it.

Made by formula, so that it is the same on every machine and needs no file. An item is never
changed; another would be `golden-v2`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adacomed.encoders.base import Kind
from adacomed.errors import InputError
from adacomed.readers.series import Series
from adacomed.readers.slide import ArraySlide
from adacomed.readers.volume import Volume

GOLDEN = "golden-v1"
TEXT = "A 61-year-old woman with clear cell renal cell carcinoma, stage II, no metastases."


def golden_item(kind: Kind) -> Any:
    """The item that encoders of a kind are measured on.

    Args:
        kind: text and tabular give a sentence; image (96, 80, 1) in [0, 1]; volume 40 × 36 × 24
            voxels of 1.5 × 1.5 × 3 mm; slide 1,024 × 1,024 pixels of 0.5 µm; series 3 variables
            over 24 h.
    """
    if kind in ("text", "tabular"):
        return TEXT
    if kind == "image":
        y, x = np.mgrid[0:96, 0:80] / 80
        wave = 0.5 + 0.3 * np.sin(9 * x + 4 * y * y) + 0.2 * np.cos(13 * y)
        return np.clip(wave, 0, 1).astype(np.float32)[..., None]
    if kind == "volume":
        x, y, z = np.mgrid[0:40, 0:36, 0:24]
        inside = (x - 20) ** 2 / 300 + (y - 17) ** 2 / 240 + (z - 12) ** 2 / 110 < 1
        hu = np.where(inside, 40 + 60 * np.sin(x / 3) + 3 * y - 2 * z, -1000)
        return Volume(hu.astype(np.float32), (1.5, 1.5, 3.0))
    if kind == "slide":
        return ArraySlide(_tissue(), mpp=0.5)
    if kind == "series":
        hours = np.repeat(np.arange(24.0), 3)
        variable = np.tile(np.arange(3), 24)
        value = 80 + 10 * np.sin(hours / 4 + variable) + 5 * variable
        kept = (hours * 7 + variable * 3) % 5 != 0  # some hours lack a measurement
        return Series(hours[kept], variable[kept], value[kept], ("heart_rate", "map", "resp"))
    raise InputError(f"no golden item of kind {kind!r}")


def _tissue() -> Any:
    """A pink, textured disc on white, uint8 (1024, 1024, 3)."""
    y, x = np.mgrid[0:1024, 0:1024]
    disc = (x - 512) ** 2 + (y - 512) ** 2 < 380**2
    texture = 25 * np.sin(x / 11) * np.cos(y / 7)
    tissue = np.stack([200 + texture / 2, 110 + texture, 160 + texture], axis=-1)
    return np.where(disc[..., None], tissue, 245).round().astype(np.uint8)
