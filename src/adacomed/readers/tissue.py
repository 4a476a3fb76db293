"""Where the tissue is on a slide, and the grid of patches on it.

The method and its parameters are CLAM's (Lu et al., Nature BME 2021: HSV saturation, median,
threshold, closing, area filters, the "four points" rule). What differs is said where it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adacomed.errors import InputError
from adacomed.readers.slide import RGB, Slide
from adacomed.readers.slide_libraries import MPP_RANGE

Mask = NDArray[np.bool_]  # (h, w), overview pixels

REFERENCE = 512  # level-0 px; areas are given in patches of this side
LEAST_SIDE, MOST_SIDE = 512, 4096  # px of the overview that is segmented
SMALL = 0.02  # of a slide's area: the tissue filter never asks for more
OUTLINE = (0, 80, 200)
EDGE = 1.25  # a level 0 that is coarser than asked by more than this has nothing to sample


@dataclass(frozen=True)
class Segmentation:
    """How tissue is told from glass; the defaults are CLAM's published ones.

    Attributes:
        downsample: of the image that is segmented, relative to level 0.
        median: side of the median filter, odd, overview px.
        threshold: saturation (0 … 255) above which a pixel is tissue.
        closing: side of the square of the closing, overview px.
        tissue_area: smallest piece kept, in reference patches of 512 × 512 level-0 pixels.
        hole_area: smallest hole left out, in the same unit.
        max_holes: largest holes of a piece that are looked at.
    """

    downsample: float = 64.0
    median: int = 7
    threshold: int = 8
    closing: int = 4
    tissue_area: float = 100.0
    hole_area: float = 16.0
    max_holes: int = 8


@dataclass(frozen=True)
class Tissue:
    """Tissue on a slide's overview: `inside` a piece's outline, and the `hole`s kept in it.

    `scale` is level-0 pixels per overview pixel, (x, y).
    """

    inside: Mask
    hole: Mask
    scale: tuple[float, float]


@dataclass(frozen=True)
class Patches:
    """Squares on a slide, row by row.

    Attributes:
        slide: where they lie.
        xy: (n, 2) int64, left and top, level-0 pixels.
        size0: side, level-0 pixels.
        size: side of the image that is read, pixels.
    """

    slide: Slide
    xy: NDArray[np.int64]
    size0: int
    size: int

    def read(self, index: int) -> RGB:
        """One patch, (size, size, 3)."""
        x, y = (int(value) for value in self.xy[index])
        return self.slide.read(x, y, self.size0, self.size)


def tissue_patches(
    slide: Slide,
    *,
    mpp: float | None = None,
    patch_mpp: float = 0.5,
    paper: bool = False,
    size: int = 256,
    segmentation: Segmentation = Segmentation(),
) -> Patches:
    """The patches of a slide that lie on tissue, on one grid without overlap from the corner.

    A patch is kept by CLAM's "four points" rule: any of the four points half-way between its
    centre and its corners lies inside the outline of a tissue piece, and its centre does not lie in
    one of the piece's holes. (CLAM starts a grid at each piece; one grid never reads twice.)

    Args:
        slide: at any magnification.
        mpp: µm per level-0 pixel, for a slide that does not say; the slide's own goes first.
        patch_mpp: µm per patch pixel; 0.5 is 20×.
        paper: `size` level-0 pixels a patch whatever the magnification, as the paper's code.
        size: patch side, pixels.
        segmentation: how tissue is found.
    Raises:
        InputError: no tissue; no mpp, or an absurd one; or level 0 is coarser than `patch_mpp`.
    """
    size0 = size if paper else _side(slide, mpp, patch_mpp, size)
    tissue = find_tissue(slide, segmentation)
    x0, y0 = (np.arange(0, side, size0) for side in (slide.width, slide.height))
    x, y = np.meshgrid(x0, y0)  # (rows, columns)
    centre_x, centre_y, shift = x + size0 / 2, y + size0 / 2, size0 / 4
    touches = np.zeros(x.shape, bool)
    for dx in (-shift, shift):
        for dy in (-shift, shift):
            touches |= _at(tissue.inside, tissue.scale, centre_x + dx, centre_y + dy)
    kept = touches & ~_at(tissue.hole, tissue.scale, centre_x, centre_y)
    if not kept.any():
        if tissue.inside.any():
            raise InputError(
                f"{slide.name}: its tissue is too small for patches of {size0} level-0 pixels; "
                f"a smaller patch_mpp would work"
            )
        raise InputError(
            f"{slide.name}: no tissue found on it (nothing large enough is coloured, at saturation "
            f"> {segmentation.threshold} of 255); a stained section is expected"
        )
    return Patches(slide, np.stack([x[kept], y[kept]], axis=1).astype(np.int64), size0, size)


def find_tissue(slide: Slide, how: Segmentation = Segmentation()) -> Tissue:
    """Outlines of the tissue pieces and their holes.

    Differs from CLAM in: areas are counted in pixels, not by polygons; the overview is averaged to
    64× exactly, not the nearest level; closing moves nothing (OpenCV's, with an even square, moves
    the mask by one overview pixel down and right). And a tissue core is not "too small": an image
    below 32,768 pixels a side is segmented at less than 64×, and the area filters shrink with a
    slide of less than 1.3 gigapixels, of which no more than 2 % are asked of a piece.
    """
    side = max(slide.width, slide.height)
    downsample = float(np.clip(how.downsample, side / MOST_SIDE, max(1.0, side / LEAST_SIDE)))
    image = slide.overview(max(1, round(side / downsample)))
    scale = (slide.width / image.shape[1], slide.height / image.shape[0])
    share = SMALL * slide.width * slide.height / max(how.tissue_area * REFERENCE**2, 1e-9)
    unit = min(1.0, share) * REFERENCE**2 / (scale[0] * scale[1])  # overview px
    mask = _closed(_median_above(_saturation(image), how.threshold, how.median), how.closing)
    inside, hole = _pieces(mask, how.tissue_area * unit, how.hole_area * unit, how.max_holes)
    return Tissue(inside, hole, scale)


def draw_overview(slide: Slide, patches: Patches, max_side: int = 2048) -> RGB:
    """The slide's overview with every patch outlined, (h, w, 3) uint8, to be looked at."""
    image = slide.overview(max_side).copy()
    height, width = image.shape[:2]
    scale = np.array([width / slide.width, height / slide.height])
    corners = np.floor(patches.xy * scale).astype(int)
    ends = np.ceil((patches.xy + patches.size0) * scale).astype(int) - 1
    ends = np.clip(ends, corners, [width - 1, height - 1])
    for (left, top), (right, bottom) in zip(corners, ends, strict=True):
        image[[top, bottom], left : right + 1] = OUTLINE
        image[top : bottom + 1, [left, right]] = OUTLINE
    return image


def save_overview(patches: Patches, path: Path) -> None:
    """Write `draw_overview` as a PNG."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError("pictures need Pillow: pip install 'adacomed[slide]'") from None
    Image.fromarray(draw_overview(patches.slide, patches)).save(path)


def _side(slide: Slide, mpp: float | None, patch_mpp: float, size: int) -> int:
    """Level-0 pixels that a patch covers."""
    level0 = slide.mpp or mpp
    if level0 is None:
        raise InputError(
            f"{slide.name}: it does not say its µm per pixel; give the option mpp (0.25 for a 40× "
            f"scan, 0.5 for 20×)"
        )
    low, high = MPP_RANGE
    if not (low <= level0 <= high and low <= patch_mpp <= high):
        raise InputError(
            f"{slide.name}: level 0 at {level0:g} µm per pixel and patches at {patch_mpp:g}; both "
            f"are expected within {low:g} … {high:g}"
        )
    if level0 > patch_mpp * EDGE:
        raise InputError(
            f"{slide.name}: {level0:g} µm per pixel at its finest, and patches at {patch_mpp:g} "
            f"were asked; patch_mpp={level0:g} would work, at the price of another magnification"
        )
    return round(size * patch_mpp / level0)


def _saturation(image: RGB) -> NDArray[np.uint8]:
    """S of HSV, 0 … 255, (h, w); black has none."""
    high = image.max(axis=2).astype(np.float32)
    low = image.min(axis=2)
    value: NDArray[np.uint8] = np.rint(255 * (high - low) / np.maximum(high, 1)).astype(np.uint8)
    return value


def _median_above(values: NDArray[np.uint8], threshold: int, side: int) -> Mask:
    """Median over a square > threshold: where most of the square's pixels are above it."""
    count = (values > threshold).astype(np.int32)
    for axis in (0, 1):
        count = ndimage.correlate1d(count, np.ones(side, np.int32), axis=axis, mode="nearest")
    found: Mask = count > side * side // 2
    return found


def _closed(mask: Mask, side: int) -> Mask:
    """Gaps narrower than `side` filled; the image's border neither adds nor takes away."""
    if side < 2:
        return mask
    square = np.ones((side, side), bool)
    grown = ndimage.binary_dilation(mask, square)
    closed: Mask = ndimage.binary_erosion(grown, square, border_value=1)
    return closed


def _pieces(mask: Mask, tissue: float, hole: float, max_holes: int) -> tuple[Mask, Mask]:
    """Filled outlines of pieces larger than `tissue` px, and their holes larger than `hole` px."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))  # pieces touch at corners, holes do not
    areas = np.bincount(labels.ravel())
    boxes = ndimage.find_objects(labels)
    kept = []
    for label, box in enumerate(boxes, start=1):
        if areas[label] > tissue:
            piece = labels[box] == label
            kept.append((box, piece, ndimage.binary_fill_holes(piece)))
    inside, holes = np.zeros_like(mask), np.zeros_like(mask)
    for box, piece, filled in sorted(kept, key=lambda p: -int(p[2].sum())):  # inner pieces later
        inside[box] |= filled
        holes[box] &= ~filled  # a piece in another's hole is tissue
        inner, _ = ndimage.label(filled & ~piece)
        sizes = np.bincount(inner.ravel())
        sizes[0] = 0
        for number in np.argsort(-sizes, kind="stable")[:max_holes]:
            if sizes[number] > hole:
                holes[box] |= inner == number
    return inside, holes


def _at(mask: Mask, scale: tuple[float, float], x: NDArray[Any], y: NDArray[Any]) -> Mask:
    """The mask at level-0 points; False outside of the slide."""
    column, row = (x / scale[0]).astype(int), (y / scale[1]).astype(int)
    on = (x >= 0) & (y >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
    found: Mask = on & mask[np.where(on, row, 0), np.where(on, column, 0)]
    return found
