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


@pytest.mark.parametrize(
    ("curve", "increment"),
    [
        # First shells below 0.5 and 0.143, shell 0 aside; never below: the last one.
        pytest.param([0, 1, 1, 0.4, 0.4, 0.1, 0.1], 5 - 3 + 5, id="both"),
        pytest.param([0, 1, 0.4, 0.4, 0.4, 0.1, 0.1], 5 - 2 + 5, id="an even and an odd one"),
        pytest.param([1, 1, 1, 1, 1, 0.4, 0.2], 6 - 5 + 5, id="one never"),
        pytest.param([1, 1, 1, 1, 1, 1, 1], 5, id="never"),
        pytest.param([1, 0.1, 1, 1, 1, 1, 1], 5, id="at once"),
        pytest.param([1, 0.5, 0.49, 0.143, 0.142, 0, 0], 4 - 2 + 5, id="at the limits"),
    ],
)
def test_increment_by_the_shells_between_two_limits(curve, increment):
    state = replace(control.start(RULES, 2, 16.0, 8.0, 20.0), increment=1)
    after = control.after_iteration(
        state, RULES, fsc=np.array(curve, float), resolution_shell=9, p_max=0.5, changes_deg=1.0, changes_angst=1.0,
        used_size=10,
    )  # fmt: skip
    assert after.increment == increment
    kept = control.after_iteration(
        replace(state, increment=40), RULES, fsc=np.array(curve, float), resolution_shell=9, p_max=0.5,
        changes_deg=1.0, changes_angst=1.0, used_size=10,
    )  # fmt: skip
    assert kept.increment == 40
    assert after.high_fsc == (curve[4] > 0.2)


def after(state, **found):
    values = {
        "fsc": np.zeros(25), "resolution_shell": 12, "p_max": 0.3, "changes_deg": 9.0, "changes_angst": 9.0,
        "used_size": 40,
    } | found  # fmt: skip
    return control.after_iteration(state, RULES, **values)


def test_what_counts_as_a_better_resolution():
    state = replace(control.start(RULES, 4, 16.0, 8.0, 20.0), resolution_inv_angst=12 / RULES.edge_angst)
    assert after(state).n_without_gain == 1
    assert after(after(state)).n_without_gain == 2
    assert after(state, resolution_shell=13).n_without_gain == 0
    assert after(state, resolution_shell=11).n_without_gain == 1
    assert after(state, resolution_shell=13).resolution_inv_angst == pytest.approx(13 / (48 * 5.4))
    nearly = replace(state, resolution_inv_angst=12 / RULES.edge_angst - 0.9e-4)
    assert after(nearly).n_without_gain == 1


@pytest.mark.parametrize(
    ("angles", "offsets", "steady"),
    [
        pytest.param(2.0, 3.0, True, id="as before"),
        pytest.param(1.95, 2.95, True, id="3 % better is no change"),
        pytest.param(1.9, 3.0, False, id="angles get better"),
        pytest.param(2.0, 2.9, False, id="offsets get better"),
        pytest.param(0.74, 3.0, True, id="less than 0.4 of the fine angular step"),
        pytest.param(2.0, 1.59, True, id="less than 0.4 of the fine offset step"),
        pytest.param(0.76, 1.59, False, id="just more"),
    ],
)
def test_what_counts_as_steady_poses(angles, offsets, steady):
    """Fine steps here: 1.875 degrees and 4 Å."""
    state = replace(
        control.start(RULES, 4, 16.0, 8.0, 20.0), smallest_angles_deg=2.0, smallest_offsets_angst=3.0,
        n_without_changes=2,
    )  # fmt: skip
    found = after(state, changes_deg=angles, changes_angst=offsets)
    assert found.n_without_changes == (3 if steady else 0)
    assert found.smallest_angles_deg == min(2.0, angles)
    assert found.smallest_offsets_angst == min(3.0, offsets)
    assert found.changes_offsets_angst == offsets
    assert found.p_max == 0.3


def test_three_percent_better_is_as_good_as_no_change():
    state = replace(
        control.start(RULES, 4, 16.0, 8.0, 20.0),
        smallest_angles_deg=1.03 * 2.0,
        smallest_offsets_angst=1.03 * 3.0,
    )
    assert after(state, changes_deg=2.0, changes_angst=3.0).n_without_changes == 1


def test_window_until_the_posterior_allows_a_quarter_more():
    state = replace(control.start(RULES, 4, 16.0, 8.0, 20.0), resolution_inv_angst=10 / RULES.edge_angst)
    assert control.current_size(state, RULES) == 2 * (10 + 10)
    assert control.current_size(replace(state, high_fsc=True), RULES) == 40
    assert control.current_size(replace(state, high_fsc=True, p_max=0.1), RULES) == 40
    assert control.current_size(replace(state, high_fsc=True, p_max=0.11), RULES) == 2 * (10 + 6)
    assert control.current_size(replace(state, p_max=0.5), RULES) == 40


def test_when_it_is_the_last():
    state = replace(
        control.start(RULES, 4, 16.0, 8.0, 20.0), n_without_gain=1, n_without_changes=1, fine_enough=True
    )
    assert control.with_convergence(state, RULES).is_last
    for less in ({"fine_enough": False}, {"n_without_gain": 0}, {"n_without_changes": 0}):
        assert not control.with_convergence(replace(state, **less), RULES).is_last
    blind = replace(RULES, ignore_angles=True)
    assert control.with_convergence(replace(state, n_without_changes=0), blind).is_last
    assert control.with_convergence(replace(state, fine_enough=False, is_last=True), RULES).is_last


def test_sampling_stays_while_anything_gets_better():
    state = replace(control.start(RULES, 4, 16.0, 8.0, 20.0), accuracy_deg=0.1, accuracy_angst=0.1)
    ready = {"n_without_gain": 1, "n_without_changes": 1}
    assert control.with_sampling(replace(state, **ready), RULES).order == 5
    for less in ({"n_without_gain": 0}, {"n_without_changes": 0}):
        assert control.with_sampling(replace(state, **(ready | less)), RULES).order == 4
    blind = replace(RULES, ignore_angles=True)
    assert control.with_sampling(replace(state, n_without_gain=1), blind).order == 5
    # 1.875 degrees are fine enough from an accuracy of 2.5 on: below 0.75 times as much.
    assert control.with_sampling(replace(state, **ready, accuracy_deg=2.49), RULES).order == 5
    assert control.with_sampling(replace(state, **ready, accuracy_deg=2.51), RULES).fine_enough


def test_angles_that_the_resolution_asks_for():
    """360 degrees by the shells that a circle as large as the particle holds; not at the step to local searches."""
    rules = replace(RULES, resolution_angles=True, local_order=9)
    state = replace(
        control.start(rules, 4, 16.0, 8.0, 20.0), n_without_changes=1, accuracy_deg=0.1, accuracy_angst=0.1
    )
    # pi · 230 Å at 1 / 3.76 Å: 193 steps, 1.865 degrees, finer than 1.875; at 1 / 3.79 Å 191 steps.
    assert control.with_sampling(replace(state, resolution_inv_angst=1 / 3.76), rules).order == 5
    assert control.with_sampling(replace(state, resolution_inv_angst=1 / 3.79), rules).order == 4
    local = replace(rules, local_order=5)
    assert control.with_sampling(replace(state, resolution_inv_angst=1 / 3.76), local).order == 4


@pytest.mark.parametrize(
    ("volumes", "changes", "accuracy", "step", "reach"),
    [
        # Accuracy 0.4 Å: a fine step of 0.3, a coarse one of 0.6, but no less than half the one before.
        pytest.param(False, 2.0, 0.4, 4.0, 10.0, id="half the step, five times the changes"),
        pytest.param(True, 2.5, 0.4, 4.0, 7.5, id="volumes: three times"),
        pytest.param(False, 0.1, 0.4, 4.0, 6.0, id="at least one and a half steps"),
        pytest.param(
            False, 9.0, 0.4, 4.0, 10.4, id="at most 1.3 of the range before, halved beyond four steps"
        ),
    ],
)
def test_steps_and_range_of_offsets(volumes, changes, accuracy, step, reach):
    rules = replace(RULES, volumes=volumes)
    state = replace(
        control.start(rules, 4, 16.0, 8.0, 20.0), n_without_gain=1, n_without_changes=1, accuracy_deg=0.1,
        accuracy_angst=accuracy, changes_offsets_angst=changes,
    )  # fmt: skip
    finer = control.with_sampling(state, rules)
    assert finer.offset_step_angst == pytest.approx(step)
    assert finer.offset_range_angst == pytest.approx(reach)


def test_a_range_far_beyond_four_steps_makes_them_wider():
    state = replace(
        control.start(RULES, 4, 40.0, 8.0, 20.0), n_without_gain=1, n_without_changes=1, accuracy_deg=0.1,
        accuracy_angst=0.4, changes_offsets_angst=9.0,
    )  # fmt: skip
    finer = control.with_sampling(state, RULES)
    assert finer.offset_range_angst == pytest.approx(45 / 2)
    assert finer.offset_step_angst == pytest.approx(45 / 8)
    # A fine step is 1.5 Å at most.
    rough = control.with_sampling(
        replace(state, accuracy_angst=50.0, changes_offsets_angst=2.0, offset_step_angst=1.0), RULES
    )
    assert (rough.offset_step_angst, rough.offset_range_angst) == (1.0, 40.0)
    capped = replace(state, accuracy_angst=3.0, changes_offsets_angst=2.0, offset_step_angst=5.0)
    assert control.with_sampling(capped, RULES).offset_step_angst == 3.0
