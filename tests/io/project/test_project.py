"""Jobs added, finished and numbered."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from napari_sta.data.errors import JobError
from napari_sta.io.lock import process_mark
from napari_sta.io.project.project import Project
from napari_sta.io.star import read_star
from project_changes import DEAD, HALF, MAP, SET, edit, put_record, tree


def test_find(project, tmp_path, monkeypatch):
    assert Project.find(project.root).root == project.root
    assert Project.find(project.root / "Extract/job024/particles.star").root == project.root
    (project.root / "default_pipeline.star").unlink()
    assert Project.find(project.root).root == project.root
    assert Project.find(tmp_path) is None
    monkeypatch.chdir(project.root)
    assert Project.find().root == project.root


def test_add_and_finish(project):
    before = read_star(project.root / "default_pipeline.star")
    name = project.add_job("Reconstruct", "relion.reconstructparticletomo", inputs=[SET])
    assert name == "Reconstruct/job038/"
    assert (project.root / name).is_dir()
    assert project.job(name).status == "Running"
    assert project.job(name).inputs == (SET.path,)
    assert not (project.root / ".relion_lock").exists()
    assert (project.root / ".pipeline_has_changed").exists()
    project.finish_job(name, "Succeeded", [MAP, HALF])
    job = project.job(name)
    assert job.status == "Succeeded"
    assert job.outputs == ("Reconstruct/job038/merged.mrc", "Reconstruct/job038/half1.mrc")
    after = read_star(project.root / "default_pipeline.star")
    assert list(after) == list(before)
    assert after["pipeline_general"].row() == {"rlnPipeLineJobCounter": "39"}
    # Nothing that was there has changed; the known node kept its label.
    for table in list(before)[1:]:
        for label, column in before[table].columns.items():
            assert after[table][label].tolist()[: len(column)] == column.tolist()
    assert len(after["pipeline_nodes"]) == len(before["pipeline_nodes"]) + 2
    for entry in (
        "DensityMap/Reconstruct/job038/merged.mrc",
        "DensityMap.mrc.relion.tomo.halfmap.reconstruct/Reconstruct/job038/half1.mrc",
    ):
        assert (project.root / ".Nodes" / entry).exists()


def test_a_taken_number_is_not_used(project):
    (project.root / "Class3D/job038").mkdir(parents=True)
    assert project.add_job("Reconstruct", "relion.external") == "Reconstruct/job039/"
    assert project.next_job == 40


def test_project_without_pipeline_file(project):
    (project.root / "default_pipeline.star").unlink()
    assert project.next_job == 38  # the highest folder is job037
    assert project.add_job("External", "relion.external") == "External/job038/"
    assert read_star(project.root / "default_pipeline.star")["pipeline_general"].row() == {
        "rlnPipeLineJobCounter": "39"
    }
    assert Project(project.root / "nowhere").next_job == 1


def test_numbers_beyond_a_thousand(project):
    text = (project.root / "default_pipeline.star").read_text().replace("38\n", "1000\n")
    (project.root / "default_pipeline.star").write_text(text)
    assert project.add_job("External", "relion.external") == "External/job1000/"


def test_two_processes_get_different_numbers(project):
    code = (
        "import sys; from napari_sta.io.project.project import Project\n"
        "for _ in range(8): print(Project(sys.argv[1]).add_job('External', 'relion.external'))\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(project.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    names = [name for process in both for name in process.communicate(timeout=60)[0].split()]
    assert sorted(names) == [f"External/job{n:03d}/" for n in range(38, 54)]
    assert project.next_job == 54
    assert {job.name for job in project.jobs() if job.in_pipeline} >= set(names)


def test_the_record_is_there_before_the_job_is(project):
    seen = []

    def first(folder: Path) -> None:
        seen.append(
            (
                folder,
                (project.root / ".relion_lock").exists(),
                "job038" in project.root.joinpath("default_pipeline.star").read_text(),
            )
        )
        put_record(folder, **process_mark())

    name = project.add_job("External", "relion.external", first=first)
    assert seen == [(project.root / name, True, False)]
    assert project.job(name).status == "Running"
    put_record(project.root / name, **(process_mark() | {"process": DEAD}))
    assert project.job(name).status == "Aborted"
    assert project.trash_job(name).is_dir()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), JobError("no"), KeyboardInterrupt()])
def test_a_record_that_cannot_be_written_leaves_nothing(project, tmp_path, error):
    before = tree(tmp_path)

    def first(folder: Path) -> None:
        (folder / "job.json").touch()
        raise error

    expected = JobError if isinstance(error, OSError) else type(error)
    with pytest.raises(
        expected, match="disk is full" if expected is JobError and isinstance(error, OSError) else None
    ):
        project.add_job("Extract", "relion.external", first=first)
    assert tree(tmp_path) == before
    assert project.next_job == 38


def test_killed_between_the_folder_and_the_pipeline(project):
    code = (
        "import json, os, sys; from napari_sta.io.lock import process_mark; from napari_sta.io.project.project import Project\n"
        "def first(folder):\n"
        "    if sys.argv[2] == 'record':\n"
        "        (folder / 'job.json').write_text(json.dumps({'job': 'x', 'status': 'Running'} | process_mark()))\n"
        "    os._exit(0)\n"
        "Project(sys.argv[1]).add_job('External', 'relion.external', first=first)\n"
    )
    half = project.root / ".default_pipeline.star.12.ab.sta-tmp"
    half.touch()
    for kind in ("nothing", "record"):
        subprocess.run([sys.executable, "-c", code, str(project.root), kind], check=True, timeout=60)
    first, second = (project.job(f"External/job{number:03d}") for number in (38, 39))
    assert (first.status, first.in_pipeline) == ("Unknown", False)
    assert (second.status, second.in_pipeline) == ("Aborted", False)
    # Neither is in the way of the next, and both can be discarded.
    assert project.add_job("External", "relion.external") == "External/job040/"
    assert not (project.root / ".relion_lock").exists()
    assert not half.exists()
    project.trash_job(second.name)
    os.utime(project.root / "External/job038", (1e9, 1e9))
    project.trash_job(first.name)


def test_a_number_in_the_pipeline_is_not_given_again(project):
    shutil.rmtree(project.root / "PostProcess/job037")
    edit(project, ("38\n", "36\n"))
    assert project.add_job("External", "relion.external") == "External/job036/"
    assert project.add_job("External", "relion.external") == "External/job038/"


def test_a_full_disk_leaves_pipeline_and_folders_as_they_were(project, monkeypatch):
    before = tree(project.root)

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("napari_sta.io.files.os.replace", full)
        for action in (
            lambda: project.add_job("Reconstruct", "relion.external"),
            lambda: project.trash_job("Extract/job024"),
            lambda: project.finish_job("Extract/job024", "Running"),
        ):
            with pytest.raises(JobError, match="disk is full"):
                action()
        # What has ended has ended.
        assert "disk is full" in project.finish_job("Extract/job024", "Failed")
    after = tree(project.root)
    # Folders without a file in them count for nothing.
    assert {k: v for k, v in after.items() if v is not None} == {
        k: v for k, v in before.items() if v is not None
    }
    target = project.trash_job("Extract/job024")
    with monkeypatch.context() as broken:
        broken.setattr("napari_sta.io.files.os.replace", full)
        with pytest.raises(JobError, match="disk is full"):
            project.restore_job(target)
    assert target.is_dir()
    assert project.restore_job(target) == "Extract/job024/"


def test_read_only_project(project, monkeypatch):
    def read_only(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    for action in (
        lambda: project.add_job("Reconstruct", "relion.external"),
        lambda: project.trash_job("Extract/job024"),
    ):
        with pytest.raises(JobError, match="no permission"):
            action()
    assert project.job("Extract/job024").status == "Succeeded"
