"""Maximisation: from weighted sums to half maps, their FSC and what limits them.

Sums live on the padded half grid of :func:`napari_sta.kernels.refine.sums.new_sums`: (d, d, w, 4),
frequency 0 at (d // 2, d // 2, 0); radii are in Fourier pixels of the unpadded box.

References
----------
Scheres (2012), J. Struct. Biol. 180, 519. Chen et al. (2013), Ultramicroscopy 135, 24.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fsc
from napari_sta.kernels.devices import run_interleaved
from napari_sta.kernels.grids import squared_radius
from napari_sta.kernels.refine.images import fill_outside, soft_disc
from napari_sta.kernels.refine.projector import interpolation_falloff, padded_radius, radius_grid


def complete_sums(
    volume: Float[ndarray, "d d w 4"], operators_zyx: Float[ndarray, "n 3 3"], radius: int, threads: int = 1
) -> Float[ndarray, "d d w 4"]:
    """Add Friedel mates on the x = 0 plane, then the copies under a point group; float64.

    Parameters
    ----------
    radius
        In padded voxels; beyond it nothing is added.

    Notes
    -----
    Sums, not means: a volume of n operators holds n times the weight.
    """
    from napari_sta.kernels.compiled.slices import add_symmetry_copies

    full = volume.astype(np.float64)
    plane = full[:, :, 0].copy()
    mate = plane[::-1, ::-1].copy()
    mate[..., 1] *= -1
    middle = full.shape[0] // 2
    mate[middle, middle] = 0  # frequency 0 is its own mate
    full[:, :, 0] = plane + mate
    if len(operators_zyx) == 1:
        return full
    out = full.copy()
    others = np.ascontiguousarray(operators_zyx[1:], dtype=np.float64)
    run_interleaved(
        lambda first, step: add_symmetry_copies(first, step, full, others, float(radius), out), threads
    )
    return out


def join_low_resolution(
    half1: Float[ndarray, "d d w 4"], half2: Float[ndarray, "d d w 4"], radius: int, padding: float
) -> None:
    """Replace both halves' sums by their mean up to a radius (unpadded pixels), in place."""
    reach = padded_radius(radius, padding)
    inside = (radius_grid(half1.shape[0] // 2, half1.shape[2]) <= reach * reach).numpy()
    mean = 0.5 * (half1[inside] + half2[inside])
    half1[inside] = mean
    half2[inside] = mean


def joining_radius(size: int, pixel_size_angst: float, join_angst: float, resolution_angst: float) -> int:
    """Radius, in pixels, up to which half sets are joined: never beyond the current resolution."""
    return int(np.ceil(size * pixel_size_angst / max(join_angst, resolution_angst)))


def map_noise(
    volume: Float[ndarray, "d d w 4"], radius: int, padding: float, n_shells: int
) -> Float[ndarray, "shells"]:
    """Noise power of a reconstruction without prior: 1 / (padding³ · mean weight), shell by shell.

    Returns
    -------
    sigma2
        0 where there is no weight.
    """
    square = radius_grid(volume.shape[0] // 2, volume.shape[2])
    shell = torch.floor(square.sqrt() / padding + 0.5).long()
    reach = padded_radius(radius, padding)
    shell = torch.where(square < reach * reach, shell, n_shells).clamp(max=n_shells).flatten()
    total = torch.bincount(
        shell, weights=torch.as_tensor(volume[..., 2]).double().flatten(), minlength=n_shells + 1
    )
    count = torch.bincount(shell, minlength=n_shells + 1)
    mean = (total / count.clamp(min=1))[:n_shells] * padding**3
    return torch.where(mean > 1e-10, 1 / mean.clamp(min=1e-300), torch.zeros_like(mean)).numpy()


class Prior(NamedTuple):
    """What the FSC says about the signal, shell by shell.

    Attributes
    ----------
    ssnr
        Spectral signal-to-noise ratio: ``rlnSsnrMap``.
    tau2
        Signal power per component: ``rlnReferenceTau2``.
    """

    ssnr: Float[ndarray, "shells"]
    tau2: Float[ndarray, "shells"]


def signal_prior(
    fsc: Float[ndarray, "shells"],
    sigma2: Float[ndarray, "shells"],
    tau2_fudge: float = 1.0,
    *,
    whole: bool = False,
) -> Prior:
    """Signal power from the half-map FSC.

    Parameters
    ----------
    sigma2
        Of :func:`map_noise`.
    whole
        The map is made from both halves: sqrt(2 FSC / (1 + FSC)) takes the place of the FSC.
    """
    clipped = np.clip(fsc, 0.001, None)
    if whole:
        clipped = np.sqrt(2 * clipped / (1 + clipped))
    clipped = np.minimum(clipped, 0.999)
    ssnr = tau2_fudge * clipped / (1 - clipped)
    return Prior(ssnr, ssnr * sigma2)


def reconstruct(
    volume: Float[ndarray, "d d w 4"],
    size: int,
    radius: int,
    padding: float,
    tau2: Float[ndarray, "shells"] | None = None,
    *,
    tau2_fudge: float = 1.0,
    first_shell: int = 5,
    n_dim: int = 2,
) -> Float[Tensor, "n n n"]:
    """Divide sums by weights and prior, transform back, correct for interpolation.

    Parameters
    ----------
    volume
        Complete sums (:func:`complete_sums`).
    radius
        In unpadded pixels; the map holds no data beyond it.
    tau2
        Signal power a shell; None leaves the prior out.
    first_shell
        The prior acts from here on.
    n_dim
        Of the images, as in :func:`make_projector`.

    Notes
    -----
    The divisor is at least a thousandth of its radial mean. The map is faded to the mean of its corners
    between radius n/2 and 3 pixels further out, then divided by sinc²(r / (padding · n)).
    """
    half, width = volume.shape[0] // 2, volume.shape[2]
    reach = padded_radius(radius, padding)
    square = radius_grid(half, width)
    inside = square <= reach * reach
    weight = torch.as_tensor(volume[..., 2]).double()
    if tau2 is not None:
        shell = torch.floor(square.sqrt() / padding + 0.5).long().clamp(max=len(tau2) - 1)
        power = torch.as_tensor(tau2).double()[shell]
        prior = torch.where(power > 0, 1 / (padding**3 * tau2_fudge * power.clamp(min=1e-300)), 1000 * weight)
        weight = weight + torch.where((square < reach * reach) & (shell >= first_shell), prior, 0.0)
    ring = torch.floor(square.sqrt() / padding).long()
    n_rings = int(radius) + 2
    in_ring = (square < reach * reach) & (ring < n_rings)
    index = torch.where(in_ring, ring, n_rings).flatten()
    total = torch.bincount(index, weights=weight.flatten(), minlength=n_rings + 1)
    count = torch.bincount(index, minlength=n_rings + 1)
    mean = (total / (1000.0 * count.clamp(min=1)))[:n_rings]
    last = int((count[:n_rings] > 0).nonzero().max())
    divisor = torch.maximum(weight, mean[ring.clamp(max=last)])
    data = torch.complex(torch.as_tensor(volume[..., 0]), torch.as_tensor(volume[..., 1])).to(
        torch.complex128
    )
    data = torch.where(inside & (divisor > 0), data / divisor.clamp(min=1e-300), 0.0)

    big = padded_radius(size, padding)
    big += big % 2
    spectrum = torch.zeros((big, big, big // 2 + 1), dtype=torch.complex128)
    index = torch.arange(big)
    row = torch.where(index <= big // 2, index, index - big)
    legal = row.abs() <= half
    rows = row[legal] + half
    columns = min(width, big // 2 + 1)
    target = index[legal]
    block = data[rows][:, rows][:, :, :columns]
    spectrum[target[:, None, None], target[None, :, None], torch.arange(columns)[None, None, :]] = block
    real = torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(big,) * 3, norm="forward"))
    first = big // 2 - size // 2
    real = real[first : first + size, first : first + size, first : first + size]
    real = real / (padding**3 * (size if n_dim == 2 else 1))
    real = fill_outside(real, soft_disc(size, size / 2, 3.0, n_dim=3), n_dim=3)
    return real / interpolation_falloff(size, padding)


def solvent_corrected_fsc(
    half1: Float[Tensor, "n n n"],
    half2: Float[Tensor, "n n n"],
    mask: Float[Tensor, "n n n"],
    current_size: int,
    seed: int = 0,
) -> Float[ndarray, "shells"]:
    """FSC of unregularised half maps in a mask, what the mask itself correlates removed; 0 beyond the data.

    References
    ----------
    Chen et al. (2013), Ultramicroscopy 135, 24.
    """
    try:
        curves = fsc.masked_fsc(half1, half2, mask, 0.8, seed=seed)
    except ValueError:  # never below 0.8: nothing to randomise
        curve = fsc.fourier_shell_correlation(half1, half2)
    else:
        curve = curves.corrected.clone()
        tail = slice(curves.randomised_from + 2, None)
        curve[tail] = torch.where(curves.randomised[tail] > curves.masked[tail], 0.0, curve[tail])
    curve[0] = 1.0
    curve[current_size // 2 + 1 :] = 0.0
    return curve.numpy()


def average_fsc(
    half1: Float[ndarray, "d d w 4"],
    half2: Float[ndarray, "d d w 4"],
    radius: int,
    padding: float,
    n_shells: int,
) -> Float[ndarray, "shells"]:
    """FSC of two half sets' averages without a mask, straight from their sums.

    Notes
    -----
    RELION: data and weights of padded voxels are added up at the nearest voxel of the unpadded grid and
    divided there; shells are rounded radii on that grid.
    """
    half, width = half1.shape[0] // 2, half1.shape[2]
    reach = padded_radius(radius, padding)
    k = torch.arange(-half, half + 1).double()
    x = torch.arange(width).double()

    def nearest(values: Tensor) -> Tensor:
        # Half away from zero.
        return torch.sign(values) * torch.floor(values.abs() / padding + 0.5)

    z, y, x = nearest(k).long(), nearest(k).long(), nearest(x).long()
    span, columns = int(z.max()), int(x.max()) + 1
    index = ((z + span)[:, None, None] * (2 * span + 1) + (y + span)[None, :, None]) * columns + x
    inside = radius_grid(half, width) <= reach * reach
    # The plane x = 0 holds both mates, so that it is complete; nothing is counted twice elsewhere.
    total = (2 * span + 1) ** 2 * columns
    transforms = []
    for volume in (half1, half2):
        parts = [
            torch.bincount(
                index[inside], weights=torch.as_tensor(volume[..., part])[inside].double(), minlength=total
            )
            for part in range(3)
        ]
        weight = parts[2]
        good = weight > 0
        divisor = torch.where(good, weight, 1.0)
        transforms.append(torch.complex(parts[0] / divisor, parts[1] / divisor) * good)
    kz = torch.arange(-span, span + 1).double()
    kx = torch.arange(columns).double()
    square = squared_radius(kz, kz, kx)
    shell = torch.floor(square.sqrt() + 0.5).long()
    shell = torch.where(square <= radius * radius, shell, n_shells).clamp(max=n_shells).flatten()

    def sums(values: Tensor) -> Tensor:
        return torch.bincount(shell, weights=values, minlength=n_shells + 1)[:n_shells]

    a, b = transforms
    cross = sums((a * b.conj()).real)
    powers = sums(a.abs() ** 2) * sums(b.abs() ** 2)
    curve = torch.where(powers > 0, cross / powers.clamp(min=1e-300).sqrt(), torch.zeros_like(cross))
    curve[0] = 1.0
    return curve.numpy()


def fourier_completeness(
    volume: Float[ndarray, "d d w 4"], radius: int, padding: float, n_shells: int
) -> Float[ndarray, "shells"]:
    """Share of the voxels of each shell that hold more than a thousandth of the shell's mean weight."""
    square = radius_grid(volume.shape[0] // 2, volume.shape[2])
    shell = torch.floor(square.sqrt() / padding + 0.5).long()
    reach = padded_radius(radius, padding)
    shell = torch.where(square < reach * reach, shell, n_shells).clamp(max=n_shells).flatten()
    weight = torch.as_tensor(volume[..., 2]).double().flatten()
    count = torch.bincount(shell, minlength=n_shells + 1).double()
    mean = torch.bincount(shell, weights=weight, minlength=n_shells + 1) / count.clamp(min=1)
    there = (weight > 1e-3 * mean[shell]).double()
    share = torch.bincount(shell, weights=there, minlength=n_shells + 1) / count.clamp(min=1)
    return share[:n_shells].numpy()


def lowpass_to_shell(volume: Float[Tensor, "n n n"], shell: float) -> Float[Tensor, "n n n"]:
    """Raised-cosine low-pass: 1 below shell - 1, 0 above shell + 1; the shell need not be whole (RELION)."""
    size = volume.shape[0]
    index = torch.fft.fftfreq(size, dtype=torch.float64) * size
    last = torch.arange(size // 2 + 1, dtype=torch.float64)
    t = ((squared_radius(index, index, last).sqrt() - (shell - 1)) / 2).clamp(0, 1)
    factor = 0.5 + 0.5 * torch.cos(torch.pi * t)
    return torch.fft.irfftn(torch.fft.rfftn(volume.double()) * factor, s=(size,) * 3)


def current_resolution_shell(ssnr: Float[ndarray, "shells"]) -> int:
    """Last shell up to which the SSNR stays at or above 1; at least 5.

    Notes
    -----
    RELION also looks from Nyquist downwards for the last shell above 1 and takes it if it is more than 3
    shells further out.
    """
    below = np.flatnonzero(ssnr[1:] < 1)
    steady = int(below[0]) if len(below) else len(ssnr) - 1
    above = np.flatnonzero(ssnr > 1)
    outermost = int(above[-1]) if len(above) else 0
    shell = outermost if outermost > steady + 3 else steady
    return max(5, shell)


def resolution_of(references: list[Tensor] | None, edge_angst: float) -> float:
    """Resolution (Å) to which two start maps agree (FSC 0.5); for the same map twice: Nyquist."""
    if references is None:
        return edge_angst / 5
    curve = fsc.fourier_shell_correlation(references[0].double(), references[1].double())
    below = fsc.first_below(curve, 0.5, 1)
    shell = len(curve) - 1 if below is None else max(5, below - 1)
    return edge_angst / shell
