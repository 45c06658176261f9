"""Small changes to STAR files, for tests of what readers make of them."""

from __future__ import annotations

from pathlib import Path

from napari_sta.io.star import Table, read_star, text_column, write_star

PARTICLES = Path("Extract/job024/particles.star")
"""In the excerpt of a project, seen from its folder."""


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def without_columns(path: Path, table: str, *labels: str) -> None:
    tables = read_star(path)
    kept = {label: column for label, column in tables[table].columns.items() if label not in labels}
    assert len(kept) == len(tables[table].columns) - len(labels)
    write_star(path, tables | {table: Table(table, kept)})


def with_value(path: Path, table: str, label: str, value: str, row: int | None = None) -> None:
    tables = read_star(path)
    old = tables[table].columns.get(label, text_column([""] * len(tables[table])))
    column = old.copy()
    column[slice(None) if row is None else row] = value
    write_star(path, tables | {table: Table(table, {**tables[table].columns, label: column})})
