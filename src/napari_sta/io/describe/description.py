"""What is told of a file: lines, problems, and the words they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import resolve
from napari_sta.io.labels import LABELS
from napari_sta.io.star import Table, printable


@dataclass
class Description:
    """What :func:`describe` found.

    Attributes
    ----------
    lines
        What the file holds, for people.
    problems
        What is wrong or looks odd, one sentence each.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = "\n".join(self.lines)
        if self.problems:
            count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
            text += f"\n{count}:\n" + "\n".join(f"  - {problem}" for problem in self.problems)
        else:
            text += "\nNo problems found."
        return printable(text)


def describe_tables(found: Description, tables: Mapping[str, Table]) -> None:
    """Tell which tables a file has, and how large they are."""
    for name, table in tables.items():
        shape = (
            f"{len(table)} rows x {len(table.columns)} columns"
            if table.is_loop
            else f"{len(table.columns)} values"
        )
        found.lines.append(f"  data_{name}: {shape}")


def count(n: int, word: str) -> str:
    """Return a number with its word, in the plural where it is one."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def named(counts: Mapping[str, int], most: int = 8) -> str:
    """Return names with how many each has, the first few."""
    shown = [f"{name} {n}" for name, n in list(counts.items())[:most]]
    return ", ".join(shown) + (", …" if len(counts) > most else "")


def describe_columns(found: Description, table: Table) -> None:
    """Tell which columns no job of ours uses."""
    unknown = [label for label in table.columns if label not in LABELS]
    if unknown:
        found.lines.append("columns without a meaning here, kept as they are: " + ", ".join(unknown))


def exists(name: str, hint: Path) -> bool:
    """Whether a file that ``hint`` names is there."""
    try:
        resolve(name, hint)
    except InputError:
        return False
    return True
