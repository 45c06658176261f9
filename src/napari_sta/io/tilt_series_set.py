"""Write a tomogram set anew: its tables as they were, but for the columns that a job has made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import inside, path_for, resolve
from napari_sta.io.relion.paths import rebased_paths
from napari_sta.io.star import Column, Table, read_star, text_column, write_star

_SET_PATHS = (
    "rlnTomoTiltSeriesName", "rlnTomoReconstructedTomogram", "rlnTomoReconstructedTomogramHalf1",
    "rlnTomoReconstructedTomogramHalf2", "rlnTomoReconstructedTomogramDenoised", "rlnTomoDenoisedTomogram",
    "rlnTomoFiducialsStarFile", "rlnEtomoDirectiveFile", "rlnMtfFileName",
)  # fmt: skip
_TILT_PATHS = (
    "rlnMicrographName", "rlnMicrographNameEven", "rlnMicrographNameOdd", "rlnMicrographMovieName",
    "rlnMicrographMetadata", "rlnCtfPowerSpectrum", "rlnCtfImage",
)  # fmt: skip


def write_tilt_series_set(
    path: str | Path,
    source: str | Path,
    in_set: Mapping[str, Mapping[str, str]],
    per_tilt: Mapping[str, Mapping[str, Column]] | None = None,
    where_lacking: Mapping[str, Mapping[str, Column]] | None = None,
) -> list[Path]:
    """Write a tomogram set with new or other columns.

    Parameters
    ----------
    path
        ``tomograms.star`` to write. The tables of RELION 5's tilt series come to lie beside it under the
        name that they had below their own job's folder (``tilt_series/TS_01.star``); RELION 4 keeps all
        tables in one file.
    source
        Tomogram set to start from. What is not named below is written back to the letter, but for paths,
        which are named as ``path`` must.
    in_set
        Tomogram to label to its new text. A label that the set lacks becomes a column, empty (``""``) for
        other tomograms.
    per_tilt
        Tomogram to label to (t,) new texts of its own table.
    where_lacking
        The same, for tables that have no such column yet.

    Returns
    -------
    written
        The files, the set last: it must not name tables that are not there yet.

    Raises
    ------
    InputError
        If a tomogram is not in the set, a column has another length than its table, or a table's name
        leads out of the folder.
    """
    path, source = Path(path), Path(source)
    changed, added = per_tilt or {}, where_lacking or {}
    tables = read_star(source)
    overall = tables["global"]
    names = overall["rlnTomoName"].tolist()
    unknown = [name for name in [*in_set, *changed, *added] if name not in names]
    if unknown:
        raise InputError(f"{source} has no tomogram {unknown[0]}")
    columns = dict(overall.columns)
    for name, values in in_set.items():
        for label, text in values.items():
            column = columns.get(label)
            column = text_column([""] * len(names)) if column is None else column.copy()
            column[names.index(name)] = text
            columns[label] = column
    columns |= rebased_paths(columns, [one for one in _SET_PATHS if one in columns], source, path)
    written: list[Path] = []
    if "rlnTomoTiltSeriesStarFile" in overall:
        named = columns["rlnTomoTiltSeriesStarFile"].copy()
        for row, name in enumerate(names):
            before = resolve(overall["rlnTomoTiltSeriesStarFile"][row], source)
            inner = _below_its_job(overall["rlnTomoTiltSeriesStarFile"][row])
            after = inside(path.parent, inner, f"{source}, tomogram {name}, rlnTomoTiltSeriesStarFile")
            own = read_star(before)
            own[name] = _with_columns(own[name], changed.get(name, {}), added.get(name, {}), before)
            moved = rebased_paths(own[name].columns, _TILT_PATHS, before, after)
            own[name] = replace(own[name], columns={**own[name].columns, **moved})
            after.parent.mkdir(parents=True, exist_ok=True)
            write_star(after, list(own.values()))
            written.append(after)
            named[row] = path_for(after, path)
        columns["rlnTomoTiltSeriesStarFile"] = named
    else:
        for name in {*changed, *added}:
            tables[name] = _with_columns(tables[name], changed.get(name, {}), added.get(name, {}), source)
    tables["global"] = replace(overall, columns=columns)
    write_star(path, list(tables.values()))
    return [*written, path]


def _with_columns(
    table: Table, changed: Mapping[str, Column], added: Mapping[str, Column], path: Path
) -> Table:
    columns = dict(changed) | {label: column for label, column in added.items() if label not in table}
    for label, column in columns.items():
        if len(column) != len(table):
            raise InputError(
                f"{path}, table data_{table.name} has {len(table)} rows, not {len(column)} as the new {label}"
            )
    return replace(table, columns={**table.columns, **columns})


def split_images(path: str | Path, name: str) -> tuple[list[tuple[str, int]], list[tuple[str, int]]] | None:
    """Return the images of the even and of the odd frames of every tilt, as (file, slice from 0).

    None if the set does not name them.

    Raises
    ------
    InputError
        If one of the files does not exist.
    """
    tables = read_star(path)
    overall = tables["global"]
    row = overall.row(overall["rlnTomoName"].tolist().index(name))
    file = row.get("rlnTomoTiltSeriesStarFile", "")
    where = resolve(file, path) if file else Path(path)
    table = read_star(where)[name] if file else tables[name]
    if not all(f"rlnMicrographName{half}" in table for half in ("Even", "Odd")):
        return None
    even, odd = (
        [_image(text, path, where) for text in table[f"rlnMicrographName{half}"]] for half in ("Even", "Odd")
    )
    return even, odd


def _image(text: str, *hints: str | Path) -> tuple[str, int]:
    number, at, file = text.rpartition("@")
    index = int(number) - 1 if at and number.isdecimal() else 0
    return str(resolve((file if at else text).removesuffix(":mrcs"), *hints)), index


def _below_its_job(name: str) -> str:
    """Return a path as it is named below its job's folder; all of it where it lies in none (RELION)."""
    parts = Path(name).parts
    for index, part in enumerate(parts):
        if part.startswith("job") and part[3:].isdecimal() and len(part) >= 6:
            return "/".join(parts[index + 1 :])
    return "/".join(part for part in parts if part not in ("/", "..", "."))
