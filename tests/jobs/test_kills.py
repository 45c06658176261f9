"""kill -9 between any two calls to the system: what is left is known, and can be gone on with."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import napari_sta.jobs
from napari_sta.data.errors import InputError
from napari_sta.io.files import WRITTEN
from napari_sta.io.mrc import read_volume
from napari_sta.io.project.markers import status_of
from napari_sta.io.project.project import Project
from napari_sta.io.star import read_star
from napari_sta.jobs._job import job_named
from napari_sta.jobs._records import read_record
from napari_sta.jobs._run import JobRun, resume
from napari_sta.jobs._run_options import RunOptions

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.utime")


@pytest.fixture(autouse=True)
def _extra_job(monkeypatch):
    extra = Path(__file__).parent / "extra"
    monkeypatch.setattr(napari_sta.jobs, "__path__", [*napari_sta.jobs.__path__, str(extra)])


def run(root: Path, out: Path | None = None, needed_angst: str = "3") -> JobRun:
    job = job_named("practise").from_text({"needed_angst": needed_angst})
    one = JobRun(job, RunOptions(out=out, threads=1, project=None if out else root))
    for _ in one.steps():
        pass
    return one


def killed_at(number: int, root: Path, out: Path | None, needed_angst: str = "3") -> bool:
    """Run a job in a process that dies before its n-th touch of the project; False if it came to its end."""
    process = os.fork()
    if process == 0:
        left = [number]

        def count(event: str, arguments: tuple[object, ...]) -> None:
            if event in EVENTS and str(root) in str(arguments[0]) + str(arguments[1:2]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), 9)

        try:
            sys.addaudithook(count)
            run(root, out, needed_angst)
        finally:
            os._exit(0)
    return os.waitpid(process, 0)[1] == 9


def moments(most: int) -> list[int]:
    """Every one at the start, where folder, record and lock are made, and then some."""
    return [*range(1, 31), *range(31, most, 4)]


def assert_whole(folder: Path) -> None:
    assert status_of(folder) == "Succeeded"
    assert read_record(folder)["status"] == "Succeeded"
    assert read_volume(folder / "map.mrc").data[0, 0, 0] == 3
    assert not list(folder.rglob("*.sta-tmp"))


def test_a_job_of_a_project(data, tmp_path):
    n_resumed = 0
    for number in moments(400):
        root = tmp_path / f"{number}"
        root.mkdir()
        shutil.copy(data / "project/default_pipeline.star", root)
        if not killed_at(number, root, None):
            break
        project = Project(root)
        jobs = {job.name: job for job in project.jobs() if job.name.startswith("External/job038")}
        assert all(job.status != "Running" for job in jobs.values()), number
        folder = root / "External/job038"
        if (folder / "job.json").exists() and status_of(folder) != "Succeeded":
            n_resumed += 1
            for _ in resume(folder).steps():
                pass
            assert_whole(folder)
            read_star(root / "default_pipeline.star")
        # And the next job is not held up.
        assert_whole(run(root).out or Path())
        assert not (root / ".relion_lock").exists()
    else:
        raise AssertionError("it never came to its end")
    assert n_resumed > 20


def test_a_job_in_a_folder_of_ones_own(tmp_path):
    for number in moments(400):
        root = tmp_path / f"{number}"
        root.mkdir()
        out = root / "out"
        if not killed_at(number, root, out):
            break
        if out.exists() and not (out / "job.json").exists():
            with pytest.raises(InputError, match="start the job again"):
                resume(out)
        run(root, out)  # the same command again
        assert_whole(out)
    else:
        raise AssertionError("it never came to its end")


def test_a_folder_made_anew_with_other_values(tmp_path):
    """The earlier values' files are gone or complete whatever happens, never mixed."""
    first = tmp_path / "first"
    first.mkdir()
    run(first, first / "out", "7")
    (first / "out/RELION_JOB_EXIT_SUCCESS").unlink()
    text = (first / "out/job.json").read_text().replace('"status": "Succeeded"', '"status": "Aborted"')
    (first / "out/job.json").write_text(text)
    for number in moments(400):
        root = tmp_path / f"{number}"
        shutil.copytree(first, root)
        out = root / "out"
        if not killed_at(number, root, out):
            break
        found = out / "map.mrc"
        if found.exists():
            recorded = read_record(out)["values"]["needed_angst"]
            assert read_volume(found).data[0, 0, 0] == recorded or recorded == 7.0
            assert "map.mrc" in (out / WRITTEN).read_text().splitlines()
        run(root, out)
        assert_whole(out)
    else:
        raise AssertionError("it never came to its end")
