"""Maps and masks: an array and its pixel size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError

NO_PIXEL_SIZE = "states no pixel size (none, or the 1 Å that programs write where none was set)"


@dataclass(frozen=True)
class Volume:
    """A map or a mask.

    Attributes
    ----------
    data
        (d, h, w) float32 in zyx order; its centre is voxel ``size // 2`` on each axis.
    stated_pixel_size_angst
        Å per voxel; None where it is not known, which is not the same as 1.
    path
        Where it was read from, for messages and provenance.
    why_no_pixel_size
        Why it is not known: words that follow the file's name.
    """

    data: NDArray[np.float32]
    stated_pixel_size_angst: float | None
    path: str = ""
    why_no_pixel_size: str = NO_PIXEL_SIZE

    @property
    def pixel_size_angst(self) -> float:
        """Å per voxel.

        Raises
        ------
        InputError
            If it is not known. Who can do without looks at ``stated_pixel_size_angst``.
        """
        if self.stated_pixel_size_angst is None:
            raise InputError(
                f"{self.path or 'the map'} {self.why_no_pixel_size}; state it with process_map "
                "--pixel_size_angst"
            )
        return self.stated_pixel_size_angst

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
