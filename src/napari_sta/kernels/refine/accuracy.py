"""How accurately poses can be known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from napari_sta.kernels.refine.on_cpu import gather, shift_images
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector, slice_axes
from napari_sta.kernels.refine.voxels import VoxelList
from napari_sta.kernels.rotations import euler_to_matrix_zyx

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
