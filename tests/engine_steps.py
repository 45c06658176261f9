"""The steps of a refinement one by one, without the job around them."""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any, NamedTuple

from napari_sta.engine.expectation import HalfSums, expect
from napari_sta.engine.plan import Plan, on_grid, plan_iteration
from napari_sta.engine.run import Run
from napari_sta.engine.start import initial_state
from napari_sta.engine.state import HALVES, State
from refine_project import Refinable, prepared


class Begun(NamedTuple):
    """A refinement at iteration 0."""

    run: Run
    state: State


def begin(project: Refinable, **values: Any) -> Begun:
    """Set a refinement up on one thread, up to iteration 0."""
    one = prepared(project, **values)
    assert one.references is not None
    state, _ = initial_state(one.run, one.references, one.start, one.half_set, fit_scale=True)
    return Begun(one.run, state)


def finished(steps: Generator[Any, None, Any]) -> Any:
    """Run a generator to its end; return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def planned(run: Run, state: State) -> Any:
    """Plan of the next iteration, and the projectors of both half sets."""
    return finished(plan_iteration(run, state))


def expected(run: Run, state: State) -> tuple[Plan, list[HalfSums]]:
    """Expectation of both half sets."""
    plan, projectors = planned(run, state)
    state = on_grid(state, plan)
    return plan, [
        finished(expect(run, state, plan, half, p)) for half, p in zip(HALVES, projectors, strict=True)
    ]


def copied(halves: list[HalfSums]) -> list[HalfSums]:
    """Sums that maximisation may use up."""
    return copy.deepcopy(halves)
