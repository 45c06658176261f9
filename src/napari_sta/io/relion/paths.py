"""Paths in the columns of a set, named anew where the set is written to another folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import absolute, counted_from, path_for, project_root, resolve
from napari_sta.io.star import Column, text_column


def rebased_paths(
    columns: Mapping[str, Column], labels: Sequence[str], source: Path | None, writer: str | Path
) -> dict[str, Column]:
    """Return those columns of paths that must be named anew where ``writer`` lies, one look a folder."""
    made: dict[str, Column] = {}
    known: dict[str, str] = {}
    for label in labels:
        if label not in columns or source is None:
            continue
        texts = columns[label].tolist()
        files = [text.rpartition("@")[2] for text in texts] if any("@" in text for text in texts) else texts
        folders = [file[: file.rfind("/") + 1] for file in files]
        for folder, file in dict(zip(reversed(folders), reversed(files), strict=True)).items():
            if folder not in known:
                known[folder] = _folder_for(folder, file, source, writer)
        if any(known[folder] != folder for folder in set(folders)):
            made[label] = text_column(
                text[: len(text) - len(file)] + known[folder] + file[len(folder) :]
                for text, file, folder in zip(texts, files, folders, strict=True)
            )
    return made


def _folder_for(folder: str, file: str, source: Path, writer: str | Path) -> str:
    """Return how ``writer`` should name the folder of a file that is named in ``source``."""
    file = file.removesuffix(":mrcs")
    if not file or file.startswith("/"):
        return folder
    try:
        found = absolute(resolve(file, source))
    except InputError:
        root = project_root(source)
        if root is None or not folder:
            return folder
        found = absolute(root / file)
    base = counted_from(writer)
    if base is not None and os.path.realpath(base / file) == os.path.realpath(found):
        return folder
    named = path_for(found.parent, writer)
    return "" if named == "." else f"{named}/"
