"""Paths and safe writing: what every reader and writer here rests on."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from napari_sta.data.errors import InputError, JobError

TEMPORARY_SUFFIX = ".sta-tmp"
"""Ending of files that are being written; one left behind is from a killed run and may be deleted."""

WRITTEN = ".napari-sta-files"
"""In a job's folder: names of the files that the job has written there, each before it was there."""

_JOB_FOLDER = re.compile(r"job\d{3,}$")

_records: dict[str, int] = {}  # folder, with its slash, of a running job to its open record


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name in the same folder, and rename it to ``path`` once the block has succeeded.

    So a reader never sees half a file, whatever kills the writer. What was written is on the disk, not
    only in memory, before it gets its name: a power cut leaves the old file or the new one. A link of
    that name is replaced, not followed.

    Raises
    ------
    JobError
        If the disk is full, the folder cannot be written to, or the folder of the job that writes is gone.
    """
    path = Path(path)
    # Nobody can put a link there beforehand: the name cannot be guessed.
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        _record(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_still_there(path)
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        for root in list(_records):
            if os.path.abspath(path).startswith(root):
                _refuse_if_gone(root)
        raise JobError(sentence_for(error, path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def recorded(folder: str | Path) -> Iterator[None]:
    """Keep a record of what is written below a job's folder, so that the job can tell its files from others'.

    Raises
    ------
    JobError
        If the record cannot be written.
    """
    root = os.path.join(os.path.abspath(folder), "")
    with open_log(root + WRITTEN) as record:
        _records[root] = record.fileno()
        try:
            yield
        finally:
            del _records[root]


def _record(path: Path) -> None:
    """Enter a file into the record of the job whose folder it lies in."""
    if not _records:
        return
    name = os.path.abspath(path)
    for root, record in list(_records.items()):
        if not name.startswith(root):
            continue
        _refuse_if_gone(root)
        # A name that a full disk cut short must not run into the next.
        entry = os.fsencode(f"\n{name[len(root) :]}\n")
        if os.write(record, entry) < len(entry):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check_still_there(path: Path) -> None:
    """Undo making a folder anew that somebody has removed just before, together with its record."""
    name = os.path.abspath(path)
    for root in [one for one in list(_records) if name.startswith(one)]:
        try:
            _refuse_if_gone(root)
        except JobError:
            for folder in Path(name).parents:
                with suppress(OSError):
                    folder.rmdir()
                if os.path.join(folder, "") == root:
                    break
            raise


def _refuse_if_gone(root: str) -> None:
    if not os.path.exists(root + WRITTEN):
        raise JobError(
            f"the output folder {root} was removed or renamed while the job was running; run the job again"
        )


def written_files(folder: str | Path) -> frozenset[str]:
    """Return the names, seen from a job's folder, of the files that the job has written there."""
    path = Path(folder) / WRITTEN
    try:
        text = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except OSError:
        text = b""
    return frozenset(os.fsdecode(name) for name in text.split(b"\n") if name)


def remove_written(folder: str | Path, names: Iterable[str]) -> None:
    """Delete files that a job has written, and the folders that they leave empty.

    Raises
    ------
    InputError
        If a name leads out of the job's folder.
    JobError
        If one cannot be deleted.
    """
    folder = Path(folder)
    left: set[Path] = set()
    for name in names:
        path = inside(folder, name, f"{folder / WRITTEN}")
        try:
            # A link or a folder of that name is none of the job's.
            if path.is_file() and not path.is_symlink():
                path.unlink()
                left.add(path.parent)
        except OSError as error:
            raise JobError(f"{path} could not be deleted: {error.strerror}; delete it by hand") from error
    for one in sorted(left, key=lambda path: len(path.parts), reverse=True):
        while one != folder and one.is_relative_to(folder):
            try:
                one.rmdir()
            except OSError:
                break
            one = one.parent


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in one step (see :func:`replacing`)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def open_log(path: str | Path) -> TextIO:
    """Open a text file to append to, line by line; one that is a link is refused.

    Raises
    ------
    JobError
        If it is a link or no regular file, or cannot be opened.
    """
    path = Path(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link")
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        raise JobError(sentence_for(error, path)) from error
    return open(handle, "a", encoding="utf-8", errors="surrogateescape", buffering=1)


_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def sentence_for(error: OSError, path: str | Path) -> str:
    """Say in words why a file could not be written."""
    # numpy's tofile loses the number: it says "Not enough free space to write N bytes", or after a short
    # write "N requested and M written", which a disk that is full does too.
    if (
        error.errno in (errno.ENOSPC, errno.EDQUOT)
        or "enough free space" in str(error)
        or (error.errno is None and _SHORT_WRITE.search(str(error)))
    ):
        return (
            f"{path} could not be written: the disk is full; free some space and run the job again "
            "(files already finished are kept)"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: no permission; choose another output folder with --o"
    if error.errno == errno.ENAMETOOLONG:
        return f"{str(path)[:60]}… could not be written: the name is too long; choose a shorter one"
    if error.errno == errno.ELOOP:
        return f"{path} could not be written: it is a link, which is not written through; remove the link"
    return f"{path} could not be written: {error.strerror or error}; check the output folder and its disk"


def remove_temporary_files(folder: str | Path, of: str | None = None) -> list[Path]:
    """Delete what a killed run left half-written; return the names.

    Parameters
    ----------
    of
        Only what was to become this file in the folder itself; None: everything below the folder.
    """
    removed = []
    if of is None:
        found = Path(folder).rglob(f".*{TEMPORARY_SUFFIX}")
    else:
        found = Path(folder).glob(f".{of}.*{TEMPORARY_SUFFIX}")
    for leftover in found:
        with suppress(OSError):
            leftover.unlink()
        removed.append(leftover)
    return removed


def inside(root: str | Path, name: str, what: str) -> Path:
    """Join a name that came out of a file to the folder that it must not leave.

    The one way from a name in somebody's file (of a particle, a tomogram, a pipeline node, an alias) to
    a path that is written, moved or removed.

    Parameters
    ----------
    root
        The output folder or project.
    name
        What the file says; a slash at its end counts for nothing.
    what
        The file and column for the message: ``particles.star, rlnTomoParticleName``.

    Raises
    ------
    InputError
        If the name is empty or absolute, has a part ``.`` or ``..`` or a control character, or leads out
        of the folder through a link.
    """
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\0-\x1f\x7f]", name):
        raise InputError(
            f"{what}: {name[:80]!r} leads out of the folder {root} or is no name of a file; correct it"
        )
    path = Path(root, *parts)
    # The last part may be a link: it is replaced or removed, not followed.
    if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(root)):
        raise InputError(
            f"{what}: {name[:80]!r} leads out of the folder {root} through a link; remove the link"
        )
    return path


def check_is_file(path: str | Path) -> os.stat_result:
    """Refuse what cannot be read as a file from its beginning to its end.

    Raises
    ------
    InputError
        If nothing is there, or a folder, a pipe or a device.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:200]} cannot be read ({reason}); check the path") from None
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder; name the file in it")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is no regular file but a device or a pipe; name a file")
    return found


def absolute(path: str | Path) -> Path:
    """Return an absolute path without ``..``; links stay, except those that ``..`` climbs out of."""
    plain = Path(os.path.abspath(path))
    if ".." not in Path(path).parts:
        return plain
    real = os.path.realpath(path)
    return plain if os.path.realpath(plain) == real else Path(real)


def relative_to(path: str | Path, root: str | Path) -> str | None:
    """Return how a path is called from a folder that it lies in, or None if it lies elsewhere.

    Either may be named through links. A link inside the folder that leads out of it counts as inside.
    """
    path, root = absolute(path), absolute(root)
    if path.is_relative_to(root):
        return str(path.relative_to(root))
    # The same through links: of the whole path, or of the folder alone.
    real_root = Path(os.path.realpath(root))
    for one in (path, Path(os.path.realpath(path))):
        if one.is_relative_to(real_root):
            return str(one.relative_to(real_root))
    for above in path.parents:
        if os.path.realpath(above) == str(real_root):
            return str(path.relative_to(above))
    return None


def project_root(path: str | Path) -> Path | None:
    """Return the RELION project that a file or folder lies in, or None.

    That is the nearest folder above it with a ``default_pipeline.star`` of its own, else the parent of
    ``<Type>/jobNNN/``. A job folder holds a copy of the pipeline file, which does not make it a project.
    """
    where = absolute(path)
    for folder in (where, *where.parents):
        if os.path.isfile(folder / "default_pipeline.star") and not _is_job_folder(folder):
            return folder
    for folder in (where, *where.parents):
        if _is_job_folder(folder) and folder.parent != folder.parent.parent:
            return folder.parent.parent
    return None


def is_job_folder(path: str | Path) -> bool:
    """Whether a path is named as a job's folder, or is an alias of RELION's: a link to one beside it."""
    return _is_job_folder(absolute(path))


def _is_job_folder(path: Path) -> bool:
    if _JOB_FOLDER.match(path.name) or not os.path.islink(path):
        return _JOB_FOLDER.match(path.name) is not None
    folder, name = os.path.split(os.path.realpath(path))
    return folder == os.path.realpath(path.parent) and _JOB_FOLDER.match(name) is not None


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
    if str(path) == "":
        raise InputError(f"a file without a name is wanted{_named_in(hints)}; correct the empty entry")
    path = Path(path)
    # os.path.exists, unlike that of Path, answers No to a name that no file can have.
    if path.is_absolute():
        if os.path.exists(path):
            return path
        raise InputError(f"{path} does not exist; check the path" + _named_in(hints))
    if os.path.exists(path):
        return path
    tried = [Path.cwd()]
    for hint in hints:
        root = project_root(hint)
        for folder in ([root] if root else []) + list(absolute(hint).parents):
            if folder in tried:
                continue
            tried.append(folder)
            if os.path.exists(folder / path):
                return folder / path
    places = ", ".join(str(folder) for folder in tried[:3])
    raise InputError(
        f"{path} does not exist{_named_in(hints)} (looked in {places}); RELION's paths count from the "
        "project "
        "folder, so run there or correct the path"
    )


def _named_in(hints: tuple[str | Path, ...]) -> str:
    return f" (named in {hints[0]})" if hints else ""


def counted_from(writer: str | Path) -> Path | None:
    """Return the folder that paths in the file ``writer`` count from; None if they must be absolute.

    That is the project that the writer lies in, or the current folder, if the writer lies below it and in no
    project.
    """
    root = project_root(writer)
    here = Path.cwd()
    if root is None and here != Path(here.anchor) and relative_to(writer, here) is not None:
        root = here
    return root


def path_for(member: str | Path, writer: str | Path) -> str:
    """Return how the file ``writer`` should name the file ``member``.

    Relative to the folder that the writer's paths count from (:func:`counted_from`); absolute if the member
    lies outside of that.
    """
    root = counted_from(writer)
    inner = None if root is None else relative_to(member, root)
    return str(absolute(member)) if inner is None else inner


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
