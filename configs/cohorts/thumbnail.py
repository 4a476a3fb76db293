"""An image as its own small picture: a vector without any weights, where no large model is at hand.

A cohort's YAML names it `encoder: thumbnail:embed` (see docs/embedding.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16  # pixels


def embed(items: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Images (H, W, C) in [0, 1] → grey levels of SIDE × SIDE pixels by rank, (n, SIDE²) in [0, 1].

    Ranks, because two machines show the same chest at different brightness and contrast.
    """
    return np.stack([_ranks(item) for item in items])


def _ranks(image: NDArray[np.float32]) -> NDArray[np.float32]:
    grey = image.mean(axis=2) if image.ndim == 3 else image
    small = Image.fromarray(grey.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(small).ravel()
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(count) - count  # pixels darker than each grey level
    middle = below + (count - 1) / 2
    return (middle[place] / (SIDE * SIDE - 1)).astype(np.float32)
