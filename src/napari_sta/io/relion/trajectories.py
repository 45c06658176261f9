"""Trajectory sets, ``motion.star``: how particles move from tilt to tilt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import Trajectories
from napari_sta.io.relion.numbers import number_columns, number_in
from napari_sta.io.star import Table, format_number, read_star, text_column, write_star

_TRAJECTORY_AXES = ("rlnOriginZAngst", "rlnOriginYAngst", "rlnOriginXAngst")


def read_trajectories(path: str | Path, particle_names: Sequence[str] | None = None) -> Trajectories:
    """Read a trajectory set (``motion.star``).

    Parameters
    ----------
    particle_names
        In file order; needed only for old files, whose tables are numbered from ``0`` instead of named.

    Raises
    ------
    InputError
        If it is no trajectory set, or has fewer tables than it announces.
    """
    tables = read_star(path)
    general = tables.pop("general", None)
    if general is None or "rlnParticleNumber" not in general:
        raise InputError(f"{path} is no trajectory set: it has no table data_general with rlnParticleNumber")
    announced = number_in(general.row(), "rlnParticleNumber", path)
    if announced > len(tables):
        raise InputError(
            f"{path} announces {announced:g} trajectories but holds {len(tables)}; the file is incomplete"
        )
    shifts = {}
    for name, table in tables.items():
        lacking = [label for label in _TRAJECTORY_AXES if label not in table]
        if lacking:
            raise InputError(f"{path}, table data_{name} has no column {lacking[0]}")
        shifts[name] = number_columns(table, _TRAJECTORY_AXES, path)
    if shifts and next(iter(shifts)) == "0" and particle_names is not None and "0" not in particle_names:
        if len(shifts) < len(particle_names):
            raise InputError(f"{path} has {len(shifts)} trajectories for {len(particle_names)} particles")
        shifts = dict(zip(particle_names, shifts.values(), strict=False))
    return Trajectories(shift_zyx_angst=shifts)


def write_trajectories(path: str | Path, trajectories: Trajectories) -> None:
    """Write a trajectory set in one step."""
    shifts = trajectories.shift_zyx_angst
    tables = [Table("general", {"rlnParticleNumber": text_column([str(len(shifts))])}, is_loop=False)]
    for name, shift in shifts.items():
        columns = {
            label: format_number(shift[:, axis])
            for axis, label in reversed(list(enumerate(_TRAJECTORY_AXES)))
        }
        tables.append(Table(name, columns))
    write_star(path, tables)
