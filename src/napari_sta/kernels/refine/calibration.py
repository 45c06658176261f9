"""How far the likelihood can be believed: expected against seen information about poses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from napari_sta.kernels.refine.on_cpu import gather, shift_images
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector, slice_axes
from napari_sta.kernels.refine.voxels import N_SECTORS, VoxelList, VoxelPart


class Information(NamedTuple):
    """What one particle's images say about its pose: three turns (rad), three shifts (px).

    Attributes
    ----------
    expected
        (6, 6) Fisher information, were all noise as independent as the likelihood takes it to be.
    seen
        (6, 6) sum over tilts of the outer product of the score with itself: how much the images really
        disagree about the pose.
    """

    expected: Float[ndarray, "6 6"]
    seen: Float[ndarray, "6 6"]


_TURN_RAD = 0.01
_SHIFT_PX = 0.1


def pose_information(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
    rotation_zyx: Float[ndarray, "3 3"],
    shift_zyx_px: Float[ndarray, "3"],
) -> Information:
    """Compare expected with seen information about a pose, tilt by tilt.

    Parameters
    ----------
    rotation_zyx, shift_zyx_px
        The pose, the shift without the particle's offset.

    Notes
    -----
    The two are the bread and the filling of the sandwich estimator of White (1982), clustered by tilt image:
    a likelihood that is too sure of itself, because noise is correlated between pixels (neighbours,
    membrane, mask), shows scores that scatter more than it expects. Derivatives are central differences. A
    volume is clustered by wedges of its transform instead.

    References
    ----------
    White (1982), Econometrica 50, 1.
    """
    from scipy.spatial.transform import Rotation

    n = len(pixels)
    turns = Rotation.from_rotvec(np.concatenate([np.eye(3), -np.eye(3)]) * _TURN_RAD).as_matrix()
    rotations = np.concatenate([rotation_zyx[None], rotation_zyx @ turns])
    shift = particle.offset_zyx_px + shift_zyx_px
    rows, ignored, none = np.empty((7, 2 * n), np.float32), np.zeros(7), np.zeros(n, np.float32)
    moved = np.empty((7, 2 * n), np.float32)
    expected, seen = np.zeros((6, 6)), np.zeros((6, 6))
    d = pixels.n_dim
    by_sector = np.zeros((6, N_SECTORS))
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        here = pixels.part(t)
        gather(projector, slice_axes(q @ rotations, projector.padding, d), here, none, rows, ignored)
        factor, weight = particle.score_weights(t, here)
        # A shift of the image by +d is one of the slice by -d.
        steps = np.zeros((7, d))
        steps[1:4] = _SHIFT_PX * q[3 - d :].T
        steps[4:] = -steps[1:4]
        image = particle.masked[t] * np.tile(factor, 2)
        shift_images(image, (q[3 - d :] @ shift) + steps, here, moved)
        slopes = np.empty((6, 2 * n))
        slopes[:3] = (rows[1:4].astype(np.float64) - rows[4:]) / (2 * _TURN_RAD)
        slices = np.empty((7, 2 * n), np.float32)
        shift_images(rows[0], -steps, here, slices)
        slopes[3:] = (slices[1:4].astype(np.float64) - slices[4:]) / (2 * _SHIFT_PX)
        weighed = np.tile(weight.astype(np.float64), 2)
        residual = moved[0] - weighed * rows[0]
        expected += (slopes * weighed) @ slopes.T
        if isinstance(here, VoxelPart):
            sector = np.tile(here.sector, 2)
            for k in range(6):
                by_sector[k] += np.bincount(sector, slopes[k] * residual, N_SECTORS)
        else:
            score = slopes @ residual
            seen += np.outer(score, score)
    seen += by_sector @ by_sector.T
    return Information(expected, seen)


def overconfidence(found: list[Information]) -> float:
    """Factor by which log-likelihoods are too large; 1 where noise is as the likelihood takes it to be."""
    if not found:
        return 1.0
    expected = sum(one.expected for one in found)
    seen = sum(one.seen for one in found)
    scale = 1 / np.sqrt(np.maximum(np.diag(expected), 1e-300))
    expected, seen = (one * np.outer(scale, scale) for one in (expected, seen))
    # A direction that no tilt sees (a single image does not see depth) says nothing.
    values, vectors = np.linalg.eigh(expected)
    known = values > 1e-6 * values.max()
    turned = vectors[:, known].T @ seen @ vectors[:, known]
    return float((np.diag(turned) / values[known]).mean())
