"""How well poses can be told at all: measured before each iteration, it says how fine sampling may get."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.engine.source import Window
from napari_sta.engine.state import State
from napari_sta.kernels.refine.accuracy import Accuracy, expected_accuracy
from napari_sta.kernels.refine.projector import Projector

_PARTICLES = 100
_FIRST_VOLUMES = 10
"""So many of RELION's first particles, where they are volumes."""


def measure_accuracy(
    run: Run, state: State, projector: Projector, windows: list[Window], number: int
) -> tuple[float, float]:
    """Measure the accuracy of poses (deg, Å) on particles of half set 1.

    Parameters
    ----------
    projector
        Of the map of half set 1.
    number
        Of the iteration.

    Returns
    -------
    accuracy_deg, accuracy_angst
        Means; 0 in all processes but the first, and where it was stopped.
    """
    if not run.ranks.is_first:
        return 0.0, 0.0
    rng = np.random.default_rng([run.settings.seed, number])
    rows = run.rows_of(state.half_set, 1)
    if run.has(Quirk.FIRST_PARTICLES):
        rows = rows[: _PARTICLES if run.source.n_dim == 2 else _FIRST_VOLUMES]
    elif len(rows) > _PARTICLES:
        rows = np.sort(rng.choice(rows, _PARTICLES, replace=False))
    seed = int(rng.integers(2**31))
    accuracies: dict[int, Accuracy] = {}

    def work(mine: NDArray[np.int64]) -> None:
        for index in map(int, mine):
            if run.workers.stop.is_set():
                break
            window = windows[run.source.optics_index[index]]
            particle = run.particle(state, 1, index, window)
            if run.has(Quirk.LONE_SLICES):
                particle = replace(particle, multiplicity=None)
            accuracies[index] = expected_accuracy(
                projector,
                particle,
                window.pixels,
                state.angles_deg[index],
                np.random.default_rng([seed, index]),
            )

    run.workers.map(work, rows)
    if run.workers.stop.is_set():
        return 0.0, 0.0
    angle_deg, offset_px = np.array([accuracies[int(index)] for index in rows]).mean(axis=0)
    return float(angle_deg), float(offset_px * run.pixel_size_angst)
