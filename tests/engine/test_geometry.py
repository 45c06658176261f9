"""Geometry of particles in tilt images, against each formula by hand."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.engine.geometry import ctf_coefficients, matrices_zyx, tilt_coefficients, tilt_geometry
from napari_sta.io.mrc import image_size_yx_px
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from refine_project import Refinable


@pytest.fixture(scope="module")
def seen(stacks: Refinable):
    tomograms = read_tilt_series_set(stacks.tomograms)
    particles = read_particles(stacks.particles, tomograms)
    series = tomograms[particles.tomograms[0]]
    mine = particles[np.flatnonzero(particles.tomogram == series.name)]
    size = image_size_yx_px(series.images[0][0])
    return mine, series, size, tilt_geometry(mine, series, None, size)


def test_positions_are_projected_points(seen):
    particles, series, size, geometry = seen
    projection = matrices_zyx(series, size)
    frame = euler_to_matrix_zyx(particles.subtomogram_angles_deg)
    at = particles.coordinate_zyx_angst - np.einsum("nij,nj->ni", frame, particles.origin_zyx_angst)
    points = at / series.pixel_size_angst + series.centre_zyx_px
    for tilt in (0, 3):
        by_hand = points @ projection[tilt, :3, :3].T + projection[tilt, :3, 3]
        np.testing.assert_allclose(geometry.position_yx_px[:, tilt], by_hand[:, 1:], atol=1e-6)
        centre = projection[tilt, :3, :3] @ series.centre_zyx_px + projection[tilt, :3, 3]
        depth = (by_hand[:, 0] - centre[0]) * series.pixel_size_angst
        np.testing.assert_allclose(geometry.depth_angst[:, tilt], depth, atol=1e-6)


def test_slices_turn_with_tilt_subtomogram_and_particle(seen):
    geometry = seen[3]
    by_hand = (
        geometry.tilt_rotation_zyx[2]
        @ geometry.subtomogram_rotation_zyx[1]
        @ geometry.particle_rotation_zyx[1]
    )
    np.testing.assert_allclose(geometry.slice_matrices_zyx[1, 2], by_hand, atol=1e-12)


def test_taking_particles(seen):
    particles, series, size, geometry = seen
    rows = np.array([4, 1])
    taken, again = geometry.take(rows), tilt_geometry(particles[rows], series, None, size)
    for one, other in zip(taken, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_both_ways_to_the_same_ctf(seen):
    """One particle in many tilts, and many particles in one tilt."""
    _, series, _, geometry = seen
    tilts = np.array([0, 4, 2])
    for particle in (0, 3):
        many = tilt_coefficients(series, tilts, geometry.depth_angst[particle, tilts])
        for row, tilt in zip(many, tilts, strict=True):
            one = ctf_coefficients(series, int(tilt), geometry.depth_angst[particle : particle + 1, tilt])
            np.testing.assert_allclose(row, one[0], rtol=1e-12)
