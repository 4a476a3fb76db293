"""Chest X-rays: rows of the metadata, and small pictures that look a little like a chest."""

from __future__ import annotations

import io
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from adacomed.datasets.mimic_release.plan import HOUR, Admission, Book, ImageRow
from adacomed.errors import InputError

Grid = NDArray[np.float32]
STUDY = 50_000_000
HEIGHT, WIDTH = 144, 120  # pixels
QUALITY = 85
GRID = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
HAZE = 0.6  # of severity, beside as much that tells nothing


def xray(
    book: Book,
    admission: Admission,
    time: datetime,
    *,
    kept: bool,
    view: str | None = "AP",
    file: bool = True,
    study: int | None = None,
) -> ImageRow:
    """Add an X-ray.

    Args:
        time: to the millisecond.
        kept: whether it counts, for the admission's samples.
        view: ViewPosition; None: not recorded.
        file: False leaves the picture out of the release.
        study: of which it is another picture.
    """
    haze = HAZE * admission.patient.severity + HAZE * float(book.rng.standard_normal())
    words = book.rng.integers(2**32, size=5)
    dicom = "-".join(f"{int(w):08x}" for w in words)
    subject = admission.patient.subject_id
    row = ImageRow(subject, study or book.number(STUDY), dicom, view, time, haze, file)
    book.images.append(row)
    if kept:
        book.kept_images.append((admission, row))
    return row


def fill_images(book: Book, admission: Admission) -> None:
    """One to three AP films inside the window, and others outside it or of another view."""
    hours = (admission.end - admission.admit) / HOUR
    if "image" not in admission.lacks:
        for _ in range(1 + int(book.rng.poisson(0.6))):
            time = admission.admit + _hours(book, 0.1, hours - 0.1)
            row = xray(book, admission, time, kept=True)
            if book.chance(0.15):  # both of one study
                beside = time + timedelta(milliseconds=1)
                xray(book, admission, beside, kept=False, view="LATERAL", study=row.study)
    if book.chance(0.15):
        xray(book, admission, admission.admit + _hours(book, 0.1, hours), kept=False, view="PA")
    if admission.discharge > admission.end + 30 * HOUR and book.chance(0.3):
        xray(book, admission, admission.end + _hours(book, 0.1, 28), kept=False)


def _hours(book: Book, low: float, high: float) -> timedelta:
    return timedelta(milliseconds=round(book.between(low, high) * 3_600_000))


def jpeg(row: ImageRow) -> bytes:
    """The picture of an X-ray: lungs, heart, ribs, noise, and haze over the lungs.

    Raises:
        InputError: pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "simulated-mimic writes JPEG files, which needs pillow: pip install 'adacomed[image]'"
        ) from None
    buffer = io.BytesIO()
    Image.fromarray(picture(row)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def picture(row: ImageRow) -> NDArray[np.uint8]:
    """(H, W) uint8 grey; the same row gives the same picture."""
    rng = np.random.default_rng(int(row.dicom[:8], 16))
    y, x = GRID
    shift = rng.normal(0, 0.04, size=6).astype(np.float32)
    body = (x / 0.92) ** 2 + (y / 1.25) ** 2 < 1
    lungs = _disc(x + 0.4 + shift[0], y + shift[1], 0.3, 0.68)
    lungs += _disc(x - 0.4 + shift[2], y + shift[3], 0.28, 0.66)
    heart = _disc(x - 0.12 + shift[4], y - 0.3 + shift[5], 0.3, 0.3)
    ribs = 0.06 * np.maximum(np.sin(14 * y + 3 * x**2), 0)
    clear = np.clip(0.5 - 0.1 * row.haze * (1 + np.clip(y, -0.6, 0.8)), 0.05, 0.6)
    grey = np.where(body, 0.72, 0.06) - clear * np.clip(lungs, 0, 1) + 0.3 * heart + ribs * lungs
    if row.view in ("LATERAL", "LL"):
        grey = np.where(body, 0.7, 0.06) - 0.35 * _disc(x, y + 0.1, 0.55, 0.7)
    grey = grey + 0.025 * rng.standard_normal(grey.shape, np.float32)
    return np.asarray((np.clip(grey, 0, 1) * 255).round(), np.uint8)


def _disc(x: Grid, y: Grid, a: float, b: float) -> Grid:
    """A soft ellipse: 1 inside, 0 outside."""
    inside: Grid = expit(12 - 12 * ((x / a) ** 2 + (y / b) ** 2))
    return inside
