"""Expected and seen information."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_sta.kernels.refine import calibration
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.voxels import make_voxel_list
from toy_refinement import (
    RADIUS,
    SHELLS,
    SIZE,
    blob_map,
    explicit_score,
    joined,
    planar,
    random_rotations,
    toy_particle,
    toy_volume,
)


def test_overconfidence_of_independent_noise_is_one_and_of_correlated_noise_is_more():
    pixels = make_pixel_list(SIZE, RADIUS)
    rng = np.random.default_rng(0)
    found = {1: [], 3: []}
    n, sigma = len(pixels), 0.01
    for k in range(60):
        rotation = random_rotations(1, 100 + k)[0]
        projector, particle = toy_particle(blob_map(), pixels, rotation, np.zeros(3), n_tilts=6, noise=0.0)
        for copies, into in found.items():
            # The same noise in several tilts' worth of pixels: its power is right, its independence is not.
            drawn = rng.normal(size=(6, 2, -(-n // copies)))
            noise = np.repeat(drawn, copies, axis=2)[:, :, :n].reshape(6, 2 * n) * sigma
            noisy = ParticleImages(
                **{
                    **particle.__dict__,
                    "masked": (particle.masked + noise).astype(np.float32),
                    "sigma2": np.full(SIZE // 2 + 1, sigma**2),
                }
            )
            into.append(calibration.pose_information(projector, noisy, pixels, rotation, np.zeros(3)))
    assert calibration.overconfidence(found[1]) == pytest.approx(1, abs=0.15)
    flat = calibration.Information(np.diag([1.0, 2, 3, 4, 5, 0]), 2 * np.diag([1.0, 2, 3, 4, 5, 0]))
    assert calibration.overconfidence([flat]) == pytest.approx(2)  # nothing is known of one shift
    assert calibration.overconfidence(found[3]) > 1.3


def test_overconfidence_of_independent_noise_is_one_and_of_correlated_noise_is_more_of_volumes():
    pixels = make_voxel_list(SIZE, RADIUS, part=250)
    rng = np.random.default_rng(0)
    found = {1: [], 3: []}
    sigma, m = 1e-3, pixels.count
    for k in range(60):
        rotation = random_rotations(1, 100 + k)[0]
        projector, clean = toy_volume(pixels, rotation, np.zeros(3), noise=0.0)
        for copies, into in found.items():
            drawn = rng.normal(size=(2, -(-m // copies)))
            noise = np.repeat(drawn, copies, axis=1)[:, :m] * sigma
            ctf2 = clean.model.ravel()[:m]
            x = joined(clean.masked, pixels) + np.sqrt(ctf2) * (noise[0] + 1j * noise[1])
            noisy = replace(
                clean, masked=planar(x, pixels), noise=np.full((len(pixels.parts), SHELLS), sigma**2)
            )
            into.append(calibration.pose_information(projector, noisy, pixels, rotation, np.zeros(3)))
    assert calibration.overconfidence(found[1]) == pytest.approx(1, abs=0.15)
    assert calibration.overconfidence(found[3]) > 1.3


@pytest.mark.parametrize("with_noise", [False, True])
def test_information_is_that_of_the_score_s_slopes(rng, with_noise):
    """Seen: slopes of each tilt's log-likelihood, taken pixel by pixel; expected: its curvature where images fit."""
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_particle(blob_map(), pixels, rotation, shift, n_tilts=3, noise=0.0, scale=1.3)
    particle = replace(particle, offset_zyx_px=np.array([0.2, 0.1, -0.3]))
    shift = shift - particle.offset_zyx_px
    if with_noise:
        noise = 0.05 * rng.normal(size=particle.masked.shape)
        particle = replace(particle, masked=(particle.masked + noise).astype(np.float32))
    found = calibration.pose_information(projector, particle, pixels, rotation, shift)

    def alone(t):
        keep = slice(t, t + 1)
        return replace(
            particle, masked=particle.masked[keep], unmasked=particle.unmasked[keep], model=particle.model[keep],
            matrices_zyx=particle.matrices_zyx[keep], power=particle.power[keep],
            window_power=particle.window_power[keep],
        )  # fmt: skip

    def score(part, change):
        turn = Rotation.from_rotvec(change[:3]).as_matrix()
        return explicit_score(projector, part, pixels, rotation @ turn, shift + change[3:])

    step = np.array([0.01] * 3 + [0.1] * 3)
    moves = np.diag(step)
    if with_noise:
        seen = np.zeros((6, 6))
        for t in range(3):
            part = alone(t)
            slope = np.array([score(part, m) - score(part, -m) for m in moves]) / (2 * step)
            seen += np.outer(slope, slope)
        np.testing.assert_allclose(found.seen, seen, rtol=0.03, atol=0.03 * np.abs(seen).max())
    else:
        curvature = np.empty((6, 6))
        for i, j in np.ndindex(6, 6):
            a, b = moves[i], moves[j]
            corners = (
                score(particle, a + b)
                - score(particle, a - b)
                - score(particle, b - a)
                + score(particle, -a - b)
            )
            curvature[i, j] = -corners / (4 * step[i] * step[j])
        size = np.sqrt(np.outer(np.diag(curvature), np.diag(curvature)))
        np.testing.assert_allclose(found.expected / size, curvature / size, atol=0.12)


def test_overconfidence_by_hand():
    """Of several particles the sums; a direction that is known a millionth as well says nothing."""
    assert calibration.overconfidence([]) == 1
    eye = np.eye(6)
    found = [calibration.Information(eye, 3 * eye), calibration.Information(3 * eye, 9 * eye)]
    assert calibration.overconfidence(found) == pytest.approx(3)
    # Units do not matter: each direction counts by its own scale.
    units = np.diag([1.0, 10, 100, 0.1, 1e4, 1e-3])
    scaled = calibration.Information(units @ eye @ units, units @ (np.diag([1.0, 2, 3, 4, 5, 6])) @ units)
    assert calibration.overconfidence([scaled]) == pytest.approx(3.5)
