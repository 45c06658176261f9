"""From inserted slices to a map: symmetry, gridding correction, Wiener division, taper; without torch.

Sums of slices are (s, s, h, 4) float32 in centred order: re, im, weight and one that is
not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray

from napari_sta.kernels.devices import run_interleaved

WEAKEST = 1e-3
"""Least divisor, as a share of the mean weight at its radius (RELION)."""

_LEAST_SINC_SQUARED = 0.01


def new_sums(size: int) -> Float32[ndarray, "s s h 4"]:
    """Make an empty volume to insert slices into, of even size."""
    return np.zeros((size, size, size // 2 + 1, 4), np.float32)


def symmetrise(
    sums: Float32[ndarray, "s s h 4"],
    operators_zyx: Float[ndarray, "n 3 3"],
    threads: int = 1,
    out: Float32[ndarray, "s s h 4"] | None = None,
) -> Float32[ndarray, "s s h 4"]:
    """Average data and weights over a point group, in Fourier space, by trilinear interpolation.

    Parameters
    ----------
    operators_zyx
        The identity first. Alone, ``sums`` themselves are returned.
    out
        Overwritten and returned, if there is room to reuse.
    """
    if len(operators_zyx) == 1:
        return sums
    from napari_sta.kernels.compiled.planes import symmetrise_planes

    out = np.empty_like(sums) if out is None else out
    arrays = sums, np.ascontiguousarray(operators_zyx, dtype=np.float64), out
    run_interleaved(lambda first, step: symmetrise_planes(first, step, *arrays), threads)
    return out


def real_space_data(sums: Float32[ndarray, "s s h 4"], threads: int = 1) -> Float32[ndarray, "s s s"]:
    """Numerator of a map in real space, gridding-corrected; centre at voxel s // 2.

    Notes
    -----
    The transform is unitary, so with all weights 1 this is sqrt(box) times the density whose projections are
    the (binned) tilt images. The gridding correction divides by sinc²(r / box), radially, as RELION does.
    """
    from napari_sta.kernels.compiled.planes import numerator_planes

    size, _, width, _ = sums.shape
    numerator = np.empty((size, size, 2 * width), np.float32)
    run_interleaved(lambda first, step: numerator_planes(first, step, sums, numerator), threads)
    data = _to_real(numerator, threads)
    sinc_squared = np.sinc(np.sqrt(_squares(size)) / size) ** 2
    _scale(data, 0.0, 1 / np.maximum(sinc_squared, _LEAST_SINC_SQUARED), threads)
    return data


def divided_by_weight(
    data: Float32[ndarray, "s s s"],
    sums: Float32[ndarray, "s s h 4"],
    wiener_snr: float = 0.0,
    threads: int = 1,
) -> Float32[ndarray, "s s s"]:
    """Divide a map's numerator by the weights of ``sums`` in Fourier space.

    Parameters
    ----------
    data
        From :func:`real_space_data`; of two half sets together it is the sum of theirs.
    wiener_snr
        If positive, divide by weight + 1 / SNR everywhere; else divide by the weight, but by no less than a
        thousandth of its radial mean, and drop everything at or beyond Nyquist.
    """
    import scipy.fft

    from napari_sta.kernels.compiled.planes import divide_planes

    spectrum = scipy.fft.rfftn(data, norm="ortho", workers=threads).view(np.float32)
    if wiener_snr > 0:
        least, wiener = np.zeros(1, np.float32), 1 / wiener_snr
    else:
        mean = _radial_mean_weight(sums, threads)
        radius = np.sqrt(_squares(len(sums)))
        least = np.interp(radius, np.arange(len(mean)), WEAKEST * mean).astype(np.float32)
        wiener = 0.0
    run_interleaved(lambda first, step: divide_planes(first, step, spectrum, sums, least, wiener), threads)
    return _to_real(spectrum, threads)


def full_weight(sums: Float32[ndarray, "s s h 4"], threads: int = 1) -> Float32[ndarray, "s s s"]:
    """Weights on the whole of Fourier space, frequency 0 at voxel s // 2."""
    from napari_sta.kernels.compiled.planes import full_weight_planes

    weight = np.empty((len(sums),) * 3, np.float32)
    run_interleaved(lambda first, step: full_weight_planes(first, step, sums, weight), threads)
    return weight


def _to_real(spectrum: Float32[ndarray, "s s h2"], threads: int) -> Float32[ndarray, "s s s"]:
    """Transform back, unitarily; (re, im) side by side, overwritten."""
    import scipy.fft

    # irfftn would do the same with a copy of the whole in between.
    options: dict[str, Any] = {"norm": "ortho", "overwrite_x": True, "workers": threads}
    half_way = scipy.fft.ifftn(spectrum.view(np.complex64), axes=(0, 1), **options)
    return scipy.fft.irfft(half_way, n=len(spectrum), axis=2, **options)


def _squares(size: int) -> Float[ndarray, "squares"]:
    """Whole numbers up to the largest square of a distance from the centre of a box."""
    return np.arange(3 * (size // 2) ** 2 + 1, dtype=np.float64)


def _radial_mean_weight(sums: Float32[ndarray, "s s h 4"], threads: int) -> Float[ndarray, "bins"]:
    """Mean weight at whole radii 0 ... s / 2, each voxel split linearly between its two nearest."""
    from napari_sta.kernels.compiled.planes import weights_by_radius

    size = len(sums)
    n_bins = size // 2 + 1
    total, count = np.zeros((2, size, n_bins + 2))
    run_interleaved(lambda first, step: weights_by_radius(first, step, sums, total, count), threads)
    found, times = total.sum(axis=0)[:n_bins], count.sum(axis=0)[:n_bins]
    return found / np.maximum(times, 1e-300)


def _scale(volume: Float32[ndarray, "n n n"], offset: float, factor: ndarray, threads: int) -> None:
    from napari_sta.kernels.compiled.planes import scale_planes

    table = factor.astype(np.float32)
    run_interleaved(lambda first, step: scale_planes(first, step, volume, offset, table), threads)


def crop_centre(volume: Float32[ndarray, "n n n"], size: int) -> Float32[ndarray, "s s s"]:
    """Copy a cube about the centre: ``(n - size) // 2`` voxels from the low side of each axis."""
    first = (len(volume) - size) // 2
    middle = slice(first, first + size)
    return volume[middle, middle, middle].copy()


def taper(volume: Float32[ndarray, "n n n"], distance_px: float, threads: int = 1) -> None:
    """Fade a cubic map of even size to zero towards the sphere of radius n / 2, in place.

    Notes
    -----
    RELION's taper: the weighted mean is subtracted; a raised cosine over the last ``distance_px`` inside the
    sphere about voxel n / 2.
    """
    from napari_sta.kernels.compiled.planes import sum_planes

    size = len(volume)
    middle = size / 2
    r = np.sqrt(_squares(size))
    factor = np.where(r < middle - distance_px, 1.0, 0.5 - 0.5 * np.cos(np.pi * (middle - r) / distance_px))
    factor = np.where(r < middle, factor, 0.0)
    sums = np.empty((size, 2))
    run_interleaved(lambda first, step: sum_planes(first, step, volume, factor, sums), threads)
    total, count = sums.sum(axis=0)
    _scale(volume, total / count, factor, threads)
