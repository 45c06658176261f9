"""RELION's particle, tomogram, trajectory and optimisation sets, to nouns and back.

The one place that knows rln names and xyz order. What a file holds beyond our nouns travels along as
text and is written back untouched.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import OpticsGroup, Particles
from napari_sta.data.tilt_series import Deformation, TiltSeries, Trajectories
from napari_sta.io.files import absolute, counted_from, path_for, project_root, resolve
from napari_sta.io.star import (
    Column,
    Table,
    first_table,
    format_number,
    format_vector,
    parse_vector,
    read_star,
    text_column,
    write_star,
)

# Columns in the order of the axes of our fields: z, y, x; rot, tilt, psi.
CENTRED = ("rlnCenteredCoordinateZAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateXAngst")
PIXEL = ("rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX")
ORIGIN = ("rlnOriginZAngst", "rlnOriginYAngst", "rlnOriginXAngst")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")

ANGLE_PRIORS = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
ORIGIN_PRIORS = ("rlnOriginZPriorAngst", "rlnOriginYPriorAngst", "rlnOriginXPriorAngst")

PARTICLES_FILE = "rlnTomoParticlesFile"
TOMOGRAMS_FILE = "rlnTomoTomogramsFile"
TRAJECTORIES_FILE = "rlnTomoTrajectoriesFile"

_ARE_STACKS = "rlnTomoSubTomosAre2DStacks"
_IMAGE_PATHS = ("rlnImageName", "rlnCtfImage", "rlnMicrographName")
_OPTICS_PATHS = ("rlnMtfFileName",)

# Beyond these a number is no position in a tomogram, no angle, no count.
_MOST_ANGST = 1e8
_MOST_DEG = 1e6
_TILT_ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
_TILT_SHIFTS = ("rlnTomoYShiftAngst", "rlnTomoXShiftAngst")
_OPTICS_OF_TILTS = (
    "rlnMicrographPreExposure",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
    "rlnCtfScalefactor",
    "rlnCtfBfactor",
)
TILT_NUMBERS = (*_TILT_ANGLES, *_TILT_SHIFTS, *_OPTICS_OF_TILTS)
_LIMITS = dict.fromkeys(
    (*CENTRED, *PIXEL, *ORIGIN, *ORIGIN_PRIORS, *_TILT_SHIFTS, *_OPTICS_OF_TILTS), _MOST_ANGST
) | dict.fromkeys((*ANGLES, *SUBTOMOGRAM_ANGLES, *ANGLE_PRIORS, *_TILT_ANGLES), _MOST_DEG)
_MOST_WHOLE = 1e15
_MOST_BOX_PX = 10_000
_MOST_TOMOGRAM_PX = 1_000_000

# ----------------------------------------------------------------------------------------------------
# Numbers out of text columns


_ABSENT = frozenset({"", "<na>", "na", "n/a", "nan", "none", "null"})
"""What programs that join sets write where one of them lacks a column, in small letters."""


def numbers_of(column: Column) -> NDArray[np.float64] | None:
    """Return a column as numbers, infinite ones and NaN among them; None if a text in it is not a number."""
    together = "".join(column)
    # To Python 1_0 is 10, and so are other scripts' digits; to RELION they are not.
    if "_" in together or not together.isascii():
        return None
    try:
        return column.astype(np.float64)
    except ValueError:
        return None


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    return numbers_of(text_column([text])) is not None


def number_column(
    table: Table,
    label: str,
    path: str | Path,
    *,
    may_lack: bool = False,
    finite: bool = True,
    limit: float | None = None,
) -> NDArray[np.float64]:
    """Return a column as numbers, (n,): the one way from text to numbers.

    Parameters
    ----------
    may_lack
        Return NaN where the text says that there is no value (``<NA>``, ``nan``, ``None``, nothing), as in
        sets joined with a set that lacks the column.
    finite
        Refuse infinite numbers and NaN.
    limit
        Refuse numbers beyond this, either way; None: beyond what the column can mean, if that is known.

    Raises
    ------
    InputError
        If a value is no number, not finite or absurd; names file, row and column.
    """
    column = table[label]
    absent = np.zeros(len(column), dtype=bool)
    values = numbers_of(column)
    if may_lack and (values is None or np.isnan(values).any()):
        absent = np.array([text.strip().lower() in _ABSENT for text in column], dtype=bool)
        column = column.copy()
        column[absent] = "nan"
        values = numbers_of(column)
    if values is None:
        row = next(index for index, text in enumerate(column) if not is_number(text))
        raise _wrong(table, label, path, row, "is not a number")
    if finite:
        bad = np.flatnonzero(~np.isfinite(values) & ~absent)
        if len(bad):
            raise _wrong(table, label, path, int(bad[0]), "is not a finite number")
    most = _LIMITS.get(label, np.inf) if limit is None else limit
    if np.isfinite(most):
        bad = np.flatnonzero(np.abs(values) > most)
        if len(bad):
            raise _wrong(table, label, path, int(bad[0]), f"is absurd (beyond {most:g})")
    return values


def _wrong(table: Table, label: str, path: str | Path, row: int, why: str) -> InputError:
    names = table.columns.get("rlnTomoParticleName")
    which = "" if names is None else f" (particle {names[row]})"
    return InputError(
        f"{path}, table data_{table.name}, row {row + 1}{which}: {table[label][row][:40]!r} in column "
        f"{label} {why}; correct the value or remove the row"
    )


def _whole_numbers(table: Table, label: str, path: str | Path) -> NDArray[np.int64]:
    values = number_column(table, label, path, limit=_MOST_WHOLE)
    bad = np.flatnonzero(values != np.rint(values))
    if len(bad):
        raise _wrong(table, label, path, int(bad[0]), "is not a whole number")
    return values.astype(np.int64)


def number_columns(
    table: Table, labels: Sequence[str], path: str | Path, *, may_lack: bool = False
) -> NDArray[np.float64]:
    """Return several columns side by side, (n, len(labels)); columns that are not there are 0."""
    stacked = np.zeros((len(table), len(labels)))
    for axis, label in enumerate(labels):
        if label in table:
            stacked[:, axis] = number_column(table, label, path, may_lack=may_lack)
    return stacked


def particle_numbers(
    particles: Particles, labels: Sequence[str], *, may_lack: bool = False
) -> NDArray[np.float64]:
    """Return columns that live in the text of particles side by side, (n, len(labels)); absent ones are 0.

    Parameters
    ----------
    may_lack
        NaN where a particle has no such value; see :func:`number_column`.

    Raises
    ------
    InputError
        If a value is no number.
    """
    table = Table("particles", particles.text)
    stacked = number_columns(table, labels, particles.source or "the particle set", may_lack=may_lack)
    return stacked if len(table) else np.zeros((len(particles), len(labels)))


def _number(row: Mapping[str, str], label: str, path: str | Path, default: float | None = None) -> float:
    text = row.get(label, "")
    if text == "":
        if default is None:
            raise InputError(f"{path} has no {label}; re-run the job that wrote it or add the column")
        return default
    values = numbers_of(text_column([text]))
    if values is None:
        raise InputError(f"{path}: {text[:40]!r} in {label} is not a number; correct the value")
    if not np.isfinite(values[0]):
        raise InputError(f"{path}: {label} is {text}; correct the value")
    return float(values[0])


def _length_px(row: Mapping[str, str], label: str, path: str | Path, most: int, cure: str) -> int:
    """Return a number of pixels, 0 if there is none."""
    length = _number(row, label, path, 0.0)
    if length < 0 or length != np.rint(length) or length > most:
        raise InputError(f"{path}: {label} is {row[label]}, not a whole number from 1 to {most}; {cure}")
    return int(length)


def _vector(text: str, label: str, where: str) -> NDArray[np.float64]:
    """Return a vector; ``where`` names its table and row for the message."""
    try:
        values = parse_vector(text)
    except ValueError as error:
        raise InputError(f"{where}: {error} in column {label}; correct the value") from None
    if len(values) and np.abs(values).max() > _MOST_ANGST:
        raise InputError(
            f"{where}: {text[:40]!r} in column {label} is absurd (beyond {_MOST_ANGST:g}); correct the value"
        )
    return values


# ----------------------------------------------------------------------------------------------------
# Particles


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


def _particles_table(path: str | Path, tables: Mapping[str, Table]) -> Table:
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
    table = _particles_table(path, tables)
    tomogram = table["rlnTomoName"]
    name = table["rlnTomoParticleName"] if "rlnTomoParticleName" in table else _numbered(tomogram)
    optics, optics_group = _read_optics(path, tables, table, tilt_series)
    half_set = _whole_numbers(table, "rlnRandomSubset", path) if "rlnRandomSubset" in table else None
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
        series = _series_of(name, tilt_series, path)
        angst[rows] = (pixel[rows] - series.centre_zyx_px) * series.pixel_size_angst
    return angst


def _series_of(name: str, tilt_series: Mapping[str, TiltSeries], path: str | Path) -> TiltSeries:
    try:
        return tilt_series[name]
    except KeyError:
        raise InputError(
            f"{path} has particles of tomogram {name}, which the tomogram set does not have; "
            + _names_there_are([name], list(tilt_series))
        ) from None


def _names_there_are(wanted: Sequence[str], known: Sequence[str]) -> str:
    """Say what the tomograms of a set are called, and which of them was probably meant."""
    said = f"its tomograms are {', '.join(known[:5])}{'…' if len(known) > 5 else ''}"
    for name in wanted:
        # TS_01_Vol, TS_01.tomostar and rec_TS_01.mrc are all TS_01.
        alike = [one for one in known if one and name and (one in name or name in one)]
        alike = sorted(alike, key=len, reverse=True) or get_close_matches(name, known, 1, 0.8)
        if alike:
            return f"{said} (is {name} the same as {alike[0]}? then call both by one name)"
    return said


def _read_optics(
    path: str | Path,
    tables: Mapping[str, Table],
    particles: Table,
    tilt_series: Mapping[str, TiltSeries] | None,
) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int64]]:
    table = tables.get("optics")
    if table is None:
        return _optics_from_tilt_series(path, particles, tilt_series)
    groups = optics_groups(path, table)
    numbers = [group.number for group in groups]
    if len(set(numbers)) != len(numbers):
        raise InputError(
            f"{path}: two rows of table data_optics have the same rlnOpticsGroup; number them 1, 2, 3…"
        )
    if "rlnOpticsGroup" not in particles:
        raise InputError(f"{path} has a table data_optics but its particles have no column rlnOpticsGroup")
    of_particle = _whole_numbers(particles, "rlnOpticsGroup", path)
    unknown = sorted(set(of_particle.tolist()) - set(numbers))
    if unknown:
        raise InputError(
            f"{path}: particles belong to optics group {unknown[0]}, which table data_optics does not have"
        )
    return groups, of_particle


def optics_groups(path: str | Path, table: Table) -> tuple[OpticsGroup, ...]:
    """Return the rows of table ``optics`` of a particle set.

    Raises
    ------
    InputError
        If a value is missing or wrong.
    """
    return tuple(_optics_group(path, table.row(index)) for index in range(len(table)))


def _optics_group(path: str | Path, row: dict[str, str]) -> OpticsGroup:
    where = f"{path}, table data_optics"
    number = _number(row, "rlnOpticsGroup", where)
    if number != int(number) or not 1 <= number <= _MOST_WHOLE:
        raise InputError(f"{where}: rlnOpticsGroup is {row['rlnOpticsGroup']}; groups are numbered 1, 2, 3…")
    image_pixel = _number(row, "rlnImagePixelSize", where, 0.0)
    if image_pixel < 0:
        raise InputError(f"{where}: rlnImagePixelSize is {image_pixel:g}; it must be above 0, extract again")
    image_size = _length_px(row, "rlnImageSize", where, _MOST_BOX_PX, "extract again")
    pixel_size = _number(row, "rlnTomoTiltSeriesPixelSize", where)
    if pixel_size <= 0:
        raise InputError(f"{where}: rlnTomoTiltSeriesPixelSize is {pixel_size:g}; it must be above 0")

    def optional(label: str) -> float | None:
        return _number(row, label, where) if row.get(label, "") else None

    def zernike(label: str) -> tuple[float, ...]:
        return tuple(_vector(row[label], label, where).tolist()) if row.get(label, "") else ()

    return OpticsGroup(
        number=int(number),
        name=row.get("rlnOpticsGroupName", f"opticsGroup{int(number)}"),
        pixel_size_angst=pixel_size,
        image_pixel_size_angst=image_pixel or None,
        image_size_px=image_size or None,
        voltage_kv=optional("rlnVoltage"),
        spherical_aberration_mm=optional("rlnSphericalAberration"),
        amplitude_contrast=optional("rlnAmplitudeContrast"),
        even_zernike=zernike("rlnEvenZernike"),
        odd_zernike=zernike("rlnOddZernike"),
        text=row,
    )


def _optics_from_tilt_series(
    path: str | Path, particles: Table, tilt_series: Mapping[str, TiltSeries] | None
) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int64]]:
    """One group per optics group name of the tilt series, numbered in order of first appearance (RELION)."""
    if tilt_series is None:
        return (), np.zeros(len(particles), dtype=np.int64)
    groups: dict[str, OpticsGroup] = {}
    of_tomogram: dict[str, int] = {}
    for tomogram in dict.fromkeys(particles["rlnTomoName"]):
        series = _series_of(tomogram, tilt_series, path)
        group_name = series.optics_group_name or series.name
        if group_name not in groups:
            groups[group_name] = OpticsGroup(
                number=len(groups) + 1,
                name=group_name,
                pixel_size_angst=series.pixel_size_angst,
                voltage_kv=series.voltage_kv,
                spherical_aberration_mm=series.spherical_aberration_mm,
                amplitude_contrast=series.amplitude_contrast,
            )
        of_tomogram[tomogram] = groups[group_name].number
    return tuple(groups.values()), np.array(
        [of_tomogram[name] for name in particles["rlnTomoName"]], dtype=np.int64
    )


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
    columns |= rebased(columns, _IMAGE_PATHS, particles.source, path)
    columns["rlnTomoName"] = particles.tomogram
    columns["rlnTomoParticleName"] = particles.name
    for labels, values in (
        (CENTRED, particles.coordinate_zyx_angst),
        (ORIGIN, particles.origin_zyx_angst),
        (ANGLES, particles.angles_deg),
        (SUBTOMOGRAM_ANGLES, particles.subtomogram_angles_deg),
    ):
        # x before y before z, as everybody does
        for axis, label in sorted(enumerate(labels), key=lambda item: item[1].replace("Rot", "A")):
            columns[label] = _updated(path, label, columns.get(label), values[:, axis])
    if particles.optics:
        numbers = np.array([numbering[int(n)] for n in particles.optics_group], dtype=np.int64)
        columns["rlnOpticsGroup"] = _updated(path, "rlnOpticsGroup", columns.get("rlnOpticsGroup"), numbers)
    if particles.half_set is not None:
        columns["rlnRandomSubset"] = _updated(
            path, "rlnRandomSubset", columns.get("rlnRandomSubset"), particles.half_set
        )
    else:
        columns.pop("rlnRandomSubset", None)
    others = {name: table for name, table in particles.tables.items() if isinstance(table, Table)}
    tables = [others.pop("general")] if "general" in others else []
    if particles.optics:
        optics = _optics_table(path, particles.optics)
        moved = rebased(optics.columns, _OPTICS_PATHS, particles.source, path)
        tables.append(replace(optics, columns={**optics.columns, **moved}))
    tables.append(Table("particles", columns))
    write_star(path, [*tables, *others.values()])


def rebased(
    columns: Mapping[str, Column], labels: Sequence[str], source: Path | None, writer: str | Path
) -> dict[str, Column]:
    """Return those columns of paths that must be named anew where ``writer`` lies, one look a folder."""
    made: dict[str, Column] = {}
    known: dict[str, str] = {}
    for label in labels:
        if label not in columns or source is None:
            continue
        texts = columns[label].tolist()
        files = [text.rpartition("@")[2] for text in texts] if any("@" in text for text in texts) else texts
        folders = [file[: file.rfind("/") + 1] for file in files]
        for folder, file in dict(zip(reversed(folders), reversed(files), strict=True)).items():
            if folder not in known:
                known[folder] = _folder_for(folder, file, source, writer)
        if any(known[folder] != folder for folder in set(folders)):
            made[label] = text_column(
                text[: len(text) - len(file)] + known[folder] + file[len(folder) :]
                for text, file, folder in zip(texts, files, folders, strict=True)
            )
    return made


def _folder_for(folder: str, file: str, source: Path, writer: str | Path) -> str:
    """Return how ``writer`` should name the folder of a file that is named in ``source``."""
    file = file.removesuffix(":mrcs")
    if not file or file.startswith("/"):
        return folder
    try:
        found = absolute(resolve(file, source))
    except InputError:
        root = project_root(source)
        if root is None or not folder:
            return folder
        found = absolute(root / file)
    base = counted_from(writer)
    if base is not None and os.path.realpath(base / file) == os.path.realpath(found):
        return folder
    named = path_for(found.parent, writer)
    return "" if named == "." else f"{named}/"


def _updated(path: str | Path, label: str, old: Column | None, values: NDArray[np.generic]) -> Column:
    """Return the text of a column: the old one where its value is still the same."""
    whole = np.issubdtype(values.dtype, np.integer)
    if old is None:
        return _as_text(path, label, values, whole)
    numbers = numbers_of(old)
    if numbers is None:
        same = np.array(
            [is_number(t) and float(t) == v for t, v in zip(old, values, strict=True)], dtype=bool
        )
    else:
        same = numbers == values
    if same.all():
        return old
    column = old.copy()
    column[~same] = _as_text(path, label, values[~same], whole)
    return column


def _as_text(path: str | Path, label: str, values: NDArray[np.generic], whole: bool | np.bool_) -> Column:
    if whole:
        return text_column([str(value) for value in values.tolist()])
    try:
        return format_number(values)
    except ValueError:
        raise InputError(
            f"{path} was not written: {label} holds a value that is not a finite number"
        ) from None


def _optics_table(path: str | Path, groups: Iterable[OpticsGroup]) -> Table:
    rows = []
    for number, group in enumerate(sorted(groups, key=lambda g: g.number), start=1):
        row = dict(group.text)
        fields: dict[str, str | float | tuple[float, ...] | None] = {
            "rlnOpticsGroup": number,
            "rlnOpticsGroupName": group.name,
            "rlnSphericalAberration": group.spherical_aberration_mm,
            "rlnVoltage": group.voltage_kv,
            "rlnTomoTiltSeriesPixelSize": group.pixel_size_angst,
            "rlnAmplitudeContrast": group.amplitude_contrast,
            "rlnImagePixelSize": group.image_pixel_size_angst,
            "rlnImageSize": group.image_size_px,
            "rlnEvenZernike": group.even_zernike or None,
            "rlnOddZernike": group.odd_zernike or None,
        }
        for label, value in fields.items():
            old = row.get(label)
            if value is None:
                row.pop(label, None)
            elif isinstance(value, str):
                row[label] = value
            elif isinstance(value, tuple):
                if old is None or tuple(parse_vector(old).tolist()) != value:
                    row[label] = format_vector(value)
            elif old is None or not is_number(old) or float(old) != value:
                row[label] = str(value) if isinstance(value, int) else format_number(float(value))[0]
        rows.append(row)
    labels = list(dict.fromkeys(label for row in rows for label in row))
    for label in labels:
        lacking = [row["rlnOpticsGroup"] for row in rows if label not in row]
        if lacking:
            raise InputError(f"{path} was not written: optics group {lacking[0]} has no {label}, others have")
    return Table("optics", {label: text_column([row[label] for row in rows]) for label in labels})


# ----------------------------------------------------------------------------------------------------
# Tilt series


def read_tilt_series_set(
    path: str | Path,
    names: Collection[str] | None = None,
    *,
    check_images: bool = True,
    may_lack_size: bool = False,
) -> dict[str, TiltSeries]:
    """Read a tomogram set with the tables of its tilt series.

    Parameters
    ----------
    path
        ``tomograms.star`` of RELION 5 (one file per tilt series) or RELION 4 (all in one file).
    names
        Read only these tomograms; those the set does not have are left out.
    check_images
        Refuse if a tilt image file does not exist.
    may_lack_size
        Take the set of a job before the tomograms were reconstructed: a size that it does not state is 0.

    Returns
    -------
    tilt_series
        Name to tilt series, in file order.

    Raises
    ------
    InputError
        If a file, table or compulsory column is missing or wrong. Missing alignment columns are refused:
        RELION silently takes every tilt to be unrotated.
    """
    tables = read_star(path)
    overall = tables.get("global")
    if overall is None or "rlnTomoName" not in overall:
        held = ", ".join(f"data_{name}" for name in tables)
        raise InputError(
            f"{path} is no tomogram set: it has no table data_global with column rlnTomoName (it holds "
            f"{held})"
        )
    listed = overall["rlnTomoName"].tolist()
    twice = [name for name in dict.fromkeys(listed) if listed.count(name) > 1]
    if twice:
        raise InputError(f"{path} lists tomogram {twice[0]} twice; remove one of the rows")
    found = {}
    for index, name in enumerate(listed):
        if names is not None and name not in names:
            continue
        row = overall.row(index)
        per_tilt = row.get("rlnTomoTiltSeriesStarFile", "")
        if per_tilt:
            tilt_path: str | Path = resolve(per_tilt, path)
            tilt_tables = read_star(tilt_path)
        else:
            tilt_path, tilt_tables = path, tables
        if name not in tilt_tables:
            held = ", ".join(f"data_{one}" for one in tilt_tables)
            raise InputError(f"{tilt_path} has no table data_{name} for tomogram {name} (it holds {held})")
        found[name] = _tilt_series(name, row, tilt_tables[name], path, tilt_path, check_images, may_lack_size)
    return found


def _tilt_series(
    name: str, row: dict[str, str], table: Table, path: str | Path, tilt_path: str | Path, check_images: bool,
    may_lack_size: bool,
) -> TiltSeries:  # fmt: skip
    where = f"{path}, tomogram {name}"
    if len(table) == 0:
        raise InputError(f"{tilt_path}: table data_{name} has no rows; remove tomogram {name} from the set")

    def number(label: str, default: float | None = None) -> float:
        return _number(row, label, where, default)

    def per_tilt(label: str, default: float | None = None) -> NDArray[np.float64]:
        if label in table:
            return number_column(table, label, tilt_path)
        if default is None:
            raise InputError(
                f"{tilt_path}, table data_{name} has no column {label}; re-run the job that should have "
                "written it"
            )
        return np.full(len(table), default)

    pixel_size = number("rlnTomoTiltSeriesPixelSize")
    if pixel_size <= 0:
        raise InputError(f"{where}: rlnTomoTiltSeriesPixelSize is {pixel_size:g}; it must be above 0")
    hand = number("rlnTomoHand")
    if abs(hand) != 1:
        raise InputError(f"{where}: rlnTomoHand is {hand:g}; it must be 1 or -1")
    amplitude_contrast = number("rlnAmplitudeContrast")
    if not 0 <= amplitude_contrast <= 1:
        raise InputError(
            f"{where}: rlnAmplitudeContrast is {amplitude_contrast:g}; it must lie between 0 and 1"
        )
    voltage = number("rlnVoltage")
    if voltage <= 0:
        raise InputError(f"{where}: rlnVoltage is {voltage:g}; it must be above 0")
    size = []
    for axis in "ZYX":
        label = f"rlnTomoSize{axis}"
        cure = "RELION's tomogram reconstruction job writes it, use the tomogram set of that job"
        length = _length_px(row, label, where, _MOST_TOMOGRAM_PX, cure)
        if length == 0 and not may_lack_size:
            raise InputError(f"{where}: {label} is missing or not a positive whole number; {cure}")
        size.append(length)

    angles, shifts, matrices = _alignment(name, table, tilt_path)
    return TiltSeries(
        name=name,
        images=_tilt_images(name, row, table, path, tilt_path, check_images),
        pixel_size_angst=pixel_size,
        voltage_kv=voltage,
        spherical_aberration_mm=number("rlnSphericalAberration"),
        amplitude_contrast=amplitude_contrast,
        hand=hand,
        size_zyx_px=(size[0], size[1], size[2]),
        dose_e_per_angst2=per_tilt("rlnMicrographPreExposure"),
        defocus_u_angst=per_tilt("rlnDefocusU"),
        defocus_v_angst=per_tilt("rlnDefocusV"),
        defocus_angle_deg=per_tilt("rlnDefocusAngle"),
        phase_shift_deg=per_tilt("rlnPhaseShift", 0.0),
        ctf_scale=per_tilt("rlnCtfScalefactor", 1.0),
        bfactor_angst2=per_tilt("rlnCtfBfactor", 0.0),
        angles_xyz_deg=angles,
        shift_yx_angst=shifts,
        matrices_zyx=matrices,
        defocus_slope=number("rlnTomoDefocusSlope", 1.0),
        bfactor_per_dose=number("rlnCtfBfactorPerElectronDose", 0.0),
        deformation=_deformation(name, row, table, path, tilt_path),
        optics_group_name=row.get("rlnOpticsGroupName", "") or name,
        text=row,
    )


def _alignment(
    name: str, table: Table, path: str | Path
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    matrix_labels = ("rlnTomoProjZ", "rlnTomoProjY", "rlnTomoProjX", "rlnTomoProjW")
    if all(label in table for label in matrix_labels):
        matrices = np.empty((len(table), 4, 4))
        for row, label in enumerate(matrix_labels):
            for tilt, text in enumerate(table[label]):
                where = f"{path}, table data_{name}, row {tilt + 1}"
                vector = _vector(text, label, where)
                if len(vector) != 4:
                    raise InputError(f"{where}: {label} must have four numbers")
                matrices[tilt, row] = vector[[2, 1, 0, 3]]  # columns x y z w -> z y x w
        return None, None, matrices
    needed = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
    lacking = [label for label in needed if label not in table]
    if lacking:
        raise InputError(
            f"{path}, table data_{name} has no alignment ({', '.join(lacking)} missing); RELION would take "
            "every tilt "
            "as unrotated; use the output of an Align tilt-series job"
        )
    angles = number_columns(table, _TILT_ANGLES, path)
    shifts = number_columns(table, _TILT_SHIFTS, path)
    return angles, shifts, None


def _tilt_images(
    name: str, row: dict[str, str], table: Table, path: str | Path, tilt_path: str | Path, check: bool
) -> tuple[tuple[str, int], ...]:
    stack = row.get("rlnTomoTiltSeriesName", "")
    if stack:
        count = _number(row, "rlnTomoFrameCount", f"{path}, tomogram {name}", len(table))
        if count != len(table):
            raise InputError(
                f"{tilt_path}, table data_{name} has {len(table)} rows but rlnTomoFrameCount is {count:g}, "
                "so slices "
                f"of {stack} cannot be matched to rows"
            )
        named = [(stack.removesuffix(":mrcs"), index) for index in range(len(table))]
    elif "rlnMicrographName" in table:
        named = []
        for text in table["rlnMicrographName"]:
            number, at, file = text.partition("@")
            if at and number.isdecimal() and number.isascii() and len(number) < 10 and int(number) > 0:
                named.append((file.removesuffix(":mrcs"), int(number) - 1))
            else:
                named.append((text.removesuffix(":mrcs"), 0))
    else:
        raise InputError(
            f"{tilt_path}, table data_{name} names no images: neither rlnTomoTiltSeriesName nor "
            "rlnMicrographName"
        )
    where: dict[str, str] = {}
    for file, _ in named:
        if file not in where:
            try:
                where[file] = str(resolve(file, path, tilt_path))
            except InputError:
                if check:
                    raise
                where[file] = file
    return tuple((where[file], index) for file, index in named)


def is_placeholder(images: Sequence[tuple[str, int]]) -> bool:
    """Whether tilt images are the stack of a few pixels that Warp puts where RELION wants one."""
    return bool(images) and all(Path(file).name.startswith("dummy_tiltseries") for file, _ in images)


def _deformation(
    name: str, row: dict[str, str], table: Table, path: str | Path, tilt_path: str | Path
) -> Deformation | None:
    if not row.get("rlnTomoDeformationGridSizeX", "") or not row.get("rlnTomoDeformationGridSizeY", ""):
        return None
    where = f"{path}, tomogram {name}"
    kind = row.get("rlnTomoDeformationType", "")
    if kind not in ("linear", "spline", "Fourier"):
        raise InputError(f"{where}: rlnTomoDeformationType is {kind!r}; it must be linear, spline or Fourier")
    x, y = (
        _length_px(row, f"rlnTomoDeformationGridSize{axis}", where, _MOST_BOX_PX, "correct the value")
        for axis in "XY"
    )
    grid = (x, y)
    label = "rlnTomoDeformationCoefficients"
    if label not in table:
        raise InputError(
            f"{tilt_path}, table data_{name} has no column {label}, though {path} announces deformations"
        )
    coefficients = tuple(
        _vector(text, label, f"{tilt_path}, table data_{name}, row {tilt + 1}")
        for tilt, text in enumerate(table[label])
    )
    wanted = {"linear": 3, "spline": 8 * grid[0] * grid[1]}.get(kind)
    for index, vector in enumerate(coefficients):
        if wanted is not None and len(vector) != wanted:
            raise InputError(
                f"{tilt_path}, table data_{name}, row {index + 1}: {label} has {len(vector)} numbers, a "
                f"{kind} "
                f"deformation of this grid has {wanted}"
            )
    return Deformation(kind=kind, grid_xy=grid, coefficients=coefficients)


# ----------------------------------------------------------------------------------------------------
# Trajectories

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
    announced = _number(general.row(), "rlnParticleNumber", path)
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


# ----------------------------------------------------------------------------------------------------
# Optimisation sets


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


# ----------------------------------------------------------------------------------------------------
# Everything a subtomogram averaging job starts from


@dataclass(frozen=True)
class StaInputs:
    """Particles, the tilt series they are in, their motion, and where these came from.

    Attributes
    ----------
    tilt_series
        Of the tomograms that have particles; empty if not asked for.
    other_entries
        Of the optimisation set (reference maps, manifolds), to be written back.
    warnings
        What looks odd but does not stop a job, one sentence each.
    """

    particles: Particles
    tilt_series: dict[str, TiltSeries]
    trajectories: Trajectories | None
    particles_path: Path
    tomograms_path: Path | None
    trajectories_path: Path | None
    other_entries: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def write_set(
        self, path: str | Path, particles: str | Path, trajectories: str | Path | None = None
    ) -> None:
        """Write the optimisation set of a job that made a new particle set out of these inputs."""
        write_optimisation_set(
            path,
            particles=particles,
            tomograms=self.tomograms_path,
            trajectories=trajectories or self.trajectories_path,
            other_entries={
                label: self._named_for(value, path) for label, value in self.other_entries.items()
            },
        )

    def _named_for(self, value: str, writer: str | Path) -> str:
        try:
            return path_for(resolve(value, self.particles_path), writer)
        except InputError:  # does not exist, or is no path: leave it as it was
            return value


def load_sta_inputs(
    in_optimisation_set: str | Path | None = None,
    in_parts: str | Path | None = None,
    in_tomograms: str | Path | None = None,
    in_trajectories: str | Path | None = None,
    *,
    need_tomograms: bool = True,
) -> StaInputs:
    """Read and check what a job starts from.

    Parameters
    ----------
    in_optimisation_set, in_parts, in_tomograms, in_trajectories
        Direct entries override the members of the set.
    need_tomograms
        Whether the job reads tilt series. If not, they are read only where coordinates in pixels or
        missing optics need them, their images are not looked for, and particles of unknown tomograms
        stay.

    Raises
    ------
    InputError
        If a file is missing or wrong, all particles are of unknown tomograms, half sets are not 1 and 2,
        optics groups contradict the tomogram set, or trajectories do not fit or names repeat that they need.
    """
    members: dict[str, tuple[str, tuple[str | Path, ...]]] = {}
    entries: dict[str, str] = {}
    if in_optimisation_set:
        set_path = resolve(in_optimisation_set)
        entries = read_optimisation_set(set_path)
        members = {label: (value, (set_path,)) for label, value in entries.items()}
    for label, given in (
        (PARTICLES_FILE, in_parts),
        (TOMOGRAMS_FILE, in_tomograms),
        (TRAJECTORIES_FILE, in_trajectories),
    ):
        if given:
            beside = (in_optimisation_set,) if in_optimisation_set else ()
            members[label] = (str(given), beside)

    def member(label: str, option: str, what: str, needed: bool) -> Path | None:
        if label in members:
            value, hints = members[label]
            return resolve(value, *hints)
        if not needed:
            return None
        source = f"{in_optimisation_set} has no {label}" if in_optimisation_set else f"no {what} is given"
        raise InputError(f"{source}; give the {what} with --{option} or an optimisation set that names it")

    particles_path = member(PARTICLES_FILE, "in_parts", "particle set", needed=True)
    assert particles_path is not None
    as_written = read_star(particles_path)
    tables = named_particles(as_written)
    table = _particles_table(particles_path, tables)
    bare = "optics" not in tables or not all(label in table for label in CENTRED)
    tomograms_path: Path | None
    try:
        tomograms_path = member(TOMOGRAMS_FILE, "in_tomograms", "tomogram set", needed=need_tomograms)
    except InputError:
        if need_tomograms or bare:
            raise
        # Not read by this job; the entry travels on as it is.
        value, hints = members[TOMOGRAMS_FILE]
        tomograms_path = next(filter(None, map(project_root, hints)), Path()) / value
    trajectories_path = member(TRAJECTORIES_FILE, "in_trajectories", "trajectory set", needed=False)

    found_warnings: list[str] = []
    if "particles" not in as_written:
        found_warnings.append(
            f"the particle table of {particles_path} has no name; it is taken for data_particles, which is "
            "what RELION looks for"
        )
    series: dict[str, TiltSeries] = {}
    wanted = list(dict.fromkeys(table["rlnTomoName"]))
    if tomograms_path is not None and (need_tomograms or bare):
        series = read_tilt_series_set(tomograms_path, set(wanted), check_images=need_tomograms)
        unknown = [name for name in wanted if name not in series]
        if unknown:
            known = read_star(tomograms_path)["global"]["rlnTomoName"].tolist()
            said = f"{', '.join(unknown[:5])}{'…' if len(unknown) > 5 else ''}"
            there = _names_there_are(unknown, known)
            if len(unknown) == len(wanted):
                raise InputError(
                    f"none of the particles of {particles_path} belongs to a tomogram of {tomograms_path}: "
                    f"it does not have {said}; {there}"
                )
            gone = np.isin(table["rlnTomoName"].astype(str), unknown)
            found_warnings.append(
                f"{int(gone.sum())} of {len(table)} particles are left out: {tomograms_path} does not have "
                f"their tomograms {said}; {there}"
            )
            kept = Table(table.name, {label: column[~gone] for label, column in table.columns.items()})
            tables = {**tables, "particles": kept}
    particles = particles_in(particles_path, tables, series if series else None)
    check_half_sets(particles, particles_path)
    if series:
        _check_optics(particles, series, particles_path, tomograms_path)
    trajectories = None
    if trajectories_path is not None and need_tomograms:
        _check_names(particles, particles_path, trajectories_path)
        trajectories = read_trajectories(trajectories_path, particles.name.tolist())
        _check_trajectories(particles, series, trajectories, trajectories_path)
    repeated = repeated_names(particles)
    if repeated:
        found_warnings.append(
            f"{particles_path}: {len(repeated)} particle names occur more than once in a tomogram "
            f"(rlnTomoParticleName {repeated[0]}); particles are told apart by their rows, but extract will "
            "want names of their own"
        )
    known_labels = (PARTICLES_FILE, TOMOGRAMS_FILE, TRAJECTORIES_FILE)
    return StaInputs(
        particles=particles,
        tilt_series=series,
        trajectories=trajectories,
        particles_path=particles_path,
        tomograms_path=tomograms_path,
        trajectories_path=trajectories_path,
        other_entries={label: value for label, value in entries.items() if label not in known_labels},
        warnings=tuple(found_warnings),
    )


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


def _check_names(particles: Particles, path: Path, trajectories_path: Path) -> None:
    repeated = repeated_names(particles, over_all=True)
    if repeated:
        raise InputError(
            f"{path}: {len(repeated)} particle names occur more than once (rlnTomoParticleName "
            f"{repeated[0]}), so whose the trajectories of {trajectories_path} are is not known; leave the "
            "trajectory set out, or remove the duplicates (napari-sta remove_duplicates)"
        )


def check_half_sets(particles: Particles, path: Path) -> None:
    """Refuse half sets other than 1 and 2.

    Raises
    ------
    InputError
        If there are any.
    """
    if particles.half_set is not None:
        bad = np.flatnonzero(~np.isin(particles.half_set, (1, 2)))
        if len(bad):
            raise InputError(
                f"{path}, row {bad[0] + 1}: rlnRandomSubset is {particles.half_set[bad[0]]}; it must be 1 "
                "or 2, or the "
                "column must be absent"
            )


def _check_optics(
    particles: Particles, series: Mapping[str, TiltSeries], path: Path, tomograms_path: Path | None
) -> None:
    pairs = set(zip(particles.tomogram.tolist(), particles.optics_group.tolist(), strict=True))
    for tomogram, number in sorted(pairs):
        group, one = particles.optics_of(number), series[tomogram]
        for label, ours, theirs in (
            ("rlnTomoTiltSeriesPixelSize", group.pixel_size_angst, one.pixel_size_angst),
            ("rlnVoltage", group.voltage_kv, one.voltage_kv),
            ("rlnSphericalAberration", group.spherical_aberration_mm, one.spherical_aberration_mm),
            ("rlnAmplitudeContrast", group.amplitude_contrast, one.amplitude_contrast),
        ):
            if ours is not None and abs(ours - theirs) > 1e-3:
                raise InputError(
                    f"{label} is {ours:g} in optics group {number} of {path} but {theirs:g} for tomogram "
                    f"{tomogram} in "
                    f"{tomograms_path}; correct the wrong one"
                )


def _check_trajectories(
    particles: Particles, series: Mapping[str, TiltSeries], trajectories: Trajectories, path: Path
) -> None:
    for name, tomogram in zip(particles.name, particles.tomogram, strict=True):
        shift = trajectories.shift_zyx_angst.get(name)
        if shift is None:
            raise InputError(
                f"{path} has no trajectory of particle {name}; use the trajectory set of these particles"
            )
        if tomogram in series and len(shift) != series[tomogram].n_tilts:
            raise InputError(
                f"{path}: the trajectory of particle {name} has {len(shift)} rows, its tilt series "
                f"{series[tomogram].n_tilts} tilts"
            )


def with_text(particles: Particles, **columns: Column) -> Particles:
    """Return the particles with text columns (``rlnImageName=…``) added or replaced."""
    return replace(particles, text={**particles.text, **columns})


def with_images(
    particles: Particles,
    images: Sequence[str],
    visible: NDArray[np.bool_] | None,
    weights: Sequence[str] | None,
) -> Particles:
    """Name the subtomogram files of particles.

    Parameters
    ----------
    images
        ``rlnImageName``: 2D stack, or 3D data.
    visible
        (n, t) which tilts are in the 2D stack (``rlnTomoVisibleFrames``); None for 3D.
    weights
        ``rlnCtfImage`` of 3D subtomograms; None for 2D.

    Notes
    -----
    Priors on the origin are dropped: they refer to origins that are folded into the coordinates now.
    """
    stale = {f"rlnOrigin{axis}PriorAngst" for axis in "XYZ"}
    text = {label: column for label, column in particles.text.items() if label not in stale}
    for label, values in (
        (
            "rlnTomoVisibleFrames",
            None if visible is None else [format_vector(row.astype(int)) for row in visible],
        ),
        ("rlnImageName", images),
        ("rlnCtfImage", weights),
    ):
        if values is None:
            text.pop(label, None)
        else:
            text[label] = text_column(values)
    return replace(particles, text=text, source=None)


def visible_frames(particles: Particles, n_tilts: Mapping[str, int] | None = None) -> list[NDArray[np.bool_]]:
    """Return which tilts each particle's 2D stack holds, (t,) each, from ``rlnTomoVisibleFrames``.

    Parameters
    ----------
    n_tilts
        Of each tomogram; None if it is not known.

    Raises
    ------
    InputError
        If a value is no vector, or counts other tilts than the tilt series has.
    """
    label, path = "rlnTomoVisibleFrames", particles.source or "the particle set"
    known: dict[str, NDArray[np.bool_]] = {}
    frames = []
    for row, text in enumerate(particles.text[label]):
        if text not in known:
            try:
                known[text] = parse_vector(text) > 0
            except ValueError as error:
                raise InputError(
                    f"{path}, row {row + 1} (particle {particles.name[row]}): {error} in column {label}; "
                    "extract the particles again"
                ) from None
        frames.append(known[text])
        wanted = len(known[text]) if n_tilts is None else n_tilts[particles.tomogram[row]]
        if len(known[text]) != wanted:
            raise InputError(
                f"{path}: {label} of particle {particles.name[row]} counts {len(known[text])} tilts, its "
                f"tilt series {wanted}; the tilt series changed after extraction, so extract again"
            )
    return frames


def are_2d_stacks(particles: Particles) -> bool | None:
    """Whether the general table says that subtomograms are 2D stacks; None if it says nothing."""
    general = particles.tables.get("general")
    said = general.row().get(_ARE_STACKS, "") if isinstance(general, Table) else ""
    return said.strip() == "1" if said else None


def check_subtomogram_kind(particles: Particles, path: str | Path) -> None:
    """Refuse a general table that contradicts the images.

    Raises
    ------
    InputError
        If it says 2D stacks and images are 3D, or the other way round.
    """
    said = are_2d_stacks(particles)
    text = particles.text
    if said is None or "rlnImageName" not in text:
        return
    dimensions = {group.text.get("rlnImageDimensionality", "").strip() for group in particles.optics} - {""}
    has_frames = "rlnTomoVisibleFrames" in text
    if said and (dimensions == {"3"} or ("rlnCtfImage" in text and not has_frames)):
        raise InputError(
            f"{path}: the general table says that subtomograms are 2D stacks ({_ARE_STACKS} 1), but the "
            "images are 3D; set it to 0"
        )
    if not said and dimensions == {"2"} and has_frames:
        raise InputError(
            f"{path}: the general table says that subtomograms are 3D ({_ARE_STACKS} 0), but the images are "
            "2D stacks; set it to 1"
        )


def with_subtomogram_kind(
    particles: Particles, *, stack2d: bool, premultiplied: bool, binning: float
) -> Particles:
    """State in the general table and the optics groups what kind of subtomograms a set has."""
    old = particles.tables.get("general")
    general = dict(old.columns) if isinstance(old, Table) else {}
    general[_ARE_STACKS] = text_column([str(int(stack2d))])
    kind = {
        "rlnCtfDataAreCtfPremultiplied": str(int(premultiplied)),
        "rlnImageDimensionality": "2" if stack2d else "3",
        "rlnTomoSubtomogramBinning": format_number(float(binning))[0],
    }
    return replace(
        particles,
        optics=tuple(replace(group, text={**group.text, **kind}) for group in particles.optics),
        tables={**particles.tables, "general": Table("general", general, is_loop=False)},
    )
