"""Particle sets, ``particles.star``, to particles and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.io.relion.axes import ANGLES, CENTRED, ORIGIN, PIXEL, SUBTOMOGRAM_ANGLES
from napari_sta.io.relion.numbers import number_columns, updated_text, whole_numbers
from napari_sta.io.relion.optics import optics_table, read_optics
from napari_sta.io.relion.paths import rebased_paths
from napari_sta.io.relion.tomogram_names import series_of
from napari_sta.io.star import Column, Table, read_star, text_column, write_star

# Axes of zyx and of rot, tilt, psi in the order in which columns are written that a file did not have.
_X_Y_Z = (2, 1, 0)
_ROT_PSI_TILT = (0, 2, 1)

_IMAGE_PATHS = ("rlnImageName", "rlnCtfImage", "rlnMicrographName")
_OPTICS_PATHS = ("rlnMtfFileName",)


def read_particles(path: str | Path, tilt_series: Mapping[str, TiltSeries] | None = None) -> Particles:
    """Read a particle set.

    Parameters
    ----------
    path
        ``particles.star`` of RELION 5 or 4, or of a picker.
    tilt_series
        Needed for coordinates in pixels (RELION 4), and to make optics groups for files without an
        optics table (fresh picks). Without it such picks have no optics groups.

    Returns
    -------
    particles
        All rows of the file. Absent origins and angles are 0; absent names are ``<tomogram>/<n>``.

    Raises
    ------
    InputError
        If a compulsory column is missing, a value is no finite number, or tilt series are needed.
    """
    return particles_in(path, named_particles(read_star(path)), tilt_series)


def named_particles(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return tables with ``particles`` among them, if a set that somebody left unnamed is all there is.

    That is a table ``data_`` with tomogram names and coordinates, and no other table has those.
    """
    if "particles" in tables or [name for name, one in tables.items() if has_particles(one)] != [""]:
        return dict(tables)
    return {name or "particles": replace(one, name=name or "particles") for name, one in tables.items()}


def has_particles(table: Table) -> bool:
    """Whether a table, whatever its name, holds particles: their tomograms and coordinates."""
    return "rlnTomoName" in table and any(all(label in table for label in kind) for kind in (CENTRED, PIXEL))


def particles_table(path: str | Path, tables: Mapping[str, Table]) -> Table:
    """Return the table of the particles themselves; refuse one that holds none, or none of a tomogram."""
    table = tables.get("particles")
    if table is None:
        held = ", ".join(f"data_{name}" for name in tables)
        other = next((name for name, one in tables.items() if has_particles(one)), None)
        cure = "name a particle set" if other is None else f"rename data_{other} to data_particles"
        raise InputError(f"{path} has no table data_particles (it holds {held}); {cure}")
    if len(table) == 0:
        raise InputError(f"{path} holds no particles; choose another particle set")
    if "rlnTomoName" not in table:
        raise InputError(f"{path} has no column rlnTomoName; is it from a single-particle project?")
    return table


def particles_in(
    path: str | Path, tables: Mapping[str, Table], tilt_series: Mapping[str, TiltSeries] | None = None
) -> Particles:
    """Return the particle set that the tables of a file hold; see :func:`read_particles`."""
    table = particles_table(path, tables)
    tomogram = table["rlnTomoName"]
    name = table["rlnTomoParticleName"] if "rlnTomoParticleName" in table else _numbered(tomogram)
    optics, optics_group = read_optics(path, tables, table, tilt_series)
    half_set = whole_numbers(table, "rlnRandomSubset", path) if "rlnRandomSubset" in table else None
    if half_set is not None and not half_set.any():
        half_set = None  # all 0: not assigned yet (RELION)
    return Particles(
        tomogram=tomogram,
        name=name,
        coordinate_zyx_angst=_coordinates(path, table, tilt_series),
        origin_zyx_angst=number_columns(table, ORIGIN, path),
        angles_deg=_angles(table, ANGLES, path),
        subtomogram_angles_deg=_angles(table, SUBTOMOGRAM_ANGLES, path),
        optics_group=optics_group,
        half_set=half_set,
        optics=optics,
        text=dict(table.columns),
        tables={key: value for key, value in tables.items() if key not in ("optics", "particles")},
        source=Path(path),
    )


def _angles(table: Table, labels: Sequence[str], path: str | Path) -> NDArray[np.float64]:
    """Return rot, tilt and psi, (n, 3): all three, or none of them, which means 0."""
    there = [label for label in labels if label in table]
    if there and len(there) < len(labels):
        lacking = next(label for label in labels if label not in table)
        raise InputError(
            f"{path} has {there[0]} but no {lacking}; an orientation needs all of {', '.join(labels)}, "
            "add the column"
        )
    return number_columns(table, labels, path)


def _numbered(tomogram: Column) -> Column:
    count: dict[str, int] = {}
    names = []
    for one in tomogram:
        count[one] = count.get(one, 0) + 1
        names.append(f"{one}/{count[one]}")
    return text_column(names)


def _coordinates(
    path: str | Path, table: Table, tilt_series: Mapping[str, TiltSeries] | None
) -> NDArray[np.float64]:
    if all(label in table for label in CENTRED):
        return number_columns(table, CENTRED, path)
    if not all(label in table for label in PIXEL):
        for labels in (CENTRED, PIXEL):
            there = [label for label in reversed(labels) if label in table]
            lacking = [label for label in reversed(labels) if label not in table]
            if there:
                raise InputError(
                    f"{path} has {' and '.join(there)} but no {' and no '.join(lacking)}; a position needs "
                    "all three, add the column"
                )
        raise InputError(
            f"{path} has no particle coordinates: neither rlnCenteredCoordinateX/Y/ZAngst nor "
            "rlnCoordinateX/Y/Z"
        )
    if tilt_series is None:
        raise InputError(
            f"{path} has coordinates in pixels (rlnCoordinateX/Y/Z, as in RELION 4); give the tomogram set "
            "too "
            "(--in_tomograms), which holds the tomogram sizes that turn them into Å"
        )
    pixel = number_columns(table, PIXEL, path)
    angst = np.empty_like(pixel)
    for name in dict.fromkeys(table["rlnTomoName"]):
        rows = table["rlnTomoName"] == name
        series = series_of(name, tilt_series, path)
        angst[rows] = (pixel[rows] - series.centre_zyx_px) * series.pixel_size_angst
    return angst


def write_particles(path: str | Path, particles: Particles) -> None:
    """Write a particle set that RELION 5 reads, in one step.

    Columns and tables we have no field for are written as they were read; a number that has not changed
    keeps its text. Always written: centred coordinates (pixel coordinates are left out, they could not be
    kept true), three origins, three angles and three subtomogram angles, and optics groups numbered
    1..n in order, because RELION's tomo programs address them by position.

    Paths of images count from :func:`~napari_sta.io.files.counted_from`: those that do so already stay as
    they were, others are found from the file the set was read from. Where nothing is found, the path stays.

    Raises
    ------
    InputError
        If a value is not finite, or a text cannot be written as STAR.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    numbering = {
        group.number: n for n, group in enumerate(sorted(particles.optics, key=lambda g: g.number), 1)
    }
    columns: dict[str, Column] = {key: value for key, value in particles.text.items() if key not in PIXEL}
    columns |= rebased_paths(columns, _IMAGE_PATHS, particles.source, path)
    columns["rlnTomoName"] = particles.tomogram
    columns["rlnTomoParticleName"] = particles.name
    for labels, values, axes in (
        (CENTRED, particles.coordinate_zyx_angst, _X_Y_Z),
        (ORIGIN, particles.origin_zyx_angst, _X_Y_Z),
        (ANGLES, particles.angles_deg, _ROT_PSI_TILT),
        (SUBTOMOGRAM_ANGLES, particles.subtomogram_angles_deg, _ROT_PSI_TILT),
    ):
        for axis in axes:
            label = labels[axis]
            columns[label] = updated_text(path, label, columns.get(label), values[:, axis])
    if particles.optics:
        numbers = np.array([numbering[int(n)] for n in particles.optics_group], dtype=np.int64)
        columns["rlnOpticsGroup"] = updated_text(
            path, "rlnOpticsGroup", columns.get("rlnOpticsGroup"), numbers
        )
    if particles.half_set is not None:
        columns["rlnRandomSubset"] = updated_text(
            path, "rlnRandomSubset", columns.get("rlnRandomSubset"), particles.half_set
        )
    else:
        columns.pop("rlnRandomSubset", None)
    others = {name: table for name, table in particles.tables.items() if isinstance(table, Table)}
    tables = [others.pop("general")] if "general" in others else []
    if particles.optics:
        optics = optics_table(path, particles.optics)
        moved = rebased_paths(optics.columns, _OPTICS_PATHS, particles.source, path)
        tables.append(replace(optics, columns={**optics.columns, **moved}))
    tables.append(Table("particles", columns))
    write_star(path, [*tables, *others.values()])


def repeated_names(particles: Particles, *, over_all: bool = False) -> list[str]:
    """Return the particle names that occur more than once in their tomogram, or in the whole set.

    Joined sets have such names, and many programs number particles anew in each tomogram. They matter only
    where something is called by them: extracted files, trajectories.
    """
    names = particles.name.tolist()
    if len(set(names)) == len(names):
        return []
    of = names if over_all else list(zip(particles.tomogram.tolist(), names, strict=True))
    return list(
        dict.fromkeys(
            name for name, count in zip(names, map(Counter(of).get, of), strict=True) if count and count > 1
        )
    )


def with_text(particles: Particles, **columns: Column) -> Particles:
    """Return the particles with text columns (``rlnImageName=…``) added or replaced."""
    return replace(particles, text={**particles.text, **columns})
