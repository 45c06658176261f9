"""Plans: what an iteration looks at, and when it may be the last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine_steps import planned
from napari_sta.engine.plan import on_grid


def test_a_plan_follows_the_control(begun):
    run, state = begun
    plan, projectors = planned(run, state)
    assert plan.number == 1
    assert not plan.cross_correlation
    assert plan.coarse_radius <= plan.radius <= run.size_px // 2
    assert all(p.radius == plan.radius for p in projectors)
    assert plan.grid is run.grid(plan.control.order)
    assert plan.control.accuracy_deg < 90
    # The sampling stays as it is in the first iteration.
    assert plan.control.order == state.control.order


def test_a_first_iteration_by_correlation_measures_nothing(begun):
    run, state = begun
    plan, _ = planned(run, replace(state, first_cc=True))
    assert plan.cross_correlation
    assert plan.control.accuracy_deg == 999
    later, _ = planned(run, replace(state, first_cc=True, iteration=1))
    assert not later.cross_correlation


def test_the_last_iteration_looks_at_everything(begun):
    run, state = begun
    ripe = replace(state.control, fine_enough=True, n_without_gain=1, n_without_changes=1)
    plan, _ = planned(run, replace(state, control=ripe, iteration=7))
    assert plan.control.is_last
    assert plan.radius == run.size_px // 2
    assert plan.control.order == state.control.order, "the grid is not refined at the end"


def test_directions_start_anew_on_another_grid(begun):
    run, state = begun
    plan, _ = planned(run, state)
    assert on_grid(state, plan) is state
    other = replace(plan, grid=run.grid(1), control=replace(plan.control, order=1))
    for model in on_grid(state, other).models:
        np.testing.assert_allclose(model.pdf_direction, 1 / other.grid.n_directions)
