"""The spec decides everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_sta.phantoms.simulation import simulate
from napari_sta.phantoms.spec import dose_symmetric


def test_dose_symmetric_goes_outwards_from_zero():
    assert dose_symmetric(9.0, 3.0) == (0.0, 3.0, -3.0, -6.0, 6.0, 9.0, -9.0)


def test_a_spec_decides_everything(phantom):
    again = simulate(phantom.spec)
    other = simulate(replace(phantom.spec, seed=6))
    for name, stack in phantom.images.items():
        np.testing.assert_array_equal(again.images[name], stack)
        assert not np.array_equal(other.images[name], stack)
    np.testing.assert_array_equal(
        again.particles.coordinate_zyx_angst, phantom.particles.coordinate_zyx_angst
    )
