"""Noise and grey scale of the images, from what particles added up."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from napari_sta.kernels.refine.pixels import pixels_per_shell
from napari_sta.kernels.refine.sums import Sums
from napari_sta.kernels.refine.voxels import voxels_per_shell

_PRIOR_PIXELS = 40.0
"""A tilt's noise in a shell counts like so many pixels of what the other tilts of its series show."""


def noise_by_tilt(
    residual: Float[ndarray, "s t shells"],
    weight: Float[ndarray, "s t"],
    model_shells: Float[ndarray, "s t shells"],
    mask_share: float,
    n_dim: int = 2,
) -> Float[ndarray, "s t shells"]:
    """Noise power per component of the raw images of every tilt.

    Parameters
    ----------
    residual, weight
        :attr:`Sums.tilt_residual` and ``tilt_weight``.
    model_shells
        Sums over the half-plane pixels of each shell of what noise was multiplied by: CTF² of premultiplied
        images, 1 of others.
    mask_share
        Mean of the squared mask over the image: masked images hold this share of the noise.
    n_dim
        3 for pseudo-subtomograms.

    Notes
    -----
    With few particles a shell of one tilt holds few pixels; it leans on the average over the tilts of its
    series, and that on the average over all series, as on ``_PRIOR_PIXELS`` pixels more.
    """
    expected = 2 * mask_share * weight[..., None] * model_shells
    residual = np.maximum(residual, 0)

    def ratio(top: ndarray, bottom: ndarray, guess: ndarray, worth: ndarray) -> ndarray:
        return (top + worth * guess) / np.maximum(bottom + worth, 1e-300)

    whole = _filled(residual.sum(axis=(0, 1)), expected.sum(axis=(0, 1)))
    seen = weight > 0
    per_pixel = expected.sum(axis=(0, 1)) / np.maximum(seen.sum(), 1)
    n_pixels = model_shells.shape[-1] and np.maximum(_pixels(model_shells.shape[-1], n_dim), 1.0)
    typical = per_pixel / n_pixels / np.maximum(weight[seen].mean() if seen.any() else 1.0, 1e-300)
    worth = _PRIOR_PIXELS * typical
    series = ratio(residual.sum(axis=1), expected.sum(axis=1), whole, worth)
    return np.asarray(ratio(residual, expected, series[:, None], worth))


def _pixels(n_shells: int, n_dim: int) -> Float[ndarray, "shells"]:
    if n_dim == 3:
        return voxels_per_shell(2 * (n_shells - 1))
    return pixels_per_shell(2 * (n_shells - 1))


def _filled(top: Float[ndarray, "shells"], bottom: Float[ndarray, "shells"]) -> Float[ndarray, "shells"]:
    """Quotient; shells without data take the nearest one with data."""
    good = np.flatnonzero((bottom > 0) & (top > 0))
    if not len(good):
        return np.ones_like(top)
    nearest = good[np.abs(np.arange(len(top))[:, None] - good[None]).argmin(axis=1)]
    return top[nearest] / bottom[nearest]


def fitted_scale(
    cross: Float[ndarray, "s t shells"],
    norm: Float[ndarray, "s t shells"],
    power: Float[ndarray, "s t shells"],
    count: Float[ndarray, "s t shells"],
    last_shell: int,
) -> tuple[float, float]:
    """Grey scale of images relative to a reference, by least squares at given poses.

    Parameters
    ----------
    cross, norm
        Shell sums of Re(conj(M V) X) and abs(M V)² (:class:`Sums`).
    power, count
        Shell sums of abs(X)², and how many pixels they hold: the weights of the shells.
    last_shell
        Of the reference's data.

    Returns
    -------
    scale
        What the reference has to be multiplied by.
    significance
        The fit over its standard error.
    """
    shells = slice(1, last_shell + 1)
    noise = power[..., shells] / np.maximum(2 * count[..., shells], 1e-300)
    good = noise > 0
    inverse = np.where(good, 1 / np.where(good, noise, 1), 0)
    top, bottom = float((cross[..., shells] * inverse).sum()), float((norm[..., shells] * inverse).sum())
    if bottom <= 0:
        return 1.0, 0.0
    return top / bottom, top / np.sqrt(bottom)


def update_noise(sums: Sums, size: int, *, premultiplied: bool = True) -> Float[ndarray, "g shells"]:
    """Noise power of each optics group from the residuals.

    Notes
    -----
    RELION: at least 1e-15 for premultiplied images; a shell below 1e-14 takes the value of the one before.
    """
    count = pixels_per_shell(size)
    if sums.multiplicity.any():  # volumes: noise of one slice
        expected = 2 * np.maximum(sums.multiplicity, 1e-300)
    else:
        expected = 2 * np.maximum(sums.n_images, 1e-300)[:, None] * count
    sigma2 = sums.residual / expected
    if premultiplied:
        sigma2 = np.maximum(sigma2, 1e-15)
    for shell in range(1, sigma2.shape[1]):
        low = sigma2[:, shell] < 1e-14
        sigma2[low, shell] = sigma2[low, shell - 1]
    return sigma2


def update_scales(
    sums: Sums, ssnr: Float[ndarray, "shells"], n_particles: Int[ndarray, "s"], threshold: float = 3.0
) -> Float[ndarray, "s"]:
    """Scale of each tomogram: how strong its images are relative to the reference.

    Parameters
    ----------
    n_particles
        (s,) particles of each tomogram in this half set.

    Notes
    -----
    Sum of cross / sum of norm over shells with SSNR above the threshold, 1 without any; clamped to a fifth
    and five times the median, then divided by the mean over particles.
    """
    good = ssnr > threshold
    top, bottom = (values[..., good].sum(axis=(1, 2)) for values in (sums.cross, sums.norm))
    scale = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 1.0)
    median = np.sort(scale)[len(scale) // 2]
    if median <= 0:  # nothing to go by
        return np.ones_like(scale)
    scale = np.clip(scale, median / 5, 5 * median)
    scale = scale / ((scale * n_particles).sum() / max(n_particles.sum(), 1))
    return np.maximum(scale, 1e-3)


def update_sigma2_offset(sums: Sums, minimum_angst2: float = 2.0) -> float:
    """Variance of offsets per axis, Å²."""
    return max(minimum_angst2, sums.offset2_angst2 / (3 * max(sums.weight, 1e-300)))
