"""Refinement of volumes against explicit loops in float64, and against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine import accuracy, calibration, maps
from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.backend import placed
from napari_sta.kernels.refine.images import soft_disc
from napari_sta.kernels.refine.on_cpu import gather, shift_images
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.posterior import Posterior, at_pose
from napari_sta.kernels.refine.projector import (
    interpolation_falloff,
    make_projector,
    padded_radius,
    slice_axes,
)
from napari_sta.kernels.refine.scores import evidence_constant, score_poses, score_shared
from napari_sta.kernels.refine.volumes import (
    initial_volume_noise,
    moved_by_voxels,
    spreading_falloff,
    volume_transform,
    volume_window_power,
    weights_of,
)
from napari_sta.kernels.refine.voxels import make_voxel_list, voxels_per_shell
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from twins import gather_reference, shift_images_reference

SIZE, RADIUS, PADDING, ANGST = 16, 6, 2.0, 3.0
SHELLS = SIZE // 2 + 1


def blob_map(size=SIZE, seed=0, n=6):
    rng = np.random.default_rng(seed)
    k = np.arange(size) - size // 2
    z, y, x = np.meshgrid(k, k, k, indexing="ij")
    out = np.zeros((size,) * 3)
    for _ in range(n):
        c = rng.uniform(-3, 3, 3)
        out += rng.uniform(0.5, 1) * np.exp(-((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2) / 3)
    return torch.from_numpy(out)


def random_rotations(n, seed=0):
    rng = np.random.default_rng(seed)
    return euler_to_matrix_zyx(
        np.stack([rng.uniform(-180, 180, n), rng.uniform(0, 180, n), rng.uniform(-180, 180, n)], axis=1)
    )


def turned(projector, rotation, pixels):
    """Transform of the turned map at all listed voxels, complex, by the plain twin of the gather."""
    out = []
    for part in pixels.parts:
        rows, _ = gather_reference(
            projector, slice_axes(rotation[None], PADDING, 3), part, np.zeros(len(part))
        )
        row = rows[0].numpy()
        out.append(row[: len(part)] + 1j * row[len(part) :])
    return np.concatenate(out)[: pixels.count]


def joined(values, pixels):
    """Complex values of all listed voxels from planar parts."""
    n = len(pixels)
    return (values[:, :n].astype(float) + 1j * values[:, n:]).ravel()[: pixels.count]


def planar(values, pixels):
    return np.concatenate([pixels.split(values.real), pixels.split(values.imag)], axis=1)


def ramp(shift, pixels):
    k = np.stack([pixels.w, pixels.v, pixels.u])
    return np.exp(-2j * np.pi * (np.asarray(shift) @ k) / SIZE)


def toy_volume(pixels, rotation, shift, *, noise=0.002, seed=1, scale=1.0, **changes):
    """Subtomogram of the map at a pose, with a missing wedge, and the projector it was made with."""
    rng = np.random.default_rng(seed)
    projector = make_projector(blob_map(), pixels.radius, PADDING, n_dim=3)
    slices = np.where(
        np.abs(pixels.w) > 1.5 * np.hypot(pixels.v, pixels.u), 0, 0.05 + rng.uniform(0, 3, pixels.count)
    )
    ctf2 = slices * rng.uniform(0.2, 0.9, pixels.count)
    x = ctf2 * scale * turned(projector, rotation, pixels) * ramp(-np.asarray(shift), pixels)
    x = x + np.sqrt(slices) * noise * (rng.normal(size=pixels.count) + 1j * rng.normal(size=pixels.count))
    values = planar(x, pixels)
    power = np.bincount(pixels.shell, np.abs(x) ** 2, SHELLS)[None]
    n_parts = len(pixels.parts)
    particle = ParticleImages(
        masked=values, unmasked=values * np.float32(1.1), model=pixels.split(ctf2), ctf=None,
        matrices_zyx=np.broadcast_to(np.eye(3), (n_parts, 3, 3)), power=power,
        sigma2=np.linspace(8e-6, 2e-6, SHELLS), offset_zyx_px=np.zeros(3), offset_prior_zyx_px=np.zeros(3),
        scale=scale, window_power=power.sum(axis=1), multiplicity=pixels.split(slices),
        slices=np.bincount(pixels.shell, slices, SHELLS),
    )  # fmt: skip
    return projector, replace(particle, **changes)


def difference(projector, particle, pixels, rotation, shift):
    """|X_shifted - s C2 V|² at every voxel."""
    v = turned(projector, rotation, pixels)
    x = joined(particle.masked, pixels) * ramp(particle.offset_zyx_px + shift, pixels)
    ctf2 = particle.model.ravel()[: pixels.count].astype(float)
    return np.abs(x - particle.scale * ctf2 * v) ** 2, np.abs(x) ** 2


@pytest.fixture(scope="module")
def toy():
    pixels = make_voxel_list(SIZE, RADIUS, part=150)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_volume(pixels, rotation, shift, scale=1.2)
    return pixels, projector, particle, rotation, shift


# -- lists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "radius", "part"), [(16, 5, 37), (16, 8, 4096), (20, 7, 100)])
def test_list_holds_each_friedel_pair_once(size, radius, part):
    pixels = make_voxel_list(size, radius, part=part)
    listed = set(zip(pixels.w.tolist(), pixels.v.tolist(), pixels.u.tolist(), strict=True))
    assert len(listed) == pixels.count
    k = range(-radius, radius + 1)
    ball = {(w, v, u) for w in k for v in k for u in k if w * w + v * v + u * u <= radius * radius}

    def folded(p):
        return tuple(-size // 2 + (a + size // 2) % size for a in p)  # -size / 2 is size / 2

    pairs = {frozenset((folded(p), folded(tuple(-a for a in p)))) for p in ball}
    assert {frozenset((folded(p), folded(tuple(-a for a in p)))) for p in listed} == pairs
    assert len(pairs) == len(listed)
    # The parts are the list, cut and filled up with frequency 0.
    assert len({len(one) for one in pixels.parts}) == 1
    assert len(pixels) <= part
    for name in ("w", "v", "u", "shell"):
        whole = np.concatenate([getattr(one, name) for one in pixels.parts])
        np.testing.assert_array_equal(whole[: pixels.count], getattr(pixels, name))
        assert not whole[pixels.count :].any()
    for one in pixels.parts:
        assert one.row_n.sum() <= len(one)
        for w, v, u, n, start in zip(one.row_w, one.row_v, one.row_u, one.row_n, one.row_start, strict=True):
            row = slice(start, start + n)
            np.testing.assert_array_equal(one.u[row], np.arange(u, u + n))
            assert (one.v[row] == v).all()
            assert (one.w[row] == w).all()


def test_shells_count_what_the_list_holds():
    pixels = make_voxel_list(SIZE, SIZE // 2)
    count = voxels_per_shell(SIZE)
    np.testing.assert_array_equal(np.bincount(pixels.shell, minlength=SHELLS)[: SHELLS - 1], count[:-1])
    assert count[0] == 1
    assert count[1] == 9  # 26 neighbours less 8 corners at sqrt(3), half of them


def test_list_of_a_larger_box_counts_the_shells_of_the_reference():
    # Edge of the reference 2/3 of the volume's: its shell k is the volume's k · 3/2.
    pixels = make_voxel_list(24, 6, 2 / 3)
    radius = np.sqrt(pixels.w**2 + pixels.v**2 + pixels.u**2)
    assert radius.max() == pytest.approx(9)
    np.testing.assert_array_equal(pixels.shell, np.floor(radius * 2 / 3 + 0.5))


def test_smaller_list_is_found_in_the_larger():
    whole = make_voxel_list(SIZE, RADIUS, part=150)
    small = make_voxel_list(SIZE, 4, part=70)
    place = whole.places_of(small)
    assert (place.ravel()[small.count :] == -1).all()
    for name in ("w", "v", "u"):
        np.testing.assert_array_equal(
            getattr(whole, name)[place.ravel()[: small.count]], getattr(small, name)
        )
    projector, particle = toy_volume(whole, random_rotations(1, 5)[0], np.zeros(3))
    part = particle.at_pixels(place)
    inside = np.hypot(np.hypot(whole.w, whole.v), whole.u) <= 4
    np.testing.assert_array_equal(joined(part.masked, small), joined(particle.masked, whole)[inside])
    assert part.model.shape == place.shape
    assert not part.model.ravel()[small.count :].any()
    assert len(part.matrices_zyx) == len(small.parts)
    assert score_poses(projector, part, small, random_rotations(2, 1), np.zeros((1, 3))).shape == (2, 1)


def test_transform_of_a_wave_is_one_voxel():
    k = torch.arange(SIZE) - SIZE // 2
    wave = 2 * torch.cos(2 * torch.pi * (3 * k[None, None] - 2 * k[None, :, None] + k[:, None, None]) / SIZE)
    spectrum = volume_transform(wave.float())
    assert spectrum[1, -2 % SIZE, 3].real == pytest.approx(1, abs=1e-6)
    assert float(spectrum.abs().sum()) == pytest.approx(1, abs=1e-3)
    pixels = make_voxel_list(SIZE, RADIUS, part=100)
    taken = joined(pixels.take(spectrum), pixels)
    at = (pixels.w == 1) & (pixels.v == -2) & (pixels.u == 3)
    assert taken[at] == pytest.approx(1, abs=1e-6)
    assert np.abs(taken[~at]).max() < 1e-6


def test_volume_moves_by_whole_voxels_with_zeros_behind():
    volume = torch.arange(64.0).reshape(4, 4, 4)
    moved = moved_by_voxels(volume, (1, -2, 0))
    assert moved[2, 1, 3] == volume[1, 3, 3]
    assert not moved[0].any()
    assert not moved[:, 2:].any()
    assert not moved_by_voxels(volume, (5, 0, 0)).any()


def test_weights_are_empty_where_no_slice_came():
    stored = torch.zeros((4, 2, 2))
    stored[:2] = -0.5
    stored[2:] = 3.0
    stored[2, 0, 0] = 0.005
    weights = weights_of(stored)
    assert weights.ctf2[0, 0, 0] == 0
    assert weights.multiplicity[0, 0, 0] == 0
    assert weights.ctf2[1, 0, 0] == 0.5


def test_spreading_fades_a_volume_like_sinc_squared():
    """A slice's pixel, spread over 8 voxels, is a wave that fades away from the centre, on average."""
    rng = np.random.default_rng(0)
    size = 8
    r = np.arange(size) - size // 2
    total = np.zeros((size,) * 3, complex)
    n = 3000
    for _ in range(n):
        k = rng.uniform(-3, 3, 3)
        low = np.floor(k)
        wave = np.ones((1, 1, 1), complex)
        for axis in range(3):
            f = k[axis] - low[axis]
            one = (1 - f) * np.exp(2j * np.pi * low[axis] * r / size) + f * np.exp(
                2j * np.pi * (low[axis] + 1) * r / size
            )
            shape = [-1 if a == axis else 1 for a in range(3)]
            wave = wave * (one * np.exp(-2j * np.pi * k[axis] * r / size)).reshape(shape)
        total += wave / n
    np.testing.assert_allclose(total.real, spreading_falloff(size).numpy(), atol=0.03)


# -- gather, ramps, insertion ------------------------------------------------------------------------


def test_gather_equals_trilinear_interpolation_by_hand():
    volume, pixels = blob_map(), make_voxel_list(SIZE, RADIUS, part=200)
    projector = make_projector(volume, RADIUS, PADDING, n_dim=3)
    matrix = random_rotations(1, 3)[0]
    big = int(PADDING * SIZE)
    padded = np.zeros((big,) * 3)
    first = big // 2 - SIZE // 2
    padded[(slice(first, first + SIZE),) * 3] = (volume / interpolation_falloff(SIZE, PADDING)).numpy()
    full = np.fft.fftn(np.fft.ifftshift(padded)) / SIZE**3
    for t, i in ((0, 0), (0, 17), (1, 100), (2, 150)):
        part = pixels.part(t)
        n = len(part)
        rows, norm = np.zeros((1, 2 * n), np.float32), np.zeros(1)
        weight = np.linspace(0, 1, n).astype(np.float32)
        gather(projector, slice_axes(matrix[None], PADDING, 3), part, weight, rows, norm)
        at = PADDING * (part.w[i] * matrix[0] + part.v[i] * matrix[1] + part.u[i] * matrix[2])
        low = np.floor(at).astype(int)
        total = 0j
        for corner in np.ndindex(2, 2, 2):
            index = low + np.array(corner)
            if (index**2).sum() > (PADDING * RADIUS) ** 2:
                continue
            w = np.prod([at[a] - low[a] if corner[a] else 1 - at[a] + low[a] for a in range(3)])
            total += w * full[tuple(index % big)]
        assert complex(rows[0, i], rows[0, n + i]) == pytest.approx(total, abs=1e-7)
        z = rows[0, :n] + 1j * rows[0, n:]
        assert norm[0] == pytest.approx(0.5 * (weight * np.abs(z) ** 2).sum(), rel=1e-5)


def test_gather_fast_equals_reference():
    pixels = make_voxel_list(SIZE, RADIUS, part=130)
    projector = make_projector(blob_map(), RADIUS, PADDING, n_dim=3)
    axes = slice_axes(random_rotations(7, 4), PADDING, 3)
    for part in pixels.parts:
        weight = np.random.default_rng(0).uniform(size=len(part)).astype(np.float32)
        rows, norm = np.zeros((7, 2 * len(part)), np.float32), np.zeros(7)
        gather(projector, axes, part, weight, rows, norm)
        expected, expected_norm = gather_reference(projector, axes, part, weight)
        np.testing.assert_allclose(rows, expected.numpy(), atol=3e-6 * float(expected.abs().max()) + 1e-9)
        np.testing.assert_allclose(norm, expected_norm.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        pytest.param(np.eye(3), lambda a: a, id="not turned"),
        # zyx: x to y about z; a map moved so has at (z, y, x) what was at (z, -x, y).
        pytest.param(
            np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), lambda a: a.flip(1).roll(1, 1).transpose(1, 2), id="quarter turn"
        ),
    ],
)  # fmt: skip
def test_turned_map_is_the_transform_of_the_turned_map(matrix, turn):
    """On grid points nothing is interpolated: gather and FFT agree, so do axes and signs."""
    volume = blob_map()
    pixels = make_voxel_list(SIZE, RADIUS, part=150)
    projector = make_projector(volume, RADIUS, PADDING, n_dim=3)
    corrected = volume / interpolation_falloff(SIZE, PADDING)
    expected = joined(pixels.take(volume_transform(turn(corrected).float())), pixels)
    np.testing.assert_allclose(turned(projector, matrix, pixels), expected, atol=3e-7)


def test_shift_moves_by_whole_voxels(rng):
    volume = torch.from_numpy(rng.normal(size=(SIZE,) * 3).astype(np.float32))
    pixels = make_voxel_list(SIZE, RADIUS, part=150)
    parts = pixels.take(volume_transform(volume))
    moved = pixels.take(volume_transform(volume.roll((3, -2, 1), dims=(0, 1, 2))))
    shifts = np.array([[3.0, -2.0, 1.0], [0.3, 0.6, -1.7]])
    for t in range(len(pixels.parts)):
        out = np.full((2, parts.shape[1]), np.nan, np.float32)
        shift_images(parts[t], shifts, pixels.part(t), out)
        np.testing.assert_allclose(out[0], moved[t], atol=1e-7)
        reference = shift_images_reference(parts[t], shifts, pixels.part(t))
        np.testing.assert_allclose(out, reference.numpy(), atol=1e-8)


# -- likelihood --------------------------------------------------------------------------------------


def test_scores_are_the_explicit_differences_per_slice(toy):
    """RELION's metric: sum abs(X - C2 V)² / 2 sigma² M, M only where it is above 0.1."""
    pixels, projector, particle, _, _ = toy
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


def test_parts_do_not_matter(toy):
    _, projector, _, rotation, shift = toy
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


def test_evidence_constant_completes_the_log_likelihood(toy):
    pixels, projector, particle, rotation, shift = toy
    particle = replace(particle, multiplicity=None)
    score = score_poses(projector, particle, pixels, rotation[None], shift[None])[0, 0]
    apart, _ = difference(projector, particle, pixels, rotation, shift)
    good = pixels.shell > 0
    whole = -(apart / (2 * particle.sigma2[pixels.shell]))[good].sum()
    normaliser = (voxels_per_shell(SIZE) * np.log(2 * np.pi * particle.sigma2))[1 : RADIUS + 1].sum()
    # Without voxels whose shell is within the radius but they are not (corners of the last shell).
    assert score + evidence_constant(particle, pixels) == pytest.approx(whole - normaliser, rel=1e-4)


def test_true_pose_scores_best(toy):
    pixels, projector, particle, rotation, shift = toy
    rotations = np.concatenate([rotation[None], random_rotations(30, 9)])
    shifts = np.concatenate([shift[None], shift + np.random.default_rng(1).normal(0, 1, (9, 3))])
    scores = score_poses(projector, particle, pixels, rotations, shifts)
    assert np.unravel_index(scores.argmax(), scores.shape) == (0, 0)


def test_cross_correlation_of_a_noiseless_volume_is_one():
    pixels = make_voxel_list(SIZE, RADIUS, part=150)
    rotation = random_rotations(1, 8)[0]
    projector, particle = toy_volume(pixels, rotation, np.zeros(3), noise=0.0)
    both = np.concatenate([one.multiplicity for one in pixels.parts])[: pixels.count]
    power = (both * np.abs(joined(particle.masked, pixels)) ** 2).sum()
    particle = replace(particle, window_power=np.array([power]))
    score = score_poses(projector, particle, pixels, rotation[None], np.zeros((1, 3)), cross_correlation=True)
    assert score[0, 0] == pytest.approx(1, abs=1e-5)
    other = score_poses(
        projector, particle, pixels, random_rotations(5, 1), np.zeros((1, 3)), cross_correlation=True
    )
    assert other.max() < 0.97


def test_window_power_counts_both_mates(rng):
    volume = torch.from_numpy(rng.normal(size=(SIZE,) * 3).astype(np.float32))
    spectrum = volume_transform(volume)
    full = np.fft.fftn(volume.numpy()) / SIZE**3
    rows = np.arange(-4, 6)
    expected = (np.abs(full[np.ix_(rows, rows, np.arange(6))]) ** 2).sum()
    assert volume_window_power(spectrum, 5) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cross_correlation", [False, True])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_particles_that_share_turned_volumes_score_as_each_alone(toy, device, cross_correlation, monkeypatch):

    pixels, projector, particle, _, _ = toy
    there = projector if device is None else placed(projector, device)
    _, other = toy_volume(
        pixels, random_rotations(1, 77)[0], np.zeros(3), seed=9, offset_zyx_px=np.array([0.3, -1.0, 0.6])
    )
    rotations, shifts = random_rotations(10, 4), np.random.default_rng(3).uniform(-2, 2, (3, 3))
    monkeypatch.setattr(rf, "_MOST_ROWS", 4)
    parts = [np.arange(len(pixels.parts))] * 2
    found = score_shared(
        there, [particle, other], parts, np.tile(np.eye(3), (2, 1, 1)), pixels, rotations, shifts,
        cross_correlation=cross_correlation,
    )  # fmt: skip
    for one, scores in zip((particle, other), found, strict=True):
        expected = score_poses(projector, one, pixels, rotations, shifts, cross_correlation=cross_correlation)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


# -- sums --------------------------------------------------------------------------------------------


def test_sums_are_the_explicit_loops(toy):
    pixels, projector, particle, rotation, shift = toy
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 3, (3, 3)))
    shifts = shift + np.random.default_rng(1).normal(0, 0.5, (2, 3))
    weights = np.array([[0.5, 0.2], [0.0, 0.1], [0.15, 0.0]])
    posterior = Posterior(rotations, shifts, weights, np.zeros(3, dtype=int), (0, 0), 1, 0.0)
    sums = sums_of.new_sums(RADIUS, PADDING, 1, 2, SHELLS, 1)
    sums_of.add_particle(
        sums, posterior, projector, particle, pixels, 0, 1, ANGST,
        tilts=np.zeros(len(pixels.parts), dtype=int), drop_row_ends=True,
    )  # fmt: skip

    residual, cross, norm = np.zeros(SHELLS), np.zeros(SHELLS), np.zeros(SHELLS)
    total_data, total_weight = 0j, 0.0
    ctf2 = particle.model.ravel()[: pixels.count].astype(float)
    raw = joined(particle.unmasked, pixels)
    inverse = 1 / particle.sigma2[pixels.shell]  # without multiplicity
    for o in range(3):
        mv = ctf2 * turned(projector, rotations[o], pixels)
        x3 = np.stack([pixels.w, pixels.v, pixels.u], axis=1) @ rotations[o][:, 2]
        for s in range(2):
            w = weights[o, s]
            x = joined(particle.masked, pixels) * ramp(shifts[s], pixels)
            np.add.at(residual, pixels.shell, w * np.abs(1.2 * mv - x) ** 2)
            np.add.at(cross, pixels.shell, w * (np.conj(mv) * x).real)
            np.add.at(norm, pixels.shell, w * np.abs(mv) ** 2)
            total_weight += (w * inverse * 1.2 * ctf2).sum()
            data = w * inverse * raw * ramp(shifts[s], pixels)
            total_data += np.where(x3.astype(np.float32) >= 0, data, np.conj(data)).sum()
    np.testing.assert_allclose(sums.residual[0], residual, rtol=2e-4, atol=1e-9)
    assert not sums.cross[0].any()
    np.testing.assert_allclose(sums.cross[1, 0], cross, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(sums.norm[1, 0], norm, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(sums.tilt_residual[1, 0], residual, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(sums.tilt_weight, [[0], [0.95]])
    assert sums.volume[..., 2].sum() == pytest.approx(total_weight, rel=1e-4)
    data = sums.volume[..., 0].sum() + 1j * sums.volume[..., 1].sum()
    assert data.real == pytest.approx(total_data.real, rel=1e-3)
    assert data.imag == pytest.approx(total_data.imag, rel=1e-3, abs=1e-3 * abs(total_data))
    assert sums.n_images[0] == pytest.approx(0.95)
    np.testing.assert_allclose(sums.slices[0], 0.95 * particle.slices)
    noise = noise_of.update_noise(sums, SIZE)
    good = slice(1, RADIUS)
    np.testing.assert_allclose(noise[0, good], (residual / (2 * 0.95 * particle.slices))[good], rtol=1e-3)


def test_map_comes_back_from_its_turned_transforms():
    """Insert noiseless volumes at their poses, reconstruct: the map of all orientations."""
    pixels = make_voxel_list(SIZE, SIZE // 2, part=500)
    volume = blob_map() * soft_disc(SIZE, 5.0, 2.0, n_dim=3)
    rotations = random_rotations(40, 3)
    sums = sums_of.new_sums(SIZE // 2, PADDING, 1, 1, SHELLS, 1)
    for rotation in rotations:
        projector, particle = toy_volume(pixels, rotation, np.zeros(3), noise=0.0)
        projector = make_projector(volume, SIZE // 2, PADDING, n_dim=3)
        x = turned(projector, rotation, pixels) * particle.model.ravel()[: pixels.count]
        particle = replace(particle, unmasked=planar(x, pixels), sigma2=np.ones(SHELLS))
        sums_of.add_particle(
            sums, at_pose(rotation), projector, particle, pixels, 0, 0, ANGST, statistics=False
        )
    full = maps.complete_sums(sums.volume, np.eye(3)[None], padded_radius(SIZE // 2, PADDING))
    found = maps.reconstruct(full, SIZE, SIZE // 2, PADDING, n_dim=3)
    inside = soft_disc(SIZE, 6.0, 1.0, n_dim=3) > 0.5
    assert float((found - volume)[inside].abs().max()) < 0.05 * float(volume.max())
    ratio = float((found * volume)[inside].sum() / (volume**2)[inside].sum())
    assert ratio == pytest.approx(1, abs=0.02)


def test_noise_at_the_start_is_that_of_one_slice(rng):
    signal = rng.normal(size=(SIZE,) * 3)
    slices = torch.full((SIZE, SIZE, SHELLS), 3.0)
    spectra = [
        volume_transform(
            torch.from_numpy((signal + np.sqrt(3) * rng.normal(size=signal.shape)).astype(np.float32))
        )
        for _ in range(60)
    ]
    sigma2 = initial_volume_noise(spectra, [slices] * 60)
    np.testing.assert_allclose(sigma2[2:], 0.5 / SIZE**3, rtol=0.1)


# -- accuracy ----------------------------------------------------------------------------------------


def test_overconfidence_of_independent_noise_is_one_and_of_correlated_noise_is_more():
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


def test_accuracy_is_where_the_evidence_passes_the_limit():
    pixels = make_voxel_list(SIZE, RADIUS, part=250)
    angles = np.array([30.0, 60.0, -20.0])
    projector, particle = toy_volume(pixels, euler_to_matrix_zyx(angles), np.zeros(3))
    found = accuracy.expected_accuracy(projector, particle, pixels, angles, np.random.default_rng(3))
    generator = np.random.default_rng(3)
    angle_axis, offset_axis = generator.integers(0, 3, 1)[0], generator.integers(0, 3, 1)[0]
    slices = particle.multiplicity.ravel()[: pixels.count]
    ctf2 = particle.model.ravel()[: pixels.count].astype(float)
    weight = ctf2**2 / (2 * particle.sigma2[pixels.shell] * np.where(slices > 0.1, slices, 1))
    weight = weight * (pixels.shell > 0)

    def evidence(error_deg=0.0, error_px=0.0):
        other, shift = angles.copy(), np.zeros(3)
        other[angle_axis] += error_deg
        shift[2 - offset_axis] = error_px
        v = turned(projector, euler_to_matrix_zyx(angles), pixels)
        moved = turned(projector, euler_to_matrix_zyx(other), pixels) * ramp(shift, pixels)
        return (weight * np.abs(v - moved) ** 2).sum()

    steps = [(0.2, 0.05), (1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0), (20, 2.0), (30, 5.0)]
    step = next(s for limit, s in steps if found.angle_deg <= limit + 1e-9)
    assert evidence(error_deg=found.angle_deg) > 4.60517
    assert evidence(error_deg=found.angle_deg - step) <= 4.60517
    steps = [(1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0)]
    step = next(s for limit, s in steps if found.offset_px <= limit + 1e-9)
    assert evidence(error_px=found.offset_px) > 4.60517
    assert evidence(error_px=found.offset_px - step) <= 4.60517


# -- torch devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("cross_correlation", [False, True])
def test_devices_score_and_average_volumes_as_the_compiled_loops_do(toy, device, cross_correlation):

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pixels, projector, particle, _, _ = toy
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
    np.testing.assert_allclose(theirs.slices, mine.slices)
