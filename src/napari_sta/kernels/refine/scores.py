"""How well particles agree with the reference at given poses: log-likelihood or correlation.

Sums over tilts are in float64, whoever makes the terms (:mod:`napari_sta.kernels.refine.backend`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from napari_sta.kernels.refine.backend import backend_of
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList, half_plane_shells
from napari_sta.kernels.refine.projector import Projector
from napari_sta.kernels.refine.terms import Terms, View, combined
from napari_sta.kernels.refine.voxels import VoxelList, half_space_shells


def score_poses(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    *,
    cross_correlation: bool = False,
    pairs: Bool[ndarray, "p q"] | None = None,
) -> Float[ndarray, "o s"]:
    """Log-likelihood of every orientation with every shift, up to a constant per particle.

    Parameters
    ----------
    rotations_zyx
        Reference to subtomogram.
    shifts_zyx_px
        Added to the particle's current offset.
    cross_correlation
        Score the sum over tilts of correlation coefficients instead; every tilt counts the same and noise is
        not used. As in RELION the whole window counts, with frequency 0 and both mates of column u = 0.
    pairs
        Which of p parents and q steps go together, where rotations and shifts are their children, those of
        one side by side, a multiple of 4 each; the others may be -inf. None: all.

    Returns
    -------
    scores
        float64.
    """
    views = [View(particle.matrices_zyx[t], [(0, t)]) for t in range(particle.n_tilts)]
    return _scores(
        projector, [particle], views, pixels, rotations_zyx, shifts_zyx_px, cross_correlation, pairs,
        lambda: True,
    )[0]  # fmt: skip


def score_shared(
    projector: Projector,
    particles: Sequence[ParticleImages],
    tilts: Sequence[ndarray],
    frames_zyx: Float[ndarray, "p 3 3"],
    pixels: PixelList | VoxelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    *,
    cross_correlation: bool = False,
    go_on: Callable[[], bool] = lambda: True,
) -> list[Float[ndarray, "o s"]]:
    """:func:`score_poses` for particles that see the same slices: each tilt's slices are read once for all.

    Parameters
    ----------
    tilts
        Which image of the tilt series each image of each particle is; of volumes: the numbers of their parts.
    frames_zyx
        Particle p is tried at ``frames[p] @ rotations``; for one tilt, its matrix times its frame is the same
        for all particles.
    go_on
        Asked now and then; False: what is returned is worth nothing.

    Raises
    ------
    ValueError
        If the products differ.
    """
    views = []
    for tilt in np.unique(np.concatenate(list(tilts))):
        seen = [
            (p, int(np.flatnonzero(mine == tilt)[0])) for p, mine in enumerate(tilts) if (mine == tilt).any()
        ]
        matrices = np.stack([particles[p].matrices_zyx[t] @ frames_zyx[p] for p, t in seen])
        if np.abs(matrices - matrices[0]).max() > 1e-6:
            raise ValueError("the particles do not share their slices")
        views.append(View(matrices[0], seen))
    return _scores(
        projector, particles, views, pixels, rotations_zyx, shifts_zyx_px, cross_correlation, None, go_on
    )


def _scores(
    projector: Projector,
    particles: Sequence[ParticleImages],
    views: Sequence[View],
    pixels: PixelList | VoxelList,
    rotations_zyx: Float[ndarray, "o 3 3"],
    shifts_zyx_px: Float[ndarray, "s 3"],
    cross_correlation: bool,
    pairs: Bool[ndarray, "p q"] | None,
    go_on: Callable[[], bool],
) -> list[Float[ndarray, "o s"]]:
    """Sum each particle's scores over its images."""
    backend = backend_of(projector)
    n_o = len(rotations_zyx)
    scores = [backend.zeros((n_o, len(shifts_zyx_px))) for _ in particles]
    # A volume is one image in parts: its correlation is that of all of them together.
    in_parts = cross_correlation and pixels.n_dim == 3
    norms = [backend.zeros((n_o,)) for _ in particles] if in_parts else []

    def add(terms: Terms) -> None:
        for k, (p, t) in enumerate(terms.images):
            if in_parts:
                scores[p][terms.rows] += terms.cross[k]
                norms[p][terms.rows] += terms.norm[k]
                continue
            power = float(particles[p].window_power[t]) if cross_correlation else None
            scores[p][terms.rows] += combined(terms.cross[k], terms.norm[k], power)

    for terms in backend.terms(
        projector, particles, views, pixels, rotations_zyx, shifts_zyx_px,
        cross_correlation=cross_correlation, pairs=pairs, go_on=go_on,
    ):  # fmt: skip
        add(terms)
    if in_parts:
        scores = [
            combined(cross, norm, float(one.window_power[0]))
            for cross, norm, one in zip(scores, norms, particles, strict=True)
        ]
    return [backend.to_host(one) for one in scores]


def evidence_constant(particle: ParticleImages, pixels: PixelList | VoxelList) -> float:
    """Compute what :func:`score_poses` leaves out of the log-likelihood, the same for all poses.

    Notes
    -----
    RELION: -sum abs(X)² / 2 sigma² up to the radius of the window, -sum abs(X)² / 2 beyond it (not divided by
    the noise), and -ln(2 pi sigma²) for every pixel of the window and tilt. Only ``rlnLogLikeliContribution``
    needs it.
    """
    top = int(pixels.shell.max()) + 1
    inside = slice(1, top)
    if isinstance(pixels, VoxelList):
        shells = half_space_shells(pixels.size).flatten()
    else:
        n_shells = len(particle.sigma2)
        shells = half_plane_shells(pixels.size, pixels.radius, pixels.edge_ratio, n_shells).flatten()
    count = torch.bincount(shells, minlength=len(particle.sigma2) + 1)[inside].double().numpy()
    power = particle.power.sum(axis=0)
    sigma2 = particle.sigma2[inside]
    constant = -(power[inside] / (2 * sigma2)).sum() - 0.5 * power[top:].sum()
    return float(constant - particle.n_images * (count * np.log(2 * np.pi * sigma2)).sum())
