"""What an uploaded file claims to be, looked at in its header alone, before a reader takes it.

The readers have bounds of their own, for one patient on one's own machine; a service that takes
many files at once has tighter ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from adacomed.errors import InputError
from adacomed.readers.ct_series import open_series
from adacomed.readers.decoding import DICOM, FOLDER, GZIP, JPEG, NIFTI, PNG, decoding, file_kind
from adacomed.readers.dicom import read_dicom
from adacomed.readers.nifti import open_nifti
from adacomed.serve.archives import check_archive
from adacomed.serve.refusals import Refusal
from adacomed.serve.settings import Settings

MOST_ROWS = 2_000_000  # of a table
ZIP = "a zip archive"


def check_claims(path: Path, name: str, settings: Settings) -> None:
    """Refuse a file whose header claims more than the service takes; nothing is decoded.

    Args:
        path: the file under our name, or the folder of a series.
        name: the caller's, for messages.
    Raises:
        Refusal: 413 too many pixels, voxels, rows or bytes.
        InputError: the header cannot be read.
    """
    kind = file_kind(path)
    if path.suffix == ".parquet":
        _check_table(path, name)
    elif path.suffix in (".npy", ".npz"):
        _check_vector(path, name, kind, settings)
    elif kind in (PNG, JPEG):
        size = _picture(path)
        if size is None:
            raise Refusal(413, f"{name}: claims hundreds of millions of pixels", reason="large")
        _compare(name, "pixels", size, settings.max_pixels)
    elif kind == DICOM:
        _compare(name, "pixels", _dicom(path), settings.max_pixels)
    elif kind in (NIFTI, GZIP):
        _compare(name, "voxels", open_nifti(path).shape, settings.max_voxels)
    elif kind == FOLDER:
        _compare(name, "voxels", open_series(path).shape, settings.max_voxels)


def _compare(name: str, what: str, shape: tuple[int, ...], most: int) -> None:
    size = " × ".join(map(str, shape))
    if np.prod([float(n) for n in shape]) > most:
        raise Refusal(
            413,
            f"{name}: claims {size} {what}; at most {most / 1e6:.0f} million would work",
            reason="large",
        )


def _picture(path: Path) -> tuple[int, int] | None:
    """(columns, rows) of a PNG or JPEG; None: more than pillow dares to open."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError("images need pillow: pip install 'adacomed[image]'") from None
    with decoding(path, "the image"):
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as picture:
                return picture.size
        except Image.DecompressionBombError:
            return None


def _dicom(path: Path) -> tuple[int, int, int]:
    """(columns, rows, frames) of a DICOM image."""
    header = read_dicom(path, only=("Columns", "Rows", "NumberOfFrames"))
    with decoding(path, "the DICOM file"):
        columns, rows = int(header.get("Columns") or 0), int(header.get("Rows") or 0)
        return columns, rows, int(header.get("NumberOfFrames") or 1)


def _check_vector(path: Path, name: str, kind: str, settings: Settings) -> None:
    """Numpy's own files: an .npz is an archive, an .npy claims a shape."""
    if kind == ZIP:
        check_archive(path, name, settings)
        return
    with path.open("rb") as file, decoding(path, "the vector"):
        version = np.lib.format.read_magic(file)
        read: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = read[version](file)
        claimed = int(np.prod([float(n) for n in shape])) * dtype.itemsize
    if claimed > path.stat().st_size:
        raise InputError(f"{path}: claims more numbers than it holds; a complete copy would work")


def _check_table(path: Path, name: str) -> None:
    """A parquet file packs repeated rows to nothing; its footer says how many there are."""
    with decoding(path, "the table"):
        rows = int(pl.scan_parquet(path).select(pl.len()).collect().item())
    if rows > MOST_ROWS:
        raise Refusal(
            413, f"{name}: has {rows} rows; at most {MOST_ROWS} would work", reason="large"
        )
