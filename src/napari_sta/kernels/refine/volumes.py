"""Pseudo-subtomograms as refinement wants them: transforms, powers and what their weights say.

A pseudo-subtomogram is the sum of CTF-multiplied tilt images, back-projected into a small volume, with two
weights per voxel: the sum of CTF² and the *multiplicity*, how many slices crossed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier
from napari_sta.kernels.refine.images import filled_noise, shell_powers
from napari_sta.kernels.refine.voxels import half_space_shells


def volume_transform(volume: Float[Tensor, "s s s"]) -> Complex[Tensor, "s s h"]:
    """Half transform divided by the number of voxels, phase origin at the box centre, FFTW order."""
    size = volume.shape[-1]
    return torch.fft.rfftn(volume) / size**3 * fourier.checkerboard((size,) * 3, volume.device)


def volume_window_power(spectrum: Complex[Tensor, "s s h"], radius: int) -> float:
    """Sum abs(F)² over the window -radius < w, v <= radius, u <= radius of a half transform."""
    rows = torch.arange(-radius + 1, radius + 1) % spectrum.shape[0]
    window = spectrum[rows][:, rows][:, :, : radius + 1]
    return float((window.real.double() ** 2 + window.imag.double() ** 2).sum())


def spreading_falloff(size: int) -> Float[Tensor, "s s s"]:
    """Compute what trilinear spreading on the volume's own grid multiplied it by: sinc² along each axis."""
    index = torch.arange(size, dtype=torch.float64) - size // 2
    one = torch.sinc(index / size) ** 2
    return one[:, None, None] * one[None, :, None] * one[None, None, :]


def moved_by_voxels(volume: Float[Tensor, "s s s"], shift_zyx: Sequence[int]) -> Float[Tensor, "s s s"]:
    """Move a volume by whole voxels; what comes in from outside is 0."""
    out = torch.zeros_like(volume)
    size = volume.shape[0]
    shift_zyx = [max(-size, min(size, d)) for d in shift_zyx]
    to = tuple(slice(max(0, d), min(size, size + d)) for d in shift_zyx)
    come = tuple(slice(max(0, -d), min(size, size - d)) for d in shift_zyx)
    out[to] = volume[come]
    return out


class Weights(NamedTuple):
    """Weights of a pseudo-subtomogram on the half grid, FFTW order.

    Attributes
    ----------
    ctf2
        Sum of CTF² of the slices through each voxel: what multiplies the particle.
    multiplicity
        Number of slices through each voxel.
    """

    ctf2: Float[Tensor, "s s h"]
    multiplicity: Float[Tensor, "s s h"]


def weights_of(stored: Float[Tensor, "d s h"], least: float = 0.01) -> Weights:
    """Take CTF² and multiplicity from a weights file of 2 · size slabs; both 0 where hardly a slice came.

    Parameters
    ----------
    least
        Multiplicity below which a voxel is empty (RELION's ``--subtomo_multi_thr``).
    """
    size = stored.shape[0] // 2
    ctf2, multiplicity = stored[:size].abs(), stored[size:]
    there = multiplicity > least
    return Weights(ctf2 * there, multiplicity * there)


def initial_volume_noise(
    spectra: Sequence[Complex[Tensor, "s s h"]], multiplicities: Sequence[Float[Tensor, "s s h"]]
) -> Float[ndarray, "shells"]:
    """Noise power of one slice: power of the volumes, less that of their average, per multiplicity.

    As :func:`~napari_sta.kernels.refine.images.initial_noise` of images.
    """
    size = spectra[0].shape[0]
    shells, n_shells = half_space_shells(size), size // 2 + 1
    n = len(spectra)
    power = sum(shell_powers(one[None], shells, n_shells)[0] for one in spectra)
    mean = sum(spectra[1:], spectra[0]) / n
    average = shell_powers(mean[None], shells, n_shells)[0]
    total = sum(shell_totals(one, shells, n_shells) for one in multiplicities)
    return filled_noise((power - n * average) / np.maximum(2 * np.asarray(total), 1e-300))


def shell_totals(
    values: Float[Tensor, "s s h"], shells: Int[Tensor, "s s h"], n_shells: int
) -> Float[ndarray, "shells"]:
    """Sum values over shells, float64."""
    index = shells.flatten().clamp(max=n_shells)
    return torch.bincount(index, weights=values.flatten().double(), minlength=n_shells + 1)[:n_shells].numpy()
