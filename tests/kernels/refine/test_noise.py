"""Noise and grey scale come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.images import (
    image_transforms,
    shell_powers,
)
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import half_plane_shells, make_pixel_list, pixels_per_shell
from napari_sta.kernels.refine.posterior import (
    Posterior,
    at_pose,
)
from napari_sta.kernels.refine.projector import make_projector
from toy_refinement import ANGST, PADDING, RADIUS, SIZE, blob_map, random_rotations, toy_particle


def test_noise_of_each_tilt_is_found():
    """Residuals of pure noise give its power, whatever it was multiplied by; an empty tilt leans on the others."""
    rng = np.random.default_rng(0)
    shells, n_particles = SIZE // 2 + 1, 400
    pixels = pixels_per_shell(SIZE)
    truth = np.linspace(3.0, 1.0, shells) * np.array([1.0, 2.0, 0.5])[:, None]
    model = pixels * np.linspace(0.2, 0.9, shells)  # sums of CTF²
    drawn = rng.chisquare(2 * n_particles * pixels, (3, shells)) / (2 * n_particles * pixels)
    residual = drawn * truth * 2 * n_particles * model * 0.6
    weight = np.array([[n_particles, n_particles, n_particles, 0.0]])
    whole = np.concatenate([residual, np.zeros((1, shells))])[None]
    found = noise_of.noise_by_tilt(whole, weight, np.tile(model, (1, 4, 1)), 0.6)
    np.testing.assert_allclose(found[0, :3], truth, rtol=0.15)
    assert (found[0, 3] > 0).all()
    np.testing.assert_allclose(found[0, 3], truth.mean(axis=0), rtol=0.2)


def test_scale_of_the_reference_is_found():
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation = random_rotations(1, 5)[0]
    projector, particle = toy_particle(blob_map(), pixels, rotation, np.zeros(3), noise=0.01, scale=3.7)
    unscaled = ParticleImages(**{**particle.__dict__, "scale": 1.0})
    sums = sums_of.new_sums(1, PADDING, 1, 1, SIZE // 2 + 1, 2)
    sums_of.add_particle(sums, at_pose(rotation), projector, unscaled, pixels, 0, 0, ANGST, average=False)
    power = sums.tilt_residual - sums.norm + 2 * sums.cross
    count = np.broadcast_to(pixels_per_shell(SIZE), power.shape)
    scale, significance = noise_of.fitted_scale(sums.cross, sums.norm, power, count, RADIUS)
    assert scale == pytest.approx(3.7, rel=0.02)
    assert significance > 5


def test_scales():
    sums = sums_of.new_sums(3, 2.0, 1, 3, 4)
    sums.norm[:] = 1
    sums.cross[:] = np.array([1.0, 2.0, 30.0])[:, None, None]
    scale = noise_of.update_scales(sums, np.array([999, 10, 3.0, 0.1]), np.array([1, 1, 2]))
    clamped = np.array([1, 2, 10.0])
    np.testing.assert_allclose(scale, clamped / ((1 + 2 + 20) / 4))
    sums.cross *= -1  # images that contradict the reference
    np.testing.assert_allclose(
        noise_of.update_scales(sums, np.array([999, 10, 3.0, 0.1]), np.array([1, 1, 2])), 1
    )


def test_noise_of_pure_noise_is_its_power():
    rng = np.random.default_rng(0)
    pixels = make_pixel_list(SIZE, RADIUS)
    shells = SIZE // 2 + 1
    projector = make_projector(torch.zeros((SIZE,) * 3), RADIUS, PADDING)
    sums = sums_of.new_sums(RADIUS, PADDING, 1, 1, shells, 400)
    images = torch.from_numpy(rng.normal(size=(400, SIZE, SIZE)).astype(np.float32))
    spectra = image_transforms(images)
    planar = pixels.take(spectra)
    particle = ParticleImages(
        planar, planar, np.ones((400, len(pixels)), np.float32), None, np.repeat(np.eye(3)[None], 400, axis=0),
        shell_powers(spectra, half_plane_shells(SIZE, RADIUS), shells), np.ones(shells), np.zeros(3),
        np.zeros(3), 1.0, np.ones(400),
    )  # fmt: skip
    posterior = Posterior(
        np.eye(3)[None], np.zeros((1, 3)), np.ones((1, 1)), np.zeros(1, dtype=int), (0, 0), 1, 0.0
    )
    sums_of.add_particle(sums, posterior, projector, particle, pixels, 0, 0, ANGST)
    sigma2 = noise_of.update_noise(sums, SIZE)[0]
    # White noise of variance 1: abs(F)² = 1 / n², half of it in each component.
    np.testing.assert_allclose(sigma2[1:], 0.5 / SIZE**2, rtol=0.12)
    assert sigma2[0] == pytest.approx(0.5 / SIZE**2, rel=0.6)
