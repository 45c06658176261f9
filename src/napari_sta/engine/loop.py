"""One iteration: its plan, expectation of each half set, maximisation, and calibration of the likelihood."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from napari_sta.data.progress import Progress
from napari_sta.engine.expectation import HalfSums, expect
from napari_sta.engine.maximisation import maximise
from napari_sta.engine.plan import Plan, on_grid, plan_iteration
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.state import HALVES, Maps, State
from napari_sta.kernels.refine import calibration
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
    plan, projectors = yield from plan_iteration(run, state)
    state = on_grid(state, plan)
    shown = _shown(run, state, plan)
    halves = yield from _expect_halves(run, state, plan, projectors, shown, began)
    del projectors  # maximisation needs the memory
    total = len(run.source)
    progress = Progress(
        total, total, f"iteration {plan.number}: maximisation", shown | {"phase": "maximisation"}
    )
    yield progress
    return (yield from run.workers.in_background(lambda: _finish(run, state, plan, halves), progress))


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
