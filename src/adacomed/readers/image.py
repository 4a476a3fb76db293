"""Images: PNG, JPEG and single-frame DICOM (CR, DX and others) as arrays in [0, 1].

DICOM values become grey as a viewer would show them: modality LUT or rescale, then the first VOI
LUT or window, or else the image's full range; MONOCHROME1 is inverted, so that 1 is always white.
Source: DICOM PS3.3 C.11.2 (VOI LUT), C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from adacomed.errors import InputError
from adacomed.readers.decoding import DICOM, JPEG, PNG, check_size, decoding, file_kind
from adacomed.readers.dicom import decode_pixels, look_up, modality_values, read_dicom

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom import Dataset

Array = NDArray[np.float32]


def read_image(path: Path) -> Array:
    """Read an image; its kind is found by its first bytes, not by its name.

    Args:
        path: a PNG, JPEG or DICOM file.
    Returns:
        (H, W, C) float32 in [0, 1]; C is 1 (grey) or 3 (RGB). 16-bit files keep 16 bits where they
        are grey; transparency is laid over black; EXIF orientation is applied.
    Raises:
        InputError: another kind of file, damaged, over 100 megapixels, several frames, or one value
            everywhere.
    """
    kind = file_kind(path)
    if kind == DICOM:
        image = _read_dicom(path)
    elif kind in (PNG, JPEG):
        image = _read_picture(path)
    else:
        raise InputError(f"{path}: looks like {kind}; a PNG, JPEG or DICOM image would work")
    if not np.isfinite(image).all():
        raise InputError(f"{path}: has pixels that are not numbers; finite pixels would work")
    if (image == image[0, 0]).all():
        raise InputError(f"{path}: has one value everywhere; an image with content would work")
    return image


def _read_picture(path: Path) -> Array:
    """A PNG or JPEG file, (H, W, C)."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise InputError("images need pillow: pip install 'adacomed[image]'") from None
    with decoding(path, "the image"):
        try:
            opened = Image.open(path, formats=("PNG", "JPEG"))  # reads the header only
        except Image.DecompressionBombError:
            raise InputError(f"{path}: claims far more pixels than 100 megapixels") from None
        with opened as picture:
            check_size(path, *picture.size)
            return _picture_pixels(ImageOps.exif_transpose(picture))


def _picture_pixels(picture: Image) -> Array:
    """(H, W, C) in [0, 1] of a decoded picture in any of Pillow's modes."""
    if picture.mode.startswith("I"):  # 16-bit grey
        return np.asarray(picture).astype(np.float32)[..., None] / np.float32(65535)
    grey = picture.mode in ("1", "L", "LA")
    if picture.has_transparency_data:
        pixels = _bytes_to_unit(picture.convert("LA" if grey else "RGBA"))
        return pixels[..., :-1] * pixels[..., -1:]
    pixels = _bytes_to_unit(picture.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def _bytes_to_unit(picture: Image) -> Array:
    return np.asarray(picture).astype(np.float32) / np.float32(255)


def _read_dicom(path: Path) -> Array:
    """A single-frame DICOM image, (H, W, C)."""
    dataset = read_dicom(path)
    pixels = decode_pixels(path, dataset)
    with decoding(path, "the DICOM image"):
        meaning = str(dataset.PhotometricInterpretation)
        if meaning in ("MONOCHROME1", "MONOCHROME2"):
            shown = np.clip(_shown(path, dataset, pixels), 0, 1)[..., None]
            return 1 - shown if meaning == "MONOCHROME1" else shown
        if meaning == "PALETTE COLOR":
            from pydicom.pixels.processing import apply_color_lut

            colours = apply_color_lut(pixels, dataset)[..., :3]
            return colours.astype(np.float32) / np.float32(np.iinfo(colours.dtype).max)
        if pixels.ndim == 3 and (meaning == "RGB" or meaning.startswith("YBR")):
            return pixels.astype(np.float32) / np.float32(2 ** int(dataset.BitsStored) - 1)
    raise InputError(
        f"{path}: has the photometric interpretation {meaning!r}; MONOCHROME1, MONOCHROME2, RGB, "
        f"YBR or PALETTE COLOR would work"
    )


def _shown(path: Path, dataset: Dataset, pixels: NDArray[Any]) -> Array:
    """Stored grey values → brightness, (H, W), 0 … 1 (what lies outside is to be clipped)."""
    values = modality_values(dataset, pixels)
    luts = dataset.get("VOILUTSequence")
    if luts:
        brightness, top = look_up(luts[0], values)
        return brightness / np.float32(top)
    centre, width = (_first(dataset.get(f"Window{part}")) for part in ("Center", "Width"))
    if centre is None or width is None:
        inside = values[pixels != dataset.get("PixelPaddingValue")]  # an int, or None: all
        low, high = (inside.min(), inside.max()) if inside.size else (0, 0)
        return (values - np.float32(low)) / np.float32((high - low) or 1)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise InputError(
            f"{path}: has the VOI LUT function {function!r}; LINEAR, LINEAR_EXACT or SIGMOID would "
            f"work"
        )
    if not width >= (1 if function == "LINEAR" else 1e-9):
        raise InputError(f"{path}: has the window width {width:g}; a width of 1 or more would work")
    return _windowed(values, centre, width, function)


def _windowed(values: Array, centre: float, width: float, function: str) -> Array:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; values outside the window are left outside 0 … 1."""
    if function == "SIGMOID":
        return np.asarray(expit(4 * (values - centre) / width), dtype=np.float32)
    if function == "LINEAR":  # the window's ends are pixel values, not the gaps between them
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return (values - np.float32(centre)) / np.float32(width) + np.float32(0.5)


def _first(value: Any) -> float | None:
    """The first of one or several numbers, None where there is none."""
    if value is None or isinstance(value, (str, bytes)):
        return None
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    return float(numbers[0]) if numbers.size else None
