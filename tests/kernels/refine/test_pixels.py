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
