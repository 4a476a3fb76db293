"""DICOM files as a scanner would write them, made from arrays."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

LPS = np.array([-1.0, -1.0, 1.0])  # RAS ↔ DICOM's patient axes


def picture(
    height: int = 48, width: int = 40, top: int = 4095, seed: int = 0
) -> NDArray[np.uint16]:
    """Something with structure: a ramp with noise, (height, width), 0 … top."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(height), np.arange(width)) / (height + width)
    return (top * np.clip(ramp + 0.05 * rng.normal(size=ramp.shape), 0, 1)).astype(np.uint16)


def base_dataset(pixels: NDArray[Any], storage: str, bits: int) -> Dataset:
    """What every image needs; pixels (rows, columns) or (rows, columns, 3)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = storage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID = "Secret^Name", "secret-id"  # must never be in a message
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return ds


def write_xray(
    path: Path,
    pixels: NDArray[Any] | None = None,
    *,
    photometric: str = "MONOCHROME2",
    bits: int | None = None,
    compress: str | None = None,
    **elements: Any,
) -> Path:
    """Write a DX image.

    Args:
        path: where to.
        pixels: stored values (rows, columns[, 3]); default `picture()`.
        photometric: its photometric interpretation.
        bits: BitsStored; default 12 where pixels are 16-bit, else 8.
        compress: a transfer syntax UID that pydicom can encode.
        elements: DICOM keywords to set, or to delete where the value is None.
    """
    pixels = picture() if pixels is None else pixels
    bits = bits or (12 if pixels.dtype.itemsize > 1 else 8)
    ds = base_dataset(pixels, DigitalXRayImageStorageForPresentation, bits)
    ds.Modality, ds.PhotometricInterpretation = "DX", photometric
    if compress:
        ds.compress(compress)
    _set(ds, elements)
    ds.save_as(path, enforce_file_format=True)
    return path


def ct_array(shape: tuple[int, int, int] = (20, 16, 12), seed: int = 0) -> NDArray[np.int16]:
    """Integer HU: a bright ellipsoid off the centre in air, so that every axis and end differs."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (x - 0.2) ** 2 + (1.3 * y + 0.1) ** 2 + (0.8 * z - 0.15) ** 2 < 0.6
    hu = np.where(inside, 40 + 30 * x - 20 * y + 10 * z, -1000) + rng.normal(0, 8, shape)
    return hu.astype(np.int16)


def write_ct_series(
    folder: Path,
    hu: NDArray[np.int16] | None = None,
    affine: NDArray[np.float64] | None = None,
    *,
    change: Callable[[Dataset, int], Dataset | None] | None = None,
    slope: float = 1.0,
    compress: str | None = None,
) -> Path:
    """Write a CT series with file names in an order that says nothing about the slices.

    Args:
        folder: made where missing.
        hu: (columns, rows, slices); default `ct_array()`.
        affine: (4, 4) index → mm in RAS+; default RAS, 0.8 × 0.7 × 2.5 mm.
        change: called with each dataset and its slice index before it is written.
        slope: rescale slope; stored values are (hu + 1024) / slope.
        compress: a transfer syntax UID that pydicom can encode.
    """
    hu = ct_array() if hu is None else hu
    affine = np.diag([0.8, 0.7, 2.5, 1.0]) if affine is None else affine
    folder.mkdir(parents=True, exist_ok=True)
    columns, rows, across = (affine[:3, a] * LPS for a in range(3))
    series, names = generate_uid(), list(range(hu.shape[2]))
    random.Random(0).shuffle(names)
    for k, name in enumerate(names):
        stored = np.round((hu[:, :, k].T + 1024.0) / slope).astype(np.int16)
        ds = base_dataset(np.ascontiguousarray(stored), CTImageStorage, 16)
        ds.Modality, ds.PhotometricInterpretation = "CT", "MONOCHROME2"
        ds.SeriesInstanceUID, ds.InstanceNumber = series, k + 1
        ds.RescaleSlope, ds.RescaleIntercept = slope, -1024
        ds.PixelSpacing = [_decimal(np.linalg.norm(rows)), _decimal(np.linalg.norm(columns))]
        directions = [*columns / np.linalg.norm(columns), *rows / np.linalg.norm(rows)]
        ds.ImageOrientationPatient = [_decimal(v) for v in directions]
        ds.ImagePositionPatient = [_decimal(v) for v in affine[:3, 3] * LPS + k * across]
        if compress:
            ds.compress(compress)
        if change:
            change(ds, k)
        ds.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    return folder


def _decimal(value: float) -> str:
    """A DS value: at most 16 characters."""
    return f"{value:.10f}"[:16]


def _set(ds: Dataset, elements: Mapping[str, Any]) -> None:
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
