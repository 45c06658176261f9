"""Tilt series: how a tomogram's images were taken and aligned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Deformation:
    """Image deformation of a tilt series (RELION's ``rlnTomoDeformation*``), in pixels.

    Attributes
    ----------
    kind
        ``linear``, ``spline`` or ``Fourier``.
    grid_xy
        Size of the control grid.
    coefficients
        One vector per tilt, in RELION's order.
    """

    kind: str
    grid_xy: tuple[int, int]
    coefficients: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class TiltSeries:
    """One tilt series and its alignment, optics and dose; ``t`` tilt images in table order.

    The row order defines the frame index that visible frames and trajectories refer to; it is not
    sorted by angle or dose.

    Attributes
    ----------
    name
        ``rlnTomoName``.
    images
        Per tilt a pair (file, 0-based slice); paths resolved.
    pixel_size_angst
        Of the tilt images.
    size_zyx_px
        Of the tomogram, in unbinned pixels.
    hand
        +1 or -1, the slope of defocus with depth; ``defocus_slope`` multiplies it.
    angles_xyz_deg
        (t, 3) ``rlnTomoXTilt``, ``rlnTomoYTilt``, ``rlnTomoZRot``; None with explicit matrices.
    shift_yx_angst
        (t, 2); None with explicit matrices.
    matrices_zyx
        (t, 4, 4) explicit projection matrices (RELION-4), pixel to pixel, in zyx order; else None.
    dose_e_per_angst2
        (t,) cumulative dose before each image.
    defocus_u_angst, defocus_v_angst, defocus_angle_deg, phase_shift_deg, ctf_scale, bfactor_angst2
        (t,) each.
    bfactor_per_dose
        Å² per e/Å²; 0 selects the exposure model of Grant & Grigorieff.
    text
        The tomogram's row of the global table as text.
    """

    name: str
    images: tuple[tuple[str, int], ...]
    pixel_size_angst: float
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    hand: float
    size_zyx_px: tuple[int, int, int]
    dose_e_per_angst2: NDArray[np.float64]
    defocus_u_angst: NDArray[np.float64]
    defocus_v_angst: NDArray[np.float64]
    defocus_angle_deg: NDArray[np.float64]
    phase_shift_deg: NDArray[np.float64]
    ctf_scale: NDArray[np.float64]
    bfactor_angst2: NDArray[np.float64]
    angles_xyz_deg: NDArray[np.float64] | None = None
    shift_yx_angst: NDArray[np.float64] | None = None
    matrices_zyx: NDArray[np.float64] | None = None
    defocus_slope: float = 1.0
    bfactor_per_dose: float = 0.0
    deformation: Deformation | None = None
    optics_group_name: str = ""
    text: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_tilts(self) -> int:
        """How many tilt images the series has."""
        return len(self.dose_e_per_angst2)

    @property
    def centre_zyx_px(self) -> NDArray[np.float64]:
        """Centre that coordinates are measured from: half the size, *not* rounded (RELION)."""
        return np.asarray(self.size_zyx_px, dtype=np.float64) / 2


@dataclass(frozen=True)
class Trajectories:
    """Motion of each particle through its tilt series (RELION's ``motion.star``).

    Attributes
    ----------
    shift_zyx_angst
        Particle name to (t, 3) Å in the tomogram frame, *added* to the position, in tilt-table order.
    """

    shift_zyx_angst: Mapping[str, NDArray[np.float64]]
