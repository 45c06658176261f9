"""Slices of a reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.images import image_transforms
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.projector import (
    interpolation_falloff,
    make_projector,
    padded_radius,
    placed,
    radius_grid,
    slice_axes,
)
from toy_refinement import PADDING, RADIUS, SIZE, blob_map
from twins import gather_reference


def test_slice_of_the_identity_is_the_projection():
    volume = blob_map()
    pixels = make_pixel_list(SIZE, RADIUS)
    projector = make_projector(volume, RADIUS, PADDING)
    rows, _ = gather_reference(projector, slice_axes(np.eye(3)[None], PADDING), pixels, np.zeros(len(pixels)))
    corrected = volume / interpolation_falloff(SIZE, PADDING)  # on grid points nothing falls off
    expected = pixels.take(image_transforms(corrected.sum(dim=0)[None].float()))
    np.testing.assert_allclose(rows[0].numpy(), expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("radius", "padding", "padded"), [(5, 2.0, 10), (5, 1.5, 8), (3, 1.1, 3), (7, 1.5, 11)]
)
def test_padded_radii_round_half_up(radius, padding, padded):
    assert padded_radius(radius, padding) == padded


def test_grids_by_hand():
    grid = radius_grid(2, 4)
    assert grid.shape == (5, 5, 4)
    assert grid.dtype == torch.float64
    for z, y, x in np.ndindex(5, 5, 4):
        assert grid[z, y, x] == (z - 2) ** 2 + (y - 2) ** 2 + x**2
    falloff = interpolation_falloff(6, 1.5)
    for z, y, x in np.ndindex(6, 6, 6):
        r = np.sqrt((z - 3) ** 2 + (y - 3) ** 2 + (x - 3) ** 2)
        assert float(falloff[z, y, x]) == pytest.approx(np.sinc(r / 9) ** 2)


@pytest.mark.parametrize(("size", "radius", "padding"), [(8, 3, 2.0), (7, 3, 1.5), (10, 5, 1.5)])
@pytest.mark.parametrize("n_dim", [2, 3])
def test_values_are_the_padded_transform(rng, size, radius, padding, n_dim):
    """Voxel by voxel, with a spare one around the radius, from the full transform about pixel size // 2."""
    volume = torch.from_numpy(rng.normal(size=(size,) * 3))
    projector = make_projector(volume, radius, padding, n_dim)
    reach = padded_radius(radius, padding)
    assert projector.depth == 2 * (reach + 1) + 1
    assert projector.width == reach + 2
    assert (projector.padding, projector.radius, projector.on_device) == (padding, radius, None)
    big = padded_radius(size, padding)
    big += big % 2
    index = np.arange(size) - size // 2
    corrected = (volume / interpolation_falloff(size, padding)).numpy()
    values = projector.values.reshape(projector.depth, projector.depth, projector.width, 2)
    for z, y, x in (
        (0, 0, 0),
        (1, -2, 1),
        (-reach, 0, 0),
        (0, 1, reach),
        (2, 2, 3),
        (reach, 1, 0),
        (0, reach + 1, 0),
    ):
        wave = np.exp(-2j * np.pi * (z * index[:, None, None] + y * index[:, None] + x * index) / big)
        expected = (corrected * wave).sum() / size**n_dim
        if z * z + y * y + x * x > reach * reach:
            expected = 0
        if x <= big // 2:
            found = values[z + reach + 1, y + reach + 1, x]
            np.testing.assert_allclose(found[0] + 1j * found[1], expected, atol=1e-5)


def test_axes_of_slices_and_volumes(rng):
    matrices = rng.normal(size=(2, 4, 3, 3))
    axes = slice_axes(matrices, 1.5)
    assert axes.dtype == np.float32
    assert axes.flags.c_contiguous
    np.testing.assert_allclose(axes, 1.5 * matrices[:, :, 1:], rtol=1e-6)
    np.testing.assert_allclose(slice_axes(matrices, 1.5, 3), 1.5 * matrices, rtol=1e-6)


def test_on_a_device_it_is_the_same_volume():
    projector = make_projector(blob_map(), RADIUS, PADDING)
    there = placed(projector, "cpu")
    assert there.on_device.shape == (projector.depth, projector.depth, projector.width)
    np.testing.assert_array_equal(torch.view_as_real(there.on_device).flatten().numpy(), projector.values)
    assert there.values is projector.values
