"""Picks are off by what the spec says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation


def xyz_rotation(angles_deg: np.ndarray) -> Rotation:
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True).inv()


def test_picks_are_off_by_what_the_spec_says(phantom):
    p = phantom.particles
    subtomogram = xyz_rotation(p.subtomogram_angles_deg)
    position_xyz = p.coordinate_zyx_angst[:, ::-1] - subtomogram.apply(p.origin_zyx_angst[:, ::-1])
    true = xyz_rotation(phantom.true_angles_deg)
    in_own_frame = true.inv().apply(position_xyz - phantom.true_position_zyx_angst[:, ::-1])
    # The average shows the particle at +offset, so picks lie at -offset of the particle: here +6 A.
    n = len(p)
    np.testing.assert_allclose(in_own_frame.mean(axis=0), [0, 0, 6.0], atol=4 * 2.0 / np.sqrt(n))
    np.testing.assert_allclose(in_own_frame.std(axis=0), 2.0, rtol=0.25)
    picked = subtomogram * xyz_rotation(p.angles_deg)
    sixfold = Rotation.from_euler("Z", 60.0 * np.arange(6)[:, None], degrees=True)
    off = np.min([(true.inv() * picked * turn).magnitude() for turn in sixfold], axis=0)
    # Three axes of 2 deg each: the mean length of such a vector is 2 sqrt(8 / pi).
    assert np.rad2deg(off).mean() == pytest.approx(2.0 * np.sqrt(8 / np.pi), rel=0.15)
    assert np.abs(p.angles_deg[:, 1] - 90).max() < 12  # a sphere picker's convention
    grid = p.coordinate_zyx_angst / (3 * 4.0)
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-6)
    assert np.abs(p.origin_zyx_angst).max() > 1
    assert np.bincount(p.half_set)[1:] == pytest.approx([n / 2, n / 2], abs=1)


def test_twice_picked_particles_share_their_index(phantom):
    values, counts = np.unique(phantom.true_index, return_counts=True)
    assert counts.max() == 2
    twice = values[counts == 2][0]
    rows = np.flatnonzero(phantom.true_index == twice)
    np.testing.assert_array_equal(*phantom.true_position_zyx_angst[rows])
    assert not np.array_equal(*phantom.particles.angles_deg[rows])
    assert len(values) == values.max() + 1
