"""Maximisation: halves stay apart, the last iteration joins them, correlation leaves noise alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine_steps import copied
from napari_sta.engine.maximisation import maximise
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.kernels.refine import maps
from napari_sta.kernels.refine.noise import update_scales
from napari_sta.kernels.refine.projector import padded_radius
from napari_sta.kernels.rotations import euler_to_matrix_zyx


@pytest.fixture(scope="module")
def made(begun, halves):
    plan, sums = halves
    return maximise(*begun, plan, copied(sums))


def test_a_new_state(begun, halves, made):
    (run, before), (plan, sums), (state, maps) = begun, halves, made
    assert state.iteration == plan.number
    assert state.current_size_px == 2 * plan.radius
    assert not state.converged
    assert maps == (None, None)
    alignment = sums[1].alignments[3]
    np.testing.assert_allclose(
        euler_to_matrix_zyx(state.angles_deg[alignment.row]), alignment.rotation_zyx, atol=1e-9
    )
    np.testing.assert_allclose(
        state.offset_zyx_angst[alignment.row], alignment.offset_zyx_px * run.pixel_size_angst
    )
    for half, images in zip((1, 2), state.images, strict=True):
        mine = before.half_set == half
        assert images.log_likelihood == pytest.approx(state.log_likelihood[mine].sum())
        assert images.temperature == before.images[half - 1].temperature
        assert state.model(half).reference.dtype == np.float32
        # Local searches keep the distribution over directions.
        assert state.model(half).pdf_direction is before.model(half).pdf_direction
    assert not np.array_equal(state.model(1).reference, state.model(2).reference)
    assert state.changes_deg > 0
    assert state.changes_angst > 0


def test_the_last_iteration_makes_one_map_of_both(begun, halves):
    (run, before), (plan, sums) = begun, halves
    last = replace(plan, control=replace(plan.control, is_last=True))
    state, maps = maximise(run, before, last, copied(sums))
    assert state.converged
    assert maps.merged is not None
    assert maps.unfiltered is not None
    assert len(maps.unfiltered) == 2
    for half in (1, 2):
        assert state.model(half).reference is before.model(half).reference
        assert state.model(half).tau2 is state.model(1).tau2


def test_correlation_leaves_noise_and_scale_alone(begun, halves):
    (run, before), (plan, sums) = begun, halves
    state, _ = maximise(run, before, replace(plan, cross_correlation=True), copied(sums))
    for images, old in zip(state.images, before.images, strict=True):
        assert images.sigma2 is old.sigma2
        assert images.noise is old.noise
        assert images.scale is old.scale
        assert images.sigma2_offset_angst2 != old.sigma2_offset_angst2
    # It claims no better resolution than the start map's.
    assert state.control.resolution_inv_angst == before.control.resolution_inv_angst


def test_a_group_without_particles_keeps_its_noise(begun, halves, made):
    (run, before), (plan, sums) = begun, halves
    empty = copied(sums)
    empty[0].statistics.n_images[:] = 0
    state, _ = maximise(run, before, plan, empty)
    np.testing.assert_array_equal(state.images[0].sigma2, before.images[0].sigma2)
    np.testing.assert_array_equal(state.images[1].sigma2, made[0].images[1].sigma2)


def test_scales_are_about_the_same_for_the_same_microscope(begun, made):
    for images in made[0].images:
        assert images.scale.shape == (len(begun.run.source.series_names),)
        assert images.scale.mean() == pytest.approx(1, abs=0.05)
        assert images.scale.std() < 0.2


def test_directions_without_particles_die_only_if_relion_is_followed(begun, halves):
    (run, before), (plan, sums) = begun, halves
    free = replace(plan, control=replace(plan.control, local_prior=type(plan.control.local_prior)()))
    for quirks in (frozenset(), frozenset({Quirk.DYING_DIRECTIONS})):
        odd = Run(run.source, replace(run.settings, quirks=quirks), run.rules, run.mask)
        state, _ = maximise(odd, before, free, copied(sums))
        for model in state.models:
            assert model.pdf_direction.sum() == pytest.approx(1)
            assert (model.pdf_direction.min() == 0) == bool(quirks)


def completed(run, plan, sums):
    """Sums of both half sets with all their symmetry mates."""
    reach = padded_radius(plan.radius, run.settings.padding)
    return [maps.complete_sums(half.volume, run.operators, reach, 1) for half in copied(sums)]


def reconstructed(run, plan, volume, tau2=None):
    return maps.reconstruct(volume, run.size_px, plan.radius, run.settings.padding, tau2, n_dim=2)


def test_maps_of_the_last_iteration_by_hand(begun, halves):
    """The whole map is of the sums of both half sets; the half maps share nothing."""
    (run, before), (plan, sums) = begun, halves
    last = replace(plan, control=replace(plan.control, is_last=True))
    state, made = maximise(run, before, last, copied(sums))
    volumes = completed(run, plan, sums)
    for volume, unfiltered in zip(volumes, made.unfiltered, strict=True):
        np.testing.assert_allclose(unfiltered, reconstructed(run, plan, volume), atol=1e-6)
    whole = reconstructed(run, plan, volumes[0] + volumes[1], state.model(1).tau2)
    np.testing.assert_allclose(made.merged, whole, atol=1e-6)


@pytest.mark.parametrize(("join_angst", "reach"), [(40.0, 3), (24.0, 4), (1.0, None)])
def test_half_maps_are_joined_at_low_resolution(begun, halves, join_angst, reach):
    """Up to the shell of that resolution, and never beyond the current one."""
    (run, before), (plan, sums) = begun, halves
    run = Run(run.source, replace(run.settings, join_angst=join_angst), run.rules, run.mask)
    if reach is None:
        reach = round(before.control.resolution_inv_angst * run.rules.edge_angst)
    state, _ = maximise(run, before, plan, copied(sums))
    np.testing.assert_allclose(state.fsc[1:reach], 1, atol=1e-6)
    assert (state.fsc[reach + 1 : plan.radius] < 0.9999).all()


def test_the_solvent_fsc_draws_with_the_seed_of_the_iteration(begun, halves, monkeypatch):
    (run, before), (plan, sums) = begun, halves
    run = Run(run.source, replace(run.settings, solvent_fsc=True, seed=40), run.rules, run.mask)
    seeds: list[int] = []
    correct = maps.solvent_corrected_fsc

    def spied(*given, seed):
        seeds.append(seed)
        return correct(*given, seed=seed)

    monkeypatch.setattr(maps, "solvent_corrected_fsc", spied)
    state, made = maximise(run, before, replace(plan, number=5), copied(sums))
    assert seeds == [45]
    assert state.iteration == 5
    assert len(made.unfiltered) == 2


def test_noise_and_scale_by_hand(begun, halves, made):
    (run, before), (_, sums), (state, _) = begun, halves, made
    for half, images in zip((1, 2), state.images, strict=True):
        statistics, old = sums[half - 1].statistics, before.images[half - 1]
        np.testing.assert_allclose(
            images.noise, run.tilt_noise(statistics.tilt_residual, statistics.tilt_weight)
        )
        cross, norm = statistics.cross / old.noise, statistics.norm / old.noise
        count = np.bincount(run.source.series_index[run.rows_of(before.half_set, half)])
        by_hand = update_scales(replace(statistics, cross=cross, norm=norm), state.model(half).ssnr, count)
        np.testing.assert_allclose(images.scale, by_hand)


def test_relions_noise_is_one_spectrum_a_group(begun, halves):
    (run, before), (plan, sums) = begun, halves
    odd = Run(run.source, replace(run.settings, quirks=frozenset({Quirk.SHELL_NOISE})), run.rules, run.mask)
    ssnr = np.zeros(run.n_shells)
    ssnr[:3] = 9
    old = replace(before, models=tuple(replace(model, ssnr=ssnr) for model in before.models))
    state, _ = maximise(odd, old, plan, copied(sums))
    for half, images in zip((1, 2), state.images, strict=True):
        assert images.noise is before.images[half - 1].noise
        count = np.bincount(run.source.series_index[run.rows_of(before.half_set, half)])
        np.testing.assert_allclose(images.scale, update_scales(sums[half - 1].statistics, ssnr, count))
