"""What differs between openslide and tiffslide, the two libraries that open slides."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARIES = ("openslide", "tiffslide")  # in the order that they are tried
MPP_RANGE = (0.05, 20.0)  # µm/px; what lies outside is a print resolution, not a scanner's


def open_with(path: Path, library: str) -> Any:
    """The library's own handle of a slide; raises whatever the library raises."""
    if library == "openslide":
        import openslide

        return openslide.OpenSlide(str(path))
    import tiffslide

    log = logging.getLogger("tifffile")  # it prints what it finds wrong; here that is an error
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        handle = tiffslide.TiffSlide(str(path))
        _check_complete(handle, path.stat().st_size)
    finally:
        log.setLevel(before)
    return handle


def _check_complete(handle: Any, size: int) -> None:
    """Every tile of every level lies inside the file; tifffile itself reads absent ones as 0."""
    for level in _tiff_levels(handle):
        page = level.keyframe
        offsets, lengths = page.dataoffsets, page.databytecounts
        if not offsets or len(offsets) != len(lengths):
            raise ValueError("truncated: where its tiles are is not in it")
        if max(start + length for start, length in zip(offsets, lengths, strict=True)) > size:
            raise ValueError("truncated: tiles lie behind the end of the file")


def _tiff_levels(handle: Any) -> Sequence[Any]:
    """tifffile's levels of the slide."""
    index = int(handle.properties.get("tiffslide.series-index", 0))
    levels: Sequence[Any] = handle.ts_tifffile.series[index].levels
    return levels


def tile_size(
    library: str, handle: Any, properties: Mapping[str, Any], index: int
) -> tuple[int, int]:
    """Width and height of what is decoded at once; (0, 0) where the library does not say."""
    key = f"{library}.level[{index}].tile-"
    width, height = (int(properties.get(key + side) or 0) for side in ("width", "height"))
    if library == "tiffslide" and not (width and height):  # strips, not tiles
        chunk = _tiff_levels(handle)[index].keyframe.chunks  # (rows, columns, samples)
        height, width = int(chunk[0]), int(chunk[1])
    return width, height


def stated_mpp(library: str, properties: Mapping[str, Any]) -> float | None:
    """Mean of both axes, µm/px; None where absent, absurd, or more than 5 % apart."""
    try:
        x, y = (float(properties[f"{library}.mpp-{axis}"]) for axis in "xy")
    except (KeyError, TypeError, ValueError):
        return None
    low, high = MPP_RANGE
    sound = all(low <= value <= high for value in (x, y)) and abs(x - y) <= 0.05 * max(x, y)
    return (x + y) / 2 if sound else None


def on_white(region: NDArray[Any]) -> NDArray[np.uint8]:
    """(h, w, 1, 3 or 4) of 8 bits → RGB uint8, transparent pixels blended into white."""
    if region.dtype != np.uint8 or region.ndim != 3 or region.shape[2] not in (1, 3, 4):
        raise ValueError(f"expected 8-bit grey, RGB or RGBA pixels, not {region.dtype}")
    if region.shape[2] < 4:
        return np.ascontiguousarray(np.broadcast_to(region, (*region.shape[:2], 3)))
    colour, alpha = region[..., :3], region[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(colour)
    weight = alpha.astype(np.float32) / 255
    blended: NDArray[np.uint8] = np.rint(colour * weight + 255 * (1 - weight)).astype(np.uint8)
    return blended


def reason(error: Exception) -> str:
    """The first line of a library's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
