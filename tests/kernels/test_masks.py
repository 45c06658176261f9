"""Masks: growth, soft edges and shapes against brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from laws import assert_inputs_untouched
from napari_sta.kernels.masks import cylinder, grow, shell, soft_mask_from_map, soften


def squared_distances(binary, value):
    """Squared distance of every voxel to the nearest one that equals ``value``, by trying all."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in binary.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    targets = grid[(binary == value).ravel()]
    square = ((grid[:, None] - targets[None]) ** 2).sum(axis=2).min(axis=1)
    return square.reshape(binary.shape)


@pytest.fixture
def binary(rng):
    return rng.random((7, 9, 10)) > 0.97


@pytest.mark.parametrize("extend", [1.0, 1.5, 2.0, 3.0, 3.2, 4.0])
def test_growing(binary, extend):
    """A voxel joins if a voxel of the mask is nearer, strictly."""
    grown = assert_inputs_untouched(grow, binary, extend)
    np.testing.assert_array_equal(grown, binary | (squared_distances(binary, True) < extend**2))


@pytest.mark.parametrize("extend", [1.0, 1.5, 2.0, 3.0])
def test_shrinking(binary, extend):
    """A voxel leaves if one outside is nearer; the border of the box does not erode."""
    block = ~binary
    shrunk = grow(block, -extend)
    np.testing.assert_array_equal(shrunk, block & (squared_distances(block, False) >= extend**2))


def test_three_pixels_reach_a_squared_distance_of_eight():
    point = np.zeros((15, 15, 15), bool)
    point[7, 7, 7] = True
    grown = grow(point, 3.0)
    assert grown[7, 9, 9]  # d² = 8
    assert not grown[7, 7, 10]  # d² = 9
    assert not grown[6, 9, 9]  # d² = 9, off the axes
    assert grow(grown, -3.0)[7, 7, 7]


def test_a_full_box_does_not_erode():
    full = np.ones((5, 6, 7), bool)
    assert grow(full, -2.0).all()
    assert not grow(~full, 2.0).any()
    slab = full.copy()
    slab[3:] = False
    expected = full.copy()
    expected[2:] = False
    np.testing.assert_array_equal(grow(slab, -2.0), expected)


@pytest.mark.parametrize("edge", [1.0, 2.5, 5.0])
def test_soft_edge(binary, edge):
    soft = assert_inputs_untouched(soften, binary, edge)
    d = np.sqrt(squared_distances(binary, True))
    expected = np.where(d < edge, 0.5 + 0.5 * np.cos(np.pi * d / edge), 0)
    np.testing.assert_allclose(soft, expected, atol=1e-6)


def test_printed_value_of_the_soft_edge():
    """Width 5, distance 3: 0.345492."""
    point = np.zeros((13, 13, 13), bool)
    point[6, 6, 6] = True
    soft = soften(point, 5.0)
    assert soft[6, 6, 9] == pytest.approx(0.345492, abs=1e-6)
    assert soft[3, 6, 6] == pytest.approx(0.345492, abs=1e-6)
    assert soft[6, 6, 11] == 0
    assert soft.dtype == np.float32
    np.testing.assert_array_equal(soften(point, 0.0), point)


def test_threshold_includes_its_own_value():
    volume = np.zeros((9, 9, 9), np.float32)
    volume[4, 4, 4], volume[4, 4, 5], volume[4, 4, 6] = 0.5, 0.25, 0.2499
    mask = soft_mask_from_map(volume, 0.25, 0.0, 0.0)
    assert mask.sum() == 2
    assert mask[4, 4, 4] == mask[4, 4, 5] == 1
    grown = soft_mask_from_map(volume, 0.5, 2.0, 3.0)
    assert grown[4, 4, 5] == 1  # grown
    assert grown[4, 4, 6] == pytest.approx(0.75)  # one beyond the growth: 1/2 + 1/2 cos(pi / 3)


def test_ball_and_shell():
    ball = shell(20, 0.0, 6.0, 4.0, (2.0, -1.0, 0.0))
    assert ball[12, 9, 10] == 1
    assert ball[12 + 6, 9, 10] == 1
    assert ball[12 - 8, 9, 10] == pytest.approx(0.5)  # 2 of 4 px beyond the radius
    assert ball[12, 9, 10 + 7] == pytest.approx(0.5 + 0.5 * np.cos(np.pi / 4))
    assert ball[12, 9, 0] == 0
    hollow = shell(20, 4.0, 6.0, 2.0)
    assert hollow[10, 10, 10] == 0
    assert hollow[10, 10, 13] == pytest.approx(0.5)  # 1 of 2 px inside the inner radius
    assert hollow[10, 10, 14] == hollow[10, 10, 16] == 1
    assert hollow[10, 10, 17] == pytest.approx(0.5)
    assert hollow[10, 10, 18] == pytest.approx(0)


def test_shells_as_relion_writes_them():
    """Distances d from the centre: 1/2 - 1/2 cos(pi (d - ri + w) / w) below ri, and mirrored beyond ro."""
    ri, ro, w = 5.0, 8.0, 3.0
    made = shell(28, ri, ro, w)
    index = np.arange(28) - 14
    d = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    expected = np.where(d <= ro, 1.0, 0.5 - 0.5 * np.cos(np.pi * (ro + w - d) / w))
    expected = np.where(d < ri, 0.5 - 0.5 * np.cos(np.pi * (d - ri + w) / w), expected)
    expected = np.where((d < ri - w) | (d > ro + w), 0, expected)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_cylinder():
    made = cylinder(24, 2.0, 6.0, 10.0, 2.0, (3.0, 0.0, -1.0))
    assert made.dtype == np.float32
    assert made[15, 12, 11] == 0  # the hole
    assert made[15, 12, 11 + 4] == made[15 + 5, 12 - 4, 11] == 1
    assert made[15 + 6, 12, 11 + 4] == pytest.approx(0.5)  # 1 of 2 px above the top
    assert made[15 - 7, 12, 11 + 4] == pytest.approx(0, abs=1e-6)
    assert made[15, 12 + 7, 11] == pytest.approx(0.5)
    solid = cylinder(24, 0.0, 6.0, 10.0, 0.0)
    assert solid[12, 12, 12] == 1
    index = np.arange(24) - 12
    in_plane = (np.hypot(*np.meshgrid(index, index, indexing="ij")) <= 6).sum()
    assert solid.sum() == 11 * in_plane  # |z| <= 5


def test_sharp_shapes():
    assert shell(12, 0.0, 3.0, 0.0).sum() == 123  # lattice points within radius 3
