"""Views added to sections, against bilinear interpolation voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from napari_sta.kernels.compiled.backprojection import _inside, add_views


@pytest.mark.parametrize("step", [0.7, -1.3, 1e-3, 0.0])
@pytest.mark.parametrize("start", [-4.2, 0.0, 3.5, 9.4, 30.0])
def test_the_range_that_an_image_shows(start, step):
    x = np.arange(20)
    shown = x[(start + step * x >= 0) & (start + step * x < 9.999)]
    first, end = _inside(start, step, 9.999, 20)
    np.testing.assert_array_equal(np.arange(first, end), shown)


def test_every_view_adds_what_it_shows(rng):
    images = rng.normal(size=(3, 11, 13)).astype(np.float32)
    matrices = rng.normal(size=(3, 2, 4)) * [2, 2, 2, 3] + [0, 0, 0, 5]
    volume = np.ones((5, 6, 7), np.float32)
    add_views(1, 4, images, matrices, volume)
    grid = np.stack(
        [*np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), np.ones(volume.shape)], axis=-1
    )
    expected = np.ones(volume.shape)
    for image, matrix in zip(images, matrices, strict=True):
        v, u = np.moveaxis(grid @ matrix.T, -1, 0)
        shown = (v >= 0) & (v < 9.999) & (u >= 0) & (u < 11.999)
        assert 0 < shown[1:4].mean() < 1
        expected += np.where(shown, map_coordinates(image.astype(float), [v, u], order=1), 0)
    expected[[0, 4]] = 1  # other sections are somebody else's
    np.testing.assert_allclose(volume, expected, atol=2e-5)
