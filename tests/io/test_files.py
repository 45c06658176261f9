"""Finding files as RELION names them, and writing them whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from napari_sta.data.errors import InputError, JobError
from napari_sta.io.files import (
    path_for,
    project_root,
    remove_temporary_files,
    replacing,
    resolve,
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
