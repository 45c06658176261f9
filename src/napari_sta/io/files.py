"""Paths and safe writing: what every reader and writer here rests on."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_sta.data.errors import InputError, JobError

TEMPORARY_SUFFIX = ".sta-tmp"
"""Ending of files that are being written; one left behind is from a killed run and may be deleted."""

_JOB_FOLDER = re.compile(r"job\d{3,}$")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name in the same folder, and rename it to ``path`` once the block has succeeded.

    So a reader never sees half a file, whatever kills the writer.

    Raises
    ------
    JobError
        If the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise JobError(sentence_for(error, path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in one step (see :func:`replacing`)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def sentence_for(error: OSError, path: str | Path) -> str:
    """Say in words why a file could not be written."""
    # numpy's tofile loses the number and says "Not enough free space to write N bytes".
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "enough free space" in str(error):
        return (
            f"{path} could not be written: the disk is full; free some space and run the job again "
            "(files already finished are kept)"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: no permission; choose another output folder with --o"
    return f"{path} could not be written: {error.strerror or error}; check the output folder and its disk"


def remove_temporary_files(folder: str | Path) -> list[Path]:
    """Delete what a killed run left half-written below a folder; return the names."""
    removed = []
    for leftover in Path(folder).rglob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
        removed.append(leftover)
    return removed


def project_root(path: str | Path) -> Path | None:
    """Return the RELION project that a file or folder lies in, or None.

    That is the nearest folder above it with a ``default_pipeline.star`` of its own, else the parent of
    ``<Type>/jobNNN/``. A job folder holds a copy of the pipeline file, which does not make it a project.
    """
    absolute = Path(path).absolute()
    for folder in (absolute, *absolute.parents):
        if (folder / "default_pipeline.star").is_file() and not _JOB_FOLDER.match(folder.name):
            return folder
    for folder in (absolute, *absolute.parents):
        if _JOB_FOLDER.match(folder.name) and folder.parent != folder.parent.parent:
            return folder.parent.parent
    return None


def resolve(path: str | Path, *hints: str | Path) -> Path:
    """Find a file that a RELION file names; RELION's paths are relative to the project folder.

    Parameters
    ----------
    path
        The path as written.
    hints
        Files or folders that lie in the same project, best first.

    Raises
    ------
    InputError
        If it is in none of: the current folder, the project of each hint, each folder above each hint.
    """
    path = Path(path)
    if path.is_absolute():
        if path.exists():
            return path
        raise InputError(f"{path} does not exist; check the path" + _named_in(hints))
    if path.exists():
        return path
    tried = [Path.cwd()]
    for hint in hints:
        root = project_root(hint)
        absolute = Path(hint).absolute()
        for folder in ([root] if root else []) + list(absolute.parents):
            if folder in tried:
                continue
            tried.append(folder)
            if (folder / path).exists():
                return folder / path
    places = ", ".join(str(folder) for folder in tried[:3])
    raise InputError(
        f"{path} does not exist{_named_in(hints)} (looked in {places}); RELION's paths count from the "
        "project "
        "folder, so run there or correct the path"
    )


def _named_in(hints: tuple[str | Path, ...]) -> str:
    return f" (named in {hints[0]})" if hints else ""


def path_for(member: str | Path, writer: str | Path) -> str:
    """Return how the file ``writer`` should name the file ``member``.

    Relative to the project that the writer lies in (or to the current folder, if the writer lies below
    it and in no project); absolute if the member lies outside of that.
    """
    absolute = Path(member).absolute()
    root = project_root(writer)
    here = Path.cwd()
    if root is None and here != Path(here.anchor) and Path(writer).absolute().is_relative_to(here):
        root = here
    if root is not None and absolute.is_relative_to(root):
        return str(absolute.relative_to(root))
    return str(absolute)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
