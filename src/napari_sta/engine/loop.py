"""One iteration: accuracy and sampling, expectation of each half set, maximisation, calibration."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from napari_sta.data.progress import Progress
from napari_sta.engine.accuracy import measure_accuracy
from napari_sta.engine.expectation import HalfSums, expect
from napari_sta.engine.maximisation import maximise
from napari_sta.engine.plan import Plan
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.state import HALVES, Maps, State
from napari_sta.kernels.refine import calibration, control
from napari_sta.kernels.refine.projector import Projector

_MOST_TEMPERATURE = 100.0


def iterate(run: Run, state: State) -> Generator[Progress, None, tuple[State, Maps]]:
    """Do the next iteration.

    Yields
    ------
    progress
        Particles done; ``data`` holds what a monitor shows.
    """
    began = time.monotonic()
    plan, projectors = yield from _plan(run, state)
    state = _on_grid(state, plan)
    shown = _shown(run, state, plan)
    halves = yield from _expect_halves(run, state, plan, projectors, shown, began)
    total = len(run.source)
    progress = Progress(
        total, total, f"iteration {plan.number}: maximisation", shown | {"phase": "maximisation"}
    )
    yield progress
    return (yield from run.workers.in_background(lambda: _finish(run, state, plan, halves), progress))


def _plan(run: Run, state: State) -> Generator[Progress, None, tuple[Plan, list[Projector]]]:
    """Decide how the iteration goes; also transform the references up to its radius."""
    rules, number = run.rules, state.iteration + 1
    cross_correlation = number == 1 and state.first_cc
    steer = control.with_convergence(state.control, rules)
    size = control.current_size(steer, rules)
    radius = size // 2
    coarse_radius = min(radius, control.coarse_size(steer, rules) // 2)
    perturbation = run.perturbation(state.perturbation, number)
    windows = run.source.windows(radius)
    shown = {"iteration": number, "phase": "accuracy", "image_size_px": size, "last": steer.is_last}
    progress = Progress(0, len(run.source), f"iteration {number}: accuracy", shown)
    yield progress
    projectors = yield from run.workers.in_background(
        lambda: [run.projector(torch.from_numpy(state.model(half).reference), radius) for half in HALVES],
        progress,
    )
    if not cross_correlation:
        accuracy_deg, accuracy_angst = yield from run.workers.in_background(
            lambda: run.ranks.from_first(measure_accuracy(run, state, projectors[0], windows, number)),
            progress,
        )
        steer = replace(steer, accuracy_deg=accuracy_deg, accuracy_angst=accuracy_angst)
        if number > 1:
            steer = control.with_sampling(steer, rules)
    plan = Plan(
        number, steer, run.grid(steer.order), perturbation, radius, coarse_radius, windows, cross_correlation
    )
    return plan, projectors


def _on_grid(state: State, plan: Plan) -> State:
    """Return the state with even distributions over directions, if the grid is another than before."""
    n = plan.grid.n_directions
    if plan.control.order == state.control.order and all(len(m.pdf_direction) == n for m in state.models):
        return state
    return replace(state, models=tuple(replace(m, pdf_direction=np.full(n, 1.0 / n)) for m in state.models))


def _shown(run: Run, state: State, plan: Plan) -> dict[str, Any]:
    """Say what a monitor shows of an iteration while it runs."""
    steer = plan.control
    return {
        "iteration": plan.number,
        "phase": "",
        "image_size_px": 2 * plan.radius,
        "last": steer.is_last,
        "sampling_deg": steer.fine_step_deg(run.rules),
        "offset_step_angst": steer.fine_offset_step_angst(run.rules),
        "offset_range_angst": steer.offset_range_angst,
        "accuracy_deg": steer.accuracy_deg,
        "accuracy_angst": steer.accuracy_angst,
        # of the iteration before
        "resolution_angst": round(1 / max(state.control.resolution_inv_angst, 1e-6), 4),
        "p_max": round(float(state.p_max.mean()), 5),
    }


def _expect_halves(
    run: Run, state: State, plan: Plan, projectors: list[Projector], shown: dict[str, Any], began: float
) -> Generator[Progress, None, list[HalfSums]]:
    """Search all particles, one half set after the other; they see nothing of each other."""
    total, earlier = len(run.source), 0
    halves = []
    for half, projector in zip(HALVES, projectors, strict=True):
        done = earlier
        with closing(expect(run, state, plan, half, projector)) as counts:
            while True:
                try:
                    done += next(counts)
                except StopIteration as end:
                    halves.append(end.value)
                    break
                rate_s = (time.monotonic() - began) / max(done, 1)
                yield Progress(
                    done, total, f"iteration {plan.number}: expectation",
                    shown | {"phase": "expectation", "eta_s": round(rate_s * (total - done), 1)},
                )  # fmt: skip
        # Other processes did the rest.
        earlier += int((state.half_set == half).sum())
    return halves


def _finish(run: Run, state: State, plan: Plan, halves: list[HalfSums]) -> tuple[State, Maps]:
    """Do the maximisation, in the first process, and calibrate the likelihood."""
    torch.set_num_threads(run.workers.threads)
    informations = [half.informations for half in halves]
    made = maximise(run, state, plan, halves) if run.ranks.is_first else None
    new, maps = run.ranks.from_first(made) or made  # type: ignore[misc]
    if run.has(Quirk.NO_CALIBRATION) or plan.cross_correlation:
        return new, maps
    images = []
    for before, after, seen in zip(state.images, new.images, informations, strict=True):
        factor = calibration.overconfidence(seen)
        temperature = float(np.clip(before.temperature * factor, 1.0, _MOST_TEMPERATURE))
        images.append(replace(after, temperature=temperature))
    return replace(new, images=tuple(images)), maps
