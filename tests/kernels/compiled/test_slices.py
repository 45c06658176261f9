"""The pair that refinement runs: slices read from a volume and spread into sums; ramps, statistics, symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from laws import assert_adjoint, assert_inputs_untouched, assert_linear
from napari_sta.kernels.compiled.slices import (
    TILE,
    add_statistics,
    add_symmetry_copies,
    gather_rows,
    scatter_rows,
    shift_rows,
)
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.projector import make_projector, slice_axes

SIZE, RADIUS, PADDING = 32, 11, 1.5
HALF = int(PADDING * RADIUS + 0.5) + 1
DEPTH, WIDTH = 2 * HALF + 1, HALF + 1
PIXELS = make_pixel_list(SIZE, RADIUS)
AXES = np.ascontiguousarray(PADDING * Rotation.random(7, random_state=1).as_matrix()[:, 1:], dtype=np.float32)


def gathered(volume: np.ndarray, axes: np.ndarray = AXES) -> np.ndarray:
    """(d, d, w, 2) to (o, 2n)."""
    out = np.full((len(axes), 2 * len(PIXELS)), np.nan, np.float32)
    flat = np.ascontiguousarray(volume, dtype=np.float32).ravel()
    nothing = np.zeros(len(PIXELS), np.float32)
    gather_rows(flat, DEPTH, WIDTH, axes, PIXELS.kv, PIXELS.ku, nothing, out, np.zeros(len(axes)))
    return out


def scattered(data: np.ndarray, weights: np.ndarray, weight_of: np.ndarray) -> np.ndarray:
    volume = np.zeros((DEPTH, DEPTH, WIDTH, 4), np.float32)
    scatter_rows(data.astype(np.float32), weights, weight_of, AXES, PIXELS.kv, PIXELS.ku, volume)
    return volume


ONES, OF_ALL = np.ones(len(PIXELS), np.float32), np.ones(len(AXES), np.float32)


def test_there_is_more_than_one_tile():
    assert len(PIXELS) > TILE
    assert len(PIXELS) % TILE


def test_reading_and_spreading_are_adjoint(rng):
    volume = rng.normal(size=(DEPTH, DEPTH, WIDTH, 2))
    data = rng.normal(size=(len(AXES), 2 * len(PIXELS))) + gathered(volume)  # not orthogonal to the range
    assert_adjoint(gathered, lambda d: scattered(d, ONES, OF_ALL)[..., :2], volume, data, rtol=2e-7)


def test_reading_and_spreading_are_linear(rng):
    a, b = rng.normal(size=(2, DEPTH, DEPTH, WIDTH, 2))
    assert_linear(gathered, a, b, rtol=2e-6)
    assert_linear(lambda d: scattered(d, ONES, OF_ALL)[..., :2], gathered(a), gathered(b), rtol=2e-6)


def test_inputs_stay(rng):
    assert_inputs_untouched(gathered, rng.normal(size=(DEPTH, DEPTH, WIDTH, 2)).astype(np.float32))


def test_weights_go_with_the_data(rng):
    """What is read of the weight's volume, summed, is what was spread: shares of a pixel add up to 1."""
    weights = rng.uniform(size=len(PIXELS)).astype(np.float32)
    weight_of = rng.uniform(size=len(AXES)).astype(np.float32)
    volume = scattered(np.zeros((len(AXES), 2 * len(PIXELS))), weights, weight_of)
    assert volume[..., 2].sum() == pytest.approx(float(weights.sum()) * float(weight_of.sum()), rel=1e-5)
    assert not volume[..., :2].any()
    assert not volume[..., 3].any()
    one = scattered(np.zeros((len(AXES), 2 * len(PIXELS))), weights, np.eye(len(AXES), dtype=np.float32)[2])
    assert one[..., 2].sum() == pytest.approx(float(weights.sum()), rel=1e-5)


def gaussian(k: np.ndarray) -> np.ndarray:
    """Transform of a lopsided Gaussian that sits off the centre; k zyx in voxels of the padded volume."""
    turn = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    covariance = turn @ np.diag([2.2, 1.2, 0.7]) @ turn.T
    q = k / (SIZE * PADDING)
    return np.exp(
        -2 * np.pi**2 * np.einsum("...i,ij,...j", q, covariance, q)
        - 2j * np.pi * (q @ np.array([0.9, -0.6, 0.4]))
    )


def test_slices_of_a_gaussian():
    """Signs and axes: pixel (v, u) is the volume at v · axes[0] + u · axes[1], its mate's conjugate at x < 0."""
    axis = np.arange(DEPTH) - HALF
    k = np.stack(np.meshgrid(axis, axis, np.arange(WIDTH), indexing="ij"), axis=-1)
    values = gaussian(k)
    rows = gathered(np.stack([values.real, values.imag], axis=-1))
    n = len(PIXELS)
    at = PIXELS.v[:, None] * AXES[:, None, 0].astype(float) + PIXELS.u[:, None] * AXES[:, None, 1]
    assert (at[..., 2] < -1).any()
    np.testing.assert_allclose(rows[:, :n] + 1j * rows[:, n:], gaussian(at), atol=0.03)


def test_a_slice_is_what_a_projection_shows():
    """In real space: density at a point appears in the image where the matrix takes the point."""
    index = np.arange(SIZE) - SIZE // 2
    grid = np.stack(np.meshgrid(index, index, index, indexing="ij"), axis=-1)
    place = np.array([5.0, -3.0, 6.0])
    density = np.exp(-((grid - place) ** 2).sum(axis=-1) / (2 * 1.5**2))
    projector = make_projector(torch.from_numpy(density), RADIUS, PADDING)
    n = len(PIXELS)
    for matrix in Rotation.random(3, random_state=8).as_matrix():
        row = np.empty((1, 2 * n), np.float32)
        gather_rows(
            projector.values, projector.depth, projector.width, slice_axes(matrix[None], PADDING), PIXELS.kv,
            PIXELS.ku, np.zeros(n, np.float32), row, np.zeros(1),
        )  # fmt: skip
        wave = np.exp(
            2j * np.pi * (PIXELS.v[:, None, None] * index[:, None] + PIXELS.u[:, None, None] * index) / SIZE
        )
        image = ((row[0, :n] + 1j * row[0, n:])[:, None, None] * wave).sum(axis=0).real.clip(0)
        image[image < 0.3 * image.max()] = 0
        seen = [(image * a).sum() / image.sum() for a in np.meshgrid(index, index, indexing="ij")]
        np.testing.assert_allclose(seen, (matrix @ place)[1:], atol=0.15)


def test_norms_are_halves_of_weighed_squares(rng):
    volume = rng.normal(size=(DEPTH, DEPTH, WIDTH, 2)).astype(np.float32)
    weight = rng.uniform(size=len(PIXELS)).astype(np.float32)
    out, norm = np.empty((len(AXES), 2 * len(PIXELS)), np.float32), np.full(len(AXES), 3.0)
    gather_rows(volume.ravel(), DEPTH, WIDTH, AXES, PIXELS.kv, PIXELS.ku, weight, out, norm)
    squares = out[:, : len(PIXELS)].astype(float) ** 2 + out[:, len(PIXELS) :].astype(float) ** 2
    np.testing.assert_allclose(norm, 3 + 0.5 * squares @ weight, rtol=1e-5)


def test_ramps_are_exponentials(rng):
    n = len(PIXELS)
    image = rng.normal(size=2 * n).astype(np.float32)
    shifts = np.array([[0.0, 0.0], [3.0, -2.0], [-0.37, 5.61]])
    out = np.empty((3, 2 * n), np.float32)
    shift_rows(
        image, shifts, float(SIZE), PIXELS.row_v, PIXELS.row_u, PIXELS.row_n, PIXELS.row_start, out
    )  # fmt: skip
    phase = shifts[:, :1] * PIXELS.v + shifts[:, 1:] * PIXELS.u
    expected = (image[:n] + 1j * image[n:]) * np.exp(-2j * np.pi * phase / SIZE)
    np.testing.assert_allclose(out[:, :n] + 1j * out[:, n:], expected, atol=2e-6)
    np.testing.assert_array_equal(out[0], image)


def test_statistics_are_shell_sums(rng):
    n, shells = len(PIXELS), RADIUS + 1
    v, f = rng.normal(size=(2, 3, 2 * n)).astype(np.float32)
    weight, model = rng.uniform(size=3).astype(np.float32), rng.normal(size=n).astype(np.float32)
    cross, norm = np.ones(shells), np.full(shells, 2.0)
    add_statistics(v, f, weight, model, PIXELS.shell, cross, norm)
    mv, image = model * (v[:, :n] + 1j * v[:, n:]), f[:, :n] + 1j * f[:, n:]
    np.testing.assert_allclose(
        cross, 1 + np.bincount(PIXELS.shell, (mv.conj() * image).real.sum(axis=0)), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        norm, 2 + np.bincount(PIXELS.shell, (weight[:, None] * np.abs(mv) ** 2).sum(axis=0)), rtol=1e-5
    )


def test_a_quarter_turn_takes_voxels_to_voxels(rng):
    """About z: the copy at k is the volume at R k, within the radius, whoever does which planes."""
    volume = rng.normal(size=(9, 9, 5, 4))
    plane = volume[:, :, 0]
    plane[...] = plane + plane[::-1, ::-1] * [1, -1, 1, 0]  # both Friedel mates
    turn = np.array([[[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]])  # zyx: (z, y, x) -> (z, x, -y)
    out = np.zeros_like(volume)
    for first in (0, 1):
        add_symmetry_copies(first, 2, volume, turn, 3.5, out)
    for z, y, x in np.ndindex(9, 9, 5):
        k = np.array([z - 4, y - 4, x])
        expected = np.zeros(3)
        if (k**2).sum() <= 3.5**2:
            w = turn[0] @ k
            sign = -1 if w[2] < 0 else 1
            z2, y2, x2 = (sign * w).astype(int)
            expected = volume[z2 + 4, y2 + 4, x2, :3] * [1, sign, 1]
        np.testing.assert_allclose(out[z, y, x, :3], expected, atol=1e-12)
