"""Squared radii of arrays and tensors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from laws import assert_inputs_untouched
from napari_sta.kernels.grids import squared_radius


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_each_point_by_hand(kind):
    z, y, x = [-2, -1, 0, 1], [5, 7], [0, 10, 20]
    grid = assert_inputs_untouched(squared_radius, kind(z), kind(y), kind(x))
    assert tuple(grid.shape) == (4, 2, 3)
    for i, j, k in np.ndindex(4, 2, 3):
        assert int(grid[i, j, k]) == z[i] ** 2 + y[j] ** 2 + x[k] ** 2
    assert squared_radius(kind(y)).tolist() == [25, 49]


def test_kind_and_precision_are_kept():
    assert squared_radius(np.zeros(2, np.float32), np.zeros(3, np.float32)).dtype == np.float32
    assert squared_radius(*[torch.zeros(2, dtype=torch.float64)] * 2).dtype == torch.float64


def test_it_does_without_torch():
    code = "import sys, numpy, napari_sta.kernels.grids as g; g.squared_radius(numpy.arange(3)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
