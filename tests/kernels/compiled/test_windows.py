"""The rows of the CTF; whole images are in tests/kernels/test_windows.py."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.kernels.compiled.windows import _contrast_row


@pytest.mark.parametrize("n_half_turns", [1, 1e3, 4e5])
@pytest.mark.parametrize("end", [1, 33, 49])
@pytest.mark.parametrize("with_extra", [True, False])
def test_contrast_is_the_sine_of_any_phase(rng, n_half_turns, end, with_extra):
    """From within the first turn to far beyond what any defocus gives, for every column below the end."""
    half, row = 49, 2
    ky, kx = np.array([0.0, 0.1, -0.17]), np.zeros(64)
    kx[:half] = np.linspace(0, 0.19, half)
    phase = rng.normal(size=5) * n_half_turns * np.array([10, 10, 10, 100, 1])
    envelope = rng.uniform(0.5, 1, (3, half)).astype(np.float32)
    extra = rng.normal(size=(3, half) if with_extra else (0, 0)).astype(np.float32)
    k2 = ky[row] ** 2 + kx[:half] ** 2
    expected = phase[0] * ky[row] ** 2 + (phase[1] * ky[row] + phase[2] * kx[:half]) * kx[:half]
    expected += phase[3] * k2**2 + phase[4]
    assert abs(expected).max() < 2**20
    expected = np.sin(np.pi * (expected + (extra[row] if with_extra else 0))) * envelope[row]
    terms = (phase[2] + phase[3] * kx**2) * kx**2
    g = np.full(64, np.nan, np.float32)
    _contrast_row(g, end, row, ky, kx, phase, terms, np.zeros(64), envelope, extra)
    np.testing.assert_allclose(g[:end], expected[:end], atol=5e-6)  # the polynomial's own error
    assert not g[end:].any()
