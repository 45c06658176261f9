"""A file of a refinement being read: numbers and texts by table and label, or a sentence why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.io.relion.numbers import is_number, numbers_of
from napari_sta.io.star import Column, Table, read_star

Numbers = NDArray[np.float64]

_MOST_WHOLE = 2**53


@dataclass(frozen=True)
class Source:
    """A file being read; every question that it cannot answer becomes an InputError.

    Attributes
    ----------
    what
        What the file should be: an example of its name.
    finite
        Whether inf and nan are refused. RELION writes them in the model of iteration 0.
    """

    path: str | Path
    what: str
    tables: Mapping[str, Table]
    finite: bool = True

    @classmethod
    def open(cls, path: str | Path, what: str, finite: bool = True) -> Source:
        """Read a file; ``what`` is an example of its name."""
        return cls(path, what, read_star(path), finite)

    def table(self, name: str) -> Table:
        """Return a table."""
        if name not in self.tables:
            held = ", ".join(f"data_{one}" for one in self.tables)
            raise InputError(
                f"{self.path} has no table data_{name} (it holds {held}); name a file like {self.what}"
            )
        return self.tables[name]

    def texts(self, name: str, label: str) -> Column:
        """Return a column as it stands there."""
        one = self.table(name)
        if label not in one:
            raise InputError(
                f"{self.path}, table data_{name}, has no column {label}; go on from another iteration, or "
                f"name a file like {self.what} of a 3D auto-refinement of subtomograms"
            )
        return one[label]

    def numbers(self, name: str, label: str) -> Numbers:
        """Return a column as numbers."""
        column = self.texts(name, label)
        values = numbers_of(column)
        if values is None:
            row = next(index for index, text in enumerate(column) if not is_number(text))
            raise self._wrong(name, label, row, column[row], "is not a number")
        if self.finite and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise self._wrong(name, label, row, column[row], "is not a finite number")
        return values

    def wholes(self, name: str, label: str) -> NDArray[np.int64]:
        """Return a column as whole numbers."""
        values = self.numbers(name, label)
        bad = np.flatnonzero(~(np.abs(values) < _MOST_WHOLE) | (values != np.rint(values)))
        if len(bad):
            text = self.texts(name, label)[bad[0]]
            raise self._wrong(name, label, int(bad[0]), text, "is not a whole number")
        return values.astype(np.int64)

    def text(self, name: str, label: str) -> str:
        """Return the only value of a column as it stands there."""
        return str(self._only(name, label, self.texts(name, label)))

    def number(self, name: str, label: str) -> float:
        """Return the only value of a column as a number."""
        return float(self._only(name, label, self.numbers(name, label)))

    def whole(self, name: str, label: str, least: int | None = None, most: int | None = None) -> int:
        """Return the only value of a column as a whole number between two limits, if there are any."""
        value = int(self._only(name, label, self.wholes(name, label)))
        if (least is not None and value < least) or (most is not None and value > most):
            raise self._wrong(name, label, 0, str(value), f"does not lie between {least} and {most}")
        return value

    def _only(self, name: str, label: str, column: NDArray[Any]) -> Any:
        if len(column) != 1:
            raise InputError(
                f"{self.path}, table data_{name}, has {len(column)} rows of {label} instead of one; only "
                "refinements of a single class are read, choose a 3D auto-refine job"
            )
        return column[0]

    def _wrong(self, name: str, label: str, row: int, text: str, why: str) -> InputError:
        return InputError(
            f"{self.path}, table data_{name}, row {row + 1}: {text!r} in column {label} {why}; correct the "
            "value or go on from another iteration"
        )
