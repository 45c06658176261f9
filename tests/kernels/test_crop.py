"""Windows of tilt images: borders and the circle crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laws import assert_inputs_untouched
from napari_sta.kernels.crop import circle_crop, cut_windows
from napari_sta.kernels.windows import window_corners


def test_the_particle_lies_at_centre_plus_offset():
    """A spot at a whole position stands on pixel s // 2 of its window."""
    image = torch.zeros((30, 41))
    image[17, 23] = 1.0
    corner, offset = window_corners(np.array([[17.3, 22.6]]), 12)
    window = cut_windows(image, corner, 12, circle=False)[0]
    at = window.nonzero()[0].tolist()
    assert at == [6, 6]
    np.testing.assert_allclose(offset[0], [0.3, -0.4], atol=1e-12)


CORNERS = np.array([[3, 5], [-4, 2], [2, -7], [25, 33], [-30, -40], [60, 80], [0, 0], [18, 27]])


def test_pixels_outside_repeat_the_nearest_edge():
    height, width, size = 30, 41, 12
    image = torch.arange(height)[:, None] * 100.0 + torch.arange(width)
    windows = cut_windows(image, CORNERS, size, circle=False)
    for window, (y0, x0) in zip(windows.numpy(), CORNERS, strict=True):
        rows = np.clip(y0 + np.arange(size), 0, height - 1)
        columns = np.clip(x0 + np.arange(size), 0, width - 1)
        np.testing.assert_array_equal(window, rows[:, None] * 100 + columns)


def test_circle_crop_closed_form():
    """Of a disc over nothing the crop leaves its own profile: 1, raised cosine, 0. g(22) = 0.345492."""
    size = 48
    index = np.arange(size) - size // 2
    r = np.hypot(*np.meshgrid(index, index, indexing="ij"))
    disc = torch.from_numpy((r <= 24).astype(np.float32))
    cropped = circle_crop(disc[None], 24.0)[0]
    assert float(cropped[24, 24 + 22]) == pytest.approx(0.345492, abs=1e-6)
    assert float(cropped[24 - 22, 24]) == pytest.approx(0.345492, abs=1e-6)
    assert float(cropped[24 + 19, 24]) == 1.0
    assert float(cropped[0, 24]) == 0.0
    # A constant is the mean of its corners: nothing remains.
    assert float(circle_crop(torch.full((1, size, size), 7.5), 24.0).abs().max()) == 0.0


def test_corner_mean_is_taken_outside_the_circle():
    image = torch.full((64, 64), 3.0)
    image[32, 32] = 13.0
    window = cut_windows(image, np.array([[20, 20]]), 24)[0]
    assert float(window[12, 12]) == pytest.approx(10.0, abs=1e-5)
    assert float(window.sum()) == pytest.approx(10.0, abs=1e-4)


@pytest.mark.parametrize("circle", [False, True])
def test_cutting_leaves_the_image_alone(rng, circle):
    image = torch.from_numpy(rng.normal(5, 2, (30, 41)).astype(np.float32))
    assert_inputs_untouched(cut_windows, image, CORNERS, 12, circle=circle)
