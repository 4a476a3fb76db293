"""Whole-slide images: an opened description that reads regions at any scale, from any process.

Coordinates are level-0 pixels from the top left corner; scales are µm per pixel (mpp). Pixels that
the scanner did not fill, and all that lies outside the slide, are white.
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.readers.slide_libraries import (
    LIBRARIES,
    on_white,
    open_with,
    reason,
    stated_mpp,
    tile_size,
)

RGB = NDArray[np.uint8]  # (height, width, 3)

INSTALL = "pip install 'adacomed[slide]'"
MAX_SIDE = 1_000_000  # px; the largest scanners stay below 400,000
MAX_TILE = 2**26  # px that a library must decode at once: 8192 × 8192
MAX_OVERVIEW = 2**32  # px read for an overview: 65,536 × 65,536
BLOCK = 2048  # px; side of the regions that an overview is read in
WHITE = 255


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: size in its own pixels; `downsample` 1 is level 0."""

    width: int
    height: int
    downsample: float


class Slide(ABC):
    """A slide: metadata, and pixels on demand. Picklable.

    Attributes:
        name: file or description, for messages.
        levels: from level 0 (the finest) down.
        mpp: µm per level-0 pixel; None where the file does not say.
    """

    name: str
    levels: tuple[Level, ...]
    mpp: float | None

    @property
    def width(self) -> int:
        """Level-0 pixels."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Level-0 pixels."""
        return self.levels[0].height

    @abstractmethod
    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """A rectangle that lies inside a level, in that level's own pixels; (height, width, 3)."""

    def overview(self, max_side: int) -> RGB:
        """The whole slide with its longer side at most `max_side`, by area averaging; (h, w, 3).

        Read block by block, so memory stays bounded on a file of one huge level.

        Raises:
            InputError: there is no reduced level, and level 0 is too large to be averaged.
        """
        scale = max(1.0, max(self.width, self.height) / max_side)
        width, height = (max(1, round(side / scale)) for side in (self.width, self.height))
        index = self._level_for(scale)
        level = self.levels[index]
        if level.width * level.height > MAX_OVERVIEW:
            raise InputError(
                f"{self.name}: {level.width} × {level.height} pixels and no reduced level; write "
                f"it as a pyramid first (vips tiffsave --tile --pyramid)"
            )
        step_x, step_y = level.width / width, level.height / height
        block = max(1, int(BLOCK / max(step_x, step_y)))
        image = np.empty((height, width, 3), np.uint8)
        for y in range(0, height, block):
            for x in range(0, width, block):
                w, h = min(block, width - x), min(block, height - y)
                box = (x * step_x, y * step_y, w * step_x, h * step_y)
                image[y : y + h, x : x + w] = self._resampled(index, box, (w, h), "BOX")
        return image

    def read(self, x: int, y: int, size0: int, size: int) -> RGB:
        """A square region, resampled (bilinear, antialiased) from the best level as fine as asked.

        Args:
            x, y: left and top, level-0 pixels; may lie outside.
            size0: side that it covers, level-0 pixels.
            size: side of the result, pixels.
        Returns:
            (size, size, 3).
        Raises:
            InputError: the file is damaged there, or has no level that is coarse enough.
        """
        index = self._level_for(size0 / size)
        downsample = self.levels[index].downsample
        if (size0 / downsample) ** 2 > MAX_TILE:
            raise InputError(
                f"{self.name}: {size0} level-0 pixels a side to be read as {size}, and no reduced "
                f"level near that; write it as a pyramid first (vips tiffsave --tile --pyramid)"
            )
        box = (x / downsample, y / downsample, size0 / downsample, size0 / downsample)
        return self._resampled(index, box, (size, size), "BILINEAR")

    def _level_for(self, scale: float) -> int:
        """The coarsest level at least as fine as `scale` level-0 pixels per pixel (within 1 %)."""
        fine = [i for i, lv in enumerate(self.levels) if lv.downsample <= max(scale, 1.0) * 1.01]
        return max(fine, key=lambda i: self.levels[i].downsample, default=0)

    def _resampled(
        self, index: int, box: tuple[float, float, float, float], size: tuple[int, int], how: str
    ) -> RGB:
        """A rectangle (x, y, width, height; fractional level pixels) at another size."""
        image_module = _pillow()
        level, (x, y, w, h) = self.levels[index], box
        left, top = math.floor(x + 1e-6), math.floor(y + 1e-6)
        right, bottom = math.ceil(x + w - 1e-6), math.ceil(y + h - 1e-6)
        canvas = np.full((bottom - top, right - left, 3), WHITE, np.uint8)
        x0, x1 = max(left, 0), min(right, level.width)
        y0, y1 = max(top, 0), min(bottom, level.height)
        if x0 < x1 and y0 < y1:
            inside = self._pixels(index, x0, y0, x1 - x0, y1 - y0)
            canvas[y0 - top : y1 - top, x0 - left : x1 - left] = inside
        if canvas.shape[:2] == (size[1], size[0]):
            return canvas  # one pixel is one pixel
        start = (max(x - left, 0.0), max(y - top, 0.0))
        part = (*start, min(x + w - left, right - left), min(y + h - top, bottom - top))
        resample = getattr(image_module.Resampling, how)
        return np.asarray(image_module.fromarray(canvas).resize(size, resample, box=part))


class ArraySlide(Slide):
    """A slide in memory, of one level.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        mpp: µm per pixel; None = not known.
    Raises:
        ValueError: another shape or type, or an mpp that is not positive.
    """

    def __init__(self, pixels: RGB, mpp: float | None) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"expected uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
        if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
            raise ValueError(f"mpp {mpp}: expected a positive number of µm per pixel, or None")
        self.pixels = pixels
        self.mpp = mpp
        self.name = f"slide of {pixels.shape[1]} × {pixels.shape[0]} pixels in memory"
        self.levels = (Level(pixels.shape[1], pixels.shape[0], 1.0),)

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        return self.pixels[y : y + height, x : x + width]


class FileSlide(Slide):
    """A slide in a file, made by `read_slide`; opened at the first read in whatever process reads.

    Reading from several threads is safe.
    """

    def __init__(
        self, path: Path, library: str, levels: tuple[Level, ...], mpp: float | None
    ) -> None:
        self.path, self.library, self.levels, self.mpp = path, library, levels, mpp
        self.name = str(path)
        self._opened: tuple[int, Any] | None = None  # process id, handle
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[FileSlide], tuple[Any, ...]]:
        return FileSlide, (self.path, self.library, self.levels, self.mpp)

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        try:
            return self._read(level, x, y, width, height)
        except Exception as error:  # whatever the decoders raise, the file is what is wrong
            self._opened = None  # openslide refuses everything after an error
            raise InputError(
                f"{self.path}: damaged or of an unsupported kind, at level {level} around pixel "
                f"({x}, {y}): {reason(error)}"
            ) from None

    def _read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        downsample = self.levels[level].downsample
        corner = (round(x * downsample), round(y * downsample))
        handle = self._handle()
        if self.library == "openslide":
            region = np.asarray(handle.read_region(corner, level, (width, height)))
        else:
            with self._lock:
                region = handle.read_region(corner, level, (width, height), as_array=True)
        return on_white(region)

    def _handle(self) -> Any:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), open_with(self.path, self.library))
            return self._opened[1]


def read_slide(path: Path) -> Slide:
    """Open a slide: openslide first (SVS, NDPI, MRXS, SCN, tiled TIFF …), tiffslide otherwise.

    A corner of every level is decoded, so that a truncated file is found here.

    Raises:
        InputError: no such file, no library, not a slide, truncated, or absurd dimensions.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; expected a whole-slide image")
    refused: dict[str, str] = {}
    missing = 0
    for library in LIBRARIES:
        try:
            slide = _describe(path, library, open_with(path, library))
        except ImportError:  # also: openslide-python without the library itself
            refused[library] = "not installed"
            missing += 1
            continue
        except InputError:
            raise
        except Exception as error:  # the libraries' own types, and struct, zlib, Unicode … errors
            refused[library] = reason(error)
            continue
        try:
            for index, level in enumerate(slide.levels):
                slide._pixels(index, level.width - 1, level.height - 1, 1, 1)
        except InputError as error:
            refused[library] = str(error).removeprefix(f"{path}: ")
            continue
        return slide
    if missing == len(LIBRARIES):
        raise InputError(f"{path}: reading slides needs {INSTALL}")
    reasons = "; ".join(f"{library}: {reason}" for library, reason in refused.items())
    raise InputError(
        f"{path}: not a whole-slide image that openslide or tiffslide can read ({reasons}); "
        f"expected SVS, NDPI, MRXS, SCN or a tiled, pyramidal TIFF"
    )


def _describe(path: Path, library: str, handle: Any) -> FileSlide:
    """The slide's levels and mpp, after checks that nothing in it would exhaust the memory."""
    sizes, downsamples = handle.level_dimensions, handle.level_downsamples
    properties = handle.properties
    levels = tuple(
        Level(int(w), int(h), float(d)) for (w, h), d in zip(sizes, downsamples, strict=True)
    )
    for index, level in enumerate(levels):
        if not (0 < level.width <= MAX_SIDE and 0 < level.height <= MAX_SIDE):
            raise InputError(
                f"{path}: level {index} claims {level.width} × {level.height} pixels; a slide has "
                f"1 to {MAX_SIDE:,} on a side"
            )
        width, height = tile_size(library, handle, properties, index)
        if width * height > MAX_TILE:
            raise InputError(
                f"{path}: level {index} is stored in pieces of {width} × {height} pixels, too "
                f"large to decode; write it with tiles (vips tiffsave --tile --pyramid)"
            )
    return FileSlide(path, library, levels, stated_mpp(library, properties))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise InputError(f"reading slides needs Pillow: {INSTALL}") from None
    return Image
