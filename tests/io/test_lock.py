"""RELION's lock: whole, outlived by nobody, never stolen, never waited for too long."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from napari_sta.data.errors import JobError
from napari_sta.io import lock as locks
from napari_sta.io.lock import is_dead, process_mark, relion_lock

FOLDER, FILE = ".relion_lock", "lock_default_pipeline.star"
# No process has this number: it is beyond what Linux gives.
DEAD = 2**30
ORPHAN = f"napari-sta {DEAD} {socket.gethostname()}\n"


def put_lock(root: Path, text: str | None, age_s: float = 0.0, name: str = FOLDER) -> Path:
    folder = root / name
    folder.mkdir()
    if text is not None:
        (folder / FILE).write_text(text)
    os.utime(folder, (time.time() - age_s, time.time() - age_s))
    return folder


def names(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


@pytest.fixture(params=["renamed", "in steps"])
def way(request, monkeypatch):
    """Both ways in: file systems with and without a rename that replaces nothing."""
    if request.param == "in steps":
        monkeypatch.setattr(locks, "_rename_if_free", lambda source, target: None)


@pytest.mark.usefixtures("way")
def test_held_as_relion_holds_it_and_gone_after(tmp_path):
    with relion_lock(tmp_path, 0.1):
        assert (tmp_path / FOLDER / FILE).read_text().startswith(f"napari-sta {os.getpid()} ")
        with pytest.raises(FileExistsError):
            (tmp_path / FOLDER).mkdir()
        began = time.monotonic()
        with pytest.raises(
            JobError, match=f"locked by another program .napari-sta, process {os.getpid()} on"
        ):
            relion_lock(tmp_path, 0.1).__enter__()
        assert time.monotonic() - began < 1
    assert names(tmp_path) == []


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("text", ["", "napari-sta\n", "napari-sta x y\n", f"relion {DEAD} {socket.gethostname()}\n",
                                  f"napari-sta {DEAD} another-computer\n", f"napari-sta {os.getpid()} {socket.gethostname()}\n"],
                         ids=["empty", "no number", "no process", "RELION", "another computer", "this process"])  # fmt: skip
def test_a_lock_that_may_be_live_is_left_alone(tmp_path, text):
    put_lock(tmp_path, text, age_s=1e6)
    with pytest.raises(JobError, match="is locked by another program"):
        relion_lock(tmp_path, 0.1).__enter__()
    assert (tmp_path / FOLDER / FILE).read_text() == text
    assert names(tmp_path) == [FOLDER]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "text",
    [
        ORPHAN,
        f"napari-sta {DEAD} {socket.gethostname()} - 0123\n",
        f"napari-sta {2**31} {socket.gethostname()}\n",
        # The number was given again, to us.
        f"napari-sta {os.getpid()} {socket.gethostname()} another-boot:1:1 0123\n",
        pytest.param(
            f"napari-sta {os.getpid()} {socket.gethostname()} ::1 0123\n",
            marks=pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
        ),
    ],
    ids=["orphan", "before boots were told", "no such process", "another boot", "another start"],
)
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, text):
    put_lock(tmp_path, text)
    with relion_lock(tmp_path, 0.0):
        # RELION never sees the project unlocked in between.
        assert (tmp_path / FOLDER / FILE).read_text() != text
    assert names(tmp_path) == []


@pytest.mark.usefixtures("way")
def test_an_empty_lock_is_waited_for_and_removed_once_it_is_old(tmp_path, monkeypatch):
    put_lock(tmp_path, None)
    with pytest.raises(JobError, match="is locked"):
        relion_lock(tmp_path, 0.2).__enter__()
    monkeypatch.setattr(locks, "_EMPTY_IS_STALE_S", 0.3)
    with relion_lock(tmp_path, 5):
        pass
    put_lock(tmp_path, None, age_s=1000)
    with relion_lock(tmp_path, 0.2):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to nothing", "pipe inside"])
def test_what_is_no_lock_of_anybody_is_waited_for_not_followed(tmp_path, kind):
    root, victim = tmp_path / "project", tmp_path / "victim"
    root.mkdir()
    victim.mkdir()
    (victim / FILE).write_text(ORPHAN)
    if kind == "file":
        (root / FOLDER).write_text("x")
    elif kind == "pipe inside":
        (root / FOLDER).mkdir()
        os.mkfifo(root / FOLDER / FILE)
    else:
        (root / FOLDER).symlink_to(victim if kind == "link to a folder" else tmp_path / "none")
    began = time.monotonic()
    with pytest.raises(JobError, match="is locked"):
        relion_lock(root, 0.1).__enter__()
    assert time.monotonic() - began < 1
    assert os.path.lexists(root / FOLDER)
    assert (victim / FILE).read_text() == ORPHAN
    assert names(tmp_path) == ["project", "victim"]


def test_a_lock_that_vanished_or_became_anothers_is_no_failure(tmp_path):
    with relion_lock(tmp_path, 1):
        shutil.rmtree(tmp_path / FOLDER)
    assert names(tmp_path) == []
    with relion_lock(tmp_path, 1):
        shutil.rmtree(tmp_path / FOLDER)
        put_lock(tmp_path, "")
    assert names(tmp_path) == [FOLDER]  # RELION's


def test_leftovers_of_dead_processes_are_removed_and_no_others(tmp_path):
    put_lock(tmp_path, ORPHAN, name=f"{FOLDER}.{DEAD}")
    put_lock(tmp_path, ORPHAN, name=f"{FOLDER}.{DEAD}.0a1b")
    put_lock(tmp_path, None, age_s=1e4, name=f"{FOLDER}.12.ab")
    put_lock(tmp_path, None, name=f"{FOLDER}.13.ab")
    put_lock(tmp_path, f"napari-sta {os.getpid()} {socket.gethostname()} - a\n", name=f"{FOLDER}.14.ab")
    put_lock(tmp_path, ORPHAN, name=f"{FOLDER}.mine")
    (tmp_path / f"{FOLDER}.15.ab").symlink_to(tmp_path / f"{FOLDER}.mine")
    with relion_lock(tmp_path, 1):
        pass
    assert names(tmp_path) == [f"{FOLDER}.{one}" for one in ("13.ab", "14.ab", "15.ab", "mine")]
    assert (tmp_path / f"{FOLDER}.mine" / FILE).exists()


# -- races --------------------------------------------------------------------------------------------

INSIDE = """
import os, sys, time
from pathlib import Path
from napari_sta.io import lock
root, way = Path(sys.argv[1]), sys.argv[2]
if way == "in steps":
    lock._rename_if_free = lambda source, target: None
lock._PAUSE_S = 0.002
for _ in range(int(sys.argv[3])):
    with lock.relion_lock(root, 30):
        (root / "inside").mkdir()  # fails if anybody else is in
        (root / "count").write_text(str(int((root / "count").read_text()) + 1))
        (root / "inside").rmdir()
        if sys.argv[4] == "die":
            os._exit(0)
"""


@pytest.mark.parametrize("how", ["renamed", "in steps"])
@pytest.mark.parametrize("start", [ORPHAN, None])
def test_never_two_inside(tmp_path, how, start):
    (tmp_path / "count").write_text("0")
    put_lock(tmp_path, start, age_s=1000)
    # Two of them die inside, so that locks are orphaned while the others wait.
    runs = [("8", "live"), ("8", "live"), ("1", "die"), ("1", "die")]
    commands = [[sys.executable, "-c", INSIDE, str(tmp_path), how, n, end] for n, end in runs]
    processes = [subprocess.Popen(one, stderr=subprocess.PIPE, text=True) for one in commands]
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert told == [""] * 4
    assert (tmp_path / "count").read_text() == "18"
    with relion_lock(tmp_path, 1):
        pass
    assert names(tmp_path) == ["count"]


def test_who_looked_before_another_took_the_orphan_over_does_not_get_in(tmp_path, monkeypatch):
    """The order that once let two in: B finds the orphan, A takes it over, B acts on what it had found."""
    put_lock(tmp_path, ORPHAN)
    looked, go_on, came_in = threading.Event(), threading.Event(), threading.Event()
    real = locks._is_of_the_dead

    def slow(text: str) -> bool:
        answer = real(text)
        if threading.current_thread().name == "B" and answer:
            looked.set()
            go_on.wait(10)
        return answer

    monkeypatch.setattr(locks, "_is_of_the_dead", slow)

    def second() -> None:
        with relion_lock(tmp_path, 10):
            came_in.set()

    thread = threading.Thread(target=second, name="B")
    thread.start()
    assert looked.wait(10)
    with relion_lock(tmp_path, 1):
        held = (tmp_path / FOLDER / FILE).read_text()
        go_on.set()
        assert not came_in.wait(0.3)
        assert (tmp_path / FOLDER / FILE).read_text() == held
    thread.join(10)
    assert came_in.is_set()
    assert names(tmp_path) == []


def test_who_found_an_empty_lock_does_not_remove_what_came_after_it(tmp_path, monkeypatch):
    put_lock(tmp_path, None, age_s=1000)
    real = locks._guarded

    def replaced(handle: int) -> bool | None:
        answer = real(handle)
        (tmp_path / FOLDER).rmdir()
        (tmp_path / FOLDER).mkdir()  # RELION, which has not put its file into it yet
        return answer

    monkeypatch.setattr(locks, "_guarded", replaced)
    with pytest.raises(JobError, match="is locked"):
        relion_lock(tmp_path, 0.1).__enter__()
    assert names(tmp_path) == [FOLDER]


@pytest.mark.parametrize("moment", ["mkdir", "write", "rename", "held", "release"])
def test_killed_at_any_moment_it_blocks_nobody(tmp_path, moment):
    code = (
        "import os, sys; from pathlib import Path; from napari_sta.io import lock\n"
        "die = lambda *a, **k: os._exit(0)\n"
        "moment = sys.argv[2]\n"
        "if moment == 'mkdir': Path.write_text = die\n"
        "if moment == 'write': lock._rename_if_free = die\n"
        "if moment == 'rename': lock._remove_leftovers = die\n"
        "with lock.relion_lock(Path(sys.argv[1]), 5):\n"
        "    if moment == 'held': die()\n"
        "    lock._clear = die\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), moment], check=True, timeout=60)
    assert names(tmp_path) != []
    with relion_lock(tmp_path, 0.5):
        pass
    assert [one for one in names(tmp_path) if one == FOLDER or moment != "mkdir"] == []


# -- disks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.EROFS, "no permission"), (errno.EACCES, "no permission"), (errno.ENOSPC, "disk is full")],
)
@pytest.mark.parametrize(
    ("call", "held"),
    [
        ("mkdir", False),
        ("mkdir", True),
        ("write_text", False),
        ("write_text", True),
        ("_rename_if_free", False),
    ],
)
def test_a_disk_that_cannot_be_written_gives_a_sentence(tmp_path, monkeypatch, number, sentence, call, held):
    if held:
        put_lock(tmp_path, ORPHAN)

    def fails(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(locks if call == "_rename_if_free" else Path, call, fails)
        began = time.monotonic()
        with pytest.raises(JobError, match=rf"default_pipeline.star could not be written: .*{sentence}"):
            relion_lock(tmp_path, 30).__enter__()
        assert time.monotonic() - began < 1
    assert [one for one in names(tmp_path) if one != FOLDER] == []


def test_an_orphan_that_cannot_be_replaced_is_waited_for_without_spinning(tmp_path, monkeypatch):
    put_lock(tmp_path, ORPHAN)

    def fails(*_args):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "replace", fails)
    began, worked = time.monotonic(), time.process_time()
    with pytest.raises(JobError, match="is locked"):
        relion_lock(tmp_path, 0.5).__enter__()
    assert 0.5 <= time.monotonic() - began < 2
    assert time.process_time() - worked < 0.3
    assert names(tmp_path) == [FOLDER]


# -- processes ----------------------------------------------------------------------------------------


def test_processes_and_who_bears_their_number_later():
    mark = process_mark()
    assert mark["process"] == os.getpid()
    assert not is_dead(*mark.values())
    assert not is_dead(mark["host"], mark["process"])
    assert is_dead(mark["host"], DEAD)
    assert not is_dead("another-computer", DEAD)
    for nonsense in (0, -1, -9, 2**31, 2**70, "12", 1.5, None, True, [1]):
        assert is_dead(mark["host"], nonsense)
    for nonsense in ("", "a:b", 5, None, ["x"]):
        assert not is_dead(mark["host"], mark["process"], nonsense)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_process_that_ended_unnoticed_is_dead():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not is_dead(socket.gethostname(), process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(socket.gethostname(), process.pid)
    process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_number_given_again_is_not_the_same_process():
    mark = process_mark()
    boot, space, ticks = str(mark["process_started"]).split(":")
    assert is_dead(mark["host"], mark["process"], f"{boot}:{space}:{int(ticks) - 1}")
    assert is_dead(mark["host"], mark["process"], f"x{boot}:{space}:{ticks}")
    # Numbers of another container say nothing here.
    assert not is_dead(mark["host"], DEAD, f"{boot}:1{space}:{ticks}")
