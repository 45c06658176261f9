"""Fourier conventions: grids, shells, centres."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels import fourier


@pytest.mark.parametrize("n", [6, 7])
def test_signed_frequencies_are_numpys(n):
    expected = np.fft.fftfreq(n, 1 / n)
    np.testing.assert_array_equal(fourier.signed_frequency_px(n).numpy(), expected)


@pytest.mark.parametrize("shape", [(6, 8), (5, 6, 7), (4, 4, 4)])
def test_radius_and_shells(shape):
    axes = [np.fft.fftfreq(n, 1 / n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1], 1 / shape[-1])]
    grid = np.meshgrid(*axes, indexing="ij")
    expected = np.sqrt(sum(g * g for g in grid))
    np.testing.assert_allclose(fourier.radius_px(shape).numpy(), expected, atol=1e-12)
    np.testing.assert_array_equal(fourier.shell_index(shape).numpy(), np.floor(expected + 0.5))


def test_checkerboard_moves_the_phase_origin_to_the_centre():
    """A point at voxel n // 2 has a flat transform once the origin is there."""
    shape = (4, 6, 8)
    volume = torch.zeros(shape)
    volume[2, 3, 4] = 1.0
    moved = torch.fft.rfftn(volume) * fourier.checkerboard(shape)
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=1e-6, rtol=0)


def test_shell_sums_leave_out_what_lies_beyond():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    shells = torch.tensor([0, 1, 1, 2, 5])
    assert fourier.shell_sum(values, shells, 3).tolist() == [1.0, 6.0, 8.0]
