"""A CT scan from a folder with one DICOM series: slices sorted and checked by their geometry.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.8.2.1 (CT image).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.readers.decoding import DICOM, check_size, decoding, file_kind
from adacomed.readers.dicom import decode_pixels, modality_values, read_dicom
from adacomed.readers.stack import Stack

if TYPE_CHECKING:
    from pydicom import Dataset

Vector = NDArray[np.float64]

TILT = 1.0  # degrees between the slices' normal and the way from slice to slice
UNEVEN = 1.5  # a step over (or under 1 /) this many median steps: a slice is missing (or extra)
ROUNDING = 0.02  # mm; what positions written in decimals may be off
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
HEADER = (
    *("Modality", "SeriesInstanceUID", "InstanceNumber", "NumberOfFrames", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "GantryDetectorTilt"),
    *("RescaleSlope", "RescaleIntercept"),
)


@dataclass(frozen=True)
class Slice:
    """The header of one CT slice; vectors in DICOM's patient axes (Left, Posterior, Superior)."""

    path: Path
    number: int | None  # InstanceNumber
    series: str
    size: tuple[int, int]  # columns, rows
    position: Vector  # (3,) mm, centre of the first pixel
    directions: Vector  # (2, 3) unit vectors: column index grows, row index grows
    spacing: Vector  # (2,) mm between columns, between rows

    def __str__(self) -> str:
        number = "" if self.number is None else f" (InstanceNumber {self.number})"
        return f"{self.path}{number}"

    @property
    def normal(self) -> Vector:
        """(3,) unit vector across the slice."""
        return np.cross(*self.directions)


def open_series(folder: Path) -> Stack:
    """Read the headers of all slices in a folder; their pixels are read on demand.

    Args:
        folder: the files of one CT series, in any order; hidden files and a DICOMDIR are left out.
    Returns:
        Columns × rows × slices, the slices sorted along their normal.
    Raises:
        InputError: a file that is no CT slice, none or one, several series, slices that differ in
            size, spacing or orientation, lie twice in one place, lack one between them, or are
            tilted. The message names the slice.
    """
    found = sorted(f for f in folder.iterdir() if f.name[0] != "." and f.name != "DICOMDIR")
    slices = [_read_header(file) for file in found]
    if len(slices) < 2:
        raise InputError(
            f"{folder}: holds {len(slices)} slices; a CT series of 2 or more would work"
        )
    series = len({piece.series for piece in slices})
    if series > 1:
        raise InputError(f"{folder}: holds {series} series; a folder with one of them would work")
    first = slices[0]
    _check_alike(slices)
    slices.sort(key=lambda piece: float(piece.position @ first.normal))
    step = _check_steps(slices)
    axes = np.stack(
        [*(first.directions * first.spacing[:, None]), first.normal * step], axis=1
    )  # each column in mm per step
    shape = (*first.size, len(slices))
    return Stack(folder, shape, axes * LPS_TO_RAS[:, None], _planes(slices))


def _read_header(path: Path) -> Slice:
    kind = file_kind(path)
    if kind != DICOM:
        raise InputError(f"{path}: is {kind}; only the DICOM files of one series would work")
    dataset = read_dicom(path, only=HEADER)
    with decoding(path, "the slice's header"):  # pydicom decodes an element when it is asked for
        modality = dataset.get("Modality")
        if modality != "CT":
            raise InputError(f"{path}: has the modality {modality or 'unknown'}; CT would work")
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames != 1:
            raise InputError(
                f"{path}: is a multi-frame image of {frames} frames; classic CT with one slice a "
                f"file, or NIfTI, would work"
            )
        number = dataset.get("InstanceNumber")
        size = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
        check_size(path, *size)
        piece = Slice(
            path=path,
            number=None if number is None else int(number),
            series=str(dataset.get("SeriesInstanceUID")),
            size=size,
            position=_numbers(path, dataset, "ImagePositionPatient", 3),
            directions=_numbers(path, dataset, "ImageOrientationPatient", 6).reshape(2, 3),
            spacing=_numbers(path, dataset, "PixelSpacing", 2)[::-1],
        )
        _numbers(path, dataset, "RescaleSlope", 1)
        _numbers(path, dataset, "RescaleIntercept", 1)
        _check_slice(piece, float(dataset.get("GantryDetectorTilt") or 0))
    return piece


def _numbers(path: Path, dataset: Dataset, keyword: str, count: int) -> Vector:
    """The `count` finite numbers of an element."""
    value = dataset.get(keyword)
    numbers = np.atleast_1d(np.asarray([] if value is None else value, dtype=np.float64))
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(f"{path}: lacks {keyword} ({count} finite number(s)); a CT would have it")
    return numbers


def _check_slice(piece: Slice, tilt: float) -> None:
    """Spacing, directions and tilt that a slice has by itself."""
    if piece.spacing.min() <= 0:
        raise InputError(f"{piece}: its PixelSpacing is not positive; positive mm would work")
    if np.abs(piece.directions @ piece.directions.T - np.eye(2)).max() > 0.01:
        raise InputError(
            f"{piece}: its ImageOrientationPatient is not two perpendicular unit vectors"
        )
    if abs(tilt) > TILT:
        raise InputError(
            f"{piece}: the gantry is tilted by {tilt:g}°; one resampled without tilt would work"
        )


def _check_alike(slices: Sequence[Slice]) -> None:
    """All slices have the size, spacing and orientation of the first."""
    first = slices[0]
    for piece in slices[1:]:
        for what, same in (
            ("size", piece.size == first.size),
            ("pixel spacing", np.allclose(piece.spacing, first.spacing, rtol=1e-3)),
            ("orientation", np.allclose(piece.directions, first.directions, atol=1e-3)),
        ):
            if not same:
                name = first.path.name
                raise InputError(
                    f"{piece}: its {what} differs from that of {name}; equal slices would work"
                )


def _check_steps(slices: Sequence[Slice]) -> float:
    """The step between sorted slices in mm, after a look at every one of them."""
    positions = np.stack([piece.position for piece in slices])
    normal = slices[0].normal
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    median = float(np.median(along))
    pairs = list(zip(slices[1:], slices[:-1], along.tolist(), strict=True))
    for piece, before, step in pairs:
        if step < ROUNDING:
            name = before.path.name
            raise InputError(f"{piece}: lies in the same place as {name}; one of them would work")
    for piece, before, step in pairs:
        if not median / UNEVEN <= step <= median * UNEVEN:
            what = "a slice is missing before it" if step > median else "it lies too near"
            raise InputError(
                f"{piece}: is {step:.4g} mm from {before.path.name}, the others {median:.4g} mm: "
                f"{what}; a series with even steps would work"
            )
    ways = np.vstack([steps, positions[-1] - positions[0]])  # each step, and all together
    sideways = np.linalg.norm(ways - np.outer(ways @ normal, normal), axis=1)
    tilted = sideways > np.tan(np.radians(TILT)) * (ways @ normal) + ROUNDING
    for piece, bad in zip([*slices[1:], slices[-1]], tilted, strict=True):
        if bad:
            raise InputError(
                f"{piece}: lies sideways of the slice before it by more than {TILT:g}° (gantry "
                f"tilt); a series resampled without tilt would work"
            )
    return float((positions[-1] - positions[0]) @ normal) / (len(slices) - 1)


def _planes(slices: Sequence[Slice]) -> Iterator[NDArray[Any]]:
    """(columns, rows) HU of each slice."""
    for piece in slices:
        dataset = read_dicom(piece.path)
        pixels = decode_pixels(piece.path, dataset)
        if pixels.shape != piece.size[::-1]:
            raise InputError(f"{piece}: has several values per pixel; one HU per pixel would work")
        with decoding(piece.path, "the slice"):
            hu = modality_values(dataset, pixels)
        yield hu.T
