"""NIfTI-1 and NIfTI-2 files, plain or gzipped, read plane by plane as a stream.

Source: https://nifti.nimh.nih.gov (header fields, order of the voxels, scaling).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.readers.decoding import GZIP, NIFTI, decoding, file_kind, magic
from adacomed.readers.stack import Stack, load_nibabel

DEFLATE_RATIO = 1032  # gzip never shrinks more than this; a larger claim is false
HEADER_BYTES = 348  # of NIfTI-1; NIfTI-2 has 540
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


@dataclass(frozen=True)
class Layout:
    """Where a file's voxels are, and what its numbers mean."""

    shape: tuple[int, int, int]
    axes: NDArray[np.float64]  # (3, 3), see `Stack`
    dtype: np.dtype[Any]
    offset: int  # bytes before the first voxel
    slope: float  # HU = stored · slope + intercept
    intercept: float

    @property
    def plane_bytes(self) -> int:
        """Bytes of one z plane."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


def open_nifti(path: Path) -> Stack:
    """Read the header of a NIfTI file; its voxels are read on demand.

    Args:
        path: .nii or .nii.gz; one file, 3-D, or 4-D with a single frame.
    Raises:
        InputError: damaged, several frames, no real numbers, impossible spacing, a header that
            claims more than the file can hold, or nibabel is missing.
    """
    nibabel = load_nibabel()
    with decoding(path, "the NIfTI volume"):
        with _open(path) as stream:
            head = stream.read(540)
        kind = magic(head)
        if kind != NIFTI:
            raise InputError(
                f"{path}: holds {kind or 'a file of no known format'}; a NIfTI volume would work"
            )
        if head[4:8] == b"n+2\0":
            layout = _layout(path, nibabel.Nifti2Header(head, check=False))
        else:
            layout = _layout(path, nibabel.Nifti1Header(head[:HEADER_BYTES], check=False))
    stack = Stack(path, layout.shape, layout.axes, _planes(path, layout))
    room = path.stat().st_size * (DEFLATE_RATIO if file_kind(path) == GZIP else 1)
    if layout.offset + layout.plane_bytes * layout.shape[2] > room:
        raise _too_short(path, layout.shape)
    return stack


def _open(path: Path) -> BinaryIO:
    if file_kind(path) == GZIP:
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def _layout(path: Path, header: Any) -> Layout:
    """The fields of nibabel's header, checked."""
    shape = [int(n) for n in header.get_data_shape()]
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        size = " × ".join(map(str, shape))
        raise InputError(f"{path}: has the shape {size}; one 3-D volume in a file would work")
    steps = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(steps).all() or (steps == 0).any():
        spacing = " × ".join(f"{step:g}" for step in steps)
        raise InputError(f"{path}: has a spacing of {spacing} mm; positive numbers would work")
    dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: its voxels are not real numbers; one HU per voxel would work")
    if offset < HEADER_BYTES:
        raise InputError(f"{path}: says that its voxels begin inside its header; 352 would work")
    slope, intercept = header.get_slope_inter()  # None, None: not scaled
    unit = MILLIMETRES[header.get_xyzt_units()[0]]
    return Layout(
        shape=(shape[0], shape[1], shape[2]),
        axes=np.asarray(header.get_best_affine()[:3, :3], dtype=np.float64) * unit,
        dtype=dtype,
        offset=offset,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
    )


def _planes(path: Path, layout: Layout) -> Iterator[NDArray[Any]]:
    """The z planes in file order, (x, y) float64 HU."""
    with _open(path) as stream:
        with decoding(path, "the NIfTI volume"):
            stream.seek(layout.offset)
        for _ in range(layout.shape[2]):
            with decoding(path, "the NIfTI volume"):
                raw = stream.read(layout.plane_bytes)
            if len(raw) < layout.plane_bytes:
                raise _too_short(path, layout.shape)
            plane = np.frombuffer(raw, layout.dtype).reshape(layout.shape[:2], order="F")
            yield plane.astype(np.float64) * layout.slope + layout.intercept
        with decoding(path, "the NIfTI volume"):  # reading its end also checks gzip's checksum
            more = stream.read(1)
    if more:
        raise InputError(f"{path}: holds more than its header claims; an intact file would work")


def _too_short(path: Path, shape: tuple[int, int, int]) -> InputError:
    size = " × ".join(map(str, shape))
    return InputError(
        f"{path}: its header claims {size} voxels but the file ends before; a complete copy would "
        f"work"
    )
