"""A text file as it is: UTF-8, de-identification marks and line breaks kept."""

from __future__ import annotations

from pathlib import Path

from adacomed.errors import InputError

LARGEST = 10_000_000  # bytes; a patient's whole record is smaller


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: not UTF-8, empty, or larger than 10 MB.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise InputError(f"{path}: {size / 1e6:.0f} MB of text; at most {LARGEST / 1e6:.0f} MB")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: is empty; a patient without a note has no file")
    return text
