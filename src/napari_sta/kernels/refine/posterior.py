"""The search of one particle's poses: coarse and fine samples, their weights, and the mean pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector
from napari_sta.kernels.refine.scores import score_poses
from napari_sta.kernels.refine.voxels import VoxelList

_DENSE_SHARE = 0.9
"""From this share of pairs on one matrix product of all is faster than products of pairs."""


def offset_log_prior(
    particle: ParticleImages,
    translations_zyx_angst: Float[ndarray, "s 3"],
    pixel_size_angst: float,
    sigma2_offset_angst2: float,
    relion_units: bool = False,
) -> Float[ndarray, "s"]:
    """Gaussian prior on the total shift, at coarse unperturbed translations.

    Parameters
    ----------
    relion_units
        RELION adds the translation in Å to offsets in pixels and multiplies the sum by the pixel size: steps
        are penalised too much by the square of the pixel size.
    """
    start = particle.offset_zyx_px - particle.offset_prior_zyx_px
    if relion_units:
        distance = pixel_size_angst * (start + translations_zyx_angst)
    else:
        distance = pixel_size_angst * start + translations_zyx_angst
    return -0.5 * (distance * distance).sum(axis=1) / sigma2_offset_angst2


def significant(weights: Float[ndarray, "*n"], fraction: float) -> tuple[ndarray, float]:
    """Pick the largest weights that together make up a fraction of the sum.

    Returns
    -------
    chosen
        Same shape, bool: all weights no smaller than the last one needed to *exceed* the fraction.
    total
        Sum of all weights.
    """
    flat = np.sort(weights, axis=None)[::-1]
    total = float(flat.sum())
    count = int(np.searchsorted(np.cumsum(flat), fraction * total, side="right"))
    threshold = flat[min(count, len(flat) - 1)]
    return (weights >= threshold) & (weights > 0), total


@dataclass(frozen=True)
class Search:
    """What is tried for one particle.

    Attributes
    ----------
    rotations_zyx, log_prior
        (o, 3, 3) coarse orientations, perturbed, and the logarithms of their priors (o,).
    children_zyx
        Gives the finer orientations (p, c, 3, 3) of chosen coarse ones (p,).
    translations_zyx_angst
        (s, 3) coarse translations, unperturbed.
    perturbation_angst
        Added to each component of every translation.
    translation_children_zyx_angst
        (d, 3) finer translations relative to their parent.
    pixel_size_angst, adaptive_fraction
        Of the images; share of the probability that must be kept.
    sigma2_offset_angst2, relion_offset_prior
        See :func:`offset_log_prior`.
    """

    rotations_zyx: Float[ndarray, "o 3 3"]
    log_prior: Float[ndarray, "o"]
    children_zyx: Callable[[Int[ndarray, "p"]], Float[ndarray, "p c 3 3"]]
    translations_zyx_angst: Float[ndarray, "s 3"]
    perturbation_angst: float
    translation_children_zyx_angst: Float[ndarray, "d 3"]
    pixel_size_angst: float
    sigma2_offset_angst2: float
    adaptive_fraction: float = 0.999
    relion_offset_prior: bool = False


class Posterior(NamedTuple):
    """Poses of one particle that matter.

    Attributes
    ----------
    rotations_zyx
        (o, 3, 3) fine orientations with at least one weight kept; their index is (parent, child).
    shifts_zyx_px
        (s, 3) fine translations with at least one weight kept, without the particle's offset.
    weights
        (o, s) kept weights; 0 elsewhere. They sum to between the adaptive fraction and 1.
    parents
        (o,) coarse orientation of each.
    best
        (orientation, shift) of the largest weight.
    n_significant
        Significant coarse pairs.
    log_evidence
        Logarithm of the sum of prior times likelihood over fine samples, up to the constant
        of :func:`score_poses`.
    """

    rotations_zyx: Float[ndarray, "o 3 3"]
    shifts_zyx_px: Float[ndarray, "s 3"]
    weights: Float[ndarray, "o s"]
    parents: Int[ndarray, "o"]
    best: tuple[int, int]
    n_significant: int
    log_evidence: float

    @property
    def p_max(self) -> float:
        """Largest weight: ``rlnMaxValueProbDistribution``."""
        return float(self.weights[self.best])


def find_posterior(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
    search: Search,
    coarse: tuple[Projector, ParticleImages, PixelList | VoxelList] | None = None,
    scores: Float[ndarray, "o s"] | None = None,
    *,
    cross_correlation: bool = False,
) -> Posterior:
    """Two-pass search: score the coarse grid, then only children of its significant pairs.

    Parameters
    ----------
    coarse
        Reference, images and pixels of the first pass if its radius is smaller; None: the same.
    scores
        Of the first pass, without priors, if they are known already; changed.
    cross_correlation
        First iteration without a noise model: the best coarse pair alone is refined, and the best fine pair
        gets all the weight.
    """
    shifts = (search.translations_zyx_angst + search.perturbation_angst) / search.pixel_size_angst
    if scores is None:
        first = coarse or (projector, particle, pixels)
        scores = score_poses(*first, search.rotations_zyx, shifts, cross_correlation=cross_correlation)
    if cross_correlation:
        log_shift = np.zeros(len(shifts))
        chosen = np.zeros(scores.shape, dtype=bool)
        chosen[np.unravel_index(int(scores.argmax()), scores.shape)] = True
    else:
        log_shift = offset_log_prior(
            particle, search.translations_zyx_angst, search.pixel_size_angst, search.sigma2_offset_angst2,
            search.relion_offset_prior,
        )  # fmt: skip
        scores += search.log_prior[:, None] + log_shift
        chosen, _ = significant(np.exp(scores - scores.max()), search.adaptive_fraction)
    parents, steps = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
    if not len(parents):
        raise ValueError("the scores of a particle are not finite: its images or its noise are empty")
    children = search.children_zyx(parents)
    n_c, n_d = children.shape[1], len(search.translation_children_zyx_angst)
    rotations = children.reshape(-1, 3, 3)
    fine_shifts = shifts[steps][:, None] + search.translation_children_zyx_angst / search.pixel_size_angst
    fine_shifts = fine_shifts.reshape(-1, 3)
    pairs = chosen[np.ix_(parents, steps)]
    dense = cross_correlation or pairs.mean() > _DENSE_SHARE or n_c % 4 or n_d % 4
    fine = score_poses(
        projector, particle, pixels, rotations, fine_shifts, cross_correlation=cross_correlation,
        pairs=None if dense else pairs,
    )  # fmt: skip
    tried = np.repeat(np.repeat(pairs, n_c, axis=0), n_d, axis=1)
    if not cross_correlation:
        fine += np.repeat(search.log_prior[parents], n_c)[:, None] + np.repeat(log_shift[steps], n_d)
    fine = np.where(tried, fine, -np.inf)
    top = float(fine.max())
    if cross_correlation:
        weights = np.zeros(fine.shape)
        weights[np.unravel_index(int(fine.argmax()), fine.shape)] = 1.0
        evidence = top / particle.n_images
    else:
        weights = np.exp(fine - top)
        kept, total = significant(weights, search.adaptive_fraction)
        weights = np.where(kept, weights / total, 0.0)
        evidence = top + float(np.log(total))
    rows, columns = np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    weights = weights[np.ix_(rows, columns)]
    best = np.unravel_index(int(weights.argmax()), weights.shape)
    return Posterior(
        rotations[rows], fine_shifts[columns], weights, parents[rows // n_c], (int(best[0]), int(best[1])),
        int(chosen.sum()), evidence,
    )  # fmt: skip


def resampled(posterior: Posterior, most: int, start: float) -> Posterior:
    """Stand in for a broad posterior with a few equally probable poses drawn from it.

    Parameters
    ----------
    most
        Poses to draw; a posterior with no more poses than that is returned as it is.
    start
        In [0, 1): where the systematic draw begins.

    Notes
    -----
    Systematic resampling: pose i is drawn floor or ceil of most · w_i times, so that averages over the
    posterior keep their expectation with little noise.
    """
    kept = np.flatnonzero(posterior.weights)
    if len(kept) <= most:
        return posterior
    w = posterior.weights.ravel()[kept]
    total = w.sum()
    edges = np.cumsum(w) / total * most
    drawn = np.minimum(np.searchsorted(edges, np.arange(most) + start, side="right"), len(w) - 1)
    count = np.bincount(drawn, minlength=len(w)) * (total / most)
    flat = np.zeros(posterior.weights.size)
    flat[kept] = count
    weights = flat.reshape(posterior.weights.shape)
    rows, columns = np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    weights = weights[np.ix_(rows, columns)]
    best = np.unravel_index(int(weights.argmax()), weights.shape)
    return posterior._replace(
        rotations_zyx=posterior.rotations_zyx[rows], shifts_zyx_px=posterior.shifts_zyx_px[columns],
        weights=weights, parents=posterior.parents[rows], best=(int(best[0]), int(best[1])),
    )  # fmt: skip


def mean_pose(
    posterior: Posterior, operators_zyx: Float[ndarray, "g 3 3"], reach_deg: float
) -> tuple[Float[ndarray, "3 3"], Float[ndarray, "3"]]:
    """Posterior mean of rotation and shift (px) around the best pose: the least expected squared error.

    Parameters
    ----------
    operators_zyx
        Of the point group: every orientation counts as its mate nearest to the best one.
    reach_deg
        Orientations further off than this belong to another peak and do not count.
    """
    from scipy.spatial.transform import Rotation

    best = posterior.rotations_zyx[posterior.best[0]]
    relative = np.einsum("ji,ojk,gkl->ogil", best, posterior.rotations_zyx, operators_zyx)
    nearest = np.trace(relative, axis1=2, axis2=3).argmax(axis=1)
    turn = Rotation.from_matrix(relative[np.arange(len(relative)), nearest]).as_rotvec()
    near = np.linalg.norm(turn, axis=1) <= np.deg2rad(reach_deg)
    weights = posterior.weights * near[:, None]
    total = weights.sum()
    mean = Rotation.from_rotvec(weights.sum(axis=1) @ turn / total).as_matrix()
    return best @ mean, weights.sum(axis=0) @ posterior.shifts_zyx_px / total


def at_pose(rotation_zyx: Float[ndarray, "3 3"]) -> Posterior:
    """Posterior that is sure of one pose: the particle's current offset and this rotation."""
    return Posterior(
        rotation_zyx[None], np.zeros((1, 3)), np.ones((1, 1)), np.zeros(1, dtype=np.int64), (0, 0), 1, 0.0
    )
