"""Filters of maps: low-pass, B-factor, MTF, FSC weighting, sharpening; resampling to another grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier

FILTER_EDGE_SHELLS = 2
"""Width of the raised-cosine edge of a low-pass filter, in Fourier pixels."""


def lowpass_factor(
    size: int, pixel_size_angst: float, resolution_angst: float, device: torch.device | str = "cpu"
) -> Float[Tensor, "n n h"]:
    """Raised-cosine low-pass on the half grid: 1 below the shell, 0.5 at it, 0 beyond it.

    Notes
    -----
    RELION: the shell is round(size · pixel size / resolution), the edge reaches one shell to either side.
    """
    shell = np.floor(size * pixel_size_angst / resolution_angst + 0.5)
    low, high = max(0.0, shell - FILTER_EDGE_SHELLS // 2), shell + FILTER_EDGE_SHELLS // 2
    r = fourier.radius_px((size,) * 3, device)
    edge = 0.5 + 0.5 * torch.cos(torch.pi * (r - low) / (high - low))
    factor = torch.where(r < low, torch.ones_like(r), edge)
    return torch.where(r > high, torch.zeros_like(r), factor)


def lowpass(
    volume: Float[Tensor, "n n n"], pixel_size_angst: float, resolution_angst: float
) -> Float[Tensor, "n n n"]:
    """Low-pass a cubic map; see :func:`lowpass_factor`."""
    size = volume.shape[0]
    factor = lowpass_factor(size, pixel_size_angst, resolution_angst, volume.device)
    return torch.fft.irfftn(torch.fft.rfftn(volume) * factor.to(volume.dtype), s=(size,) * 3)


def bfactor_factor(
    size: int, pixel_size_angst: float, bfactor_angst2: float, device: torch.device | str = "cpu"
) -> Float[Tensor, "n n h"]:
    """exp(-B k² / 4) on the half grid up to Nyquist, 0 beyond; a negative B sharpens."""
    k = fourier.radius_px((size,) * 3, device) / (size * pixel_size_angst)
    factor = torch.exp(-bfactor_angst2 / 4 * k * k)
    return torch.where(k <= 0.5 / pixel_size_angst, factor, torch.zeros_like(factor))


def fsc_weight(fsc: Float[Tensor, "shells"]) -> Float[Tensor, "shells"]:
    """sqrt(2 FSC / (1 + FSC)) per shell, 0 from the first shell whose FSC is below 1e-4.

    References
    ----------
    Rosenthal & Henderson (2003), J. Mol. Biol. 333, 721.
    """
    below = (fsc < 1e-4).nonzero()
    stop = int(below[0]) if len(below) else len(fsc)
    weight = torch.sqrt((2 * fsc / (1 + fsc)).clamp(min=0))
    weight[stop:] = 0
    return weight


def mtf_of_radius(
    rho_inv_px: Float[ndarray, "m"],
    mtf: Float[ndarray, "m"],
    detector_pixel_size_angst: float,
    k_inv_angst: Float[Tensor, "*grid"],
) -> Float[Tensor, "*grid"]:
    """Detector MTF at frequencies, by linear interpolation in a table.

    Parameters
    ----------
    rho_inv_px, mtf
        ``rlnResolutionInversePixel`` (cycles per detector pixel, evenly spaced) and ``rlnMtfValue``.

    Raises
    ------
    ValueError
        If a value is not positive.

    Notes
    -----
    RELION takes the step as (last - first) / number of rows; kept, to give its numbers.
    """
    if (mtf < 1e-10).any():
        raise ValueError("the MTF has values that are not positive")
    k_table = np.asarray(rho_inv_px, dtype=np.float64) / detector_pixel_size_angst
    step = (k_table[-1] - k_table[0]) / len(k_table)
    table = torch.as_tensor(np.asarray(mtf, dtype=np.float64), device=k_inv_angst.device)
    position = k_inv_angst / step
    j = position.floor().to(torch.int64)
    inner = j.clamp(1, len(table) - 2)
    left = torch.as_tensor(k_table, device=k_inv_angst.device)[inner]
    spacing = k_table[1] - k_table[0]
    value = table[inner] + (table[inner + 1] - table[inner]) * (k_inv_angst - left) / spacing
    value = torch.where(j <= 0, table[0], value)
    return torch.where(j >= len(table) - 1, table[-1], value)


class Guinier(NamedTuple):
    """Logarithm of mean amplitudes per shell against squared resolution.

    Attributes
    ----------
    inverse_square_angst2
        1/d² of each shell.
    log_amplitude
        ln of the mean |F|, F divided by the number of voxels; -99 where the mean is 0.
    """

    inverse_square_angst2: Float[Tensor, "shells"]
    log_amplitude: Float[Tensor, "shells"]


def guinier(spectrum: Tensor, size: int, pixel_size_angst: float) -> Guinier:
    """Guinier plot of a half transform (torch's unnormalised ``rfftn``), up to Nyquist."""
    shells = fourier.shell_index((size,) * 3, spectrum.device)
    n_shells = size // 2 + 1
    amplitude = fourier.shell_sum(spectrum.abs() / size**3, shells, n_shells)
    count = fourier.shell_sum(torch.ones_like(shells, dtype=torch.float64), shells, n_shells)
    mean = amplitude / count.clamp(min=1)
    log = torch.where(mean > 0, mean.clamp(min=1e-300).log(), torch.full_like(mean, -99.0))
    square = (
        torch.arange(n_shells, dtype=torch.float64, device=spectrum.device) / (size * pixel_size_angst)
    ) ** 2
    return Guinier(square, log)


class LineFit(NamedTuple):
    """Straight line through a Guinier plot; B = 4 · slope."""

    slope: float
    intercept: float
    correlation: float


def fit_line(plot: Guinier, lowest_angst: float, highest_angst: float = 0.0) -> LineFit:
    """Fit the Guinier plot between two resolutions by unweighted least squares.

    Raises
    ------
    ValueError
        If fewer than two shells lie in the range.

    Notes
    -----
    ``correlation`` is the squared correlation coefficient, as RELION reports it.
    """
    resolution = plot.inverse_square_angst2.clamp(min=1e-12) ** -0.5
    used = (resolution <= lowest_angst) & (resolution >= highest_angst) & (plot.log_amplitude > -99)
    if int(used.sum()) < 2:
        raise ValueError(f"fewer than two shells with signal are finer than {lowest_angst:g} Å")
    x, y = plot.inverse_square_angst2[used], plot.log_amplitude[used]
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx * dy).sum() / (dx * dx).sum())
    correlation = float((dx * dy).sum() ** 2 / ((dx * dx).sum() * (dy * dy).sum()).clamp(min=1e-300))
    return LineFit(slope, float(y.mean() - slope * x.mean()), correlation)


def sharpen_map(
    volume: Float[ndarray, "n n n"],
    pixel_size_angst: float,
    bfactor_angst2: float = 0.0,
    lowpass_angst: float | None = None,
    fsc: Float[ndarray, "shells"] | None = None,
) -> Float[ndarray, "n n n"]:
    """Sharpen a map for display: FSC weighting, B-factor, low-pass, in this order.

    Parameters
    ----------
    fsc
        If given, amplitudes are weighted by :func:`fsc_weight`.
    """
    return Sharpener(volume, pixel_size_angst)(bfactor_angst2, lowpass_angst, fsc)


class Sharpener:
    """Keeps a map's transform, so that each new B-factor or low-pass costs one inverse transform."""

    def __init__(self, volume: Float[ndarray, "n n n"], pixel_size_angst: float) -> None:
        data = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
        self._size, self._pixel_size_angst = data.shape[0], pixel_size_angst
        self._spectrum = torch.fft.rfftn(data)
        # Squared radii are whole numbers, so a table over them gives every voxel its exact value.
        self._square = (fourier.radius_px((self._size,) * 3) ** 2).round().to(torch.int32)

    def __call__(
        self,
        bfactor_angst2: float = 0.0,
        lowpass_angst: float | None = None,
        fsc: Float[ndarray, "shells"] | None = None,
    ) -> Float[ndarray, "n n n"]:
        """Return the map with this B-factor (negative sharpens), low-pass and FSC weighting, float32."""
        size, pixel = self._size, self._pixel_size_angst
        k = torch.arange(int(self._square.max()) + 1, dtype=torch.float64).sqrt()
        factor = torch.ones_like(k)
        if fsc is not None:
            weight = fsc_weight(torch.as_tensor(np.asarray(fsc, dtype=np.float64)))
            shell = (k + 0.5).floor().long()
            factor = torch.where(shell < len(weight), weight[shell.clamp(max=len(weight) - 1)], 0.0)
        if bfactor_angst2:
            factor = factor * torch.exp(-bfactor_angst2 / 4 * (k / (size * pixel)) ** 2) * (k <= size / 2)
        if lowpass_angst:
            middle = float(np.floor(size * pixel / lowpass_angst + 0.5))
            low, high = max(0.0, middle - 1), middle + 1
            edge = 0.5 + 0.5 * torch.cos(torch.pi * (k.clamp(low, high) - low) / (high - low))
            factor = factor * edge
        filtered = self._spectrum * factor.to(torch.float32)[self._square]
        result: ndarray = torch.fft.irfftn(filtered, s=(size,) * 3).numpy()
        return result


def resample_to_grid(
    volume: Float[ndarray, "d h w"],
    pixel_size_angst: float,
    size: int,
    target_pixel_size_angst: float,
) -> Float[ndarray, "n n n"]:
    """Bring a map or mask to another box and pixel size, box centres (voxel n // 2) on each other.

    Trilinear; voxels outside the source are 0. A mask stays within the range of its values.
    """
    if volume.shape == (size,) * 3 and abs(pixel_size_angst / target_pixel_size_angst - 1) < 1e-4:
        return np.asarray(volume, dtype=np.float32)
    from scipy.ndimage import map_coordinates

    ratio = target_pixel_size_angst / pixel_size_angst
    axes = [(np.arange(size) - size // 2) * ratio + n // 2 for n in volume.shape]
    grid = np.meshgrid(*axes, indexing="ij")
    moved: ndarray = map_coordinates(np.asarray(volume, np.float32), grid, order=1, mode="constant", cval=0.0)
    return moved.astype(np.float32)
