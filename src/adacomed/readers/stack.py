"""A volume on its way in: planes of voxels, one after another, and how they lie in the patient."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError

MAX_VOXELS = 1024 * 1024 * 2048


@dataclass(frozen=True)
class Stack:
    """The voxels of a file or folder in their stored order, read plane by plane.

    Raises:
        InputError: no voxels, too many, or axes that span no space.
    """

    path: Path  # names the source in errors
    shape: tuple[int, int, int]
    axes: NDArray[np.float64]  # (3, 3); column a: mm toward (Right, Anterior, Superior) per step
    planes: Iterator[NDArray[Any]]  # shape[2] arrays of (shape[0], shape[1]) HU; read on demand

    def __post_init__(self) -> None:
        size = " × ".join(map(str, self.shape))
        if min(self.shape) < 1:
            raise InputError(f"{self.path}: claims {size} voxels; at least one would work")
        if np.prod([float(n) for n in self.shape]) > MAX_VOXELS:
            raise InputError(f"{self.path}: claims {size} voxels; at most {MAX_VOXELS} would work")
        if not (np.isfinite(self.spacing).all() and self.spacing.min() > 0):
            spacing = " × ".join(f"{step:g}" for step in self.spacing)
            raise InputError(f"{self.path}: has a spacing of {spacing} mm; positive would work")

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(3,) mm per step along the stored axes."""
        return np.asarray(np.linalg.norm(self.axes, axis=0))

    def canonical(self) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
        """Read all planes into the closest RAS+ order; memory is the volume and one plane.

        Returns:
            HU (X, Y, Z) float32, in any memory order but no negative strides, and the spacing
            (x, y, z) in mm.
        Raises:
            InputError: a voxel that is not finite, the same value everywhere, or nibabel missing.
        """
        order, signs = self._orientation()
        stored = np.empty(self.shape, dtype=np.float32, order="F")
        flipped = stored[tuple(slice(None, None, sign) for sign in signs)]
        low, high = np.inf, -np.inf
        for k, plane in enumerate(self.planes):
            with np.errstate(over="ignore"):  # becomes infinite, refused below
                flipped[:, :, k] = plane
            low, high = min(low, float(plane.min())), max(high, float(plane.max()))
            if not np.isfinite(flipped[:, :, k]).all():
                raise InputError(f"{self.path}: has voxels that are not numbers; finite would work")
        if low == high:
            raise InputError(f"{self.path}: has one value everywhere; a scan would work")
        x, y, z = self.spacing[order].tolist()
        return stored.transpose(order), (x, y, z)

    def _orientation(self) -> tuple[list[int], list[int]]:
        """Which stored axis becomes X, Y, Z, and per stored axis 1 or −1 (runs the other way)."""
        nibabel = load_nibabel()
        affine = nibabel.affines.from_matvec(self.axes)
        orientation = nibabel.io_orientation(affine)  # (3, 2): target axis, sign
        if np.isnan(orientation).any():
            raise InputError(f"{self.path}: two of its axes are parallel; a 3-D volume would work")
        return np.argsort(orientation[:, 0]).tolist(), orientation[:, 1].astype(int).tolist()


def load_nibabel() -> Any:
    """The package nibabel, which has no types.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("nibabel")
    except ImportError:
        raise InputError("volumes need nibabel: pip install 'adacomed[volume]'") from None
