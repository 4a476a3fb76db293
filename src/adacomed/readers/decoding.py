"""What all readers of image files share: the kind by magic bytes, size limits, decoding errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adacomed.errors import InputError

MAX_PIXELS = 100_000_000  # of one image or slice; more is taken for a decompression bomb

PNG, JPEG, DICOM = "a PNG image", "a JPEG image", "a DICOM file"
NIFTI, GZIP, FOLDER = "a NIfTI volume", "a gzip archive", "a folder"
# kind ← (offset, bytes there), first match wins
_MAGIC = (
    (PNG, 0, b"\x89PNG\r\n\x1a\n"),
    (JPEG, 0, b"\xff\xd8\xff"),
    (DICOM, 128, b"DICM"),
    (NIFTI, 344, b"n+1\0"),
    (NIFTI, 4, b"n+2\0"),
    ("half of a NIfTI .hdr/.img pair", 344, b"ni1\0"),
    (GZIP, 0, b"\x1f\x8b"),
    ("a TIFF image", 0, b"II*\0"),
    ("a TIFF image", 0, b"MM\0*"),
    ("a GIF image", 0, b"GIF8"),
    ("a WebP image", 8, b"WEBP"),
    ("a BMP image", 0, b"BM"),
    ("a PDF document", 0, b"%PDF"),
    ("a zip archive", 0, b"PK\3\4"),
    ("a web page", 0, b"<!DOCTYPE"),
    ("a web page", 0, b"<html"),
    ("a Git LFS pointer", 0, b"version https://git-lfs"),
)


def file_kind(path: Path) -> str:
    """What a file is by its first bytes, never by its name: `PNG`, …, or other words for people.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if path.is_dir():
        return FOLDER
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            head = file.read(352)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        return "an empty file"
    return magic(head) or "a file of no known format"


def magic(head: bytes) -> str | None:
    """The kind that a file's first 352 bytes tell."""
    for kind, offset, mark in _MAGIC:
        if head[offset : offset + len(mark)] == mark:
            return kind
    return None


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into an `InputError` that names the file.

    Decoders raise almost anything on hostile bytes. Their text is left out, for it may quote a
    patient's values; their warnings are not shown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: {what} is truncated or damaged ({type(error).__name__} while decoding); "
            f"a complete copy would work"
        ) from None


def check_size(path: Path, columns: int, rows: int) -> None:
    """Refuse an image by the size it claims, before it is decoded.

    Raises:
        InputError: it has no pixels, or more than `MAX_PIXELS`.
    """
    if columns < 1 or rows < 1:
        raise InputError(f"{path}: claims {columns} × {rows} pixels; at least 1 × 1 would work")
    if columns * rows > MAX_PIXELS:
        raise InputError(
            f"{path}: claims {columns} × {rows} pixels; at most {MAX_PIXELS // 10**6} megapixels "
            f"would work"
        )
