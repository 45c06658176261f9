"""Fourier conventions, decided once: half transforms, centres, shells.

A half transform keeps x = 0 ... n/2 of the last axis (``rfftn``). *FFTW order* has frequency 0 first on
every axis; *centred order* runs from -n/2 upwards on all axes but the last. The centre of a box is pixel
``n // 2``; a transform whose phase origin is that pixel is the FFTW one times (-1)^(x + y + z).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def signed_frequency_px(n: int, device: torch.device | str = "cpu") -> Int[Tensor, "n"]:
    """Signed integer frequencies in FFTW order; the Nyquist one of an even ``n`` is negative."""
    index = torch.arange(n, device=device)
    return torch.where(index < (n + 1) // 2, index, index - n)


def radius_px(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Float[Tensor, ...]:
    """Radius |k| in Fourier pixels on the half grid of a cubic or square box, FFTW order, float64."""
    square = torch.zeros((), dtype=torch.float64, device=device)
    for axis, n in enumerate(shape):
        k = signed_frequency_px(n, device).to(torch.float64)
        if axis == len(shape) - 1:
            k = torch.arange(n // 2 + 1, dtype=torch.float64, device=device)
        square = square + (k * k).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return square.sqrt()


def shell_index(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Int[Tensor, ...]:
    """Nearest shell of every half-grid pixel, rounding half up (RELION's ROUND)."""
    return torch.floor(radius_px(shape, device) + 0.5).to(torch.int64)


def checkerboard(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Float[Tensor, ...]:
    """(-1)^(x + y + z) on a half grid: moves the phase origin between pixel 0 and pixel n/2."""
    parity = torch.zeros((), dtype=torch.int64, device=device)
    for axis, n in enumerate(shape):
        length = n // 2 + 1 if axis == len(shape) - 1 else n
        k = torch.arange(length, device=device)
        parity = parity + k.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return (1 - 2 * (parity % 2)).to(torch.float32)


def shell_sum(
    values: Float[Tensor, "*grid"], shells: Int[Tensor, "*grid"], n_shells: int
) -> Float[Tensor, "shells"]:
    """Sum values over shells 0 ... n_shells - 1 in float64; what lies beyond is left out."""
    index = shells.flatten().clamp(max=n_shells)
    total = torch.bincount(index, weights=values.flatten().to(torch.float64), minlength=n_shells + 1)
    return total[:n_shells]


def radial_mean_linear(
    values: Float[Tensor, "*grid"], radius: Float[Tensor, "*grid"], n_bins: int
) -> Float[Tensor, "bins"]:
    """Radial mean in which each pixel is split linearly between its two nearest whole radii."""
    low = radius.floor().to(torch.int64).flatten()
    part = (radius.flatten() - low).to(torch.float64)
    flat = values.flatten().to(torch.float64)
    total = torch.zeros(n_bins + 2, dtype=torch.float64, device=values.device)
    count = torch.zeros_like(total)
    for index, weight in ((low, 1 - part), (low + 1, part)):
        index = index.clamp(max=n_bins)
        total += torch.bincount(index, weights=weight * flat, minlength=n_bins + 2)
        count += torch.bincount(index, weights=weight, minlength=n_bins + 2)
    return torch.where(count > 0, total / count.clamp(min=1e-300), total)[:n_bins]


def interpolate_radial(
    table: Float[Tensor, "bins"], radius: Float[Tensor, "*grid"]
) -> Float[Tensor, "*grid"]:
    """Linear interpolation of a table at whole radii; the last value holds beyond it."""
    low = radius.floor().to(torch.int64).clamp(max=len(table) - 1)
    high = (low + 1).clamp(max=len(table) - 1)
    part = (radius - low).clamp(0, 1)
    return table[low] * (1 - part) + table[high] * part


def crop_centre(volume: Shaped[Tensor, "d h w"], size: int) -> Shaped[Tensor, "s s s"]:
    """Cut a cube about the centre: ``(n - size) // 2`` voxels from the low side of each axis."""
    starts = [(n - size) // 2 for n in volume.shape]
    return volume[tuple(slice(first, first + size) for first in starts)].contiguous()
