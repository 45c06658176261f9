"""Products of slices with shifted images, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.kernels.compiled.products import add_pair_products, add_products


@pytest.mark.parametrize(("n_o", "n_s", "m"), [(1, 1, 5), (4, 8, 32), (7, 3, 33), (9, 6, 1), (5, 13, 200)])
def test_products_are_added(rng, n_o, n_s, m):
    slices, ramps = (rng.normal(size=(k, m)).astype(np.float32) for k in (n_o, n_s))
    before = rng.normal(size=(n_o, n_s))
    out = before.copy()
    add_products(slices, ramps, out)
    np.testing.assert_allclose(out, before + slices.astype(float) @ ramps.T.astype(float), atol=2e-6 * m)


def test_only_chosen_pairs_are_multiplied(rng):
    n_c, n_d, m = 8, 4, 19
    slices, ramps = (rng.normal(size=(k, m)).astype(np.float32) for k in (3 * n_c, 5 * n_d))
    parent, step = np.array([0, 2, 2]), np.array([4, 0, 3])
    out = np.ones((3 * n_c, 5 * n_d))
    add_pair_products(slices, ramps, parent, step, n_c, n_d, out)
    chosen = np.zeros((3, 5), bool)
    chosen[parent, step] = True
    whole = 1 + slices.astype(float) @ ramps.T.astype(float)
    expected = np.where(np.kron(chosen, np.ones((n_c, n_d), bool)), whole, 1)
    np.testing.assert_allclose(out, expected, atol=5e-5)
