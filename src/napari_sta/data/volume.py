"""Maps and masks: an array and its pixel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Volume:
    """A map or a mask.

    Attributes
    ----------
    data
        (d, h, w) float32 in zyx order; its centre is voxel ``size // 2`` on each axis.
    pixel_size_angst
        Å per voxel.
    path
        Where it was read from, for messages and provenance.
    """

    data: NDArray[np.float32]
    pixel_size_angst: float
    path: str = ""

    @property
    def box_px(self) -> int:
        """Edge of a cubic volume in voxels."""
        return int(self.data.shape[0])

    @property
    def centre_zyx_px(self) -> tuple[int, int, int]:
        """RELION's origin: voxel ``size // 2``."""
        d, h, w = self.data.shape
        return d // 2, h // 2, w // 2


@dataclass(frozen=True)
class HalfMaps:
    """Two maps of one structure from two independent halves of the data."""

    half1: Volume
    half2: Volume
