"""3D refinement, expectation: what each particle adds to averages, noise and scales.

Conventions as in :mod:`napari_sta.kernels.refinement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.refinement import (
    ParticleImages,
    PixelList,
    Posterior,
    Projector,
    gather,
    padded_radius,
    shift_images,
    slice_axes,
)
from napari_sta.kernels.refinement_volumes import VoxelList, VoxelPart

STATISTICS = ("residual", "n_images", "norm", "cross", "tilt_residual", "tilt_weight", "slices")
"""Arrays of :class:`Sums` other than the volume."""


@dataclass
class Sums:
    """Weighted sums of one half set (or of one thread's share of it).

    Attributes
    ----------
    volume
        (d, d, w, 4) float32 on the padded grid: data (re, im), weight, 0; see :func:`new_sums`. A tensor
        where a torch device does the work.
    residual
        (groups, shells) float64.
    n_images
        (optics groups,) what the residual is divided by.
    norm, cross
        (tomograms, tilts, shells) those of the scale.
    tilt_residual, tilt_weight
        (tomograms, tilts, shells) residuals, and (tomograms, tilts) sums of posterior weights.
    slices
        (optics groups, shells) multiplicities of pseudo-subtomograms; 0 of stacks.
    weight, offset2_angst2, p_max, n_particles
        Sums over particles.
    """

    volume: Float[ndarray, "d d w 4"] | Float[Tensor, "d d w 4"]
    residual: Float[ndarray, "g shells"]
    n_images: Float[ndarray, "g"]
    norm: Float[ndarray, "s t shells"]
    cross: Float[ndarray, "s t shells"]
    tilt_residual: Float[ndarray, "s t shells"]
    tilt_weight: Float[ndarray, "s t"]
    slices: Float[ndarray, "g shells"]
    weight: float = 0.0
    offset2_angst2: float = 0.0
    p_max: float = 0.0
    n_particles: int = 0

    def add_statistics(self, other: Sums) -> None:
        """Add another thread's share of everything but the volume."""
        for name in STATISTICS:
            mine = getattr(self, name)
            mine += getattr(other, name)
        self.weight += other.weight
        self.offset2_angst2 += other.offset2_angst2
        self.p_max += other.p_max
        self.n_particles += other.n_particles


def new_sums(
    radius: int,
    padding: float,
    n_optics: int,
    n_series: int,
    n_shells: int,
    n_tilts: int = 1,
    volume: Float[Tensor, "d d w 4"] | None = None,
) -> Sums:
    """Make empty sums for data up to a radius.

    Parameters
    ----------
    n_tilts
        Of the longest tilt series.
    volume
        On a torch device, to be shared by several sums; None: one of their own.
    """
    half = padded_radius(radius, padding) + 1
    by_tilt = (n_series, n_tilts, n_shells)
    return Sums(
        np.zeros((2 * half + 1, 2 * half + 1, half + 1, 4), np.float32) if volume is None else volume,
        np.zeros((n_optics, n_shells)), np.zeros(n_optics),
        np.zeros(by_tilt), np.zeros(by_tilt), np.zeros(by_tilt), np.zeros((n_series, n_tilts)),
        np.zeros((n_optics, n_shells)),
    )  # fmt: skip


def add_particle(
    sums: Sums,
    posterior: Posterior,
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
    optics: int,
    series: int,
    pixel_size_angst: float,
    *,
    tilts: ndarray | None = None,
    statistics: bool = True,
    average: bool = True,
    per_image: bool = True,
    drop_row_ends: bool = False,
) -> None:
    """Add one particle's images, at all poses that matter, to the sums.

    Parameters
    ----------
    optics, series
        Index of its optics group and of its tomogram.
    tilts
        (t,) places of its images in the tilt series; None: the first ones. A volume has place 0.
    statistics
        False leaves noise and scale sums alone (cross-correlation iteration).
    average
        False leaves the volume alone.
    per_image
        Noise is averaged over images; False: over particles, whatever their number of tilts (RELION's
        accelerated path).
    drop_row_ends
        Leave the outermost pixel of each row of an image out of the average, as RELION's accelerated path on
        CPUs does: its last two shells hold fewer data.
    """
    from napari_sta.kernels._numba_refine import add_statistics

    n, n_shells = len(pixels), sums.residual.shape[1]
    weights = np.ascontiguousarray(posterior.weights, dtype=np.float32)
    of_orientation = posterior.weights.sum(axis=1)
    total = float(of_orientation.sum())
    of_orientation = of_orientation.astype(np.float32)
    shifts = particle.offset_zyx_px + posterior.shifts_zyx_px
    kept = np.ones(n)
    if drop_row_ends and isinstance(pixels, PixelList):
        kept[pixels.row_start + pixels.row_n - 1] = 0
    residual, cross, norm = (np.zeros((particle.n_tilts, n_shells)) for _ in range(3))
    n_here = particle.n_tilts
    if projector.on_device is not None:
        from napari_sta.kernels import refinement_torch

        volume = torch.as_tensor(sums.volume) if average else None
        cross, norm = refinement_torch.add_images(
            volume, projector, particle, pixels, posterior.rotations_zyx, shifts, weights, kept, n_shells,
            statistics=statistics,
        )  # fmt: skip
        n_here = 0
    ramps = np.empty((len(shifts), 2 * n), np.float32)
    slices = np.empty((len(weights), 2 * n), np.float32)
    mean = torch.empty((len(weights), 2 * n))
    ignored = np.zeros(len(weights))
    scale = particle.scale
    w = torch.from_numpy(weights)
    no_weight = np.zeros(n, np.float32)
    for t in range(n_here):
        q = particle.matrices_zyx[t]
        here = pixels.part(t)
        axes = slice_axes(q @ posterior.rotations_zyx, projector.padding, here.n_dim)
        moved = shifts @ q[3 - here.n_dim :].T
        if statistics:
            shift_images(particle.masked[t], moved, here, ramps)
            torch.mm(w, torch.from_numpy(ramps), out=mean)
            gather(projector, axes, here, no_weight, slices, ignored)
            add_statistics(
                slices, mean.numpy(), of_orientation, particle.model[t], here.shell, residual[t], cross[t],
                norm[t],
            )  # fmt: skip
        if average:
            shift_images(particle.unmasked[t], moved, here, ramps)
            torch.mm(w, torch.from_numpy(ramps), out=mean)
            factor, weight = particle.sum_weights(t, here)
            data = mean.numpy()
            data *= np.tile((factor * kept).astype(np.float32), 2)
            assert isinstance(sums.volume, np.ndarray)
            _scatter(data, (weight * kept).astype(np.float32), of_orientation, axes, here, sums.volume)
    if statistics:
        if isinstance(pixels, VoxelList):  # one image in parts
            residual, cross, norm = (one.sum(axis=0, keepdims=True) for one in (residual, cross, norm))
            tilts = np.zeros(1, dtype=np.int64)
        n_images = particle.n_images
        share = scale * scale * norm - 2 * scale * cross
        top = int(pixels.shell.max()) + 1
        share[:, :top] += total * particle.power[:, :top]
        share[:, top:] = total * particle.power[:, top:]
        where = np.arange(n_images) if tilts is None else tilts
        sums.norm[series, where] += norm
        sums.cross[series, where] += cross
        sums.tilt_residual[series, where] += share
        sums.tilt_weight[series, where] += total
        # Beyond the window RELION counts every particle fully, whatever weight it kept.
        share[:, top:] = particle.power[:, top:]
        divisor = 1.0 if per_image else float(n_images)
        sums.residual[optics] += share.sum(axis=0) / divisor
        sums.n_images[optics] += total * n_images / divisor
        if particle.slices is not None:
            sums.slices[optics] += total * particle.slices
    distance = pixel_size_angst * (particle.offset_prior_zyx_px - shifts)
    sums.offset2_angst2 += float((posterior.weights.sum(axis=0) * (distance * distance).sum(axis=1)).sum())
    sums.weight += total
    sums.p_max += posterior.p_max
    sums.n_particles += 1


def _scatter(
    data: Float[ndarray, "o m"],
    weight: Float[ndarray, "n"],
    of_orientation: Float[ndarray, "o"],
    axes: Float[ndarray, "o a 3"],
    pixels: PixelList | VoxelPart,
    volume: Float[ndarray, "d d w 4"],
) -> None:
    """Spread slices, or parts of turned volumes, into the sums."""
    from napari_sta.kernels import _numba_refine, _numba_voxels

    if isinstance(pixels, VoxelPart):
        _numba_voxels.scatter_voxels(
            data, weight, of_orientation, axes, pixels.kw, pixels.kv, pixels.ku, volume
        )
    else:
        _numba_refine.scatter_rows(data, weight, of_orientation, axes, pixels.kv, pixels.ku, volume)


# ----------------------------------------------------------------------------------------------------
# Noise of each tilt image

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
    from napari_sta.kernels.refinement import pixels_per_shell
    from napari_sta.kernels.refinement_volumes import voxels_per_shell

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


def at_pose(rotation_zyx: Float[ndarray, "3 3"]) -> Posterior:
    """Posterior that is sure of one pose: the particle's current offset and this rotation."""
    return Posterior(
        rotation_zyx[None], np.zeros((1, 3)), np.ones((1, 1)), np.zeros(1, dtype=np.int64), (0, 0), 1, 0.0
    )


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
