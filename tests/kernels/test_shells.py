"""Shells without torch: correlation, and what a curve says about resolution."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from laws import assert_inputs_untouched
from napari_sta.kernels.fsc import fourier_shell_correlation
from napari_sta.kernels.shells import correlate_shells, first_below, resolution_angst


@pytest.mark.parametrize("size", [12, 15])
def test_shells_agree_with_the_fsc_of_tensors(rng, size):
    a, b = rng.normal(size=(2, size, size, size)).astype(np.float32)
    b += a
    found = correlate_shells(a, b, threads=2)
    expected = fourier_shell_correlation(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-9)


def test_a_map_agrees_with_itself_whatever_its_scale(rng):
    a = rng.normal(size=(10, 10, 10))
    np.testing.assert_allclose(assert_inputs_untouched(correlate_shells, a, 3 * a), 1)
    np.testing.assert_allclose(correlate_shells(a, -a), -1)
    assert not correlate_shells(a, np.zeros_like(a)).any()


def test_it_does_without_torch():
    code = "import sys, napari_sta.kernels.shells; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("curve", "resolution"),
    [
        pytest.param([1.0, 0.9, 0.5, 0.1, 0.9], 8 * 2.5 / 2, id="last shell before the first failure"),
        pytest.param([1.0, 0.9, 0.143, 0.142, 0.0], 8 * 2.5 / 2, id="the threshold itself passes"),
        pytest.param([1.0, 0.9, 0.8, 0.7, 0.6], 8 * 2.5 / 4, id="never below: Nyquist"),
        pytest.param([0.1, 0.9, 0.8, 0.7, 0.6], 999.0, id="shell 0 fails"),
        pytest.param([1.0, 0.1, 0.8, 0.7, 0.6], float("inf"), id="only shell 0 passes"),
    ],
)
def test_resolution(curve, resolution):
    assert resolution_angst(np.array(curve), 8, 2.5) == pytest.approx(resolution)


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_first_below(kind):
    curve = kind([0.5, 1.0, 0.7, 0.3])
    assert first_below(curve, 0.8) == 0
    assert first_below(curve, 0.8, first=1) == 2
    assert first_below(curve, 0.1) is None
