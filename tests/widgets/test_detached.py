"""Jobs in processes of their own."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from qt_loop import settle

from napari_sta.data.errors import JobError
from napari_sta.jobs._job import job_named
from napari_sta.jobs._words import words_of
from napari_sta.widgets._detached import Detached, resume_words, safe_environment
from napari_sta.widgets.job_dock import JobDock


def over(apart: Detached) -> int:
    assert settle(lambda: apart.status() is not None, 60)
    return apart.status()


HOSTILE = ("tqdm", "torch", "json", "numpy", "scipy", "napari_sta", "sitecustomize")


@pytest.mark.parametrize("path", [None, "", ".", f"{os.pathsep}."])
def test_no_python_file_of_the_project_is_imported(project, monkeypatch, path, tmp_path):
    for name in HOSTILE:
        (project / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    given = [one for one in sys.path if one and os.path.isabs(one) and one.endswith("src")]
    if path is not None:  # an empty entry stands for the folder a process works in
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*given, path]))
    monkeypatch.chdir(tmp_path)
    job = job_named("recenter").from_text(
        {"in_optimisation_set": "Select/job002/optimisation_set.star", "center_z_px": "-1.5"}
    )
    assert over(Detached.start([(project, words_of(job, threads=1))])) == 0
    assert (project / "External/job004/particles.star").is_file()
    assert not (tmp_path / "ran").exists()


def test_empty_and_relative_search_paths_are_left_out_or_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "PYTHONPATH" not in safe_environment({"PYTHONPATH": ""})
    assert "PYTHONPATH" not in safe_environment({"PYTHONPATH": os.pathsep})
    found = safe_environment({"PYTHONPATH": f"/x{os.pathsep}{os.pathsep}y", "HOME": "/h"})
    assert found == {"PYTHONPATH": f"/x{os.pathsep}{tmp_path / 'y'}", "HOME": "/h"}


def test_it_has_a_session_of_its_own(project):
    apart = Detached.start([(project, ["resume", "."])])
    if hasattr(os, "getsid"):
        assert os.getsid(apart.process) == apart.process != os.getsid(0)
    assert over(apart) == 2


def test_lines_run_one_after_the_other_and_the_worst_status_counts(project):
    sets = "Select/job002/optimisation_set.star"
    good = ["recenter", f"--in_optimisation_set={sets}", "--center_z_px=1"]
    apart = Detached.start([(project, ["recenter", "--nonsense=1"]), (project, good)])
    assert over(apart) == 2
    assert "nonsense" in apart.last_words()
    assert (project / "External/job004/particles.star").is_file()


def test_what_a_resumed_job_says_goes_to_its_own_logs(project):
    folder = project / "External/job004"
    folder.mkdir(parents=True)
    apart = Detached.start([(project, resume_words(folder))], folder)
    assert over(apart) == 2
    assert "job.json" in (folder / "run.err").read_text()
    assert apart.last_words() == ""


def test_logs_that_are_links_are_not_written_through(project, tmp_path):
    folder = project / "External/job004"
    folder.mkdir(parents=True)
    (folder / "run.err").symlink_to(tmp_path / "victim")
    with pytest.raises(JobError, match="link"):
        Detached.start([(project, ["resume", "."])], folder)
    assert not (tmp_path / "victim").exists()


def test_dock_tells_why_a_detached_job_did_not_start(viewer, qtbot, bench, project, wait):
    dock = JobDock(viewer)
    qtbot.addWidget(dock)
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    dock.fill("recenter", {"in_optimisation_set": "Select/job002/optimisation_set.star", "center_z_px": 1.5})
    wait(lambda: dock.detach_button.isEnabled())
    shutil.rmtree(project / "Select/job002")
    dock.run_detached()
    wait(lambda: dock.card.kind == "error", 60)
    assert "optimisation_set.star" in dock.card.text
