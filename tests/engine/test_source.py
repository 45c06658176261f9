"""What all sources of particles have in common: windows, boxes, beliefs."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.engine.source import box_of
from refine_project import BOX_PX, PIXEL_ANGST, prepared


@pytest.fixture(scope="module")
def source(stacks):
    return prepared(stacks).run.source


def test_windows_are_made_once_a_radius(source):
    first = source.windows(7)
    assert source.windows(7) is first
    assert source.windows(8) is not first
    assert first[0].pixels.radius == 7
    coarse = source.coarse_windows(4)[0].pixels
    assert coarse.count < first[0].pixels.count
    assert source.windows(8)[0].pixels.radius == 8, "a first pass leaves the window alone"


def test_particles_belong_to_series_and_group(source):
    names = np.array(source.series_names)[source.series_index]
    np.testing.assert_array_equal(names, source.particles.tomogram)
    assert set(source.optics_index) == set(range(len(source.particles.optics)))
    assert box_of(source.particles.optics[0]) == (BOX_PX, PIXEL_ANGST)
    assert source.ratio(0) == pytest.approx(1)
    assert source.n_shells == BOX_PX // 2 + 1


def test_nothing_is_believed_of_a_particle_that_was_just_read(source):
    window = source.windows(6)[0]
    particle = source.load(5, window)
    assert (particle.sigma2 == 1).all()
    assert particle.noise is None
    assert particle.scale == 1
    assert not particle.offset_zyx_px.any()
    np.testing.assert_array_equal(particle.tilts, source.visible[5])
    told = particle.at(np.full(13, 2.0), np.full((7, 13), 3.0), 0.5, np.array([1.0, 2, 3]))
    assert told.scale == 0.5
    assert told.masked is particle.masked
    np.testing.assert_array_equal(told.offset_zyx_px, [1, 2, 3])
    np.testing.assert_array_equal(told.offset_prior_zyx_px, particle.offset_prior_zyx_px)


def test_windows_may_come_in_any_order(source):
    """What is kept of a window never reaches particles that are read for another."""
    wide, narrow = source.windows(9)[0], source.windows(6)[0]
    first = source.load(2, narrow)
    again = source.load(2, wide)
    assert again.model.shape == (len(source.visible[2]), wide.pixels.count)
    place = wide.pixels.places_of(narrow.pixels)
    np.testing.assert_array_equal(again.model[:, place], first.model)
