"""Tomogram sets and the tables of tilt series."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.io import mrc
from napari_sta.io.describe.description import Description, count, describe_columns
from napari_sta.io.labels import LABELS
from napari_sta.io.relion.axes import TILT_NUMBERS
from napari_sta.io.relion.numbers import number_column
from napari_sta.io.relion.tilt_series import is_placeholder, read_tilt_series_set
from napari_sta.io.star import Table, first_table


def describe_tomograms(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell of a tomogram set, a line a tilt series."""
    table = tables["global"]
    layout = "RELION 5" if "rlnTomoTiltSeriesStarFile" in table else "RELION 4"
    found.lines.append(f"{path.name}: tomogram set ({layout} layout), {count(len(table), 'tomogram')}")
    placeholders = 0
    for name in table["rlnTomoName"]:
        try:
            series = read_tilt_series_set(path, [name], check_images=False)[name]
        except InputError as error:
            found.lines.append(f"  {name}")
            found.problems.append(str(error))
            continue
        d, h, w = series.size_zyx_px
        found.lines.append(
            f"  {name}: {count(series.n_tilts, 'tilt')}{_tilt_range(series)}, {series.pixel_size_angst:g} "
            "Å/px, "
            f"{w} x {h} x {d} px, hand {series.hand:+g}, {_defocus(series)}, dose up to "
            f"{series.dose_e_per_angst2.max():g} e/Å²"
        )
        if is_placeholder(series.images):
            placeholders += 1
        else:
            _tilt_series_problems(found, name, series)
    if placeholders:
        found.lines.append(
            f"{count(placeholders, 'tomogram')} with Warp's placeholder for tilt images "
            "(dummy_tiltseries.mrc): refine works on particles that Warp has extracted; extract and "
            "reconstruct do not"
        )


def _tilt_range(series: TiltSeries) -> str:
    if series.angles_xyz_deg is None:
        return " (projection matrices)"
    tilt = series.angles_xyz_deg[:, 1]
    return f" from {tilt.min():.3g} to {tilt.max():.3g}°"


def _defocus(series: TiltSeries) -> str:
    mean = (series.defocus_u_angst + series.defocus_v_angst) / 2e4
    return f"defocus {mean.min():.2f} to {mean.max():.2f} µm"


def _tilt_series_problems(found: Description, name: str, series: TiltSeries) -> None:
    files = list(dict.fromkeys(file for file, _ in series.images))
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        found.problems.append(
            f"{name}: {len(missing)} of {len(files)} image files are missing, such as {missing[0]}"
        )
        return
    try:
        headers = {file: mrc.read_header(file) for file in files}
    except InputError as error:
        found.problems.append(f"{name}: {error}")
        return
    if len({header.shape_zyx[1:] for header in headers.values()}) > 1:
        found.problems.append(f"{name}: tilt images differ in size; they must be equal")
    for file, index in series.images:
        if index >= headers[file].shape_zyx[0]:
            found.problems.append(
                f"{name}: {file} has {headers[file].shape_zyx[0]} images, number {index + 1} is wanted"
            )
            break
    for file, header in headers.items():
        if header.why_incomplete:
            found.problems.append(f"{name}: {file} {header.why_incomplete}")
        pixel = header.pixel_size_angst
        if pixel is not None and abs(pixel - series.pixel_size_angst) > 1e-2:
            found.problems.append(
                f"{name}: {file} has a pixel size of {pixel:.4g} Å in its header, the "
                "tomogram set "
                f"says {series.pixel_size_angst:g}; the set counts"
            )
    if (series.defocus_u_angst < 0).any():
        found.problems.append(
            f"{name}: negative defocus (overfocus) in {int((series.defocus_u_angst < 0).sum())} tilts"
        )
    if (np.diff(np.sort(series.dose_e_per_angst2)) == 0).any():
        found.problems.append(
            f"{name}: two tilt images have the same dose; is rlnMicrographPreExposure cumulative?"
        )


def describe_tilt_series(found: Description, path: Path, tables: dict[str, Table]) -> None:
    """Tell of the table of one tilt series."""
    table = first_table(tables)
    found.lines.append(f"{path.name}: tilt series {table.name}, {count(len(table), 'tilt image')}")
    if len(table) == 0:
        found.problems.append("no tilt images: the table has no rows")
        return
    told = ("rlnTomoYTilt", "rlnTomoZRot", "rlnDefocusU", "rlnMicrographPreExposure")
    for label in TILT_NUMBERS:
        if label in table:
            try:
                values = number_column(table, label, path)
            except InputError as error:
                found.problems.append(str(error))
                continue
            if label not in told:
                continue
            known = LABELS[label]
            found.lines.append(
                f"  {label} ({known.meaning}): {values.min():g} to {values.max():g} {known.unit}"
            )
    needed = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
    lacking = [label for label in needed if label not in table]
    if lacking and "rlnTomoProjX" not in table:
        found.problems.append(f"not aligned yet: {', '.join(lacking)} missing")
    lacking = [one for one in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle") if one not in table]
    if lacking:
        found.problems.append(f"no CTF estimate yet: {', '.join(lacking)} missing")
    if "rlnMicrographPreExposure" not in table:
        found.problems.append("rlnMicrographPreExposure (dose before each image) is missing")
    describe_columns(found, table)
