"""The distribution of orientations as a drawing, ``.bild``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.io.files import write_text
from napari_sta.kernels.refine.sampling import directions_zyx
from napari_sta.kernels.rotations import symmetry_operators_zyx


def write_angular_distribution(
    path: str | Path,
    directions_deg: NDArray[np.float64],
    pdf: NDArray[np.float64],
    *,
    size_px: int,
    pixel_size_angst: float,
    diameter_angst: float,
    symmetry: str = "C1",
) -> None:
    """Draw how often each direction was seen, as cylinders around the map (``.bild``, for ChimeraX).

    Parameters
    ----------
    directions_deg
        (n, 2) rot and tilt.
    pdf
        (n,) their probabilities.
    size_px, pixel_size_angst
        Of the map, whose first voxel lies at the origin.
    diameter_angst
        Cylinders stand on the sphere of this diameter round the map's centre.
    symmetry
        Point group whose copies of the directions are drawn too.

    Notes
    -----
    Length and radius are proportional to the probability over its largest value, and so is the colour, from
    blue to red. The longest reaches out by a third of the sphere's radius; where all are alike, neighbours
    touch. Directions of probability 0 have no cylinder.
    """
    vectors = directions_zyx(np.asarray(directions_deg, np.float64).reshape(-1, 2))
    operators = symmetry_operators_zyx(symmetry)
    largest = float(np.max(pdf, initial=0.0))
    share = np.asarray(pdf, np.float64) / (largest or 1.0)
    radius = diameter_angst / 2
    # Of n directions each has 4 pi R² / n of the sphere: a square with sides twice the thickest cylinder.
    thickest = radius * np.sqrt(np.pi / max(1, len(vectors) * len(operators)))
    centre_angst = size_px // 2 * pixel_size_angst
    lines = [f".comment napari-sta: {len(vectors)} directions, {symmetry}, largest probability {largest:.6g}"]
    for vector, part in zip(vectors, share, strict=True):
        if part <= 0:
            continue
        lines.append(f".color {part:.3f} 0.000 {1 - part:.3f}")
        for copy in np.unique(np.round(operators @ vector, 6) + 0.0, axis=0):
            ends = centre_angst + radius * np.array([1.0, 1 + part / 3])[:, None] * copy[::-1]
            numbers = " ".join(f"{value:.3f}" for value in (*ends.ravel(), part * thickest))
            lines.append(f".cylinder {numbers}")
    write_text(path, "\n".join([*lines, ""]))
