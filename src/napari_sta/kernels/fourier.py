"""Fourier conventions, decided once: half transforms, centres, shells.

A half transform keeps x = 0 ... n/2 of the last axis (``rfftn``). *FFTW order* has frequency 0 first on
every axis; *centred order* runs from -n/2 upwards on all axes but the last. The centre of a box is pixel
``n // 2``; a transform whose phase origin is that pixel is the FFTW one times (-1)^(x + y + z).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from napari_sta.kernels.grids import squared_radius


def signed_frequency_px(n: int, device: torch.device | str = "cpu") -> Int[Tensor, "n"]:
    """Signed integer frequencies in FFTW order; the Nyquist one of an even ``n`` is negative."""
    index = torch.arange(n, device=device)
    return torch.where(index < (n + 1) // 2, index, index - n)


def radius_px(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Float[Tensor, ...]:
    """Radius |k| in Fourier pixels on the half grid of a cubic or square box, FFTW order, float64."""
    axes = [signed_frequency_px(n, device).to(torch.float64) for n in shape[:-1]]
    axes.append(torch.arange(shape[-1] // 2 + 1, dtype=torch.float64, device=device))
    return squared_radius(*axes).sqrt()


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
