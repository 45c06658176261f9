"""Tomogram sets, ``tomograms.star``, with the tables of their tilt series."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import Deformation, TiltSeries
from napari_sta.io.files import resolve
from napari_sta.io.relion.axes import TILT_ANGLES, TILT_SHIFTS
from napari_sta.io.relion.numbers import (
    MOST_BOX_PX,
    length_px,
    number_column,
    number_columns,
    number_in,
    vector_of,
)
from napari_sta.io.star import Table, read_star

_MOST_TOMOGRAM_PX = 1_000_000


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
        return number_in(row, label, where, default)

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
        length = length_px(row, label, where, _MOST_TOMOGRAM_PX, cure)
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
                vector = vector_of(text, label, where)
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
    angles = number_columns(table, TILT_ANGLES, path)
    shifts = number_columns(table, TILT_SHIFTS, path)
    return angles, shifts, None


def _tilt_images(
    name: str, row: dict[str, str], table: Table, path: str | Path, tilt_path: str | Path, check: bool
) -> tuple[tuple[str, int], ...]:
    stack = row.get("rlnTomoTiltSeriesName", "")
    if stack:
        count = number_in(row, "rlnTomoFrameCount", f"{path}, tomogram {name}", len(table))
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
        length_px(row, f"rlnTomoDeformationGridSize{axis}", where, MOST_BOX_PX, "correct the value")
        for axis in "XY"
    )
    grid = (x, y)
    label = "rlnTomoDeformationCoefficients"
    if label not in table:
        raise InputError(
            f"{tilt_path}, table data_{name} has no column {label}, though {path} announces deformations"
        )
    coefficients = tuple(
        vector_of(text, label, f"{tilt_path}, table data_{name}, row {tilt + 1}")
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
