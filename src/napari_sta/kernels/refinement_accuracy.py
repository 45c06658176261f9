"""3D refinement: how accurately poses can be known.

Conventions as in :mod:`napari_sta.kernels.refinement`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from napari_sta.kernels.refinement import (
    ParticleImages,
    PixelList,
    Projector,
    gather,
    shift_images,
    slice_axes,
)
from napari_sta.kernels.refinement_volumes import N_SECTORS, VoxelList, VoxelPart

_EVIDENCE = -np.log(0.01)
"""Two poses can be told apart when their images differ by this much (log-likelihood)."""


class Accuracy(NamedTuple):
    """Smallest errors of pose that the noise would let one notice: degrees, and pixels of the box."""

    angle_deg: float
    offset_px: float


def expected_accuracy(
    projector: Projector,
    particle: ParticleImages,
    pixels: PixelList | VoxelList,
    angles_deg: Float[ndarray, "3"],
    generator: np.random.Generator,
) -> Accuracy:
    """Estimate how accurately one particle's pose can be known.

    Parameters
    ----------
    angles_deg
        Rot, tilt, psi of the particle.
    generator
        Draws, per tilt image (once for a volume), which angle and which axis is disturbed.

    Notes
    -----
    RELION: an angle (or axis) is disturbed more and more until
    sum abs(M (V1 - V2))² / 2 sigma² exceeds -ln 0.01; at most 30 degrees and 10 pixels. No scale correction.
    """
    from napari_sta.kernels.rotations import euler_to_matrix_zyx

    n, n_tilts = len(pixels), particle.n_tilts
    n_images = particle.n_images
    angle_axis = np.resize(generator.integers(0, 3, n_images), n_tilts)
    offset_axis = np.resize(generator.integers(0, 3, n_images), n_tilts)
    angle_steps = _error_steps(
        (0.2, 0.05), (1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (20.0, 2.0), (30.0, 5.0)
    )
    offset_steps = _error_steps((1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0))
    none = np.zeros(n, np.float32)
    reference = euler_to_matrix_zyx(angles_deg)
    first = np.empty((n_tilts, 2 * n), np.float32)
    weights = []
    for t in range(n_tilts):
        here = pixels.part(t)
        axes = slice_axes((particle.matrices_zyx[t] @ reference)[None], projector.padding, here.n_dim)
        gather(projector, axes, here, none, first[t : t + 1], np.zeros(1))
        w = particle.score_weights(t, here)[1].astype(np.float64) / (2 * particle.scale**2)
        weights.append(np.concatenate([w, w]))

    def angle_evidence(errors: ndarray) -> ndarray:
        total = np.zeros(len(errors))
        rows = np.empty((len(errors), 2 * n), np.float32)
        for t in range(n_tilts):
            turned = np.repeat(angles_deg[None], len(errors), axis=0)
            turned[:, angle_axis[t]] += errors
            matrices = particle.matrices_zyx[t] @ euler_to_matrix_zyx(turned)
            here = pixels.part(t)
            axes = slice_axes(matrices, projector.padding, here.n_dim)
            gather(projector, axes, here, none, rows, np.zeros(len(errors)))
            total += ((rows - first[t]).astype(np.float64) ** 2) @ weights[t]
        return total

    def offset_evidence(errors: ndarray) -> ndarray:
        total = np.zeros(len(errors))
        rows = np.empty((len(errors), 2 * n), np.float32)
        for t in range(n_tilts):
            here = pixels.part(t)
            direction = particle.matrices_zyx[t][3 - here.n_dim :, 2 - offset_axis[t]]
            shift_images(first[t], errors[:, None] * direction, here, rows)
            total += ((rows - first[t]).astype(np.float64) ** 2) @ weights[t]
        return total

    return Accuracy(_first_above(angle_evidence, angle_steps), _first_above(offset_evidence, offset_steps))


def _error_steps(*parts: tuple[float, float]) -> ndarray:
    """Errors to try: up to each limit in its own step, and one beyond the last."""
    values = [0.0]
    for limit, step in parts:
        while values[-1] < limit - 1e-9:
            values.append(values[-1] + step)
    return np.array(values[1:])


def _first_above(evidence, errors: ndarray, block: int = 8) -> float:  # type: ignore[no-untyped-def]
    for begin in range(0, len(errors), block):
        part = errors[begin : begin + block]
        above = np.flatnonzero(evidence(part) > _EVIDENCE)
        if len(above):
            return float(part[above[0]])
    return float(errors[-1])


# ----------------------------------------------------------------------------------------------------
# Calibration


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
