"""Lists of Fourier pixels, and their shells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.images import shell_powers
from napari_sta.kernels.refine.pixels import half_plane_shells, make_pixel_list, pixels_per_shell
from napari_sta.kernels.refine.scores import score_poses
from toy_refinement import SIZE


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


def test_half_plane_counts():
    # Shell 1 of the half plane: (1, 0), (0, 1), (1, 1), (-1, 1); the window of radius 3 has no row -3.
    assert list(pixels_per_shell(16)[:2]) == [1, 4]
    whole, window = half_plane_shells(16), half_plane_shells(16, 3)
    assert int((whole == 3).sum() - (window == 3).sum()) == 1  # (-3, 1); (-3, 0) is a mate anyway
    assert int((whole == 5).sum() - (window == 5).sum()) == 0
    spectra = torch.ones((2, 16, 9), dtype=torch.complex64) * 2
    np.testing.assert_allclose(shell_powers(spectra, whole, 9)[1], 4 * pixels_per_shell(16))


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


def test_shells_are_the_nearest_of_the_reference():
    """A box of another edge: pixel k of the image is the reference's ratio · k, listed up to the reference's radius."""
    ratio, radius = 1.3, 6
    pixels = make_pixel_list(16, radius, ratio)
    k = np.hypot(pixels.v, pixels.u)
    assert k.max() <= radius / ratio
    np.testing.assert_array_equal(pixels.shell, np.floor(k * ratio + 0.5))
    listed = {
        (v, u) for v in range(-3, 5) for u in range(5) if np.hypot(v, u) <= radius / ratio and (u or v >= 0)
    }
    assert set(zip(pixels.v.tolist(), pixels.u.tolist(), strict=True)) == listed
    assert (pixels.edge_ratio, pixels.radius, pixels.count) == (ratio, 4, len(pixels))
    finer = make_pixel_list(16, 20, 0.5)
    assert finer.radius == 8  # Nyquist
    assert finer.v.max() == finer.u.max() == 8


@pytest.mark.parametrize("ratio", [1.0, 0.7, 1.3])
def test_shells_of_the_half_plane_by_hand(ratio):
    size, none, radius = 12, 9, 4
    whole = half_plane_shells(size, None, ratio, none)
    window = half_plane_shells(size, radius, ratio, none)
    for row in range(size):
        v = row if row <= size // 2 else row - size
        for u in range(size // 2 + 1):
            shell = min(int(np.floor(np.hypot(v, u) * ratio + 0.5)), none)
            mate = u == 0 and v < 0
            assert whole[row, u] == (none if mate else shell)
            outside = shell <= radius * ratio and (v <= -radius or v > radius)
            assert window[row, u] == (none if mate or outside else shell)


def test_shells_of_the_half_plane_by_default():
    assert half_plane_shells(6).max() == 4
    np.testing.assert_array_equal(half_plane_shells(6), half_plane_shells(6, n_shells=4))
    assert pixels_per_shell(6).sum() == (half_plane_shells(6) < 4).sum()


def test_how_often_a_window_holds_a_pixel():
    pixels = make_pixel_list(16, 5)
    held = np.zeros(len(pixels))
    for v in range(-4, 6):  # rows of the window
        for u in range(6):
            same = (pixels.v == v) & (pixels.u == u)
            held += same if same.any() else (pixels.v == -v) & (pixels.u == -u)
    np.testing.assert_array_equal(pixels.friedel_mates, held)


def test_pixels_are_taken_where_they_lie(rng):
    spectra = torch.from_numpy(rng.normal(size=(2, 16, 9)) + 1j * rng.normal(size=(2, 16, 9)))
    pixels = make_pixel_list(16, 8)
    found = pixels.take(spectra)
    assert found.dtype == np.float32
    n = len(pixels)
    for i in (0, 3, n // 2, n - 1):
        value = spectra[:, pixels.v[i] % 16, pixels.u[i]].numpy()
        np.testing.assert_allclose(found[:, i] + 1j * found[:, n + i], value, rtol=1e-6)
    assert pixels.part(5) is pixels
    assert pixels.kv.dtype == pixels.ku.dtype == np.float32
