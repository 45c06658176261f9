"""The score formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.terms import combined


@pytest.mark.parametrize("kind", [np.array, torch.DoubleTensor], ids=["numpy", "torch"])
def test_log_likelihood_completes_the_square(kind):
    """cross - norm is -|s M V - X|² / 2 sigma² less its constant, for one orientation and two shifts."""
    v, images, scale, sigma2 = 1.5 - 0.5j, [0.3 + 2j, -1.0 + 0.2j], 1.3, 0.25
    cross = [[(np.conj(scale * v) * x).real / sigma2 for x in images]]
    norm = [abs(scale * v) ** 2 / (2 * sigma2)]
    expected = [-(abs(scale * v - x) ** 2 - abs(x) ** 2) / (2 * sigma2) for x in images]
    np.testing.assert_allclose(combined(kind(cross), kind(norm))[0], expected)


@pytest.mark.parametrize("kind", [np.array, torch.DoubleTensor], ids=["numpy", "torch"])
def test_correlation_is_a_cosine(kind):
    """Of two images with two orientations each; -inf stays, blank slices and images give 0."""
    cross = kind([[[6.0, -np.inf], [0.0, 0.0]], [[-4.0, 1.0], [0.0, 0.0]]])
    norm = kind([[4.5, 0.0], [8.0, 2.0]])
    found = combined(cross, norm, kind([[4.0], [0.0]]))
    np.testing.assert_allclose(found[0], [[6 / (3 * 2), -np.inf], [0, 0]])
    assert not found[1, 1].any()
    small = combined(kind([[[1e-145]]]), kind([[2e-210]]), kind([[1e-80]]))  # weak, but not blank
    assert float(small[0, 0, 0]) == pytest.approx(0.5)
