"""A run: what belongs to a half set, what is believed of a particle, grids and filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run


def test_rows_of_a_half_set_lie_tilt_series_by_tilt_series(begun):
    run, state = begun
    rows = run.rows_of(state.half_set, 2)
    assert sorted(rows) == list(np.flatnonzero(state.half_set == 2))
    series = run.source.series_index[rows]
    assert (np.diff(series) >= 0).all()
    assert all((np.diff(rows[series == s]) > 0).all() for s in np.unique(series))


def test_a_particle_carries_what_the_state_believes(begun):
    run, state = begun
    window = run.source.windows(6)[0]
    images = replace(state.images[1], temperature=3.0, scale=state.images[1].scale * 0.7)
    state = replace(state, images=(state.images[0], images))
    particle = run.particle(state, 2, 4, window)
    series = run.source.series_index[4]
    np.testing.assert_allclose(particle.noise, 3 * images.noise[series, particle.tilts])
    np.testing.assert_allclose(particle.sigma2, 3 * images.sigma2[0])
    assert particle.scale == 0.7
    np.testing.assert_allclose(particle.offset_zyx_px * run.pixel_size_angst, state.offset_zyx_angst[4])


def test_offsets_are_rounded_as_relion_does(begun):
    run, state = begun
    quirks = frozenset({Quirk.WHOLE_PIXELS, Quirk.SHELL_NOISE})
    odd = Run(run.source, replace(run.settings, quirks=quirks), run.rules, run.mask)
    offset = state.offset_zyx_angst.copy()
    offset[3] = np.array([1.4, -1.6, 2.5]) * run.pixel_size_angst
    particle = odd.particle(replace(state, offset_zyx_angst=offset), 1, 3, run.source.windows(6)[0])
    np.testing.assert_array_equal(particle.offset_zyx_px, [1, -2, 3])
    assert particle.noise is None


def test_a_grid_is_kept_until_another_is_asked_for(begun):
    run = begun.run
    first = run.grid(2)
    assert run.grid(2) is first
    assert len(run.grid(1)) < len(first)


def test_perturbations_follow_from_the_seed(begun):
    run = begun.run
    draws = [run.perturbation(0.0, iteration) for iteration in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]
    other = Run(run.source, replace(run.settings, seed=2), run.rules, run.mask)
    assert other.perturbation(0.0, 1) == draws[1], "seed and iteration are added, as in RELION"


def test_no_lowpass_is_none(begun):
    run = begun.run
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(run.size_px,) * 3))
    filtered = run.lowpassed(volume)
    assert filtered.std() < 0.5 * volume.std()
    plain = Run(run.source, replace(run.settings, initial_lowpass_angst=0.0), run.rules, run.mask)
    assert plain.lowpassed(volume) is volume
