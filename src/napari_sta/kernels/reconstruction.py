"""From inserted slices to a map: symmetry, gridding correction, Wiener division, taper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier
from napari_sta.kernels.devices import run_interleaved
from napari_sta.kernels.optics import tilt_envelope

__all__ = [
    "Reconstruction",
    "full_weight",
    "new_accumulator",
    "reconstruct_map",
    "symmetrise",
    "symmetrise_reference",
    "taper",
    "tilt_envelope",
]


class Reconstruction(NamedTuple):
    """What one reconstruction yields.

    Attributes
    ----------
    map
        Divided by the weights; centre at voxel n // 2.
    data
        The numerator in real space, gridding-corrected.
    weight
        (n, n, n) weights in Fourier space, frequency 0 at voxel n // 2.
    """

    map: Float[Tensor, "n n n"]
    data: Float[Tensor, "n n n"]
    weight: Float[Tensor, "n n n"]


def new_accumulator(size: int, device: torch.device | str = "cpu") -> Float[Tensor, "s s h 3"]:
    """Make an empty accumulator: re, im and weight, centred order."""
    return torch.zeros((size, size, size // 2 + 1, 3), dtype=torch.float32, device=device)


def symmetrise(
    volume: Float[Tensor, "s s h 3"], operators_zyx: Float[ndarray, "n 3 3"], threads: int = 1
) -> Float[Tensor, "s s h 3"]:
    """Average data and weights over a point group, in Fourier space, by trilinear interpolation."""
    if len(operators_zyx) == 1:
        return volume
    if volume.device.type == "cpu":
        from napari_sta.kernels._numba import symmetrise_planes

        out = torch.zeros_like(volume)
        arrays = volume.numpy(), np.ascontiguousarray(operators_zyx), out.numpy()
        run_interleaved(lambda first, step: symmetrise_planes(first, step, *arrays), threads)
        return out
    return symmetrise_reference(volume, operators_zyx)


def symmetrise_reference(
    volume: Float[Tensor, "s s h 3"], operators_zyx: Float[ndarray, "n 3 3"]
) -> Float[Tensor, "s s h 3"]:
    """Plain torch twin of :func:`symmetrise`, for any device."""
    size, half, device = volume.shape[0], volume.shape[0] // 2, volume.device
    total = volume.clone()
    k = torch.arange(size, dtype=torch.float64, device=device) - half
    for plane in range(size):
        grid = torch.stack(
            torch.meshgrid(
                k[plane : plane + 1], k, torch.arange(half + 1, device=device).double(), indexing="ij"
            )
        ).reshape(3, -1)
        for operator in operators_zyx[1:]:
            at = torch.as_tensor(operator, device=device) @ grid
            flip = at[2] <= 0
            at = torch.where(flip, -at, at)
            top = torch.tensor([size - 1, size - 1, half], device=device)[:, None]
            at[:2] += half
            at = torch.minimum(at.clamp(min=0), top)
            low = at.floor().long()
            high = torch.minimum(low + 1, top)
            part = (at - low).float()
            value = torch.zeros((grid.shape[1], 3), device=device)
            for corner in range(8):
                pick = [(high if corner >> a & 1 else low)[a] for a in range(3)]
                weight = torch.ones(grid.shape[1], device=device)
                for a in range(3):
                    weight = weight * (part[a] if corner >> a & 1 else 1 - part[a])
                value += volume[pick[0], pick[1], pick[2]] * weight[:, None]
            value[:, 1] = torch.where(flip, -value[:, 1], value[:, 1])
            total[plane] += value.reshape(size, half + 1, 3)
    total /= len(operators_zyx)
    return total


def reconstruct_map(volume: Float[Tensor, "s s h 3"], wiener_snr: float = 0.0) -> Reconstruction:
    """Turn accumulated data and weights into a map.

    Parameters
    ----------
    volume
        Accumulator, symmetrised already if it is to be.
    wiener_snr
        If positive, divide by weight + 1 / SNR everywhere; else divide by the weight, but by no less than a
        thousandth of its radial mean, and drop everything at or beyond Nyquist.

    Notes
    -----
    Transforms are unitary both ways, so a map is sqrt(box) times the density whose projections are the
    (binned) tilt images. The gridding correction divides by sinc²(r / box), radially, as RELION does.
    """
    size = volume.shape[0]
    half = size // 2
    shape = (size, size, size)
    device = volume.device
    numerator = torch.complex(volume[..., 0], volume[..., 1])
    numerator = torch.fft.ifftshift(numerator, dim=(0, 1)) * fourier.checkerboard(shape, device)
    data = torch.fft.irfftn(numerator, s=shape, norm="ortho")
    data /= _sinc_squared(size, device)
    spectrum = torch.fft.rfftn(data, norm="ortho")
    weight = torch.fft.ifftshift(volume[..., 2], dim=(0, 1))
    if wiener_snr > 0:
        spectrum /= weight + 1 / wiener_snr
    else:
        radius = fourier.radius_px(shape, device).to(torch.float32)
        floor = 1e-3 * fourier.radial_mean_linear(weight, radius, half + 1)
        divisor = torch.maximum(weight, fourier.interpolate_radial(floor.to(torch.float32), radius))
        spectrum /= torch.where(divisor > 0, divisor, torch.ones_like(divisor))
        spectrum[radius >= half] = 0
    return Reconstruction(torch.fft.irfftn(spectrum, s=shape, norm="ortho"), data, full_weight(weight))


def full_weight(weight: Float[Tensor, "s s h"]) -> Float[Tensor, "s s s"]:
    """Expand half-grid weights (FFTW order) to a full volume with frequency 0 at voxel n // 2."""
    size = weight.shape[0]
    full = torch.empty((size, size, size), dtype=weight.dtype, device=weight.device)
    full[..., : weight.shape[2]] = weight
    mates = weight[..., 1 : (size + 1) // 2].flip(2)
    index = (-torch.arange(size, device=weight.device)) % size
    full[..., weight.shape[2] :] = mates[index][:, index]
    return torch.fft.fftshift(full)


def taper(volume: Float[Tensor, "n n n"], distance_px: float) -> Float[Tensor, "n n n"]:
    """Fade a cubic map to zero towards the sphere of radius n / 2, after subtracting its weighted mean.

    Notes
    -----
    RELION's taper: raised cosine over the last ``distance_px`` inside the sphere about voxel n / 2.
    """
    size = volume.shape[0]
    middle = size / 2
    index = torch.arange(size, dtype=torch.float64, device=volume.device) - middle
    r = torch.sqrt(index[:, None, None] ** 2 + index[None, :, None] ** 2 + index[None, None, :] ** 2)
    edge = 0.5 - 0.5 * torch.cos(torch.pi * (middle - r) / distance_px)
    factor = torch.where(r < middle - distance_px, torch.ones_like(r), edge)
    factor = torch.where(r < middle, factor, torch.zeros_like(r))
    mean = (factor * volume).sum() / factor.sum()
    return (factor * (volume - mean)).to(volume.dtype)


def _sinc_squared(size: int, device: torch.device) -> Float[Tensor, "n n n"]:
    index = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    square = index[:, None, None] ** 2 + index[None, :, None] ** 2 + index[None, None, :] ** 2
    return (torch.sinc(square.sqrt_() / size) ** 2).clamp(min=0.01)
