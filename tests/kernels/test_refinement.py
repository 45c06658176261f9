"""Refinement kernels against a likelihood of explicit differences in float64, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine import accuracy, calibration
from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.backend import placed
from napari_sta.kernels.refine.images import (
    fill_outside,
    image_transforms,
    initial_noise,
    shell_powers,
    soft_disc,
)
from napari_sta.kernels.refine.on_cpu import gather, shift_images
from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import half_plane_shells, make_pixel_list, pixels_per_shell
from napari_sta.kernels.refine.posterior import (
    Posterior,
    Search,
    at_pose,
    find_posterior,
    mean_pose,
    offset_log_prior,
    resampled,
    significant,
)
from napari_sta.kernels.refine.projector import interpolation_falloff, make_projector, slice_axes
from napari_sta.kernels.refine.scores import evidence_constant, score_poses, score_shared
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from twins import gather_reference, shift_images_reference

SIZE, RADIUS, PADDING, ANGST = 16, 6, 2.0, 3.0


def blob_map(size=SIZE, seed=0, n=6):
    """A few Gaussian blobs near the centre."""
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


def slice_by_hand(volume, matrix, v, u, padding=PADDING, radius=RADIUS):
    """Trilinear value of the padded transform at matrix^T (0, v, u), from the full complex FFT, one pixel."""
    size = volume.shape[0]
    big = int(padding * size)
    corrected = volume / interpolation_falloff(size, padding)
    padded = np.zeros((big,) * 3)
    first = big // 2 - size // 2
    padded[(slice(first, first + size),) * 3] = corrected.numpy()
    full = np.fft.fftn(np.fft.ifftshift(padded)) / size**2
    at = padding * (v * matrix[1] + u * matrix[2])
    low = np.floor(at).astype(int)
    part = at - low
    total = 0j
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                index = low + np.array([dz, dy, dx])
                if (index**2).sum() > (padding * radius) ** 2:
                    continue
                w = np.prod([part[a] if d else 1 - part[a] for a, d in enumerate((dz, dy, dx))])
                total += w * full[tuple(index % big)]
    return total


def toy_particle(
    volume, pixels, rotation, shift, n_tilts=2, noise=0.02, seed=1, premultiplied=True, scale=1.0
):
    """Images of the map itself at a pose, times a CTF, plus noise; returns the particle and its parts."""
    rng = np.random.default_rng(seed)
    tilts = euler_to_matrix_zyx(np.array([[0.0, 35.0 * t, 10.0] for t in range(n_tilts)]))
    n = len(pixels)
    ctf = np.cos(0.15 * pixels.shell[None] * (1 + 0.2 * np.arange(n_tilts)[:, None])) * 0.9
    model = ctf**2 if premultiplied else ctf
    projector = make_projector(volume, pixels.radius, PADDING)
    images = np.empty((n_tilts, 2 * n), np.float32)
    for t in range(n_tilts):
        rows, _ = gather_reference(
            projector, slice_axes((tilts[t] @ rotation)[None], PADDING), pixels, np.zeros(n)
        )
        signal = rows[0].numpy() * np.tile(model[t], 2) * scale
        moved = shift_images_reference(signal, -(tilts[t] @ shift)[None, 1:], pixels)[0].numpy()
        images[t] = moved + noise * rng.normal(size=2 * n)
    shells = SIZE // 2 + 1
    power = np.zeros((n_tilts, shells))
    for t in range(n_tilts):
        np.add.at(power[t], pixels.shell, images[t, :n].astype(float) ** 2 + images[t, n:].astype(float) ** 2)
    particle = ParticleImages(
        images, images * np.float32(1.1), model.astype(np.float32),
        None if premultiplied else ctf.astype(np.float32), tilts, power,
        np.linspace(2e-3, 5e-4, shells), np.zeros(3), np.zeros(3), scale, power.sum(axis=1),
    )  # fmt: skip
    return projector, particle


def explicit_score(projector, particle, pixels, rotation, shift, *, with_constant=False):
    """-sum abs(s M V - X_shifted)² / 2 sigma² in complex float64, pixel by pixel; DC left out."""
    n = len(pixels)
    total = 0.0
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        rows, _ = gather_reference(projector, slice_axes((q @ rotation)[None], PADDING), pixels, np.zeros(n))
        v = rows[0, :n].numpy() + 1j * rows[0, n:].numpy()
        x = particle.masked[t, :n].astype(float) + 1j * particle.masked[t, n:].astype(float)
        d = (q @ (particle.offset_zyx_px + shift))[1:]
        x = x * np.exp(-2j * np.pi * (pixels.v * d[0] + pixels.u * d[1]) / SIZE)
        good = pixels.shell > 0
        difference = np.abs(particle.scale * particle.model[t] * v - x) ** 2 / (
            2 * particle.sigma2[pixels.shell]
        )
        total -= difference[good].sum()
        if not with_constant:
            total += (np.abs(x) ** 2 / (2 * particle.sigma2[pixels.shell]))[good].sum()
    return total


@pytest.fixture(scope="module")
def toy():
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_particle(blob_map(), pixels, rotation, shift, scale=1.2)
    return pixels, projector, particle, rotation, shift


# -- pixels and images -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "radius"), [(16, 5), (16, 8), (48, 19)])
def test_pixel_list_holds_each_friedel_pair_once(size, radius):
    pixels = make_pixel_list(size, radius)
    listed = set(zip(pixels.v.tolist(), pixels.u.tolist(), strict=True))
    assert len(listed) == len(pixels)
    expected = {
        (v, u)
        for v in range(-radius + 1, radius + 1)
        for u in range(radius + 1)
        if v * v + u * u <= radius * radius and not (u == 0 and v < 0)
    }
    assert listed == expected
    for v, u, n, start in zip(pixels.row_v, pixels.row_u, pixels.row_n, pixels.row_start, strict=True):
        np.testing.assert_array_equal(pixels.u[start : start + n], np.arange(u, u + n))
        assert (pixels.v[start : start + n] == v).all()


def test_transform_of_a_wave_is_one_pixel():
    k = torch.arange(SIZE) - SIZE // 2
    wave = 2 * torch.cos(2 * torch.pi * (3 * k[None, :] - 2 * k[:, None]) / SIZE)
    spectrum = image_transforms(wave[None].float())[0]
    assert spectrum[-2 % SIZE, 3].real == pytest.approx(1, abs=1e-6)
    assert float(spectrum.abs().sum()) == pytest.approx(1, abs=1e-4)


def test_fill_outside_takes_the_mean_of_the_outside():
    disc = soft_disc(32, 8.0, 5.0)
    image = torch.full((32, 32), 7.0)
    image[16, 16] = 100
    filled = fill_outside(image, disc)
    assert float(filled[0, 0]) == pytest.approx(7)
    assert float(filled[16, 16]) == pytest.approx(100)
    k = torch.arange(32) - 16
    r = (k[:, None] ** 2 + k[None, :] ** 2).sqrt()
    assert (disc[r <= 8] == 1).all()
    assert (disc[r >= 13] == 0).all()
    assert float(disc[16, 16 + 10]) == pytest.approx(0.5 + 0.5 * np.cos(np.pi * 0.4))


def test_half_plane_counts():
    # Shell 1 of the half plane: (1, 0), (0, 1), (1, 1), (-1, 1); the window of radius 3 has no row -3.
    assert list(pixels_per_shell(16)[:2]) == [1, 4]
    whole, window = half_plane_shells(16), half_plane_shells(16, 3)
    assert int((whole == 3).sum() - (window == 3).sum()) == 1  # (-3, 1); (-3, 0) is a mate anyway
    assert int((whole == 5).sum() - (window == 5).sum()) == 0
    spectra = torch.ones((2, 16, 9), dtype=torch.complex64) * 2
    np.testing.assert_allclose(shell_powers(spectra, whole, 9)[1], 4 * pixels_per_shell(16))


# -- slices and shifts -------------------------------------------------------------------------------


def test_gather_equals_trilinear_interpolation_by_hand():
    volume, pixels = blob_map(), make_pixel_list(SIZE, RADIUS)
    projector = make_projector(volume, RADIUS, PADDING)
    matrix = random_rotations(1, 3)[0]
    n = len(pixels)
    rows, norm = np.zeros((1, 2 * n), np.float32), np.zeros(1)
    weight = np.linspace(0, 1, n).astype(np.float32)
    gather(projector, slice_axes(matrix[None], PADDING), pixels, weight, rows, norm)
    for i in (0, 5, 17, n // 2, n - 1):
        expected = slice_by_hand(volume, matrix, pixels.v[i], pixels.u[i])
        assert complex(rows[0, i], rows[0, n + i]) == pytest.approx(expected, abs=2e-6)
    z = rows[0, :n] + 1j * rows[0, n:]
    assert norm[0] == pytest.approx(0.5 * (weight * np.abs(z) ** 2).sum(), rel=1e-5)


def test_gather_fast_equals_reference():
    pixels = make_pixel_list(SIZE, RADIUS)
    projector = make_projector(blob_map(), RADIUS, PADDING)
    axes = slice_axes(random_rotations(20, 4), PADDING)
    weight = np.random.default_rng(0).uniform(size=len(pixels)).astype(np.float32)
    rows, norm = np.zeros((20, 2 * len(pixels)), np.float32), np.zeros(20)
    gather(projector, axes, pixels, weight, rows, norm)
    expected, expected_norm = gather_reference(projector, axes, pixels, weight)
    np.testing.assert_allclose(rows, expected.numpy(), atol=2e-6 * float(expected.abs().max()) + 1e-7)
    np.testing.assert_allclose(norm, expected_norm.numpy(), rtol=1e-5)


def test_slice_of_the_identity_is_the_projection():
    volume = blob_map()
    pixels = make_pixel_list(SIZE, RADIUS)
    projector = make_projector(volume, RADIUS, PADDING)
    rows, _ = gather_reference(projector, slice_axes(np.eye(3)[None], PADDING), pixels, np.zeros(len(pixels)))
    corrected = volume / interpolation_falloff(SIZE, PADDING)  # on grid points nothing falls off
    expected = pixels.take(image_transforms(corrected.sum(dim=0)[None].float()))
    np.testing.assert_allclose(rows[0].numpy(), expected[0], atol=1e-5)


def test_shift_moves_by_whole_pixels():
    rng = np.random.default_rng(2)
    image = torch.from_numpy(rng.normal(size=(1, SIZE, SIZE)).astype(np.float32))
    pixels = make_pixel_list(SIZE, RADIUS)
    planar = pixels.take(image_transforms(image))[0]
    out = np.empty((2, len(planar)), np.float32)
    shift_images(planar, np.array([[3.0, -2.0], [0.3, 0.6]]), pixels, out)
    moved = pixels.take(image_transforms(image.roll((3, -2), dims=(1, 2))))[0]
    np.testing.assert_allclose(out[0], moved, atol=1e-6)
    reference = shift_images_reference(planar, np.array([[3.0, -2.0], [0.3, 0.6]]), pixels)
    np.testing.assert_allclose(out, reference.numpy(), atol=1e-7)


# -- likelihood --------------------------------------------------------------------------------------


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
    monkeypatch.setattr(rf, "_MOST_ROWS", 4)
    np.testing.assert_allclose(score_poses(projector, particle, pixels, rotations, shifts), whole, rtol=1e-6)


def test_cross_correlation_of_noiseless_images_is_one_a_tilt():
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation = random_rotations(1, 8)[0]
    projector, particle = toy_particle(blob_map(), pixels, rotation, np.zeros(3), noise=0.0, n_tilts=3)
    n = len(pixels)
    power = (pixels.multiplicity * (particle.masked[:, :n] ** 2 + particle.masked[:, n:] ** 2)).sum(axis=1)
    particle = ParticleImages(**{**particle.__dict__, "window_power": power})
    score = score_poses(projector, particle, pixels, rotation[None], np.zeros((1, 3)), cross_correlation=True)
    assert score[0, 0] == pytest.approx(3, abs=1e-5)
    other = score_poses(
        projector, particle, pixels, random_rotations(5, 1), np.zeros((1, 3)), cross_correlation=True
    )
    assert other.max() < 2.9


def test_significant_weights():
    weights = np.array([[0.5, 0.3], [0.15, 0.05]])
    chosen, total = significant(weights, 0.75)
    assert total == pytest.approx(1)
    np.testing.assert_array_equal(chosen, [[True, True], [False, False]])
    np.testing.assert_array_equal(significant(weights, 0.9)[0], [[True, True], [True, False]])
    assert significant(np.array([1.0, 0.0, 0.0]), 0.999)[0].tolist() == [True, False, False]


def test_offset_prior_and_relions_units(toy):
    particle = ParticleImages(**{**toy[2].__dict__, "offset_zyx_px": np.array([1.0, 0, 0])})
    steps = np.array([[0.0, 0, 0], [-ANGST, 0, 0]])
    right = offset_log_prior(particle, steps, ANGST, 9.0)
    np.testing.assert_allclose(right, [-0.5, 0.0])
    odd = offset_log_prior(particle, steps, ANGST, 9.0, relion_units=True)
    np.testing.assert_allclose(odd, [-0.5, -0.5 * (ANGST * (1 - ANGST)) ** 2 / 9])


def make_search(rotations, children, steps, kids, perturbation=0.0, fraction=0.999):
    return Search(
        rotations, np.log(np.full(len(rotations), 1 / len(rotations))), children.__getitem__, steps, perturbation, kids, ANGST,
        25.0, fraction,
    )  # fmt: skip


def test_posterior_is_brute_force_over_children_of_significant_pairs(toy):
    pixels, projector, particle, rotation, shift = toy
    rng = np.random.default_rng(6)
    turn = euler_to_matrix_zyx(rng.normal(0, 2.0, (6, 3)))
    rotations = rotation @ turn
    children = rotations[:, None] @ euler_to_matrix_zyx(rng.normal(0, 1.0, (3, 3)))
    steps = (shift + rng.normal(0, 0.6, (4, 3))) * ANGST
    kids = rng.normal(0, 0.3, (2, 3)) * ANGST
    search = make_search(rotations, children, steps, kids, perturbation=0.2)
    posterior = find_posterior(projector, particle, pixels, search)

    prior = offset_log_prior(particle, steps, ANGST, 25.0)
    moved = (steps + 0.2) / ANGST
    coarse = (
        np.array([[explicit_score(projector, particle, pixels, r, s) for s in moved] for r in rotations])
        + prior
    )
    weights = np.exp(coarse - coarse.max())
    chosen, _ = significant(weights, 0.999)
    assert posterior.n_significant == chosen.sum()
    fine = {}
    for o, s in zip(*np.nonzero(chosen), strict=True):
        for c in range(3):
            for d in range(2):
                score = explicit_score(
                    projector, particle, pixels, children[o, c], moved[s] + kids[d] / ANGST
                )
                fine[o, c, s, d] = score + prior[s]
    top = max(fine.values())
    total = sum(np.exp(v - top) for v in fine.values())
    o, c, s, d = max(fine, key=lambda key: fine[key])
    assert posterior.p_max == pytest.approx(1 / total, abs=2e-3)
    np.testing.assert_allclose(posterior.rotations_zyx[posterior.best[0]], children[o, c])
    np.testing.assert_allclose(posterior.shifts_zyx_px[posterior.best[1]], moved[s] + kids[d] / ANGST)
    assert 0.999 <= posterior.weights.sum() <= 1 + 1e-9
    assert posterior.parents[posterior.best[0]] == o


def test_cross_correlation_keeps_one_pose(toy):
    pixels, projector, particle, rotation, shift = toy
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 5, (5, 3)))
    children = rotations[:, None] @ euler_to_matrix_zyx(np.random.default_rng(1).normal(0, 1, (2, 3)))
    search = make_search(rotations, children, shift[None] * ANGST, np.zeros((1, 3)))
    posterior = find_posterior(projector, particle, pixels, search, cross_correlation=True)
    assert posterior.weights.shape == (1, 1)
    assert posterior.p_max == 1
    assert posterior.n_significant == 1


# -- sums --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("premultiplied", [True, False])
def test_sums_are_the_explicit_loops(premultiplied):
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_particle(
        blob_map(), pixels, rotation, shift, premultiplied=premultiplied, scale=1.3
    )
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 3, (3, 3)))
    shifts = shift + np.random.default_rng(1).normal(0, 0.5, (2, 3))
    weights = np.array([[0.5, 0.2], [0.0, 0.1], [0.15, 0.0]])
    posterior = Posterior(rotations, shifts, weights, np.zeros(3, dtype=int), (0, 0), 1, 0.0)
    n_shells, n = SIZE // 2 + 1, len(pixels)
    sums = sums_of.new_sums(RADIUS, PADDING, 1, 1, n_shells, 2)
    sums_of.add_particle(sums, posterior, projector, particle, pixels, 0, 0, ANGST)

    residual, cross, norm = np.zeros(n_shells), np.zeros(n_shells), np.zeros(n_shells)
    total_data, total_weight = 0j, 0.0
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        for o in range(3):
            rows, _ = gather_reference(
                projector, slice_axes((q @ rotations[o])[None], PADDING), pixels, np.zeros(n)
            )
            mv = particle.model[t] * (rows[0, :n].numpy() + 1j * rows[0, n:].numpy())
            for s in range(2):
                d = (q @ shifts[s])[1:]
                ramp = np.exp(-2j * np.pi * (pixels.v * d[0] + pixels.u * d[1]) / SIZE)
                x = (particle.masked[t, :n] + 1j * particle.masked[t, n:]) * ramp
                raw = (particle.unmasked[t, :n] + 1j * particle.unmasked[t, n:]) * ramp
                w = weights[o, s]
                np.add.at(residual, pixels.shell, w * np.abs(1.3 * mv - x) ** 2)
                np.add.at(cross, pixels.shell, w * (np.conj(mv) * x).real)
                np.add.at(norm, pixels.shell, w * np.abs(mv) ** 2)
                inverse = 1 / particle.sigma2[pixels.shell]
                # Trilinear weights sum to 1, so plain sums over the volume tell all but the placing.
                total_weight += (
                    w * inverse * (1.3 * particle.model[t] if premultiplied else 1.69 * particle.ctf[t] ** 2)
                ).sum()
                x3 = pixels.v * (q @ rotations[o])[1, 2] + pixels.u * (q @ rotations[o])[2, 2]
                data = w * inverse * (1 if premultiplied else 1.3 * particle.ctf[t]) * raw
                total_data += np.where(x3.astype(np.float32) >= 0, data, np.conj(data)).sum()
    np.testing.assert_allclose(sums.residual[0], residual, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(sums.cross[0].sum(axis=0), cross, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(sums.norm[0].sum(axis=0), norm, rtol=2e-4, atol=1e-6)
    assert sums.volume[..., 2].sum() == pytest.approx(total_weight, rel=1e-4)
    data = sums.volume[..., 0].sum() + 1j * sums.volume[..., 1].sum()
    assert data.real == pytest.approx(total_data.real, rel=1e-3)
    assert data.imag == pytest.approx(total_data.imag, rel=1e-3, abs=1e-3 * abs(total_data))
    assert sums.n_images[0] == pytest.approx(0.95 * 2)
    assert sums.weight == pytest.approx(0.95)
    offset2 = (weights.sum(axis=0) * ((ANGST * shifts) ** 2).sum(axis=1)).sum()
    assert sums.offset2_angst2 == pytest.approx(offset2)


def test_row_ends_and_pooling(toy):
    pixels, projector, particle, rotation, shift = toy
    posterior = Posterior(
        rotation[None], shift[None], np.ones((1, 1)), np.zeros(1, dtype=int), (0, 0), 1, 0.0
    )
    whole, cut = (sums_of.new_sums(RADIUS, PADDING, 1, 1, SIZE // 2 + 1, 2) for _ in range(2))
    sums_of.add_particle(whole, posterior, projector, particle, pixels, 0, 0, ANGST)
    sums_of.add_particle(
        cut, posterior, projector, particle, pixels, 0, 0, ANGST, per_image=False, drop_row_ends=True
    )
    assert cut.volume[..., 2].sum() < whole.volume[..., 2].sum()
    np.testing.assert_allclose(cut.residual * 2, whole.residual)
    np.testing.assert_allclose(noise_of.update_noise(cut, SIZE), noise_of.update_noise(whole, SIZE))


def test_initial_noise_of_signal_plus_noise():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(SIZE, SIZE)) * 2
    images = torch.from_numpy((signal + rng.normal(size=(500, SIZE, SIZE))).astype(np.float32))
    sigma2 = initial_noise(image_transforms(images))
    np.testing.assert_allclose(sigma2[2:], 0.5 / SIZE**2, rtol=0.1)


# -- noise of each tilt ------------------------------------------------------------------------------


def test_residuals_by_tilt_are_the_explicit_ones(toy):
    pixels, projector, particle, rotation, shift = toy
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 3, (2, 3)))
    weights = np.array([[0.6], [0.3]])
    posterior = Posterior(rotations, shift[None], weights, np.zeros(2, dtype=int), (0, 0), 1, 0.0)
    n, shells = len(pixels), SIZE // 2 + 1
    sums = sums_of.new_sums(RADIUS, PADDING, 1, 2, shells, 5)
    tilts = np.array([3, 1])
    sums_of.add_particle(
        sums, posterior, projector, particle, pixels, 0, 1, ANGST, tilts=tilts, average=False
    )
    assert not sums.volume.any()
    assert not sums.tilt_residual[0].any()
    np.testing.assert_allclose(sums.tilt_weight[1], [0, 0.9, 0, 0.9, 0])
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        d = (q @ shift)[1:]
        x = particle.masked[t, :n] + 1j * particle.masked[t, n:]
        x = x * np.exp(-2j * np.pi * (pixels.v * d[0] + pixels.u * d[1]) / SIZE)
        by_hand = np.zeros(shells)
        for o in range(2):
            rows, _ = gather_reference(
                projector, slice_axes((q @ rotations[o])[None], PADDING), pixels, np.zeros(n)
            )
            v = rows[0, :n].numpy() + 1j * rows[0, n:].numpy()
            difference = np.abs(1.2 * particle.model[t] * v - x) ** 2
            by_hand += weights[o, 0] * np.bincount(pixels.shell, difference, shells)
        np.testing.assert_allclose(sums.tilt_residual[1, tilts[t]], by_hand, rtol=2e-4, atol=1e-6)


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
    monkeypatch.setattr(rf, "_MOST_ROWS", 4)
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
    monkeypatch.setattr(rf, "_MOST_ROWS", 16)
    found = score_poses(projector, particle, pixels, rotations, shifts, pairs=pairs)
    whole = score_poses(projector, particle, pixels, rotations, shifts)
    tried = np.repeat(np.repeat(pairs, 8, axis=0), 4, axis=1)
    np.testing.assert_allclose(found[tried], whole[tried], rtol=2e-5, atol=1e-3)
    assert (found[~tried] == -np.inf).all()


def test_fewer_pixels_are_the_pixels_of_a_smaller_list(toy):
    pixels, projector, particle, rotation, shift = toy
    small = make_pixel_list(SIZE, 4)
    place = pixels.places_of(small)
    np.testing.assert_array_equal(pixels.v[place], small.v)
    np.testing.assert_array_equal(pixels.u[place], small.u)
    part = particle.at_pixels(place)
    n = len(pixels)
    np.testing.assert_array_equal(part.masked[:, len(small) :], particle.masked[:, n:][:, place])
    assert score_poses(projector, part, small, rotation[None], shift[None]).shape == (1, 1)


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


def test_resampled_posterior_keeps_its_averages():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(60)).reshape(6, 10) * 0.999
    posterior = Posterior(
        random_rotations(6, 1), rng.normal(size=(10, 3)), weights, np.arange(6), (0, 0), 7, 0.0
    )
    assert resampled(posterior, 60, 0.5) is posterior
    total = np.zeros((6, 10))
    for k in range(200):
        one = resampled(posterior, 8, (k + 0.5) / 200)
        assert one.weights.sum() == pytest.approx(0.999)
        assert (one.weights > 0).sum() <= 8
        rows = [
            int(np.flatnonzero((posterior.rotations_zyx == r).all(axis=(1, 2)))[0]) for r in one.rotations_zyx
        ]
        columns = [
            int(np.flatnonzero((posterior.shifts_zyx_px == s).all(axis=1))[0]) for s in one.shifts_zyx_px
        ]
        total[np.ix_(rows, columns)] += one.weights / 200
    np.testing.assert_allclose(total, weights, atol=1e-3)


def test_mean_pose_is_that_of_the_peak_modulo_symmetry():
    from napari_sta.kernels.rotations import symmetry_operators_zyx

    operators = symmetry_operators_zyx("C3")
    middle = random_rotations(1, 7)[0]
    turns = euler_to_matrix_zyx(np.array([[0, 2.0, 0], [0, -2.0, 0], [0, 3.0, 0], [0, 90.0, 0]]))
    rotations = middle @ turns
    rotations[1] = rotations[1] @ operators[1]  # a mate of the same orientation
    weights = np.array([[0.4, 0.0], [0.2, 0.1], [0.1, 0.0], [0.0, 0.1]])
    posterior = Posterior(
        rotations, np.array([[0, 0, 0], [1.0, 0, 2]]), weights, np.arange(4), (0, 0), 1, 0.0
    )
    rotation, shift = mean_pose(posterior, operators, 10.0)
    expected = middle @ euler_to_matrix_zyx(np.array([0, (0.4 * 2 - 0.3 * 2 + 0.1 * 3) / 0.8, 0]))
    best = operators[0]
    np.testing.assert_allclose(rotation @ best, expected, atol=1e-3)
    np.testing.assert_allclose(shift, [0.1 / 0.8, 0, 0.2 / 0.8])


def test_a_blank_image_correlates_with_nothing(toy):
    pixels, projector, particle, _, shift = toy
    masked = particle.masked.copy()
    masked[1] = 0
    power = particle.window_power.copy()
    power[1] = 0
    blank = ParticleImages(**{**particle.__dict__, "masked": masked, "window_power": power})
    scores = score_poses(
        projector, blank, pixels, random_rotations(4, 1), shift[None], cross_correlation=True
    )
    assert np.isfinite(scores).all()
    assert scores.any()


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


# -- accuracy ----------------------------------------------------------------------------------------


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


def test_accuracy_is_where_the_evidence_passes_the_limit():
    pixels = make_pixel_list(SIZE, RADIUS)
    angles = np.array([30.0, 60.0, -20.0])
    projector, particle = toy_particle(
        blob_map(), pixels, euler_to_matrix_zyx(angles), np.zeros(3), n_tilts=1
    )
    found = accuracy.expected_accuracy(projector, particle, pixels, angles, np.random.default_rng(3))
    generator = np.random.default_rng(3)
    angle_axis, offset_axis = generator.integers(0, 3, 1)[0], generator.integers(0, 3, 1)[0]

    def evidence(error_deg=0.0, error_px=0.0):
        turned = angles.copy()
        turned[angle_axis] += error_deg
        shift = np.zeros(3)
        shift[2 - offset_axis] = error_px  # axes are x, y, z
        rows = []
        for a, s in ((angles, np.zeros(3)), (turned, shift)):
            row, _ = gather_reference(
                projector, slice_axes(euler_to_matrix_zyx(a)[None], PADDING), pixels, np.zeros(len(pixels))
            )
            rows.append(shift_images_reference(row[0].numpy(), s[None, 1:], pixels)[0].numpy())
        weight = np.tile(particle.model[0] ** 2 / (2 * particle.sigma2[pixels.shell]) * (pixels.shell > 0), 2)
        return float((weight * (rows[0] - rows[1]) ** 2).sum())

    steps = [(0.2, 0.05), (1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0), (20, 2.0), (30, 5.0)]
    step = next(s for limit, s in steps if found.angle_deg <= limit + 1e-9)
    assert evidence(error_deg=found.angle_deg) > 4.60517
    assert evidence(error_deg=found.angle_deg - step) <= 4.60517
    if offset_axis == 2:  # along the beam of the only image: never noticed
        assert found.offset_px == pytest.approx(10)
    else:
        step = next(
            s for limit, s in [(1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0)] if found.offset_px <= limit + 1e-9
        )
        assert evidence(error_px=found.offset_px) > 4.60517
        assert evidence(error_px=found.offset_px - step) <= 4.60517


# -- the same on a torch device ------------------------------------------------------------------------


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return request.param


@pytest.mark.parametrize("cross_correlation", [False, True])
def test_device_scores_as_the_compiled_loops_do(toy, device, monkeypatch, cross_correlation):

    pixels, projector, particle, _, _ = toy
    rotations, shifts = random_rotations(9, 2), np.random.default_rng(3).uniform(-2, 2, (5, 3))
    expected = score_poses(
        projector, particle, pixels, rotations, shifts, cross_correlation=cross_correlation
    )
    monkeypatch.setattr(refinement_torch, "_BYTES", {"cpu": 1, "cuda": 1})  # one tilt at a time
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

    from napari_sta.kernels.refine.voxels import make_voxel_list

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
