"""Expectation: every particle once, whoever does the work; sums that may be given away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine_steps import expected
from napari_sta.engine import expectation
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.workers import Workers
from napari_sta.kernels.refine.posterior import Posterior
from napari_sta.kernels.rotations import euler_to_matrix_zyx


def another(run: Run, quirks: frozenset[Quirk] = frozenset(), **changes) -> Run:
    return Run(run.source, replace(run.settings, quirks=quirks), run.rules, run.mask, **changes)


def same_alignments(some, others, **tolerance):
    for half, other in zip(some, others, strict=True):
        assert [a.row for a in half.alignments] == [a.row for a in other.alignments]
        for a, b in zip(half.alignments, other.alignments, strict=True):
            np.testing.assert_allclose(a.rotation_zyx, b.rotation_zyx, **tolerance)
            np.testing.assert_allclose(a.offset_zyx_px, b.offset_zyx_px, **tolerance)
            np.testing.assert_allclose(a.p_max, b.p_max, **tolerance)


def test_every_particle_once_in_the_order_of_its_half_set(begun, halves):
    (run, state), (plan, sums) = begun, halves
    for half, mine in zip((1, 2), sums, strict=True):
        rows = run.rows_of(state.half_set, half)
        np.testing.assert_array_equal([a.row for a in mine.alignments], rows)
        assert mine.statistics.n_particles == len(rows)
        assert mine.statistics.p_max == pytest.approx(sum(a.p_max for a in mine.alignments))
        assert len(mine.informations) == len(rows)
        for alignment in mine.alignments:
            assert alignment.direction_weights.sum() == pytest.approx(1, abs=2e-3)
            assert alignment.directions.max() < plan.grid.n_directions
            np.testing.assert_allclose(np.linalg.det(alignment.rotation_zyx), 1)
    assert (run.seconds > 0).all()
    assert (run.seconds < 60).all(), "seconds of a particle, not of the clock"


def test_threads_change_nothing_but_rounding(begun, halves):
    run, state = begun
    _, others = expected(another(run, workers=Workers(3)), state)
    same_alignments(halves[1], others, rtol=0, atol=0)
    for one, other in zip(halves[1], others, strict=True):
        np.testing.assert_allclose(one.volume, other.volume, atol=1e-5 * np.abs(one.volume).max())


def test_sums_are_moved_to_double_precision_now_and_then(begun, halves, monkeypatch):
    monkeypatch.setattr(expectation, "_FLUSH", 5)
    _, others = expected(*begun)
    same_alignments(halves[1], others, rtol=0, atol=0)
    for one, other in zip(halves[1], others, strict=True):
        np.testing.assert_allclose(one.volume, other.volume, atol=1e-5 * np.abs(one.volume).max())
        np.testing.assert_allclose(one.statistics.residual, other.statistics.residual, rtol=1e-12)


def test_devices_do_the_same(begun, halves):
    """Here the CPU as torch sees it, with two threads that feed it."""
    run, state = begun
    _, others = expected(another(run, workers=Workers(2), devices=[torch.device("cpu")]), state)
    same_alignments(halves[1], others, rtol=0, atol=2e-3)
    for one, other in zip(halves[1], others, strict=True):
        np.testing.assert_allclose(one.volume, other.volume, atol=2e-3 * np.abs(one.volume).max())


def test_grid_points_are_poses_if_relion_is_followed(begun, halves):
    run, state = begun
    _, others = expected(another(run, frozenset({Quirk.BEST_POSE})), state)
    moved = [
        np.abs(a.rotation_zyx - b.rotation_zyx).max()
        for one, other in zip(halves[1], others, strict=True)
        for a, b in zip(one.alignments, other.alignments, strict=True)
    ]
    assert np.median(moved) > 1e-3
    # No more than the mean's neighbourhood.
    assert max(moved) < 0.5


def test_all_samples_or_a_few_of_them(begun, monkeypatch):
    run, state = begun
    counts: list[int] = []
    add = expectation.sums_of.add_particle

    def spied(sums, posterior, *rest, **options):
        counts.append(int((posterior.weights > 0).sum()))
        return add(sums, posterior, *rest, **options)

    monkeypatch.setattr(expectation.sums_of, "add_particle", spied)
    broad = replace(state, images=tuple(replace(images, temperature=30.0) for images in state.images))
    expected(run, broad)
    assert max(counts) <= run.settings.samples
    counts.clear()
    expected(another(run, frozenset({Quirk.ALL_SAMPLES})), broad)
    assert max(counts) > run.settings.samples


def test_a_volume_is_handed_over_once(halves):
    one = replace(halves[1][0])
    volume = one.volume
    assert one.take_volume() is volume
    assert one.volume.size == 0


def test_the_likelihood_is_not_calibrated_where_nobody_asks(begun):
    run, state = begun
    _, believed = expected(another(run, frozenset({Quirk.NO_CALIBRATION})), state)
    _, compared = expected(run, replace(state, first_cc=True))
    assert [half.informations for half in (*believed, *compared)] == [[]] * 4
    # A correlation says nothing of noise.
    assert not compared[0].statistics.residual.any()
    assert believed[0].statistics.residual.any()


def test_a_few_particles_calibrate_the_likelihood(begun, monkeypatch):
    monkeypatch.setattr(expectation, "_CALIBRATION_PARTICLES", 6)
    _, sums = expected(*begun)
    assert [len(half.informations) for half in sums] == [6, 6]


def test_the_best_grid_point_is_taken_whole(begun, halves):
    run, _ = begun
    rotations = euler_to_matrix_zyx(np.array([[0.0, 10, 20], [30, 40, 50], [60, 70, 80]]))
    shifts = np.arange(6.0).reshape(2, 3)
    weights = np.array([[0.1, 0.0], [0.2, 0.1], [0.0, 0.6]])
    posterior = Posterior(rotations, shifts, weights, np.zeros(3, dtype=int), (2, 1), 3, 0.0)
    odd = another(run, frozenset({Quirk.BEST_POSE}))
    for one, plan in ((odd, halves[0]), (run, replace(halves[0], cross_correlation=True))):
        rotation, shift = expectation._pose(one, plan, posterior)
        np.testing.assert_array_equal(rotation, rotations[2])
        np.testing.assert_array_equal(shift, shifts[1])
