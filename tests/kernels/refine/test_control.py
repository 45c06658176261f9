"""Auto-refine control against the counters of a RELION run (bin 2, box 48, C6, local searches from the start)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.kernels.refine import control
from napari_sta.kernels.refine.sampling import translation_grid_zyx
from napari_sta.kernels.rotations import euler_to_matrix_zyx, symmetry_operators_zyx

RULES = control.Rules(size_px=48, pixel_size_angst=5.4, diameter_angst=230.0)

# Per iteration 1 to 6 of the run: window, resolution shell, Pmax of half 1, changes (deg, Å),
# then the counters RELION wrote: without gain, without changes, smallest angles, smallest offsets.
RUN = [
    (46, 13, 1.000000, 3.550612, 4.510936, 1, 0, 3.550612, 4.510936),
    (38, 19, 0.951106, 1.744131, 3.227043, 0, 0, 1.744131, 3.227043),
    (48, 21, 0.978421, 1.794860, 3.191071, 0, 1, 1.744131, 3.191071),
    (48, 21, 0.980588, 1.644389, 3.786330, 1, 0, 1.644389, 3.191071),
    (48, 22, 0.976948, 1.862422, 4.154062, 0, 1, 1.644389, 3.191071),
    (48, 21, 0.988069, 2.287659, 4.394899, 1, 2, 1.644389, 3.191071),
]
ACCURACY = [(999.0, 999.0), (0.69, 0.9666), (0.555, 0.8532), (0.543, 0.8208), (0.535, 0.7992), (0.533, 0.783)]


def high_fsc():
    fsc = np.ones(25)
    fsc[23:] = 0.3
    return fsc


def test_counters_sizes_and_orders_of_a_relion_run():
    state = control.start(RULES, 4, 16.200001, 10.800001, 20.0)
    assert state.local_prior.tilt_deg == 3.75
    for n, (row, accuracy) in enumerate(zip(RUN, ACCURACY, strict=True), start=1):
        size, shell, p_max, angles, offsets, no_gain, no_change, smallest_angles, smallest_offsets = row
        state = control.with_convergence(state, RULES)
        assert not state.is_last
        assert control.current_size(state, RULES) == size
        assert control.coarse_size(state, RULES) == size
        if n > 1:
            state = replace(state, accuracy_deg=accuracy[0], accuracy_angst=accuracy[1])
            state = control.with_sampling(state, RULES)
        assert state.order == 4
        state = control.after_iteration(
            state, RULES, fsc=high_fsc(), resolution_shell=shell, p_max=p_max, changes_deg=angles,
            changes_angst=offsets, used_size=size,
        )  # fmt: skip
        assert (state.n_without_gain, state.n_without_changes) == (no_gain, no_change)
        assert state.smallest_angles_deg == smallest_angles
        assert state.smallest_offsets_angst == smallest_offsets
        assert state.increment == 10
        assert state.high_fsc
    # Iteration 7 of that run had 0.9 degrees (fine) and 251 coarse offsets.
    state = control.with_sampling(replace(state, accuracy_deg=0.53, accuracy_angst=0.78), RULES)
    assert state.order == 5
    assert state.fine_step_deg(RULES) == pytest.approx(0.9375)
    assert state.local_prior.psi_deg == pytest.approx(1.875)
    assert len(translation_grid_zyx(state.offset_range_angst, state.offset_step_angst)) == 251
    assert (state.n_without_gain, state.n_without_changes) == (0, 0)
    assert state.smallest_angles_deg == 999


def test_coarse_size_follows_the_angular_step():
    state = control.start(control.Rules(256, 1.35, 150.0), 2, 5.0, 2.0, 10.0)
    # 15 degrees of a diameter of 150 Å: 19.6 Å of arc, so 1.2 · 345.6 / 19.6 = 21.1 shells.
    assert control.coarse_size(state, control.Rules(256, 1.35, 150.0)) == 2 * 22


def test_fine_enough_then_converged():
    state = control.start(RULES, 5, 8.0, 4.0, 15.0)
    state = replace(state, n_without_gain=1, n_without_changes=1, accuracy_deg=2.0, accuracy_angst=1.0)
    state = control.with_sampling(state, RULES)
    assert state.fine_enough
    assert state.order == 5
    state = control.with_convergence(state, RULES)
    assert state.is_last
    assert control.current_size(state, RULES) == 48
    again = replace(state, accuracy_deg=0.1)
    assert control.with_sampling(again, RULES).order == 5
    relion = replace(RULES, freeze_last=False)
    assert control.with_sampling(again, relion).order == 6


def test_offset_step_never_grows_and_range_stays_small():
    state = control.start(RULES, 3, 20.0, 2.0, 15.0)
    state = replace(
        state,
        n_without_gain=1,
        n_without_changes=1,
        accuracy_deg=0.1,
        accuracy_angst=5.0,
        changes_offsets_angst=9.0,
    )
    finer = control.with_sampling(state, RULES)
    assert (finer.offset_step_angst, finer.offset_range_angst) == (2.0, 20.0)
    state = replace(state, offset_step_angst=6.0, changes_offsets_angst=0.5)
    finer = control.with_sampling(state, RULES)
    assert finer.offset_step_angst == 3.0
    assert finer.offset_range_angst == 4.5


def test_increment_grows_with_a_gently_falling_fsc():
    state = control.start(RULES, 2, 16.0, 8.0, 20.0)
    fsc = np.concatenate([np.ones(8), np.full(12, 0.3), np.zeros(5)])
    state = control.after_iteration(
        state,
        RULES,
        fsc=fsc,
        resolution_shell=9,
        p_max=0.05,
        changes_deg=1.0,
        changes_angst=1.0,
        used_size=46,
    )
    assert state.increment == 20 - 8 + 5
    assert not state.high_fsc
    assert control.current_size(state, RULES) == 48


def test_changes_of_poses():
    rng = np.random.default_rng(0)
    angles = np.stack([rng.uniform(-180, 180, 9), rng.uniform(20, 160, 9), rng.uniform(-180, 180, 9)], axis=1)
    before = euler_to_matrix_zyx(angles)
    after = before @ symmetry_operators_zyx("C6")[2]
    assert control.angle_change_deg(before, after, "C6") == pytest.approx(0, abs=1e-5)
    turned = euler_to_matrix_zyx(np.array([[0.0, 0.0, 6.0]])) @ before
    # About one axis: two of the three axes move by 6 degrees.
    assert control.angle_change_deg(before, turned, "C1") == pytest.approx(4.0, abs=1e-6)
    shift = np.tile([[0.0, 3.0, 4.0]], (9, 1))
    assert control.offset_change_angst(shift * 0, shift) == pytest.approx(np.sqrt(12.5))
