"""Shells of Fourier space without torch: correlation of two maps, and what a curve says about resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from napari_sta.kernels.grids import squared_radius


def correlate_shells(
    a: Float[ndarray, "n n n"], b: Float[ndarray, "n n n"], threads: int = 1
) -> Float[ndarray, "shells"]:
    """Fourier shell correlation as :func:`napari_sta.kernels.fsc.fourier_shell_correlation` defines it."""
    import scipy.fft

    size = len(a)
    one, two = (scipy.fft.rfftn(volume.astype(np.float64), workers=threads) for volume in (a, b))
    k = np.fft.fftfreq(size, 1 / size)
    square = squared_radius(k, k, np.arange(size // 2 + 1))
    shells = np.floor(np.sqrt(square) + 0.5).astype(np.int64).ravel()

    def summed(x: ndarray, y: ndarray) -> ndarray:
        product = x.real * y.real + x.imag * y.imag
        return np.bincount(shells, product.ravel())[: size // 2 + 1]

    power: ndarray = np.sqrt(summed(one, one) * summed(two, two))
    return summed(one, two) / np.maximum(power, 1e-300)


def first_below(curve: Any, threshold: float, first: int = 0) -> int | None:
    """First shell, from ``first`` on, whose value is below a threshold; None if none is.

    ``curve`` is an array, or a tensor on any device.
    """
    below = np.flatnonzero(np.array(curve[first:].tolist()) < threshold)
    return first + int(below[0]) if len(below) else None


def resolution_angst(curve: Any, size: int, pixel_size_angst: float, threshold: float = 0.143) -> float:
    """Resolution of the last shell before a curve (shells,) first falls below a threshold.

    Returns
    -------
    resolution
        size · pixel size / shell; 999 if shell 0 fails already, infinite if only shell 0 passes (RELION).
    """
    below = first_below(curve, threshold)
    last = len(curve) - 1 if below is None else below - 1
    if last < 0:
        return 999.0
    return float("inf") if last == 0 else size * pixel_size_angst / last
