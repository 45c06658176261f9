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
from napari_sta.kernels.refine.voxels import voxels_per_shell
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


def test_scale_and_significance_by_hand():
    """Least squares over shells 1 to the last, weighed by twice the mean power; shell 0 and what lies beyond aside."""
    cross, norm, power, count = (
        np.array(values, float)[None, None]
        for values in ([9, 3, 8, 9, 9], [1, 2, 4, 1, 1], [5, 4, 6, 1, 5], [1, 2, 3, 0, 1])
    )
    inverse = np.array([1, 1])  # 4 / (2 · 2) and 6 / (2 · 3)
    top, bottom = (inverse * [3, 8]).sum(), (inverse * [2, 4]).sum()
    scale, significance = noise_of.fitted_scale(cross, norm, power, count, 2)
    assert scale == pytest.approx(top / bottom)
    assert significance == pytest.approx(top / np.sqrt(bottom))
    power[..., 1] = 0  # a shell without power says nothing
    assert noise_of.fitted_scale(cross, norm, power, count, 2)[0] == pytest.approx(2.0)
    assert noise_of.fitted_scale(cross, norm * 0, power, count, 2) == (1.0, 0.0)


def test_noise_of_a_tilt_leans_on_its_series_as_on_forty_pixels():
    """One series of two tilts, one shell that counts: the means written out; 2D and 3D differ in how many pixels."""
    for n_dim, pixels in ((2, pixels_per_shell(4)[1]), (3, voxels_per_shell(4)[1])):
        residual = np.zeros((1, 2, 3))
        residual[0, :, 1] = 8.0, 1.0
        model = np.full((1, 2, 3), 5.0)
        weight = np.array([[2.0, 1.0]])
        expected = 2 * 0.5 * weight[0] * 5.0
        found = noise_of.noise_by_tilt(residual, weight, model, 0.5, n_dim)
        # An average tilt's shell expects 7.5, a pixel of weight 1 so much less.
        worth = 40 * (15.0 / 2) / pixels / 1.5
        whole = 9.0 / 15.0
        series = (9.0 + worth * whole) / (15.0 + worth)
        np.testing.assert_allclose(
            found[0, :, 1], (np.array([8.0, 1.0]) + worth * series) / (expected + worth)
        )


def test_noise_update_by_hand():
    size = 6
    sums = sums_of.new_sums(1, PADDING, 2, 1, 4, 1)
    sums.n_images[:] = 3.0, 5.0
    sums.residual[:] = [[6.0, 24.0, 0.0, 12.0], [1.0, 2.0, 3.0, -1.0]]
    count = pixels_per_shell(size)
    found = noise_of.update_noise(sums, size)
    expected = sums.residual / (2 * sums.n_images[:, None] * count)
    expected[0, 2], expected[1, 3] = expected[0, 1], expected[1, 2]  # empty: the shell before
    np.testing.assert_allclose(found, expected)
    sums.residual[0, 0] = 0.0
    assert noise_of.update_noise(sums, size)[0, 0] == 1e-15
    assert noise_of.update_noise(sums, size, premultiplied=False)[0, 0] == 0
    sums.multiplicity[:] = 2.0
    volumes = noise_of.update_noise(sums, size)
    np.testing.assert_allclose(volumes[1, :3], [0.25, 0.5, 0.75])


def test_spread_of_offsets():
    sums = sums_of.new_sums(1, PADDING, 1, 1, 4, 1)
    sums.offset2_angst2, sums.weight = 90.0, 10.0
    assert noise_of.update_sigma2_offset(sums) == pytest.approx(3.0)
    assert noise_of.update_sigma2_offset(sums, 4.0) == 4.0
    sums.offset2_angst2 = 1.0
    assert noise_of.update_sigma2_offset(sums) == 2.0


def test_scales_without_shells_or_images():
    sums = sums_of.new_sums(3, 2.0, 1, 3, 4)
    sums.norm[1:] = 2
    sums.cross[1:] = np.array([2.0, 4.0])[:, None, None]
    ssnr, none = np.array([999, 10, 3.0, 0.1]), np.zeros(4)
    np.testing.assert_allclose(noise_of.update_scales(sums, none, np.array([1, 1, 1])), 1)
    # 1 for the series without images, 1 and 2 for the others; the mean over 1, 1 and 2 particles is 1.5.
    found = noise_of.update_scales(sums, ssnr, np.array([1, 1, 2]))
    np.testing.assert_allclose(found, np.array([1, 1, 2]) / 1.5)
    # Only shells above the threshold: those with an SSNR of 3 do not count.
    sums.cross[1:, :, 2:] = 100
    np.testing.assert_allclose(noise_of.update_scales(sums, ssnr, np.array([1, 1, 2])), found)
    sums.cross[2] = -1  # clamped to a fifth of the median
    np.testing.assert_allclose(
        noise_of.update_scales(sums, ssnr, np.array([1, 1, 1])), np.array([1, 1, 0.2]) * 3 / 2.2
    )
