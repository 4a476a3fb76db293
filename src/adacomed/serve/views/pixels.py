"""Values of an image or a volume as the bytes of a PNG: window and level, planes, size."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError, nearest

MAX_SIDE = 2048  # pixels of the longer side that are ever sent
LARGEST = 1e9  # of a window's centre and width
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # → the axis that it runs along


@dataclass(frozen=True)
class Window:
    """Which values are seen: `centre` − `width` / 2 is black, `centre` + `width` / 2 white.

    Raises:
        InputError: a centre or width that is not a number within ±1e9, or a width not above 0.
    """

    centre: float
    width: float

    def __post_init__(self) -> None:
        if not abs(self.centre) <= LARGEST or not 0 < self.width <= LARGEST:
            raise InputError(
                "a window needs a centre and a width above 0, numbers up to 1e9: "
                "centre=40&width=400 would work"
            )


BRIGHT = Window(127.5, 255)
PRESETS = {  # for CT, in HU
    "soft tissue": Window(40, 400),
    "lung": Window(-600, 1500),
    "bone": Window(400, 1800),
}


@dataclass(frozen=True)
class Picture:
    """An image or volume to be looked at.

    Attributes:
        values: image (H, W) or (H, W, 3); volume (X, Y, Z), indices growing toward Right, Anterior
            and Superior.
        unit: of the values: "HU", or words.
        window: as it is shown at first.
        spacing: mm per step of a volume; None: an image.
        inverted: whether small values are shown white at first.
        note: what people should know of it, such as that it is shown coarser than it is.
    """

    values: NDArray[np.float32]
    unit: str
    window: Window
    spacing: tuple[float, float, float] | None = None
    inverted: bool = False
    note: str = ""
    range: tuple[float, float] = field(default=(0.0, 255.0))  # of the values, for sliders

    @property
    def planes(self) -> dict[str, int]:
        """Plane → number of slices; an image has none."""
        if self.spacing is None:
            return {}
        return {plane: self.values.shape[axis] for plane, axis in PLANES.items()}

    @property
    def presets(self) -> dict[str, Window]:
        """Windows with names, besides the first one."""
        return PRESETS if self.unit == "HU" else {}


def draw(
    picture: Picture,
    *,
    window: Window | None = None,
    plane: str = "axial",
    at: int | None = None,
    invert: bool = False,
    side: int = 1024,
) -> bytes:
    """A PNG of 8-bit grey or RGB.

    Args:
        window: None: the picture's own.
        plane, at: which slice of a volume, counted from 0 at Left, Posterior or Inferior; None: the
            middle one. A slice is seen as radiologists do: the patient's right is on the left, the
            front is above (axial) or on the left (sagittal), the head is above.
        invert: against how the picture is shown at first.
        side: pixels of the longer side at most, up to `MAX_SIDE`; pixels become square.
    Raises:
        InputError: no such plane or slice.
    """
    from PIL import Image

    values, (high, wide) = _flat(picture, plane, at)
    grey = windowed(values, window or picture.window)
    if invert != picture.inverted:
        grey = 255 - grey
    image = Image.fromarray(np.ascontiguousarray(grey))
    finest = min(high, wide)
    size = _size(values.shape[0] * high / finest, values.shape[1] * wide / finest, side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    out = BytesIO()
    image.save(out, "PNG", compress_level=3)
    return out.getvalue()


def windowed(values: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Values → 0 … 255, the nearest whole number; what lies outside the window is clipped."""
    low = window.centre - window.width / 2
    share = (values.astype(np.float64) - low) / window.width
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def _flat(picture: Picture, plane: str, at: int | None) -> tuple[NDArray[Any], tuple[float, float]]:
    """What is to be drawn, (H, W[, 3]), and how high and wide a pixel is, in any one unit."""
    if picture.spacing is None:
        return picture.values, (1.0, 1.0)
    if plane not in PLANES:
        raise InputError(f"no plane {plane!r}{nearest(plane, PLANES)}")
    axis, count = PLANES[plane], picture.planes[plane]
    at = count // 2 if at is None else at
    if not 0 <= at < count:
        raise InputError(f"no {plane} slice {at}; 0 to {count - 1} would work")
    across, up = (picture.spacing[a] for a in range(3) if a != axis)
    return np.take(picture.values, at, axis=axis).T[::-1, ::-1], (up, across)


def _size(height: float, width: float, side: int) -> tuple[int, int]:
    """(columns, rows) of a picture that is `height` × `width` pixels, shrunk to `side`."""
    scale = min(1.0, min(max(side, 1), MAX_SIDE) / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))
