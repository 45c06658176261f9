"""Scores against a likelihood of explicit differences in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine import on_cpu, on_device
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import half_plane_shells, make_pixel_list
from napari_sta.kernels.refine.projector import placed, slice_axes
from napari_sta.kernels.refine.scores import evidence_constant, score_poses, score_shared
from napari_sta.kernels.refine.voxels import make_voxel_list, voxels_per_shell
from toy_refinement import (
    PADDING,
    RADIUS,
    SHELLS,
    SIZE,
    blob_map,
    difference,
    explicit_score,
    joined,
    planar,
    ramp,
    random_rotations,
    toy_particle,
    toy_volume,
    turned,
)
from twins import gather_reference


def test_scores_are_the_explicit_differences(toy):
    pixels, projector, particle, _, _ = toy
    rotations = random_rotations(7, 11)
    shifts = np.random.default_rng(3).uniform(-2, 2, (5, 3))
    scores = score_poses(projector, particle, pixels, rotations, shifts)
    for o in range(7):
        for s in range(5):
            expected = explicit_score(projector, particle, pixels, rotations[o], shifts[s])
            assert scores[o, s] == pytest.approx(expected, rel=2e-5, abs=2e-3)


def test_evidence_constant_completes_the_log_likelihood(toy):
    pixels, projector, particle, rotation, shift = toy
    score = score_poses(projector, particle, pixels, rotation[None], shift[None])[0, 0]
    whole = explicit_score(projector, particle, pixels, rotation, shift, with_constant=True)
    counts = np.bincount(half_plane_shells(SIZE, RADIUS).flatten().numpy(), minlength=SIZE)[1 : RADIUS + 1]
    normaliser = 2 * (counts * np.log(2 * np.pi * particle.sigma2[1 : RADIUS + 1])).sum()
    assert score + evidence_constant(particle, pixels) == pytest.approx(whole - normaliser, rel=1e-5)


def test_true_pose_scores_best(toy):
    pixels, projector, particle, rotation, shift = toy
    rotations = np.concatenate([rotation[None], random_rotations(30, 9)])
    shifts = np.concatenate([shift[None], shift + np.random.default_rng(1).normal(0, 1, (9, 3))])
    scores = score_poses(projector, particle, pixels, rotations, shifts)
    assert np.unravel_index(scores.argmax(), scores.shape) == (0, 0)


def test_many_orientations_are_scored_in_blocks(toy, monkeypatch):
    pixels, projector, particle, _, _ = toy
    rotations, shifts = random_rotations(10, 2), np.zeros((2, 3))
    whole = score_poses(projector, particle, pixels, rotations, shifts)
    monkeypatch.setattr(on_cpu, "_MOST_ROWS", 4)
    np.testing.assert_allclose(score_poses(projector, particle, pixels, rotations, shifts), whole, rtol=1e-6)


def test_cross_correlation_of_noiseless_images_is_one_a_tilt():
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation = random_rotations(1, 8)[0]
    projector, particle = toy_particle(blob_map(), pixels, rotation, np.zeros(3), noise=0.0, n_tilts=3)
    n = len(pixels)
    power = (pixels.friedel_mates * (particle.masked[:, :n] ** 2 + particle.masked[:, n:] ** 2)).sum(axis=1)
    particle = ParticleImages(**{**particle.__dict__, "window_power": power})
    score = score_poses(projector, particle, pixels, rotation[None], np.zeros((1, 3)), cross_correlation=True)
    assert score[0, 0] == pytest.approx(3, abs=1e-5)
    other = score_poses(
        projector, particle, pixels, random_rotations(5, 1), np.zeros((1, 3)), cross_correlation=True
    )
    assert other.max() < 2.9


@pytest.mark.parametrize("premultiplied", [True, False])
def test_noise_of_tilts_scores_raw_images(premultiplied):
    pixels = make_pixel_list(SIZE, RADIUS)
    rng = np.random.default_rng(4)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_particle(
        blob_map(), pixels, rotation, shift, scale=1.2, premultiplied=premultiplied
    )
    noise = rng.uniform(1e-4, 1e-3, (2, SIZE // 2 + 1))
    white = ParticleImages(**{**particle.__dict__, "noise": noise})
    rotations, shifts = random_rotations(4, 3), rng.normal(0, 1, (3, 3))
    scores = score_poses(projector, white, pixels, rotations, shifts)
    n = len(pixels)
    for o in range(4):
        for s in range(3):
            total = 0.0
            for t in range(2):
                q = particle.matrices_zyx[t]
                rows, _ = gather_reference(
                    projector, slice_axes((q @ rotations[o])[None], PADDING), pixels, np.zeros(n)
                )
                v = rows[0, :n].numpy() + 1j * rows[0, n:].numpy()
                ctf = particle.model[t].astype(float)
                raw = particle.masked[t, :n] + 1j * particle.masked[t, n:]
                if premultiplied:
                    ctf = np.sqrt(ctf)
                    raw = raw / ctf
                d = (q @ shifts[s])[1:]
                raw = raw * np.exp(-2j * np.pi * (pixels.v * d[0] + pixels.u * d[1]) / SIZE)
                part = (np.abs(1.2 * ctf * v - raw) ** 2 - np.abs(raw) ** 2) / (2 * noise[t, pixels.shell])
                total -= part[pixels.shell > 0].sum()
            assert scores[o, s] == pytest.approx(total, rel=1e-4, abs=5e-3)


@pytest.mark.parametrize("cross_correlation", [False, True])
def test_particles_of_a_tilt_series_share_slices(monkeypatch, cross_correlation):
    """Each in a frame of its own, with other tilts visible, gets the scores it gets alone."""
    pixels = make_pixel_list(SIZE, RADIUS)
    rotations, shifts = random_rotations(11, 2), np.random.default_rng(3).uniform(-2, 2, (3, 3))
    frames = random_rotations(3, 9)
    tilts = [np.array([0, 1, 2]), np.array([0, 2]), np.array([1])]
    particles = []
    for k in range(3):
        projector, one = toy_particle(
            blob_map(), pixels, random_rotations(1, k)[0], np.zeros(3), n_tilts=3, seed=k, scale=1 + 0.1 * k
        )
        mine = {
            name: getattr(one, name)[tilts[k]]
            for name in ("masked", "unmasked", "model", "power", "window_power")
        }
        matrices = one.matrices_zyx[tilts[k]] @ frames[k].T
        offset = np.array([0.3 * k, -0.5, 1.0])
        particles.append(
            ParticleImages(**{**one.__dict__, **mine, "matrices_zyx": matrices, "offset_zyx_px": offset})
        )
    monkeypatch.setattr(on_cpu, "_MOST_ROWS", 4)
    found = score_shared(
        projector, particles, tilts, frames, pixels, rotations, shifts, cross_correlation=cross_correlation
    )
    for k in range(3):
        alone = score_poses(
            projector,
            particles[k],
            pixels,
            frames[k] @ rotations,
            shifts,
            cross_correlation=cross_correlation,
        )
        np.testing.assert_allclose(found[k], alone, rtol=1e-4, atol=2e-3)
    with pytest.raises(ValueError, match="do not share"):
        score_shared(projector, particles, tilts, frames[::-1], pixels, rotations, shifts)


def test_pairs_are_scored_as_all_poses_are(toy, monkeypatch):
    pixels, projector, particle, _, _ = toy
    rotations, shifts = random_rotations(5 * 8, 2), np.random.default_rng(3).uniform(-2, 2, (3 * 4, 3))
    pairs = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]], dtype=bool)
    monkeypatch.setattr(on_cpu, "_MOST_ROWS", 16)
    found = score_poses(projector, particle, pixels, rotations, shifts, pairs=pairs)
    whole = score_poses(projector, particle, pixels, rotations, shifts)
    tried = np.repeat(np.repeat(pairs, 8, axis=0), 4, axis=1)
    np.testing.assert_allclose(found[tried], whole[tried], rtol=2e-5, atol=1e-3)
    assert (found[~tried] == -np.inf).all()


@pytest.mark.parametrize("where", ["loops", "cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_blank_image_correlates_with_nothing(toy, where):
    """Behind both doors: neither 0 / 0 nor a score of its own."""
    pixels, projector, particle, _, shift = toy
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    projector = projector if where == "loops" else placed(projector, where)
    rotations = random_rotations(4, 1)
    alone = replace(
        particle, masked=particle.masked[:1], unmasked=particle.unmasked[:1], model=particle.model[:1],
        matrices_zyx=particle.matrices_zyx[:1], power=particle.power[:1], window_power=particle.window_power[:1],
    )  # fmt: skip
    masked, power = particle.masked.copy(), particle.window_power.copy()
    masked[1], power[1] = 0, 0
    blank = replace(particle, masked=masked, window_power=power)
    found, expected = (
        score_poses(projector, one, pixels, rotations, shift[None], cross_correlation=True)
        for one in (blank, alone)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("where", ["loops", "cpu"])
def test_stop_is_heard_between_blocks(toy, where, monkeypatch):
    """Whoever does the work asks before every block of orientations, and ends once told."""
    monkeypatch.setattr(on_cpu, "_MOST_ROWS", 2)
    monkeypatch.setattr(on_device, "_BYTES", {"cpu": 1})
    pixels, projector, particle, _, shift = toy
    projector = projector if where == "loops" else placed(projector, where)
    asked = []

    def go_on() -> bool:
        asked.append(1)
        return len(asked) < 3

    frames = np.repeat(np.eye(3)[None], 2, axis=0)
    tilts = [np.arange(particle.n_tilts)] * 2
    score_shared(
        projector, [particle] * 2, tilts, frames, pixels, random_rotations(8, 1), shift[None], go_on=go_on
    )
    assert len(asked) == 3


def test_evidence_counts_the_pixels_of_a_larger_box():
    """The same pixels of physical frequency: an image of twice the box and the same pixel holds four times as many."""
    small, large = make_pixel_list(SIZE, RADIUS), make_pixel_list(2 * SIZE, RADIUS, 0.5)
    assert large.shell.max() == small.shell.max() == RADIUS
    shells = SIZE // 2 + 1
    n = len(large)
    particle = ParticleImages(
        np.ones((1, 2 * n), np.float32), np.ones((1, 2 * n), np.float32), np.ones((1, n), np.float32), None,
        np.eye(3)[None], np.ones((1, shells)), np.full(shells, 1 / (2 * np.pi)), np.zeros(3), np.zeros(3), 1.0,
        np.ones(1),
    )  # fmt: skip
    # With 2 pi sigma² = 1 the count drops out: what is left is -sum of powers · pi, and half those beyond.
    assert evidence_constant(particle, large) == pytest.approx(-np.pi * RADIUS - 0.5 * (shells - 1 - RADIUS))


def test_scores_are_the_explicit_differences_per_slice(solid):
    """RELION's metric: sum abs(X - C2 V)² / 2 sigma² M, M only where it is above 0.1."""
    pixels, projector, particle, _, _ = solid
    rotations = random_rotations(5, 11)
    shifts = np.random.default_rng(3).uniform(-2, 2, (4, 3))
    scores = score_poses(projector, particle, pixels, rotations, shifts)
    slices = particle.multiplicity.ravel()[: pixels.count].astype(float)
    assert ((slices > 0) & (slices < 0.1)).any()
    weight = (pixels.shell > 0) / (2 * particle.sigma2[pixels.shell] * np.where(slices > 0.1, slices, 1))
    for o in range(5):
        for s in range(4):
            apart, power = difference(projector, particle, pixels, rotations[o], shifts[s])
            expected = -(weight * (apart - power)).sum()
            assert scores[o, s] == pytest.approx(expected, rel=2e-5, abs=2e-3)


def test_parts_do_not_matter(solid):
    _, projector, _, rotation, shift = solid
    rotations, shifts = random_rotations(16, 2), np.random.default_rng(3).uniform(-2, 2, (8, 3))
    found = []
    for part in (90, 4096):
        pixels = make_voxel_list(SIZE, RADIUS, part=part)
        _, particle = toy_volume(pixels, rotation, shift, scale=1.2)
        found.append(score_poses(projector, particle, pixels, rotations, shifts))
        pairs = np.array([[True, False], [False, True]])
        some = score_poses(projector, particle, pixels, rotations, shifts, pairs=pairs)
        np.testing.assert_allclose(some[:8, :4], found[-1][:8, :4], rtol=2e-5, atol=1e-3)
        assert (some[:8, 4:] == -np.inf).all()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-2)


def test_noise_of_its_own_scores_the_tilt_images_that_made_the_volume(rng):
    """X = sum of C x over slices on grid planes: the score is the likelihood of all images x, exactly."""
    pixels = make_voxel_list(SIZE, RADIUS, part=150)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    noise = np.linspace(3e-3, 1e-3, SHELLS)
    projector, particle = toy_volume(pixels, rotation, shift)
    planes = [pixels.w == 0, pixels.v == 0, pixels.w == pixels.v]
    ctfs = [np.where(plane, rng.uniform(-1, 1, pixels.count), 0) for plane in planes]
    images = []
    for ctf, plane in zip(ctfs, planes, strict=True):
        x = ctf * turned(projector, rotation, pixels) * ramp(-shift, pixels)
        images.append(x + plane * 0.05 * (rng.normal(size=pixels.count) + 1j * rng.normal(size=pixels.count)))
    data = sum(c * x for c, x in zip(ctfs, images, strict=True))
    particle = replace(
        particle, masked=planar(data, pixels), model=pixels.split(sum(c * c for c in ctfs)),
        noise=np.broadcast_to(noise, (len(pixels.parts), SHELLS)),
    )  # fmt: skip
    rotations, shifts = random_rotations(4, 3), rng.normal(0, 1, (3, 3))
    scores = score_poses(projector, particle, pixels, rotations, shifts)
    weight = (pixels.shell > 0) / (2 * noise[pixels.shell])
    for o in range(4):
        v = turned(projector, rotations[o], pixels)
        for s in range(3):
            expected = 0.0
            for ctf, x in zip(ctfs, images, strict=True):
                moved = x * ramp(shifts[s], pixels)
                expected -= (weight * (np.abs(ctf * v - moved) ** 2 - np.abs(moved) ** 2)).sum()
            assert scores[o, s] == pytest.approx(expected, rel=1e-4, abs=2e-3)


def test_evidence_constant_completes_the_log_likelihood_of_volumes(solid):
    pixels, projector, particle, rotation, shift = solid
    particle = replace(particle, multiplicity=None)
    score = score_poses(projector, particle, pixels, rotation[None], shift[None])[0, 0]
    apart, _ = difference(projector, particle, pixels, rotation, shift)
    good = pixels.shell > 0
    whole = -(apart / (2 * particle.sigma2[pixels.shell]))[good].sum()
    normaliser = (voxels_per_shell(SIZE) * np.log(2 * np.pi * particle.sigma2))[1 : RADIUS + 1].sum()
    # Without voxels whose shell is within the radius but they are not (corners of the last shell).
    assert score + evidence_constant(particle, pixels) == pytest.approx(whole - normaliser, rel=1e-4)


def test_true_pose_scores_best_of_volumes(solid):
    pixels, projector, particle, rotation, shift = solid
    rotations = np.concatenate([rotation[None], random_rotations(30, 9)])
    shifts = np.concatenate([shift[None], shift + np.random.default_rng(1).normal(0, 1, (9, 3))])
    scores = score_poses(projector, particle, pixels, rotations, shifts)
    assert np.unravel_index(scores.argmax(), scores.shape) == (0, 0)


def test_cross_correlation_of_a_noiseless_volume_is_one():
    pixels = make_voxel_list(SIZE, RADIUS, part=150)
    rotation = random_rotations(1, 8)[0]
    projector, particle = toy_volume(pixels, rotation, np.zeros(3), noise=0.0)
    both = np.concatenate([one.friedel_mates for one in pixels.parts])[: pixels.count]
    power = (both * np.abs(joined(particle.masked, pixels)) ** 2).sum()
    particle = replace(particle, window_power=np.array([power]))
    score = score_poses(projector, particle, pixels, rotation[None], np.zeros((1, 3)), cross_correlation=True)
    assert score[0, 0] == pytest.approx(1, abs=1e-5)
    other = score_poses(
        projector, particle, pixels, random_rotations(5, 1), np.zeros((1, 3)), cross_correlation=True
    )
    assert other.max() < 0.97


@pytest.mark.parametrize("cross_correlation", [False, True])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_particles_that_share_turned_volumes_score_as_each_alone(
    solid, device, cross_correlation, monkeypatch
):

    pixels, projector, particle, _, _ = solid
    there = projector if device is None else placed(projector, device)
    _, other = toy_volume(
        pixels, random_rotations(1, 77)[0], np.zeros(3), seed=9, offset_zyx_px=np.array([0.3, -1.0, 0.6])
    )
    rotations, shifts = random_rotations(10, 4), np.random.default_rng(3).uniform(-2, 2, (3, 3))
    monkeypatch.setattr(on_cpu, "_MOST_ROWS", 4)
    parts = [np.arange(len(pixels.parts))] * 2
    found = score_shared(
        there, [particle, other], parts, np.tile(np.eye(3), (2, 1, 1)), pixels, rotations, shifts,
        cross_correlation=cross_correlation,
    )  # fmt: skip
    for one, scores in zip((particle, other), found, strict=True):
        expected = score_poses(projector, one, pixels, rotations, shifts, cross_correlation=cross_correlation)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
