"""List tables: one value a label, most of them fields of a dataclass, in RELION's order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_sta.data.errors import InputError
from napari_sta.io.refinement.number_text import number_text
from napari_sta.io.refinement.source import Source

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Line(NamedTuple):
    """One label of a list table.

    Attributes
    ----------
    label
        RELION's.
    field
        Attribute of our dataclass; empty for what is always the same here.
    text
        The value if there is no field; else what stands for an empty text.
    """

    label: str
    field: str = ""
    text: str = ""


def list_columns(path: str | Path, record: DataclassInstance, lines: Sequence[Line]) -> dict[str, str]:
    """Return label to text of a dataclass as it is to be written to ``path``; refuse what is not finite."""
    kinds = {f.name: str(f.type) for f in fields(record)}
    columns = {}
    for label, name, text in lines:
        if not name:
            columns[label] = text
            continue
        value = getattr(record, name)
        if kinds[name] == "str":
            columns[label] = value or text
        elif not math.isfinite(value):
            raise InputError(f"{path} was not written: {label} is {value}, not a finite number")
        else:
            columns[label] = number_text(float(value)) if kinds[name] == "float" else str(int(value))
    return columns


def list_values(
    source: Source, name: str, cls: type[DataclassInstance], lines: Sequence[Line]
) -> dict[str, Any]:
    """Return the fields of a dataclass that a list table holds."""
    kinds = {f.name: str(f.type) for f in fields(cls)}
    values: dict[str, Any] = {}
    for label, attribute, text in lines:
        match kinds.get(attribute):
            case "bool":
                values[attribute] = source.whole(name, label) != 0
            case "int":
                values[attribute] = source.whole(name, label)
            case "float":
                values[attribute] = source.number(name, label)
            case "str":
                written = source.text(name, label)
                values[attribute] = "" if written == text else written
    return values
