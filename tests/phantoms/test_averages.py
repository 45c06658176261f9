"""Masks and maps that a perfect average would show."""

from __future__ import annotations

import numpy as np
import pytest


def test_masks_are_soft_and_centred(phantom):
    for mask in (phantom.mask_align.data, phantom.mask_fsc.data):
        assert mask.min() == 0
        assert mask.max() == 1
        assert ((mask > 0.01) & (mask < 0.99)).mean() > 0.005
    n = phantom.mask_fsc.data.shape[0]
    inside = np.indices((n, n, n))[:, phantom.mask_fsc.data > 0.5].mean(axis=1) - n // 2
    assert np.abs(inside[1:]).max() < 0.2
    # All of the particle's density lies in the tight mask.
    truth = phantom.truth_map.data
    assert (truth * phantom.mask_fsc.data).sum() == pytest.approx(truth.sum(), rel=0.02)
