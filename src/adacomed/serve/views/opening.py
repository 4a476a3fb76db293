"""A raw image, volume or slide as a picture, by the readers that the encoders use.

What is kept in memory is bounded whatever a file claims: an image is reduced to `MAX_SIDE` pixels a
side, a volume to `MAX_VOXELS` while it is being read, a slide to its overview.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.readers.ct_series import open_series
from adacomed.readers.decoding import DICOM, FOLDER, PNG, decoding, file_kind
from adacomed.readers.dicom import decode_pixels, modality_values, read_dicom
from adacomed.readers.image import read_image
from adacomed.readers.nifti import open_nifti
from adacomed.readers.slide import Slide, read_slide
from adacomed.readers.stack import Stack
from adacomed.serve.views.pixels import BRIGHT, MAX_SIDE, PRESETS, Picture, Window

MAX_VOXELS = 48_000_000  # of a volume that is shown, 192 MB; a finer one is thinned
MAX_OVERVIEW = 2**27  # pixels decoded for a slide's overview


def open_image(path: Path) -> Picture:
    """A PNG, JPEG or DICOM image in the values that its file holds.

    Grey DICOM is in what it measures (HU in CT), before any window; the file's own window is how it
    is shown at first. Its VOI LUTs and sigmoid windows are applied as the encoders have them.

    Raises:
        InputError: as `readers.image.read_image`.
    """
    kind = file_kind(path)
    if kind == DICOM:
        return _reduced(_dicom(path))
    values = read_image(path)
    deep = kind == PNG and _is_deep(path)
    top = 65535.0 if deep else 255.0
    values = values[..., 0] if values.shape[2] == 1 else values
    unit = "grey level" if values.ndim == 2 else "brightness"
    values = values * np.float32(top)
    return _reduced(Picture(values, unit, Window(top / 2, top), range=(0.0, top)))


def _is_deep(path: Path) -> bool:
    """Whether a PNG is grey with 16 bits: its header's bit depth and colour type."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24:26] == b"\x10\x00"


def _dicom(path: Path) -> Picture:
    dataset = read_dicom(path)
    with decoding(path, "the DICOM image"):
        meaning = str(dataset.get("PhotometricInterpretation"))
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        grey = meaning in ("MONOCHROME1", "MONOCHROME2")
        if not grey or dataset.get("VOILUTSequence") or function == "SIGMOID":
            shown = read_image(path) * np.float32(255)
            return Picture(shown[..., 0] if shown.shape[2] == 1 else shown, "brightness", BRIGHT)
        pixels = decode_pixels(path, dataset)
        values = modality_values(dataset, pixels)
        inside_ = values[pixels != dataset.get("PixelPaddingValue")]
        seen = inside_ if inside_.size else values
        low, high = float(seen.min()), float(seen.max())
        if not low < high:
            raise InputError(f"{path}: has one value everywhere; an image with content would work")
        unit = "HU" if dataset.get("Modality") == "CT" else "stored value"
        window = _window_of(dataset) or Window((low + high) / 2, high - low)
        return Picture(values, unit, window, None, meaning == "MONOCHROME1", range=(low, high))


def _window_of(dataset: Any) -> Window | None:
    """The first window that the file names, if it is one."""
    found = []
    for part in ("Center", "Width"):
        value = dataset.get(f"Window{part}")
        numbers = np.atleast_1d(np.asarray([] if value is None else value, dtype=np.float64))
        if not numbers.size:
            return None
        found.append(float(numbers[0]))
    try:
        return Window(*found)
    except InputError:
        return None


def _reduced(found: Picture) -> Picture:
    """An image with more than `MAX_SIDE` pixels a side, by area averaging."""
    from PIL import Image

    rows, columns = found.values.shape[:2]
    if max(rows, columns) <= MAX_SIDE:
        return found
    scale = MAX_SIDE / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    layers = np.atleast_3d(found.values)
    small = [
        np.asarray(Image.fromarray(layers[..., c]).resize(size, Image.Resampling.BOX))
        for c in range(layers.shape[2])
    ]
    values = small[0] if found.values.ndim == 2 else np.stack(small, axis=2)
    return replace(found, values=values, note=f"reduced from {columns} × {rows} pixels")


# ---- volumes and slides -------------------------------------------------------------------------
def open_volume(path: Path) -> Picture:
    """A volume in Hounsfield units, thinned while it is read where it has too many voxels.

    Raises:
        InputError: as `readers.volume.read_volume`.
    """
    stack = open_series(path) if file_kind(path) == FOLDER else open_nifti(path)
    steps = _steps(stack)
    coarse = stack
    if max(steps) > 1:
        shape = tuple(ceil(n / step) for n, step in zip(stack.shape, steps, strict=True))
        planes = (
            plane[:: steps[0], :: steps[1]]
            for k, plane in enumerate(stack.planes)
            if k % steps[2] == 0
        )
        coarse = Stack(path, shape, stack.axes * np.array(steps), planes)  # type: ignore[arg-type]
    values, spacing = coarse.canonical()
    low, high = float(values.min()), float(values.max())
    window = PRESETS["soft tissue"] if low <= -500 < 200 <= high else _most(values)
    whole = " × ".join(map(str, stack.shape))
    note = "" if coarse is stack else f"shown coarser: the file has {whole} voxels"
    return Picture(values, "HU", window, spacing, note=note, range=(low, high))


def _steps(stack: Stack) -> list[int]:
    """Every how-many-th voxel is kept along each stored axis: the finest axis gives way first."""
    steps = [1, 1, 1]
    while prod(ceil(n / step) for n, step in zip(stack.shape, steps, strict=True)) > MAX_VOXELS:
        size = [
            mm * step if n > step else np.inf
            for n, mm, step in zip(stack.shape, stack.spacing, steps, strict=True)
        ]
        steps[int(np.argmin(size))] += 1
    return steps


def _most(values: NDArray[np.float32]) -> Window:
    """From the 1st to the 99th percentile of a volume that looks like no CT of a body."""
    every = max(1, values.size // 1_000_000)
    low, high = np.percentile(values.ravel(order="K")[::every], (1, 99)).tolist()
    if not low < high:
        low, high = float(values.min()), float(values.max())
    return Window((low + high) / 2, high - low)


def open_slide(path: Path) -> Picture:
    """A slide's overview, RGB.

    Raises:
        InputError: as `readers.slide.read_slide`, or the slide has no reduced level for it.
    """
    slide = read_slide(path)
    _check_overview(slide)
    values = slide.overview(1024).astype(np.float32)
    scale = "" if slide.mpp is None else f", {slide.mpp:.3g} µm a pixel"
    note = f"overview of {slide.width} × {slide.height} pixels{scale}"
    return Picture(values, "brightness", BRIGHT, note=note)


def _check_overview(slide: Slide) -> None:
    """Refuse what would take minutes to decode for one small picture."""
    scale = max(1.0, max(slide.width, slide.height) / 1024)
    fine = [lv for lv in slide.levels if lv.downsample <= scale * 1.01] or [slide.levels[0]]
    level = max(fine, key=lambda lv: lv.downsample)
    if level.width * level.height > MAX_OVERVIEW:
        raise InputError(
            f"{slide.name}: too large to be shown, {level.width} × {level.height} pixels without a "
            f"reduced level; a pyramid would work (vips tiffsave --tile --pyramid)"
        )
