"""What is decided before the particles of an iteration are looked at."""

from __future__ import annotations

from dataclasses import dataclass

from napari_sta.engine.source import Window
from napari_sta.kernels.refine.control import Control
from napari_sta.kernels.refine.sampling import OrientationGrid


@dataclass(frozen=True)
class Plan:
    """How one iteration goes.

    Attributes
    ----------
    number
        Of the iteration, from 1.
    control
        With the sampling of this iteration, and whether it is the last.
    grid, perturbation
        Orientations, and by how much of a step they are moved.
    radius, coarse_radius
        Of the Fourier window, and of that of the first pass.
    windows
        Pixels of each optics group up to the radius.
    cross_correlation
        Compare by correlation, and leave noise and scale alone.
    """

    number: int
    control: Control
    grid: OrientationGrid
    perturbation: float
    radius: int
    coarse_radius: int
    windows: list[Window]
    cross_correlation: bool
