"""Optics groups: table ``optics`` of a particle set, or the tilt series of fresh picks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import OpticsGroup
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.io.relion.numbers import (
    MOST_BOX_PX,
    MOST_WHOLE,
    is_number,
    length_px,
    number_in,
    vector_of,
    whole_numbers,
)
from napari_sta.io.relion.tomogram_names import series_of
from napari_sta.io.star import Table, format_number, format_vector, parse_vector, text_column


def read_optics(
    path: str | Path,
    tables: Mapping[str, Table],
    particles: Table,
    tilt_series: Mapping[str, TiltSeries] | None,
) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int64]]:
    """Return the optics groups of a set, and the number of each particle's group, (n,)."""
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
    of_particle = whole_numbers(particles, "rlnOpticsGroup", path)
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
    number = number_in(row, "rlnOpticsGroup", where)
    if number != int(number) or not 1 <= number <= MOST_WHOLE:
        raise InputError(f"{where}: rlnOpticsGroup is {row['rlnOpticsGroup']}; groups are numbered 1, 2, 3…")
    image_pixel = number_in(row, "rlnImagePixelSize", where, 0.0)
    if image_pixel < 0:
        raise InputError(f"{where}: rlnImagePixelSize is {image_pixel:g}; it must be above 0, extract again")
    image_size = length_px(row, "rlnImageSize", where, MOST_BOX_PX, "extract again")
    pixel_size = number_in(row, "rlnTomoTiltSeriesPixelSize", where)
    if pixel_size <= 0:
        raise InputError(f"{where}: rlnTomoTiltSeriesPixelSize is {pixel_size:g}; it must be above 0")

    def optional(label: str) -> float | None:
        return number_in(row, label, where) if row.get(label, "") else None

    def zernike(label: str) -> tuple[float, ...]:
        return tuple(vector_of(row[label], label, where).tolist()) if row.get(label, "") else ()

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
        series = series_of(tomogram, tilt_series, path)
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


def optics_table(path: str | Path, groups: Iterable[OpticsGroup]) -> Table:
    """Return table ``optics``, groups numbered 1..n in order; ``path`` is where it is to be written."""
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
