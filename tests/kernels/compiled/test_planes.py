"""Reconstruction's passes over planes, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.kernels.compiled.planes import (
    divide_planes,
    full_weight_planes,
    numerator_planes,
    scale_planes,
    sum_planes,
    symmetrise_planes,
    weights_by_radius,
)

SIZE, WIDTH = 12, 7


@pytest.fixture
def sums(rng):
    """(s, s, h, 4) in centred order, weights positive."""
    volume = rng.normal(size=(SIZE, SIZE, WIDTH, 4)).astype(np.float32)
    volume[..., 2] = rng.uniform(0.5, 2, volume.shape[:3])
    return volume


def each_plane(function, *arguments):
    """Two threads' shares, one after the other."""
    for first in (1, 0):
        function(first, 2, *arguments)


def test_the_identity_changes_nothing_and_half_turns_average(sums):
    out = np.empty_like(sums)
    each_plane(symmetrise_planes, sums, np.eye(3)[None], out)
    np.testing.assert_allclose(out, sums, rtol=1e-6)
    half_turn = np.diag([1.0, -1, -1])  # about z
    each_plane(symmetrise_planes, sums, np.stack([np.eye(3), half_turn]), out)
    z, y, x = SIZE // 2 + 2, SIZE // 2 - 3, 4
    # R k = (2, 3, -4), whose mate (-2, -3, 4) is in the half space.
    mate = sums[SIZE // 2 - 2, SIZE // 2 - 3, 4]
    np.testing.assert_allclose(out[z, y, x, :3], (sums[z, y, x, :3] + mate[:3] * [1, -1, 1]) / 2, atol=1e-6)


def test_the_numerator_in_fftw_order(sums):
    out = np.empty((SIZE, SIZE, 2 * WIDTH), np.float32)
    each_plane(numerator_planes, sums, out)
    expected = np.fft.ifftshift(sums[..., 0] + 1j * sums[..., 1], axes=(0, 1))
    z, y, x = np.meshgrid(*map(np.arange, expected.shape), indexing="ij")
    np.testing.assert_array_equal(out[..., ::2] + 1j * out[..., 1::2], expected * (-1.0) ** (z + y + x))


def test_weights_are_split_between_whole_radii(sums):
    bins = 4
    total, count = np.zeros((2, SIZE, bins + 2))
    each_plane(weights_by_radius, sums, total, count)
    axis = np.arange(SIZE) - SIZE // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(WIDTH) ** 2)
    low, part = np.floor(radius).astype(int), radius % 1
    for values, weight in ((total, sums[..., 2].astype(float)), (count, np.ones_like(radius))):
        expected = sum(
            np.bincount(np.minimum(low + d, bins).ravel(), (share * weight).ravel(), bins + 2)
            for d, share in ((0, 1 - part), (1, part))
        )
        np.testing.assert_allclose(values.sum(axis=0), expected)


@pytest.mark.parametrize("wiener", [0.0, 0.7])
def test_division_by_the_weight(sums, rng, wiener):
    spectrum = rng.normal(size=(SIZE, SIZE, 2 * WIDTH)).astype(np.float32)
    axis = np.fft.ifftshift(np.arange(SIZE) - SIZE // 2)
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(WIDTH) ** 2
    least = rng.uniform(0.2, 1.5, 3 * (SIZE // 2) ** 2 + 1).astype(np.float32)
    weight = np.fft.ifftshift(sums[..., 2], axes=(0, 1))
    if wiener:
        factor = 1 / (weight + wiener)
    else:
        factor = np.where(square >= (SIZE // 2) ** 2, 0, 1 / np.maximum(weight, least[square]))
    found = spectrum.copy()
    each_plane(divide_planes, found, sums, least, wiener)
    np.testing.assert_allclose(found, spectrum * np.repeat(factor, 2, axis=2), rtol=1e-5, atol=1e-7)


def test_no_weight_divides_by_one(sums):
    sums[..., 2] = 0
    spectrum = np.ones((SIZE, SIZE, 2 * WIDTH), np.float32)
    each_plane(divide_planes, spectrum, sums, np.zeros(200, np.float32), 0.0)
    assert spectrum[0, 0, 0] == 1


def test_weights_on_the_whole_of_fourier_space(sums):
    out = np.empty((SIZE,) * 3, np.float32)
    each_plane(full_weight_planes, sums, out)
    half = SIZE // 2
    np.testing.assert_array_equal(out[..., half:], sums[:, :, :half, 2])
    np.testing.assert_array_equal(out[..., 0], sums[:, :, half, 2])
    for z, y, x in ((1, 2, 3), (0, 5, 1), (7, 0, 5)):
        assert out[z, y, x] == sums[(SIZE - z) % SIZE, (SIZE - y) % SIZE, half - x, 2]


def test_tables_of_squared_distances(rng):
    volume = rng.normal(size=(SIZE,) * 3).astype(np.float32)
    axis = np.arange(SIZE) - SIZE // 2
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    table = rng.uniform(size=3 * (SIZE // 2) ** 2 + 1).astype(np.float32)
    sums = np.empty((SIZE, 2))
    each_plane(sum_planes, volume, table, sums)
    weight = table[square].astype(float)
    np.testing.assert_allclose(sums[:, 0], (weight * volume).sum(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(sums[:, 1], weight.sum(axis=(1, 2)), rtol=1e-6)
    scaled = volume.copy()
    each_plane(scale_planes, scaled, 0.4, table)
    np.testing.assert_allclose(scaled, (volume - np.float32(0.4)) * table[square], rtol=1e-5, atol=1e-7)
