"""STAR files: tables of text, read and written without changing a character of a value.

Numbers stay text here, so that what we do not touch is written back as it was: ``001`` keeps its
zeros and ``-21.64652`` its five decimals. Written in RELION's own syntax (``# version 50001``,
``loop_``, ``_label #n``).

The ``starfile`` package is the oracle of our tests but not the reader: it turns ``nan`` into a missing
value, cuts values at ``#``, rewrites single quotes, and takes 2.5 s for 100,000 x 30 values as text
where this takes 0.6 s.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_sta.data.errors import InputError
from napari_sta.io.files import replacing

Column = NDArray[np.object_]

_TOKEN = re.compile(r""""([^"]*)"(?=\s|$)|'([^']*)'(?=\s|$)|(\S+)""")


@dataclass(frozen=True)
class Table:
    """One table of a STAR file.

    Attributes
    ----------
    name
        What follows ``data_``; may be empty.
    columns
        Label without its leading underscore to values, each (n,) of str, in file order.
    is_loop
        True for ``loop_`` tables, False for lists of one value per label.
    """

    name: str
    columns: Mapping[str, Column]
    is_loop: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, label: object) -> bool:
        return label in self.columns

    def __getitem__(self, label: str) -> Column:
        return self.columns[label]

    def row(self, index: int = 0) -> dict[str, str]:
        """Return one row as label to value."""
        return {label: column[index] for label, column in self.columns.items()}


def table(name: str, columns: Mapping[str, ArrayLike | Sequence[object]], is_loop: bool = True) -> Table:
    """Make a table from anything that ``str`` turns into the wanted text.

    Parameters
    ----------
    columns
        Label to values; for a list table a single value each.
    """
    made: dict[str, Column] = {}
    for label, values in columns.items():
        if isinstance(values, np.ndarray) and values.dtype == object:
            made[label] = values
        else:
            items = [values] if np.isscalar(values) else list(values)  # type: ignore[arg-type]
            made[label] = text_column([str(item) for item in items])
    return Table(name, made, is_loop)


def text_column(values: Iterable[str]) -> Column:
    """Return the values as an object array, shape (n,)."""
    items = list(values)
    column = np.empty(len(items), dtype=object)
    column[:] = items
    return column


# ----------------------------------------------------------------------------------------------------
# Reading


def read_star(path: str | Path) -> dict[str, Table]:
    """Read every table of a STAR file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tables
        Name to table, in file order. The unnamed table has the name ``""``.

    Raises
    ------
    InputError
        If the file is missing, is no STAR file, holds two tables of one name, or a row has too many or
        too few values.

    Notes
    -----
    A loop ends at its first empty line, as in RELION; RELION ignores rows after that silently, we refuse.
    Windows line ends, which stop RELION, are read.
    """
    lines = _lines(Path(path))
    tables: dict[str, Table] = {}
    position = 0
    with _no_garbage_collection():
        while position < len(lines):
            line = lines[position].strip()
            position += 1
            if not line.startswith("data_"):
                if line and not line.startswith("#"):
                    where = f"after table {_shown(next(reversed(tables)))}" if tables else "before any table"
                    raise InputError(
                        f"{path}, line {position}: {line[:40]!r} stands {where}, where RELION does not read "
                        "it; remove the empty or comment line above it, or the line itself"
                        if tables
                        else f"{path} is no STAR file: line {position} comes before any data_ line"
                    )
                continue
            name = line[5:].strip()
            if name in tables:
                raise InputError(f"{path} holds two tables named {_shown(name)}; keep one of them")
            tables[name], position = _read_table(path, name, lines, position)
    if not tables:
        raise InputError(f"{path} is no STAR file: it has no line that starts with data_")
    return tables


def first_table(tables: Mapping[str, Table]) -> Table:
    """Return the table that RELION takes when it asks for no name."""
    return next(iter(tables.values()))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name the STAR file in it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if "\0" in text[:4096]:
        raise InputError(f"{path} is no STAR file (it holds binary data); name a .star file")
    return text.split("\n")


def _read_table(path: str | Path, name: str, lines: list[str], position: int) -> tuple[Table, int]:
    while position < len(lines):
        line = lines[position].strip()
        if line.startswith("loop_"):
            return _read_loop(path, name, lines, position + 1)
        if line.startswith("_"):
            return _read_list(path, name, lines, position)
        if line.startswith("data_"):
            break
        if line and not line.startswith("#"):
            raise InputError(
                f"{path}, line {position + 1}: table {_shown(name)} must start with loop_ or a _label"
            )
        position += 1
    return Table(name, {}, is_loop=False), position


def _read_list(path: str | Path, name: str, lines: list[str], position: int) -> tuple[Table, int]:
    columns: dict[str, Column] = {}
    while position < len(lines):
        line = lines[position].strip()
        if not line.startswith("_"):
            break
        label, _, value = line.partition(" ")
        if "\t" in label:
            label, _, value = line.partition("\t")
        value = value.strip()
        quoted = _TOKEN.fullmatch(value)
        if quoted and quoted.lastindex and quoted.lastindex < 3:
            value = quoted.group(quoted.lastindex)
        columns[label[1:]] = text_column([value])
        position += 1
    return Table(name, columns, is_loop=False), position


def _read_loop(path: str | Path, name: str, lines: list[str], position: int) -> tuple[Table, int]:
    labels: list[str] = []
    while position < len(lines) and lines[position].lstrip().startswith("_"):
        labels.append(lines[position].split()[0][1:])
        position += 1
    if not labels:
        raise InputError(f"{path}: the loop_ of table {_shown(name)} has no column labels")
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"{path}: table {_shown(name)} has the column _{twice} twice; remove one")
    # An empty line between the labels and the rows, as some programs leave it; after it may also come
    # the next table, or nothing.
    start = position
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines) or lines[start].lstrip().startswith(("#", "data_")):
        return Table(name, {label: text_column([]) for label in labels}), position
    stop = start
    for stop in range(start, len(lines) + 1):
        if stop == len(lines) or not lines[stop].strip() or lines[stop].startswith("data_"):
            break
    body = lines[start:stop]
    wanted = len(labels)
    values: list[str] = []
    for offset, line in enumerate(body):
        row = _tokens(line) if '"' in line or "'" in line else line.split()
        if len(row) != wanted:
            raise InputError(
                f"{path}, line {start + offset + 1}: {len(row)} values where table {_shown(name)} has "
                f"{wanted} columns; quote values that contain blanks, or restore the missing ones"
            )
        values += row
    columns = {label: text_column(values[index::wanted]) for index, label in enumerate(labels)}
    return Table(name, columns), stop


def _tokens(line: str) -> list[str]:
    return [match.group(match.lastindex or 0) for match in _TOKEN.finditer(line)]


def _shown(name: str) -> str:
    return f"data_{name}"


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # Millions of small strings set off the collector over and over; none of them can be in a cycle.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# ----------------------------------------------------------------------------------------------------
# Writing


def write_star(
    path: str | Path, tables: Iterable[Table] | Mapping[str, Table], comment: str | None = None
) -> None:
    """Write tables in RELION's syntax, in one step.

    Parameters
    ----------
    path
        The file; replaced once it is complete.
    tables
        In the order to be written.
    comment
        Lines for the top of the file, without their ``#``.

    Raises
    ------
    InputError
        If a value cannot be written as STAR text (a line break, or both kinds of quotes).
    JobError
        If the disk is full or the folder cannot be written to.
    """
    if isinstance(tables, Mapping):
        tables = tables.values()
    parts = [f"# {line}\n" for line in (comment or "").splitlines()]
    with _no_garbage_collection():
        for one in tables:
            parts.append(f"\n# version 50001\n\ndata_{one.name}\n\n")
            try:
                parts.append(_loop_text(one) if one.is_loop else _list_text(one))
            except ValueError as error:
                raise InputError(f"{path}: {error}") from None
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
        ):
            file.writelines(parts)


def _list_text(one: Table) -> str:
    width = max((len(label) for label in one.columns), default=0) + 12
    lines = [
        f"_{label:<{width}} {_quoted(column[0], first=False)}\n" for label, column in one.columns.items()
    ]
    return "".join(lines) + " \n"


def _loop_text(one: Table) -> str:
    if not one.columns:
        return " \n"
    head = "loop_ \n" + "".join(f"_{label} #{n} \n" for n, label in enumerate(one.columns, start=1))
    columns = [
        _safe(label, column.tolist(), first=index == 0)
        for index, (label, column) in enumerate(one.columns.items())
    ]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f"columns of table data_{one.name} differ in length: {sorted(lengths)}")
    row_format = " ".join(["%12s"] * len(columns)) + " "
    rows = "\n".join([row_format % row for row in zip(*columns, strict=True)])
    return head + rows + ("\n \n" if rows else " \n")


def _safe(label: str, values: list[str], first: bool) -> list[str]:
    """Quote the values of a column that need it; a look at all of them together finds that most need none."""
    together = "\0" + "\0".join(values) + "\0"
    suspicious = (
        not together.isascii()
        or "\0\0" in together
        or any(mark in together for mark in " \"'\t\n\r\v\f\x1c\x1d\x1e\x1f")
        or (first and any("\0" + mark in together for mark in ("_", "#", "data_", "loop_")))
    )
    if not values or not suspicious:
        return values
    try:
        return [_quoted(value, first) for value in values]
    except ValueError as error:
        raise ValueError(f"column _{label}: {error}") from None


def _quoted(value: str, first: bool) -> str:
    plain = bool(value) and not re.search(r"[\s\0]", value) and value[0] not in "\"'"
    if plain and not (first and value.startswith(("_", "#", "data_", "loop_"))):
        return value
    if re.search(r"[\n\r\0]", value):
        raise ValueError(f"{value[:40]!r} holds a line break, which a STAR file cannot")
    if '"' not in value:
        return f'"{value}"'
    if "'" not in value:
        return f"'{value}'"
    raise ValueError(f"{value[:40]!r} holds both kinds of quotes, which a STAR file cannot")


# ----------------------------------------------------------------------------------------------------
# Numbers


def format_number(values: ArrayLike) -> Column:
    """Write numbers as RELION does, but never with fewer than six decimals.

    Parameters
    ----------
    values
        Any number of finite numbers, flattened.

    Returns
    -------
    text
        Fixed with six decimals if the value is 0 or between 0.001 and 10^9, else scientific with at least
        six. RELION itself drops one decimal of negative numbers, writes 100000 and more in scientific form
        and cuts at 12 characters, which loses up to 5e-6; it reads longer numbers well.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(numbers).all():
        raise ValueError("not a finite number")
    size = np.abs(numbers)
    plain = (size == 0) | ((size >= 0.001) & (size < 1e9))
    text = ["%.6f" % value for value in (numbers + 0.0).tolist()]  # noqa: UP031  (twice as fast)
    for index in np.flatnonzero(~plain):
        value = float(numbers[index])
        digits = "%.6e" % value  # noqa: UP031
        # Above 10^9 seven digits are fewer than six decimals.
        text[index] = digits if size[index] < 0.001 else _long_scientific(value)
    return text_column(text)


def _long_scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.16e}".partition("e")
    digits = max(6, 6 + int(math.log10(abs(value))))
    return f"{value:.{min(digits, 16)}e}" if digits < 16 else f"{mantissa}e{exponent}"


def parse_vector(text: str) -> NDArray[np.float64]:
    """Read RELION's ``[v1,v2,...]``; ``[]`` is empty.

    Raises
    ------
    ValueError
        If it is not such a vector.
    """
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(f"{text[:40]!r} is not a vector like [1,2,3]")
    inner = text[1:-1].strip()
    return np.array([float(item) for item in inner.split(",")] if inner else [], dtype=np.float64)


def format_vector(values: ArrayLike) -> str:
    """Write numbers as RELION's ``[v1,v2,...]`` with 12 significant digits."""
    return "[" + ",".join(f"{value:.12g}" for value in np.asarray(values, dtype=np.float64).ravel()) + "]"
