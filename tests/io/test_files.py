"""Finding files as RELION names them, and writing them whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from napari_sta.data.errors import InputError, JobError
from napari_sta.io.files import (
    check_is_file,
    inside,
    open_log,
    path_for,
    project_root,
    relative_to,
    remove_temporary_files,
    replacing,
    resolve,
    sentence_for,
    write_text,
)


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_project_root(tmp_path):
    job = _touch(tmp_path / "proj/Extract/job010/particles.star")
    assert project_root(job) == tmp_path / "proj"
    assert project_root(tmp_path / "proj") is None
    # The copy in a job folder does not make the job folder a project.
    _touch(tmp_path / "proj/Extract/job010/default_pipeline.star")
    assert project_root(job) == tmp_path / "proj"
    _touch(tmp_path / "proj/default_pipeline.star")
    assert project_root(tmp_path / "proj") == tmp_path / "proj"
    assert project_root(tmp_path / "proj/masks/mask.mrc") == tmp_path / "proj"


def test_resolve_tries_current_folder_project_and_ancestors(tmp_path, monkeypatch):
    hint = _touch(tmp_path / "proj/Extract/job010/set.star")
    member = _touch(tmp_path / "proj/Tomograms/job007/tomograms.star")
    loose = _touch(tmp_path / "data/deep/set.star")
    beside = _touch(tmp_path / "data/stacks/a.mrc")
    monkeypatch.chdir(tmp_path / "data")
    assert resolve("Tomograms/job007/tomograms.star", hint) == member
    assert resolve("stacks/a.mrc") == Path("stacks/a.mrc")
    monkeypatch.chdir("/")
    assert resolve("stacks/a.mrc", loose) == beside
    assert resolve(str(member)) == member
    with pytest.raises(InputError, match=r"nope\.mrc does not exist \(named in .*set\.star\).*proj"):
        resolve("nope.mrc", hint)
    with pytest.raises(InputError, match="does not exist"):
        resolve("/nope/nope.mrc")


def test_how_a_set_names_its_members(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    member = _touch(tmp_path / "proj/Tomograms/job007/tomograms.star")
    inside = tmp_path / "proj/Recenter/job040/optimisation_set.star"
    assert path_for(member, inside) == "Tomograms/job007/tomograms.star"
    assert path_for(member, tmp_path / "elsewhere/set.star") == str(member)
    assert path_for(tmp_path / "other/x.star", inside) == str(tmp_path / "other/x.star")
    monkeypatch.chdir(tmp_path)
    assert path_for("out/particles.star", "out/set.star") == "out/particles.star"


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "new/deep/x.txt"
    write_text(path, "one")

    def fail_halfway() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "one"
    assert [one.name for one in path.parent.iterdir()] == ["x.txt"]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="could not be written"):
        write_text(tmp_path / "file/x.txt", "one")


def test_a_killed_writer_leaves_only_a_temporary_file(tmp_path):
    path = tmp_path / "map.mrc"
    code = (
        "import sys, time; from napari_sta.io.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    with open(temporary, 'wb') as f:\n"
        "        f.write(b'half'); f.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    assert len(remove_temporary_files(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.txt").symlink_to(victim)
    write_text(out / "x.txt", "one")
    assert victim.read_text() == "mine"
    assert (out / "x.txt").read_text() == "one"
    assert not (out / "x.txt").is_symlink()
    (out / "run.out").symlink_to(victim)
    with pytest.raises(JobError, match="it is a link"):
        open_log(out / "run.out")
    os.mkfifo(out / "run.err")
    with pytest.raises(JobError, match="no regular file"):
        open_log(out / "run.err")
    with open_log(out / "note.txt") as file:
        file.write("a\n")
    with open_log(out / "note.txt") as file:
        file.write("b\n")
    assert (out / "note.txt").read_text() == "a\nb\n"


@pytest.mark.parametrize(
    "name", ["", "/", "/etc/x", "..", "../x", "a/../x", "a//x", "./x", "a/.", "a\0b", "a\nb", "a/../../x"]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"some\.star, rlnTomoName"):
        inside(tmp_path, name, "some.star, rlnTomoName")


def test_names_stay_inside_links_too(tmp_path):
    root, victim = tmp_path / "root", tmp_path / "victim"
    root.mkdir()
    victim.mkdir()
    assert inside(root, "TS_01/1", "x") == root / "TS_01/1"
    assert inside(root, "Extract/job010/", "x") == root / "Extract/job010"
    assert inside(root, "..a/b..", "x") == root / "..a/b.."
    (root / "out").symlink_to(victim)
    with pytest.raises(InputError, match="through a link"):
        inside(root, "out/1", "x")
    # The last part is replaced or removed as a link, never followed.
    assert inside(root, "out", "x") == root / "out"
    # The folder itself may be named through a link.
    (tmp_path / "alias").symlink_to(root)
    assert inside(tmp_path / "alias", "a/b", "x") == tmp_path / "alias/a/b"


def test_only_files_are_read_as_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.star")
    for path, words in [
        (tmp_path / "nope", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.star", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (Path("x" * 300), "cannot be read"),
        (Path("a\0b"), "cannot be read"),
    ]:
        with pytest.raises(InputError, match=words):
            check_is_file(path)
    with pytest.raises(InputError, match="does not exist"):
        resolve("x" * 300)
    with pytest.raises(InputError, match=r"without a name .*named in particles\.star.*; correct"):
        resolve("", "particles.star")
    with pytest.raises(JobError, match="too long"):
        write_text(tmp_path / ("x" * 300), "one")


def test_paths_are_compared_where_they_lead(tmp_path, monkeypatch):
    root = tmp_path / "scratch/proj"
    member = _touch(root / "Tomograms/job001/tomograms.star")
    (root / "Picks/job002").mkdir(parents=True)
    (root / "Extract/job003").mkdir(parents=True)
    (tmp_path / "proj").symlink_to(root)
    wanted = "Tomograms/job001/tomograms.star"
    for cwd in (root, root / "Picks/job002", tmp_path, Path("/")):
        monkeypatch.chdir(cwd)
        for seen in (tmp_path / "proj", root):
            for written in (tmp_path / "proj", root):
                assert path_for(seen / wanted, written / "Extract/job003/set.star") == wanted
    monkeypatch.chdir(root / "Picks/job002")
    assert path_for("../../" + wanted, "../../Extract/job003/set.star") == wanted
    assert project_root("../../Extract/job003") == root
    # A folder of the project that is a link to another disk keeps its name in the project.
    elsewhere = _touch(tmp_path / "disk2/TS_01.mrc")
    (root / "stacks").symlink_to(elsewhere.parent)
    assert path_for(root / "stacks/TS_01.mrc", root / "Extract/job003/set.star") == "stacks/TS_01.mrc"
    assert relative_to(member, root / "Extract") is None
    assert relative_to(root, root) == "."


def test_a_short_write_means_a_full_disk():
    assert "disk is full" in sentence_for(OSError("48384 requested and 7680 written"), "x")
    assert "disk is full" in sentence_for(OSError(28, "No space left on device"), "x")
    assert "disk is full" not in sentence_for(OSError(5, "Input/output error"), "x")


def test_what_gets_its_name_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append("sync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (synced.append("rename"), rename(a, b)))
    write_text(tmp_path / "x", "one")
    assert synced == ["sync", "rename"]
