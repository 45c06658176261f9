"""Optimisation sets: which particles, tomograms and trajectories belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import path_for
from napari_sta.io.star import Table, first_table, read_star, text_column, write_star

PARTICLES_FILE = "rlnTomoParticlesFile"
TOMOGRAMS_FILE = "rlnTomoTomogramsFile"
TRAJECTORIES_FILE = "rlnTomoTrajectoriesFile"


def read_optimisation_set(path: str | Path) -> dict[str, str]:
    """Read an optimisation set: label to path as written; empty entries count as absent.

    Raises
    ------
    InputError
        If the file names neither particles nor tomograms.
    """
    table = first_table(read_star(path))
    if len(table) > 1:
        raise InputError(
            f"{path} is no optimisation set: its first table has {len(table)} rows instead of one; name "
            "an optimisation set"
        )
    entries = {label: value for label, value in table.row().items() if value} if len(table) else {}
    if PARTICLES_FILE not in entries and TOMOGRAMS_FILE not in entries:
        raise InputError(
            f"{path} is no optimisation set: it has neither {PARTICLES_FILE} nor {TOMOGRAMS_FILE}; "
            "give a particle set with --in_parts and a tomogram set with --in_tomograms instead"
        )
    return entries


def write_optimisation_set(
    path: str | Path,
    *,
    particles: str | Path | None = None,
    tomograms: str | Path | None = None,
    trajectories: str | Path | None = None,
    other_entries: Mapping[str, str] | None = None,
) -> None:
    """Write an optimisation set in one step.

    Parameters
    ----------
    particles, tomograms, trajectories
        Where the files are. Written relative to the project that ``path`` lies in, absolute if they lie
        outside of it.
    other_entries
        Further entries (reference maps, manifolds), kept as they are.
    """
    entries: dict[str, str] = {}
    for label, member in (
        (PARTICLES_FILE, particles),
        (TOMOGRAMS_FILE, tomograms),
        (TRAJECTORIES_FILE, trajectories),
    ):
        if member:
            entries[label] = path_for(member, path)
    entries |= {label: value for label, value in (other_entries or {}).items() if label not in entries}
    columns = {label: text_column([value]) for label, value in entries.items()}
    write_star(path, [Table("", columns, is_loop=False)])
