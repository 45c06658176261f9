"""The compiled loops against interpolation by hand and plain twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine import on_cpu
from napari_sta.kernels.refine.images import image_transforms
from napari_sta.kernels.refine.on_cpu import gather, shift_images
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.projector import (
    interpolation_falloff,
    make_projector,
    padded_radius,
    slice_axes,
)
from napari_sta.kernels.refine.terms import View
from napari_sta.kernels.refine.volumes import volume_transform
from napari_sta.kernels.refine.voxels import make_voxel_list
from toy_refinement import (
    PADDING,
    RADIUS,
    SHELLS,
    SIZE,
    blob_map,
    joined,
    random_rotations,
    slice_by_hand,
    toy_particle,
    turned,
)
from twins import gather_reference, shift_images_reference

HALF = padded_radius(RADIUS, PADDING) + 1


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


def test_gather_equals_trilinear_interpolation_by_hand_of_volumes():
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


def test_gather_fast_equals_reference_of_volumes():
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


def explicit_terms(projector, particles, view, pixels, rotations, shifts, cross_correlation):
    """(k, o, s) products and (k, o) norms of one view, by the plain twins."""
    n = len(pixels)
    rows, _ = gather_reference(
        projector, slice_axes(view.matrix_zyx @ rotations, PADDING), pixels, np.zeros(n)
    )
    rows = rows.numpy()
    cross, norm = [], []
    for p, t in view.images:
        one = particles[p]
        factor, weight = one.score_weights(t, pixels, cross_correlation=cross_correlation)
        moved = (one.offset_zyx_px + shifts) @ one.matrices_zyx[t][1:].T
        image = shift_images_reference(one.masked[t] * np.tile(factor, 2), moved, pixels).numpy()
        cross.append(rows @ image.T)
        norm.append(0.5 * (rows[:, :n] ** 2 + rows[:, n:] ** 2) @ weight)
    return np.array(cross), np.array(norm)


@pytest.mark.parametrize("cross_correlation", [False, True])
@pytest.mark.parametrize("most_rows", [1, 4, 192])
def test_terms_block_by_block(toy, monkeypatch, cross_correlation, most_rows):
    """Views of one image and of several, whose slices are read once; never more rows than fit the cache."""
    pixels, projector, particle, _, _ = toy
    monkeypatch.setattr(on_cpu, "_MOST_ROWS", most_rows)
    other = replace(particle, masked=particle.masked[::-1].copy(), offset_zyx_px=np.array([0.3, -0.2, 0.9]))
    views = [
        View(particle.matrices_zyx[0], [(0, 0), (1, 0), (1, 1)]),
        View(particle.matrices_zyx[1], [(0, 1)]),
    ]
    rotations, shifts = random_rotations(9, 2), np.random.default_rng(3).uniform(-2, 2, (5, 3))
    expected = [
        explicit_terms(projector, [particle, other], view, pixels, rotations, shifts, cross_correlation)
        for view in views
    ]
    seen = np.zeros((2, 9), int)
    for terms in on_cpu.OnCpu().terms(
        projector, [particle, other], views, pixels, rotations, shifts, cross_correlation=cross_correlation
    ):
        number = [view.images for view in views].index(terms.images)
        seen[number, terms.rows] += 1
        assert terms.rows.stop - terms.rows.start <= most_rows
        cross, norm = (part[:, terms.rows] for part in expected[number])
        np.testing.assert_allclose(terms.cross, cross, rtol=1e-4, atol=2e-6 * np.abs(cross).max())
        np.testing.assert_allclose(terms.norm, norm, rtol=1e-5)
    assert (seen == 1).all()


@pytest.mark.parametrize("most_rows", [1, 8, 192])
def test_terms_of_chosen_pairs(toy, monkeypatch, most_rows):
    """Children side by side, a multiple of 4 each; blocks hold whole families."""
    pixels, projector, particle, _, _ = toy
    monkeypatch.setattr(on_cpu, "_MOST_ROWS", most_rows)
    n_c, n_d = 8, 4
    pairs = np.array([[True, False], [False, True], [True, True]])
    rotations, shifts = random_rotations(3 * n_c, 2), np.random.default_rng(3).uniform(-2, 2, (2 * n_d, 3))
    view = View(particle.matrices_zyx[1], [(0, 1)])
    cross, norm = explicit_terms(projector, [particle], view, pixels, rotations, shifts, False)
    tried = np.kron(pairs, np.ones((n_c, n_d), bool))
    rows = 0
    for terms in on_cpu.OnCpu().terms(projector, [particle], [view], pixels, rotations, shifts, pairs=pairs):
        expected = np.where(tried, cross[0], -np.inf)[terms.rows]
        np.testing.assert_allclose(terms.cross[0], expected, rtol=1e-4, atol=2e-6 * np.abs(cross).max())
        np.testing.assert_allclose(terms.norm, norm[:, terms.rows], rtol=1e-5)
        assert (terms.rows.stop - terms.rows.start) % n_c == 0
        assert terms.rows.stop - terms.rows.start <= max(most_rows, n_c)
        rows += terms.rows.stop - terms.rows.start
    assert rows == 3 * n_c


def test_nothing_to_compare_yields_nothing(toy):
    pixels, projector, particle, _, _ = toy
    assert (
        list(
            on_cpu.OnCpu().terms(projector, [particle], [], pixels, random_rotations(2, 1), np.zeros((1, 3)))
        )
        == []
    )


@pytest.mark.parametrize("premultiplied", [True, False])
def test_what_is_added_by_hand(premultiplied):
    """Weighed means of moved images: compared with the model's slices, and spread with their weights."""
    pixels = make_pixel_list(SIZE, RADIUS)
    projector, particle = toy_particle(
        blob_map(), pixels, np.eye(3), np.zeros(3), premultiplied=premultiplied, scale=1.3
    )
    rng = np.random.default_rng(1)
    rotations, shifts, weights = random_rotations(3, 8), rng.normal(size=(2, 3)), rng.uniform(size=(3, 2))
    n, kept = len(pixels), np.ones(len(pixels))
    kept[4:9] = 0
    shape = (2 * HALF + 1, 2 * HALF + 1, HALF + 1, 4)
    volume, expected_volume = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    cross, norm = on_cpu.OnCpu().add(
        volume, projector, particle, pixels, rotations, shifts, weights, kept, SHELLS
    )
    expected_cross, expected_norm = np.zeros((2, 2, SHELLS))
    for t, q in enumerate(particle.matrices_zyx):
        axes = slice_axes(q @ rotations, PADDING)
        v = gather_reference(projector, axes, pixels, np.zeros(n))[0].numpy() * np.tile(particle.model[t], 2)
        moved = (shifts @ q.T)[:, 1:]
        masked, unmasked = (
            weights @ shift_images_reference(images[t], moved, pixels).numpy()
            for images in (particle.masked, particle.unmasked)
        )
        product, square = v * masked, weights.sum(axis=1)[:, None] * v**2
        for o in range(3):
            expected_cross[t] += np.bincount(pixels.shell, product[o, :n] + product[o, n:], SHELLS)
            expected_norm[t] += np.bincount(pixels.shell, square[o, :n] + square[o, n:], SHELLS)
        factor, weight = particle.sum_weights(t, pixels)
        data = (unmasked * np.tile(factor * kept, 2)).astype(np.float32)
        of_all = weights.sum(axis=1).astype(np.float32)
        on_cpu.spread(data, (weight * kept).astype(np.float32), of_all, axes, pixels, expected_volume)
    np.testing.assert_allclose(cross, expected_cross, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm, expected_norm, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(volume, expected_volume, rtol=1e-4, atol=1e-5 * np.abs(volume).max())
    nothing = on_cpu.OnCpu().add(
        None, projector, particle, pixels, rotations, shifts, weights, kept, SHELLS, statistics=False
    )
    assert not np.any(nothing)
    assert np.shape(nothing) == (2, 2, SHELLS)
