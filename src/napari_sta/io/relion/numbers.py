"""Numbers out of the text of columns, and back: the one place that decides what counts as a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.io.relion.axes import (
    ANGLE_PRIORS,
    ANGLES,
    CENTRED,
    OPTICS_OF_TILTS,
    ORIGIN,
    ORIGIN_PRIORS,
    PIXEL,
    SUBTOMOGRAM_ANGLES,
    TILT_ANGLES,
    TILT_SHIFTS,
)
from napari_sta.io.star import Column, Table, format_number, parse_vector, text_column

# Beyond these a number is no position in a tomogram, no angle, no count.
_MOST_ANGST = 1e8
_MOST_DEG = 1e6

_LIMITS = dict.fromkeys(
    (*CENTRED, *PIXEL, *ORIGIN, *ORIGIN_PRIORS, *TILT_SHIFTS, *OPTICS_OF_TILTS), _MOST_ANGST
) | dict.fromkeys((*ANGLES, *SUBTOMOGRAM_ANGLES, *ANGLE_PRIORS, *TILT_ANGLES), _MOST_DEG)
MOST_WHOLE = 1e15
MOST_BOX_PX = 10_000

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
        raise _wrong_value(table, label, path, row, "is not a number")
    if finite:
        bad = np.flatnonzero(~np.isfinite(values) & ~absent)
        if len(bad):
            raise _wrong_value(table, label, path, int(bad[0]), "is not a finite number")
    most = _LIMITS.get(label, np.inf) if limit is None else limit
    if np.isfinite(most):
        bad = np.flatnonzero(np.abs(values) > most)
        if len(bad):
            raise _wrong_value(table, label, path, int(bad[0]), f"is absurd (beyond {most:g})")
    return values


def _wrong_value(table: Table, label: str, path: str | Path, row: int, why: str) -> InputError:
    names = table.columns.get("rlnTomoParticleName")
    which = "" if names is None else f" (particle {names[row]})"
    return InputError(
        f"{path}, table data_{table.name}, row {row + 1}{which}: {table[label][row][:40]!r} in column "
        f"{label} {why}; correct the value or remove the row"
    )


def whole_numbers(table: Table, label: str, path: str | Path) -> NDArray[np.int64]:
    """Return a column as whole numbers, (n,), refusing as :func:`number_column` does."""
    values = number_column(table, label, path, limit=MOST_WHOLE)
    bad = np.flatnonzero(values != np.rint(values))
    if len(bad):
        raise _wrong_value(table, label, path, int(bad[0]), "is not a whole number")
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


def number_in(row: Mapping[str, str], label: str, path: str | Path, default: float | None = None) -> float:
    """Return a finite number of one row; ``path`` says for the message whose row it is."""
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


def length_px(row: Mapping[str, str], label: str, path: str | Path, most: int, cure: str) -> int:
    """Return a number of pixels, 0 if there is none."""
    length = number_in(row, label, path, 0.0)
    if length < 0 or length != np.rint(length) or length > most:
        raise InputError(f"{path}: {label} is {row[label]}, not a whole number from 1 to {most}; {cure}")
    return int(length)


def vector_of(text: str, label: str, where: str) -> NDArray[np.float64]:
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


def updated_text(path: str | Path, label: str, old: Column | None, values: NDArray[np.generic]) -> Column:
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
