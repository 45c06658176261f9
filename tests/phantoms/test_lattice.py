"""The lattice on the sphere."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from napari_sta.phantoms.lattice import sphere_lattice


def test_lattice_covers_the_sphere_without_overlap():
    at, rotation = sphere_lattice(330.0, 86.0)
    np.testing.assert_allclose(np.linalg.norm(at, axis=1), 330.0)
    np.testing.assert_allclose(rotation.apply([0, 0, 1]), at / 330.0, atol=1e-12)
    nearest = cKDTree(at).query(at, k=2)[0][:, 1]
    assert nearest.min() > 0.84 * 86
    assert len(at) > 0.85 * 4 * np.pi * 330**2 / (86**2 * np.sqrt(0.75)) * 0.9
    # The neighbour along a lattice line lies where x of the particle points.
    centre = int(np.argmax(at[:, 2]))
    towards = at[centre] + 86.0 * rotation[centre].apply([1, 0, 0])
    assert cKDTree(at).query(towards)[0] < 86.0 * 0.15
