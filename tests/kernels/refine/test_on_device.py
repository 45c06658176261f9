"""Torch devices do what the compiled loops do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine import on_device
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.posterior import Posterior
from napari_sta.kernels.refine.projector import make_projector, placed
from napari_sta.kernels.refine.scores import score_poses, score_shared
from napari_sta.kernels.refine.voxels import make_voxel_list
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from toy_refinement import ANGST, PADDING, RADIUS, SHELLS, SIZE, blob_map, random_rotations


@pytest.mark.parametrize("cross_correlation", [False, True])
def test_device_scores_as_the_compiled_loops_do(toy, device, monkeypatch, cross_correlation):
    pixels, projector, particle, _, _ = toy
    rotations, shifts = random_rotations(9, 2), np.random.default_rng(3).uniform(-2, 2, (5, 3))
    expected = score_poses(
        projector, particle, pixels, rotations, shifts, cross_correlation=cross_correlation
    )
    monkeypatch.setattr(on_device, "_BYTES", {"cpu": 1, "cuda": 1})  # one tilt at a time
    there = placed(projector, device)
    found = score_poses(there, particle, pixels, rotations, shifts, cross_correlation=cross_correlation)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-3)
    frames = np.eye(3)[None]
    shared = score_shared(
        there,
        [particle],
        [np.arange(2)],
        frames,
        pixels,
        rotations,
        shifts,
        cross_correlation=cross_correlation,
    )
    np.testing.assert_allclose(shared[0], expected, rtol=1e-4, atol=5e-3)


@pytest.mark.parametrize("n_dim", [2, 3])
def test_device_sums_as_the_compiled_loops_do(toy, device, n_dim):
    pixels, projector, particle, rotation, shift = toy
    if n_dim == 3:
        projector = make_projector(blob_map(), RADIUS, PADDING, n_dim=3)
        pixels = make_voxel_list(SIZE, RADIUS, part=150)
        rng, t = np.random.default_rng(0), len(pixels.parts)
        image = np.concatenate([pixels.split(rng.normal(size=pixels.count)) for _ in range(2)], axis=1)
        model = pixels.split(rng.uniform(0.2, 1, pixels.count))
        particle = ParticleImages(
            image, image * np.float32(0.9), model, None, np.repeat(np.eye(3)[None], t, axis=0),
            np.ones((1, SIZE // 2 + 1)), np.linspace(2e-3, 5e-4, SIZE // 2 + 1), np.zeros(3), np.zeros(3), 1.1,
            np.ones(1),
        )  # fmt: skip
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 3, (3, 3)))
    shifts = shift + np.random.default_rng(1).normal(0, 0.5, (2, 3))
    weights = np.array([[0.5, 0.2], [0.0, 0.1], [0.15, 0.0]])
    posterior = Posterior(rotations, shifts, weights, np.zeros(3, dtype=int), (0, 0), 1, 0.0)
    here = sums_of.new_sums(RADIUS, PADDING, 1, 1, SIZE // 2 + 1, 2)
    sums_of.add_particle(here, posterior, projector, particle, pixels, 0, 0, ANGST, drop_row_ends=True)
    volume = torch.zeros(here.volume.shape, device=device)
    there = sums_of.new_sums(RADIUS, PADDING, 1, 1, SIZE // 2 + 1, 2, volume=volume)
    sums_of.add_particle(
        there, posterior, placed(projector, device), particle, pixels, 0, 0, ANGST,
        drop_row_ends=True,
    )  # fmt: skip
    largest = np.abs(here.volume).max()
    np.testing.assert_allclose(volume.cpu().numpy(), here.volume, atol=3e-6 * largest)
    for name in sums_of.STATISTICS:
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("cross_correlation", [False, True])
def test_devices_score_and_average_volumes_as_the_compiled_loops_do(solid, device, cross_correlation):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pixels, projector, particle, _, _ = solid
    there = placed(projector, device)
    rotations, shifts = random_rotations(5, 11), np.random.default_rng(3).uniform(-2, 2, (3, 3))
    expected, found = (
        score_poses(one, particle, pixels, rotations, shifts, cross_correlation=cross_correlation)
        for one in (projector, there)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    posterior = Posterior(
        rotations[:2], shifts[:2], np.array([[0.5, 0.2], [0.0, 0.3]]), np.zeros(2, dtype=int), (0, 0), 1, 0.0
    )
    mine, theirs = (sums_of.new_sums(RADIUS, PADDING, 1, 1, SHELLS, 1) for _ in range(2))
    theirs.volume = torch.zeros(theirs.volume.shape, device=device)
    sums_of.add_particle(mine, posterior, projector, particle, pixels, 0, 0, ANGST)
    sums_of.add_particle(theirs, posterior, there, particle, pixels, 0, 0, ANGST)
    found = theirs.volume.cpu().numpy()
    np.testing.assert_allclose(found, mine.volume, rtol=1e-3, atol=1e-5 * np.abs(mine.volume).max())
    np.testing.assert_allclose(theirs.cross, mine.cross, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(theirs.norm, mine.norm, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(theirs.multiplicity, mine.multiplicity)
