"""What each particle adds to averages, noise and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.refine.backend import backend_of
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.posterior import Posterior
from napari_sta.kernels.refine.projector import Projector, padded_radius
from napari_sta.kernels.refine.voxels import VoxelList

STATISTICS = ("residual", "n_images", "norm", "cross", "tilt_residual", "tilt_weight", "multiplicity")
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
    multiplicity
        (optics groups, shells) of pseudo-subtomograms: through how many slices voxels went; 0 of stacks.
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
    multiplicity: Float[ndarray, "g shells"]
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
    n, n_shells = len(pixels), sums.residual.shape[1]
    # Axis by axis: a sum over all at once may differ in its last bit from process to process.
    total = float(posterior.weights.sum(axis=1).sum())
    shifts = particle.offset_zyx_px + posterior.shifts_zyx_px
    kept = np.ones(n)
    if drop_row_ends and isinstance(pixels, PixelList):
        kept[pixels.row_start + pixels.row_n - 1] = 0
    scale = particle.scale
    cross, norm = backend_of(projector).add(
        sums.volume if average else None, projector, particle, pixels, posterior.rotations_zyx, shifts,
        posterior.weights, kept, n_shells, statistics=statistics,
    )  # fmt: skip
    if statistics:
        tilts = particle.tilts
        if isinstance(pixels, VoxelList):  # one image in parts
            cross, norm = (one.sum(axis=0, keepdims=True) for one in (cross, norm))
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
        if particle.multiplicity_per_shell is not None:
            sums.multiplicity[optics] += total * particle.multiplicity_per_shell
    distance = pixel_size_angst * (particle.offset_prior_zyx_px - shifts)
    sums.offset2_angst2 += float((posterior.weights.sum(axis=0) * (distance * distance).sum(axis=1)).sum())
    sums.weight += total
    sums.p_max += posterior.p_max
    sums.n_particles += 1
