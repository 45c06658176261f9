"""Fourier shell correlation, phase randomisation, resolution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier
from napari_sta.kernels.shells import first_below


def fourier_shell_correlation(
    a: Float[Tensor, "n n n"], b: Float[Tensor, "n n n"]
) -> Float[Tensor, "shells"]:
    """Correlate two volumes shell by shell in Fourier space.

    Parameters
    ----------
    a, b
        Real-space half maps with the same sampling, masked already if they are to be.

    Returns
    -------
    fsc
        float64 in [-1, 1], shells 0 ... n / 2. Shell ``k`` is centred on ``k / n`` cycles per pixel.

    Raises
    ------
    ValueError
        If the volumes are not cubic or differ in shape.

    Notes
    -----
    A Fourier pixel counts towards its nearest shell; the half transform is summed as stored, so that the
    x = 0 plane counts twice, as in RELION.

    References
    ----------
    Harauz & van Heel (1986), Optik 73, 146. Rosenthal & Henderson (2003), J. Mol. Biol. 333, 721.
    """
    if a.shape != b.shape or len(set(a.shape)) != 1:
        raise ValueError(
            f"FSC needs two cubic volumes of one size, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return fsc_of_transforms(
        torch.fft.rfftn(a.to(torch.float64)), torch.fft.rfftn(b.to(torch.float64)), a.shape[0]
    )


def fsc_of_transforms(a: Tensor, b: Tensor, size: int) -> Float[Tensor, "shells"]:
    """FSC of two half transforms in FFTW order (any normalisation)."""
    shells = fourier.shell_index((size,) * 3, a.device)
    n_shells = size // 2 + 1
    cross = fourier.shell_sum(a.real * b.real + a.imag * b.imag, shells, n_shells)
    power_a = fourier.shell_sum(a.real**2 + a.imag**2, shells, n_shells)
    power_b = fourier.shell_sum(b.real**2 + b.imag**2, shells, n_shells)
    return cross / (power_a * power_b).sqrt().clamp(min=1e-300)


def randomise_phases(
    volume: Float[Tensor, "n n n"], from_shell: int, stream: RelionRandom
) -> Float[Tensor, "n n n"]:
    """Keep amplitudes and draw new phases from a shell outwards (|k| >= from_shell).

    Parameters
    ----------
    stream
        Where the phases come from; two half maps take theirs from one stream in turn.

    References
    ----------
    Chen et al. (2013), Ultramicroscopy 135, 24.
    """
    size = volume.shape[0]
    spectrum = torch.fft.rfftn(volume.to(torch.float64))
    replaced = fourier.radius_px((size,) * 3, volume.device) ** 2 > from_shell**2 - 0.5
    angle = torch.as_tensor(stream.phases(int(replaced.sum())), device=volume.device)
    spectrum[replaced] = torch.polar(spectrum[replaced].abs(), angle)
    return torch.fft.irfftn(spectrum, s=(size,) * 3)


class RelionRandom:
    """Numbers that RELION would draw: the C library's additive generator, seeded.

    Reproducing its stream makes phase-randomised FSCs, and refinements with perturbed grids, comparable
    number by number instead of only statistically.

    Parameters
    ----------
    seed
        0 and 1 give the same stream, as in C.

    References
    ----------
    glibc ``random_r`` TYPE_3: x[i] = x[i-3] + x[i-31] mod 2^32, output x >> 1, first 310 values dropped.
    """

    def __init__(self, seed: int = 0) -> None:
        state = [seed or 1]
        for _ in range(30):
            state.append(16807 * state[-1] % 2147483647)
        self._state = np.array(state[3:] + state[:3], dtype=np.uint32)
        self._next(310)

    def _next(self, count: int) -> ndarray:
        from napari_sta.kernels.compiled.random import additive_generator

        values = additive_generator(self._state, count)
        self._state = np.concatenate([self._state, values])[-31:]
        return values

    def uniform(self, count: int) -> Float[ndarray, "n"]:
        """Draw numbers in [0, 1] as the C library's rand() / RAND_MAX."""
        return (self._next(count) >> np.uint32(1)).astype(np.float64) / 2147483647.0

    def phases(self, count: int) -> Float[ndarray, "n"]:
        """Draw phases in [0, 2 pi], in float32 steps as RELION computes them, as float64."""
        raw = (self._next(count) >> np.uint32(1)).astype(np.float32)
        return (raw / np.float32(np.float32(2147483647) / np.float32(2 * np.pi))).astype(np.float64)


class MaskedFsc(NamedTuple):
    """FSC curves of two half maps with a mask; each (shells,) float64.

    Attributes
    ----------
    corrected
        (masked - randomised) / (1 - randomised) from two shells beyond ``randomised_from``.
    randomised_from
        First shell whose phases were replaced.
    """

    corrected: Float[Tensor, "shells"]
    unmasked: Float[Tensor, "shells"]
    masked: Float[Tensor, "shells"]
    randomised: Float[Tensor, "shells"]
    randomised_from: int


def masked_fsc(
    half1: Float[Tensor, "n n n"],
    half2: Float[Tensor, "n n n"],
    mask: Float[Tensor, "n n n"],
    randomise_at: float = 0.8,
    from_shell: int | None = None,
    seed: int = 0,
) -> MaskedFsc:
    """Gold-standard FSC with the solvent mask's own contribution removed by phase randomisation.

    Parameters
    ----------
    randomise_at
        Phases are replaced from the first shell whose unmasked FSC is below this.
    from_shell
        Replaces that choice.

    Raises
    ------
    ValueError
        If the unmasked FSC never falls below ``randomise_at``.

    References
    ----------
    Chen et al. (2013), Ultramicroscopy 135, 24.
    """
    half1, half2, mask = (v.to(torch.float64) for v in (half1, half2, mask))
    unmasked = fourier_shell_correlation(half1, half2)
    masked = fourier_shell_correlation(half1 * mask, half2 * mask)
    if from_shell is None:
        from_shell = first_below(unmasked, randomise_at, first=1)
        if from_shell is None:
            raise ValueError(f"the unmasked FSC never falls below {randomise_at:g}")
    stream = RelionRandom(seed)
    randomised = fourier_shell_correlation(
        randomise_phases(half1, from_shell, stream) * mask, randomise_phases(half2, from_shell, stream) * mask
    )
    for curve in (masked, unmasked, randomised):
        if curve[0] <= 0:
            curve[0] = 1.0
    corrected = masked.clone()
    tail = slice(from_shell + 2, None)
    corrected[tail] = (masked[tail] - randomised[tail]) / (1 - randomised[tail])
    return MaskedFsc(corrected, unmasked, masked, randomised, from_shell)
