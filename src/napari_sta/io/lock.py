"""RELION's lock on a project, and which process holds something.

RELION's protocol: whoever makes the folder ``.relion_lock`` holds the lock, puts the file
``lock_default_pipeline.star`` into it, and removes both. Ours appears and vanishes whole, by renaming, so
that a process killed at any moment leaves either no lock or one that names its dead owner.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from napari_sta import _interrupt
from napari_sta.data.errors import JobError
from napari_sta.io.files import sentence_for

LOCK_FOLDER = ".relion_lock"
_LOCK_FILE = "lock_default_pipeline.star"

# RELION puts its file into a lock at once; a lock that stays empty is of a process killed in between.
_EMPTY_IS_STALE_S = 10.0
# A folder of ours that is not yet, or no longer, the lock; empty ones do not say whose they are.
_ASIDE = re.compile(r"\.relion_lock\.([0-9]+)(?:\.([0-9a-f]+))?")
_EMPTY_ASIDE_IS_STALE_S = 600.0
_PAUSE_S = 0.05
# To open without following a link, or waiting for a pipe.
_PLAIN_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


# ----------------------------------------------------------------------------------------------------
# Processes


def process_mark() -> dict[str, str | int]:
    """Return what a record says of the process that wrote it.

    Returns
    -------
    mark
        ``host``, ``process`` (its number) and ``process_started``, by which the process is told from a
        later one of the same number; empty where the system does not say.
    """
    process = os.getpid()
    return {"host": socket.gethostname(), "process": process, "process_started": _started(process)}


def is_dead(host: object, process: object, started: object = "") -> bool:
    """Whether a process is known to run no more; False if that cannot be found out from here.

    Parameters
    ----------
    host, process, started
        What :func:`process_mark` said of it. ``started`` may be empty: of an older version, or of a
        system that does not say.
    """
    if host != socket.gethostname():
        return False
    if isinstance(process, bool) or not isinstance(process, int) or not 0 < process < 2**31:
        return True  # no process has such a number
    if os.name == "nt":  # there, signal 0 is no question but Ctrl-C
        return False
    boot, space, ticks = _parts(started)
    own_boot, own_space, _ = _parts(_started(os.getpid()))
    if boot and own_boot and boot != own_boot:
        return True
    if space and own_space and space != own_space:
        return False  # in another container, whose numbers are not ours
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # somebody else's
    state, now = _state(process)
    # A zombie has ended; only whoever started it has not looked yet.
    return state in ("Z", "X") or bool(ticks and now and ticks != now)


def _started(process: int) -> str:
    """Return ``boot:space:ticks``: which boot and process space the number counts in, and since when."""
    ticks = _state(process)[1]
    if not ticks:
        return ""
    boot = space = ""
    with suppress(OSError, UnicodeDecodeError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with suppress(OSError):
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    return f"{boot}:{space}:{ticks}"


def _state(process: int) -> tuple[str, str]:
    """Return a process's state, as one letter, and its start in clock ticks; empty where not to be had."""
    try:
        # The name in brackets may hold anything, blanks and brackets too.
        words = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return words[0].decode("ascii"), words[19].decode("ascii")  # fields 3 and 22
    except (OSError, IndexError, UnicodeDecodeError):
        return "", ""


def _parts(started: object) -> tuple[str, str, str]:
    words = started.split(":") if isinstance(started, str) else []
    return (words[0], words[1], words[2]) if len(words) == 3 else ("", "", "")


# ----------------------------------------------------------------------------------------------------
# The lock


@contextmanager
def relion_lock(root: Path, patience_s: float) -> Iterator[None]:
    """Hold RELION's lock on the pipeline file of a project.

    A lock of ours whose process died is taken over, and one that stays empty is removed; RELION's own is
    waited for.

    Parameters
    ----------
    root
        The project folder.
    patience_s
        How long to wait for another program to release it.

    Raises
    ------
    JobError
        If another program does not release it in time, or the project cannot be written to.
    """
    end = time.monotonic() + patience_s
    mine = _Lock.prepared(root)
    try:
        while not mine.placed() and not mine.taken_over():
            if time.monotonic() > end:
                raise JobError(
                    f"the project {root} is locked by another program{_holder(mine.folder)}; wait for it to "
                    f"finish, or remove the folder {mine.folder} if no RELION is running"
                )
            time.sleep(_PAUSE_S)
        mine.clear_aside()
        _remove_leftovers(root)
        yield
    finally:
        with _interrupt.deferred():
            mine.release()


@dataclass
class _Lock:
    """A lock that this process has made ready, and may hold.

    Attributes
    ----------
    folder
        ``.relion_lock``.
    aside
        Our folder beside it, with the lock file inside.
    text
        What our lock file says; no other says the same.
    made
        Its time by the clock of the file system, and by ours.
    """

    folder: Path
    aside: Path
    text: str
    made: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def prepared(cls, root: Path) -> _Lock:
        """Make the lock beside its place."""
        mark, token = process_mark(), _here() + secrets.token_hex(8)
        started = mark["process_started"] or "-"
        lock = cls(
            folder=root / LOCK_FOLDER,
            aside=root / f"{LOCK_FOLDER}.{os.getpid()}.{token}",
            text=f"napari-sta {mark['process']} {mark['host']} {started} {token}\n",
        )
        try:
            lock.aside.mkdir()
            (lock.aside / _LOCK_FILE).write_text(lock.text, encoding="utf-8")
            lock.made = (lock.aside.stat().st_mtime, time.monotonic())
        except OSError as error:
            lock.clear_aside()
            raise JobError(sentence_for(error, root / "default_pipeline.star")) from error
        except BaseException:
            lock.clear_aside()
            raise
        return lock

    @property
    def file(self) -> Path:
        return self.folder / _LOCK_FILE

    def placed(self) -> bool:
        """Put our lock into its place, if that is free."""
        try:
            renamed = _rename_if_free(self.aside, self.folder)
            return self._placed_in_steps() if renamed is None else renamed
        except OSError as error:
            raise JobError(sentence_for(error, self.folder.with_name("default_pipeline.star"))) from error

    def _placed_in_steps(self) -> bool:
        # A plain rename would replace an empty folder, which RELION's lock is for a moment.
        try:
            self.folder.mkdir()
        except FileExistsError:
            return False
        try:
            # Whoever gets a file into the folder holds the lock, however slow each of us is.
            try:
                os.link(self.aside / _LOCK_FILE, self.file)
            except (FileExistsError, FileNotFoundError):
                raise
            except (OSError, NotImplementedError):  # a file system without hard links
                with open(self.file, "x", encoding="utf-8") as file:
                    file.write(self.text)
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError:
            with suppress(OSError):
                self.folder.rmdir()
            raise
        return True

    def taken_over(self) -> bool:
        """Take over the lock of a dead process of ours; remove an empty one that has been left."""
        try:
            if self.folder.is_symlink():
                return False
            age = self.made[0] + time.monotonic() - self.made[1] - self.folder.stat().st_mtime
            if os.listdir(self.folder):
                return self._inherited()
            if age > _EMPTY_IS_STALE_S:
                self._remove_empty()
        except OSError:
            pass
        return False

    def _remove_empty(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            # Of two that found the same empty folder, the slower must not remove what came after it.
            if _guarded(handle) is not False and _is_same(handle, self.folder):
                self.folder.rmdir()  # which fails if it is no longer empty
        finally:
            os.close(handle)

    def _inherited(self) -> bool:
        handle = os.open(self.file, os.O_RDWR | _PLAIN_FILE)
        try:
            text = os.read(handle, 1000).decode("utf-8", errors="replace")
            # The kernel lets one at a time through here, and frees the way if that one dies. Whoever comes
            # later has the old file in hand, which then is not the one in its place any more.
            if not _is_of_the_dead(text) or not _guarded(handle) or not _is_same(handle, self.file):
                return False
            os.replace(self.aside / _LOCK_FILE, self.file)
            return True
        finally:
            os.close(handle)

    def release(self) -> None:
        """Give the lock up if we hold it; one that somebody has removed by hand is no concern any more."""
        ours = _said(self.file) == self.text
        self.clear_aside()
        if ours:
            try:
                self.folder.rename(self.aside)
            except OSError:
                _clear(self.folder)
            else:
                self.clear_aside()

    def clear_aside(self) -> None:
        """Remove what is left of our folder beside the lock."""
        _clear(self.aside)


def _clear(folder: Path) -> None:
    with suppress(OSError):
        (folder / _LOCK_FILE).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _said(file: Path) -> str:
    """Return what a lock file says; nothing if it is none."""
    try:
        handle = os.open(file, os.O_RDONLY | _PLAIN_FILE)
    except OSError:
        return ""
    try:
        return os.read(handle, 1000).decode("utf-8", errors="replace")
    except OSError:
        return ""
    finally:
        os.close(handle)


def _is_of_the_dead(text: str) -> bool:
    """Whether a lock file is ours and its process is known to run no more."""
    words = text.split()
    if len(words) < 3 or words[0] != "napari-sta" or not re.fullmatch("[0-9]{1,10}", words[1]):
        return False
    return is_dead(words[2], int(words[1]), words[3] if len(words) > 3 else "")


def _holder(folder: Path) -> str:
    """Say who holds a lock, if it is ours."""
    words = _said(folder / _LOCK_FILE).split()
    if len(words) < 3 or words[0] != "napari-sta":
        return ""
    return f" (napari-sta, process {words[1][:12]} on {words[2][:80]})"


def _remove_leftovers(root: Path) -> None:
    """Remove what processes that were killed in here left beside the lock."""
    with suppress(OSError), os.scandir(root) as entries:
        for entry in [one for one in entries if _ASIDE.fullmatch(one.name)]:
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    continue
                text = _said(Path(entry.path, _LOCK_FILE))
                is_old = time.time() - entry.stat().st_mtime > _EMPTY_ASIDE_IS_STALE_S
                name = _ASIDE.fullmatch(entry.name)
                process, token = (name[1], name[2] or "") if name else ("", "")
                is_ours = token.startswith(_here()) and len(process) < 11
                if (
                    _is_of_the_dead(text)
                    or (not text and is_old)
                    or (not text and is_ours and is_dead(socket.gethostname(), int(process)))
                ):
                    _clear(Path(entry.path))


def _here() -> str:
    """Return eight letters that stand for this computer since it was started."""
    where = f"{socket.gethostname()} {_started(os.getpid()).rpartition(':')[0]}"
    return f"{zlib.crc32(where.encode()):08x}"


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


def _guarded(handle: int) -> bool | None:
    """Lock an open file against other processes here until it is closed; None if the system cannot."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _rename_if_free(source: Path, target: Path) -> bool | None:
    """Rename, unless something is there, be it an empty folder; None if the system has no such call."""
    import ctypes

    at_fdcwd, no_replace = -100, 1
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    if call(at_fdcwd, os.fsencode(source), at_fdcwd, os.fsencode(target), ctypes.c_uint(no_replace)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EEXIST, errno.ENOTEMPTY):
        return False
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return None
    raise OSError(number, os.strerror(number), str(target))
