"""Trajectory and optimisation sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.io.describe.description import Description, count, exists
from napari_sta.io.describe.particles import PRIORS, stack_problems
from napari_sta.io.labels import LABELS
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.numbers import particle_numbers
from napari_sta.io.relion.optimisation_set import PARTICLES_FILE, TOMOGRAMS_FILE, read_optimisation_set
from napari_sta.io.relion.trajectories import read_trajectories
from napari_sta.io.star import Table


def describe_trajectories(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell how far particles move."""
    try:
        shifts = read_trajectories(path).shift_zyx_angst
    except InputError as error:
        found.lines.append(f"{path.name}: trajectory set")
        found.problems.append(str(error))
        return
    lengths = sorted({len(shift) for shift in shifts.values()})
    longest = max(
        (float(np.linalg.norm(shift, axis=1).max()) for shift in shifts.values() if len(shift)), default=0.0
    )
    found.lines.append(
        f"{path.name}: trajectory set of {count(len(shifts), 'particle')} over "
        f"{' or '.join(map(str, lengths))} tilts; "
        f"largest shift {longest:.3g} Å"
    )


def describe_optimisation_set(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell what a set names, and whether it fits together."""
    found.lines.append(f"{path.name}: optimisation set")
    try:
        entries = read_optimisation_set(path)
    except InputError as error:
        found.problems.append(str(error))
        return
    for label, value in entries.items():
        what = LABELS[label].meaning if label in LABELS else label
        found.lines.append(f"  {what}: {value}")
        if not exists(value, path):
            found.problems.append(f"the {what} {value} does not exist")
    for label in (PARTICLES_FILE, TOMOGRAMS_FILE):
        if label not in entries:
            found.problems.append(f"no {LABELS[label].meaning} is named ({label})")
    if found.problems:
        return
    try:
        inputs = load_sta_inputs(path)
    except InputError as error:
        found.problems.append(str(error))
        return
    found.lines.append(
        f"{count(len(inputs.particles), 'particle')} in {count(len(inputs.tilt_series), 'tomogram')}; the "
        "parts fit "
        "together"
    )
    found.problems += inputs.warnings
    n_tilts = {name: one.n_tilts for name, one in inputs.tilt_series.items()}
    found.problems += stack_problems(inputs.particles_path, inputs.particles, n_tilts)
    try:
        particle_numbers(inputs.particles, PRIORS, may_lack=True)
    except InputError as error:
        found.problems.append(str(error))
