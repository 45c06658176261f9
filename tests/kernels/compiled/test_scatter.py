"""Slices spread into pseudo-subtomograms, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_sta.kernels.compiled.scatter import scatter_slices


def scattered(spectra, weights, axes, x_end, crop, first=0, last=None):
    n = len(spectra)
    half = crop // 2 + 1
    data = np.zeros((n, crop, crop, half, 2), np.float32)
    weight, multiplicity = np.zeros((2, n, crop, crop, half), np.float32)
    scatter_slices(
        first, n if last is None else last, spectra, weights, axes, x_end, data, weight, multiplicity
    )
    return data[..., 0] + 1j * data[..., 1], weight, multiplicity


def test_unturned_pixels_keep_their_places(rng):
    """The plane z = 0 holds the slice; the column x = 0 what its two Friedel mates say."""
    size, half = 8, 5
    image = rng.normal(size=(size, size))
    full = np.fft.rfft2(image)
    spectra = np.stack([full.real, full.imag], axis=-1).astype(np.float32)[None, None]
    weights = rng.uniform(size=(1, 1, size, half)).astype(np.float32)
    axes = np.array([[[[0.0, 1, 0], [0, 0, 1]]]])
    x_end = np.full((1, 1, size), half)
    x_end[0, 0, 2] = 3
    data, weight, multiplicity = scattered(spectra, weights, axes, x_end, size)
    np.testing.assert_allclose(data[0, 0, 1, 1:], full[1, 1:], atol=1e-5)
    np.testing.assert_allclose(weight[0, 0, 1, 1:], weights[0, 0, 1, 1:], atol=1e-6)
    np.testing.assert_allclose(multiplicity[0, 0, 2], [1, 1, 1, 0, 0])
    np.testing.assert_allclose(data[0, 0, :4, 0], full[:4, 0] + [full[0, 0].conj(), 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(data[0, 0, -3:, 0], full[-3:, 0], atol=1e-5)
    assert not data[0, 1:].any()


@pytest.mark.parametrize(("ratio", "v", "u"), [(1.0, 2, 4), (0.5, 4, 7)])
def test_what_lies_inside_arrives_whole(ratio, v, u):
    """A pixel away from the x = 0 plane and the edges: its value, weight and area, wherever it falls."""
    size, crop, half = 16, 12, 9
    matrix = Rotation.from_euler("zyx", [20, 30, 40], degrees=True).as_matrix()
    axes = np.ascontiguousarray(matrix[1:] * ratio)[None, None]
    spectra = np.zeros((1, 1, size, half, 2), np.float32)
    spectra[0, 0, v, u] = 3.0, -2.0
    weights = np.zeros((1, 1, size, half), np.float32)
    weights[0, 0, v, u] = 0.25
    x_end = np.zeros((1, 1, size), np.int64)
    x_end[0, 0, v] = u + 1
    data, weight, _ = scattered(spectra, weights, axes, x_end, crop)
    place = (v * matrix[1] + u * matrix[2]) * ratio
    assert place[2] > 1
    area = ratio * ratio
    assert data.sum() == pytest.approx(area * (3 - 2j), rel=1e-5)
    assert weight.sum() == pytest.approx(area * 0.25, rel=1e-5)
    low = np.floor(place).astype(int)
    for corner in np.ndindex(2, 2, 2):
        at = low + corner
        share = area * np.prod(1 - np.abs(place - at))
        assert data[0, at[0], at[1], at[2]] == pytest.approx(share * (3 - 2j), abs=1e-5)


def test_the_mate_of_what_lies_at_negative_x():
    size, crop, half = 8, 8, 5
    spectra = np.zeros((1, 1, size, half, 2), np.float32)
    spectra[0, 0, 1, 2] = 3.0, -2.0
    weights = np.ones((1, 1, size, half), np.float32)
    axes = np.array([[[[0.0, 1, 0], [0, 0, -1]]]])
    x_end = np.zeros((1, 1, size), np.int64)
    x_end[0, 0, 1] = 3
    data, _, _ = scattered(spectra, weights, axes, x_end, crop)
    assert data[0, 0, -1, 2] == pytest.approx(3 + 2j)


def test_only_the_particles_asked_for():
    spectra = np.ones((3, 2, 8, 5, 2), np.float32)
    axes = np.broadcast_to(np.array([[0.0, 1, 0], [0, 0, 1]]), (3, 2, 2, 3)).copy()
    x_end = np.full((3, 2, 8), 5)
    x_end[:, 1] = 0  # a tilt that is not there
    data, _, multiplicity = scattered(spectra, np.ones((3, 2, 8, 5), np.float32), axes, x_end, 8, 1, 2)
    assert not data[[0, 2]].any()
    assert multiplicity[1, 0, 1, 2] == 1
