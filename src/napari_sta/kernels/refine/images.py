"""Images as refinement wants them: masked, transformed, with their powers and the CTF at listed pixels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier
from napari_sta.kernels.grids import squared_radius
from napari_sta.kernels.refine.pixels import PixelList


def soft_disc(
    size: int, radius_px: float, edge_px: float, n_dim: int = 2, device: torch.device | str = "cpu"
) -> Float[Tensor, ...]:
    """Disc or ball about pixel size // 2: 1 inside the radius, raised cosine over the edge outside it."""
    index = torch.arange(size, dtype=torch.float64, device=device) - size // 2
    t = ((squared_radius(*[index] * n_dim).sqrt() - radius_px) / edge_px).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * t)


def fill_outside(
    images: Float[Tensor, "*n h w"], disc: Float[Tensor, "*d h w"], n_dim: int = 2
) -> Float[Tensor, "*n h w"]:
    """Replace what lies outside a soft disc (or ball) by its own mean.

    Notes
    -----
    RELION's mask "with zeros": pixels of the edge count by how far outside they are.
    """
    axes = tuple(range(-n_dim, 0))
    outside = (1 - disc).to(torch.float64)
    mean = (images.to(torch.float64) * outside).sum(dim=axes, keepdim=True) / outside.sum().clamp(min=1e-300)
    return (images * disc + mean * outside).to(images.dtype)


def image_transforms(images: Float[Tensor, "n s s"]) -> Complex[Tensor, "n s h"]:
    """Half transforms divided by the number of pixels, phase origin at the box centre, FFTW order."""
    size = images.shape[-1]
    spectra = torch.fft.rfft2(images) / (size * size)
    return spectra * fourier.checkerboard((size, size), images.device)


def pixel_ctf(
    coefficients: Float[ndarray, "t 5"],
    envelopes: Float[ndarray, "t shells"] | Float[ndarray, "t n"],
    pixels: PixelList,
    pixel_size_angst: float,
    *,
    first_peak: bool = False,
    extra_phase: Float[ndarray, "n"] | None = None,
) -> Float[ndarray, "t n"]:
    """CTF at listed pixels: -sin(gamma) times an envelope, float64, never nearer to zero than 1e-8.

    Parameters
    ----------
    first_peak
        Leave the CTF at 1 up to its first peak (abs(gamma) < pi / 2).
    extra_phase
        Added to gamma: symmetric aberrations beyond the spherical one.
    """
    v, u = (k / (pixels.size * pixel_size_angst) for k in (pixels.v, pixels.u))
    square = v * v + u * u
    c = coefficients[:, :, None]
    gamma = c[:, 0] * v * v + c[:, 1] * v * u + c[:, 2] * u * u + c[:, 3] * square * square + c[:, 4]
    if extra_phase is not None:
        gamma = gamma + extra_phase
    ctf = -np.sin(gamma)
    if first_peak:
        ctf = np.where(np.abs(gamma) < np.pi / 2, 1.0, ctf)
    ctf = ctf * envelopes
    return np.where(np.abs(ctf) < 1e-8, np.where(ctf < 0, -1e-8, 1e-8), ctf)


def shell_powers(
    spectra: Complex[Tensor, "t *grid"], shells: Int[Tensor, "*grid"], n_shells: int
) -> Float[ndarray, "t shells"]:
    """Sum abs(F)² over shells, image by image, float64."""
    power = (spectra.real.double() ** 2 + spectra.imag.double() ** 2).flatten(1)
    out = torch.zeros((len(spectra), n_shells + 1), dtype=torch.float64)
    index = shells.flatten().clamp(max=n_shells).expand_as(power)
    out.scatter_add_(1, index, power)
    return out[:, :n_shells].numpy()


def initial_noise(spectra: Complex[Tensor, "n s h"]) -> Float[ndarray, "shells"]:
    """Noise power from the images themselves: their mean power, less that of their average.

    Parameters
    ----------
    spectra
        Of the (masked) images of one optics group.

    Notes
    -----
    The whole stored half transform counts, both mates of the column u = 0 included (RELION). A shell that
    comes out negative takes the last positive value before it, or the next one after it.
    """
    size = spectra.shape[1]
    shells, n_shells = fourier.shell_index((size, size)), size // 2 + 1
    count = torch.bincount(shells.flatten(), minlength=n_shells)[:n_shells].double().numpy()
    power = shell_powers(spectra, shells, n_shells).mean(axis=0)
    average = shell_powers(spectra.mean(dim=0, keepdim=True), shells, n_shells)[0]
    return filled_noise((power - average) / (2 * count))


def filled_noise(sigma2: Float[ndarray, "shells"]) -> Float[ndarray, "shells"]:
    """Give shells that are not positive the last positive value before them, or the next one; in place."""
    n_shells = len(sigma2)
    good = np.flatnonzero(sigma2 > 0)
    if not len(good):
        return np.full(n_shells, 1.0)
    for shell in np.flatnonzero(sigma2 <= 0):
        before = good[good < shell]
        sigma2[shell] = sigma2[before[-1] if len(before) else good[0]]
    return sigma2


def window_power(spectra: Complex[Tensor, "t s h"], radius: int) -> Float[ndarray, "t"]:
    """Sum abs(F)² over the window -radius < v <= radius, u <= radius of half transforms (FFTW order)."""
    rows = torch.arange(-radius + 1, radius + 1) % spectra.shape[1]
    window = spectra[:, rows, : radius + 1]
    return (window.real.double() ** 2 + window.imag.double() ** 2).sum(dim=(1, 2)).numpy()
