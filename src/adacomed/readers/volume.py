"""CT volumes: NIfTI files and DICOM series in one orientation, in Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.readers.ct_series import open_series
from adacomed.readers.decoding import FOLDER, GZIP, NIFTI, file_kind
from adacomed.readers.nifti import open_nifti


@dataclass(frozen=True)
class Volume:
    """A CT volume whose indices grow toward the patient's Right, Anterior and Superior (RAS+)."""

    hu: NDArray[np.float32]  # (X, Y, Z) Hounsfield units; memory in any order
    spacing: tuple[float, float, float]  # mm per step along X, Y, Z


def read_volume(path: Path) -> Volume:
    """Read a CT volume; an oblique one is turned to the closest axes, not resampled.

    Args:
        path: a NIfTI file (.nii, .nii.gz), found by its first bytes, or a folder with the files of
            one DICOM CT series.
    Raises:
        InputError: another kind of file, damaged, over 2³¹ voxels, several volumes, impossible
            spacing, voxels that are not finite or all the same, or slices that make no volume
            (missing, twice in a place, unlike, tilted); the message names the slice's file.
    """
    kind = file_kind(path)
    if kind == FOLDER:
        stack = open_series(path)
    elif kind in (NIFTI, GZIP):
        stack = open_nifti(path)
    else:
        raise InputError(
            f"{path}: looks like {kind}; a NIfTI file or a folder with one DICOM series would work"
        )
    return Volume(*stack.canonical())
