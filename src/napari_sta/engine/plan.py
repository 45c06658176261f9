"""What is decided before the particles of an iteration are searched: window, grid, whether it is the last."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch

from napari_sta.data.progress import Progress
from napari_sta.engine.accuracy import measure_accuracy
from napari_sta.engine.run import Run
from napari_sta.engine.source import Window
from napari_sta.engine.state import HALVES, State
from napari_sta.kernels.refine import control
from napari_sta.kernels.refine.control import Control
from napari_sta.kernels.refine.projector import Projector
from napari_sta.kernels.refine.sampling import OrientationGrid


@dataclass(frozen=True)
class Plan:
    """How one iteration goes.

    Attributes
    ----------
    number
        Of the iteration, from 1.
    control
        With the sampling of this iteration, and whether it is the last.
    grid, perturbation
        Orientations, and by how much of a step they are moved.
    radius, coarse_radius
        Of the Fourier window, and of that of the first pass.
    windows
        Pixels of each optics group up to the radius.
    cross_correlation
        Compare by correlation, and leave noise and scale alone.
    """

    number: int
    control: Control
    grid: OrientationGrid
    perturbation: float
    radius: int
    coarse_radius: int
    windows: list[Window]
    cross_correlation: bool


def plan_iteration(run: Run, state: State) -> Generator[Progress, None, tuple[Plan, list[Projector]]]:
    """Decide how the next iteration goes; also transform the references up to its radius.

    Yields
    ------
    progress
        While accuracies are measured.

    Returns
    -------
    plan
        Its control has fresh accuracies, and a finer sampling if it is time for that.
    projectors
        Of the map of each half set.
    """
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


def on_grid(state: State, plan: Plan) -> State:
    """Return the state with even distributions over directions, if the grid is another than before."""
    n = plan.grid.n_directions
    if plan.control.order == state.control.order and all(len(m.pdf_direction) == n for m in state.models):
        return state
    return replace(state, models=tuple(replace(m, pdf_direction=np.full(n, 1.0 / n)) for m in state.models))
