"""Expected and seen information."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.kernels.refine import calibration
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.voxels import make_voxel_list
from toy_refinement import (
    RADIUS,
    SHELLS,
    SIZE,
    blob_map,
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
