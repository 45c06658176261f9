"""Turned volumes read and spread: the same laws as of slices, with a third frequency."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from laws import assert_adjoint, assert_linear
from napari_sta.kernels.compiled.voxels import gather_voxels, scatter_voxels, shift_voxels
from napari_sta.kernels.refine.voxels import make_voxel_list

SIZE, RADIUS, PADDING = 16, 6, 2.0
HALF = int(PADDING * RADIUS + 0.5) + 1
DEPTH, WIDTH = 2 * HALF + 1, HALF + 1
VOXELS = make_voxel_list(SIZE, RADIUS, part=300)
PART = VOXELS.parts[1]
AXES = np.ascontiguousarray(PADDING * Rotation.random(5, random_state=4).as_matrix(), dtype=np.float32)


def gathered(volume: np.ndarray) -> np.ndarray:
    out = np.full((len(AXES), 2 * len(PART)), np.nan, np.float32)
    flat = np.ascontiguousarray(volume, dtype=np.float32).ravel()
    nothing = np.zeros(len(PART), np.float32)
    gather_voxels(flat, DEPTH, WIDTH, AXES, PART.kw, PART.kv, PART.ku, nothing, out, np.zeros(len(AXES)))
    return out


def scattered(data: np.ndarray) -> np.ndarray:
    volume = np.zeros((DEPTH, DEPTH, WIDTH, 4), np.float32)
    ones = np.ones(len(PART), np.float32), np.ones(len(AXES), np.float32)
    scatter_voxels(data.astype(np.float32), *ones, AXES, PART.kw, PART.kv, PART.ku, volume)
    return volume


def test_reading_and_spreading_are_adjoint(rng):
    volume = rng.normal(size=(DEPTH, DEPTH, WIDTH, 2))
    data = rng.normal(size=(len(AXES), 2 * len(PART))) + gathered(volume)
    assert_adjoint(gathered, lambda d: scattered(d)[..., :2], volume, data, rtol=2e-7)


def test_reading_and_spreading_are_linear(rng):
    a, b = rng.normal(size=(2, DEPTH, DEPTH, WIDTH, 2))
    assert_linear(gathered, a, b, rtol=2e-6)
    assert_linear(lambda d: scattered(d)[..., :2], gathered(a), gathered(b), rtol=2e-6)


def test_weights_and_norms(rng):
    n = len(PART)
    volume = rng.normal(size=(DEPTH, DEPTH, WIDTH, 2)).astype(np.float32)
    weight, weight_of = rng.uniform(size=n).astype(np.float32), rng.uniform(size=len(AXES)).astype(np.float32)
    out, norm = np.empty((len(AXES), 2 * n), np.float32), np.full(len(AXES), 3.0)
    gather_voxels(volume.ravel(), DEPTH, WIDTH, AXES, PART.kw, PART.kv, PART.ku, weight, out, norm)
    squares = out[:, :n].astype(float) ** 2 + out[:, n:].astype(float) ** 2
    np.testing.assert_allclose(norm, 3 + 0.5 * squares @ weight, rtol=1e-5)
    sums = np.zeros((DEPTH, DEPTH, WIDTH, 4), np.float32)
    scatter_voxels(out, weight, weight_of, AXES, PART.kw, PART.kv, PART.ku, sums)
    assert sums[..., 2].sum() == pytest.approx(float(weight.sum()) * float(weight_of.sum()), rel=1e-5)


def test_ramps_are_exponentials_and_the_filling_is_empty(rng):
    shifts = np.array([[0.0, 0, 0], [3.0, -2.0, 1.0], [0.3, -5.61, 2.2]])
    filled = 0
    for part in VOXELS.parts:
        n, rows = len(part), int(part.row_n.sum())
        filled += n - rows
        values = rng.normal(size=2 * n).astype(np.float32)
        out = np.full((3, 2 * n), np.nan, np.float32)
        shift_voxels(
            values, shifts, float(SIZE), RADIUS, part.row_w, part.row_v, part.row_u, part.row_n,
            part.row_start, out,
        )  # fmt: skip
        phase = shifts @ np.stack([part.w, part.v, part.u])
        expected = (values[:n] + 1j * values[n:]) * np.exp(-2j * np.pi * phase / SIZE)
        expected[:, rows:] = 0
        np.testing.assert_allclose(out[:, :n] + 1j * out[:, n:], expected, atol=2e-6)
    assert filled  # the last part is filled up
