"""Folders of jobs: which there are, and whether they lie in the project."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.io.files import inside

JOB_NAME = re.compile(r"[^/]+/job(\d{3,})/?$")


def own_folder(root: Path, name: str) -> Path | None:
    """Return a job's folder; None if it is not there, or a link leads out of the project."""
    try:
        folder = inside(root, name, "")
    except InputError:
        return None
    real_root = os.path.realpath(root)
    is_own = os.path.isdir(folder) and Path(os.path.realpath(folder)).is_relative_to(real_root)
    return folder if is_own else None


def job_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of jobs, type by type, links to folders of types left out."""
    for folder in _listed(root):
        if not (folder.name.startswith(".") or folder.name == "Trash" or folder.is_symlink()):
            jobs = [one for one in _listed(folder) if re.fullmatch("job[0-9]{3,}", one.name)]
            yield from (one for one in jobs if os.path.isdir(one))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def alias_link(folder: Path) -> str:
    """Return the alias that a link beside a job folder gives it; empty without one."""
    for one in _listed(folder.parent):
        if one.is_symlink() and not re.fullmatch("job[0-9]{3,}", one.name) and is_link_to(one, folder):
            return f"{folder.parent.name}/{one.name}/"
    return ""


def is_link_to(link: Path, folder: Path) -> bool:
    """Whether a path is a link, and leads to this folder."""
    return link.is_symlink() and os.path.realpath(link) == os.path.realpath(folder)


def touch(path: Path) -> None:
    """Make an empty file if there is none, without following a link."""
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    os.close(os.open(path, flags, 0o666))
