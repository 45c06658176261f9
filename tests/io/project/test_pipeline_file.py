"""Pipelines that are read, refused and locked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import pytest

from napari_sta.data.errors import InputError, JobError
from project_changes import edit, tree


def test_old_pipeline_is_refused(project):
    path = project.root / "default_pipeline.star"
    path.write_text(path.read_text().replace("# version 50001", "# version 30001"))
    with pytest.raises(InputError, match="older than 5"):
        project.add_job("External", "relion.external")
    assert not (project.root / ".relion_lock").exists()


def test_the_lock_is_respected_and_always_released(project):
    (project.root / ".relion_lock").mkdir()
    began = time.monotonic()
    with pytest.raises(JobError, match="locked by another program"), project.lock(patience_s=0.2):
        pass
    assert 0.2 <= time.monotonic() - began < 2
    threading.Timer(0.3, (project.root / ".relion_lock").rmdir).start()
    with project.lock(patience_s=5):
        assert (project.root / ".relion_lock/lock_default_pipeline.star").exists()
    assert not (project.root / ".relion_lock").exists()
    with pytest.raises(RuntimeError), project.lock():
        raise RuntimeError
    assert not (project.root / ".relion_lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over(project):
    code = (
        "import sys, os, signal; from napari_sta.io.project.project import Project\n"
        "with Project(sys.argv[1]).lock():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(project.root)], check=False)
    assert (project.root / ".relion_lock").exists()
    with project.lock(patience_s=2):
        pass
    assert not (project.root / ".relion_lock").exists()


LABELS = [
    "rlnPipeLineProcessName", "rlnPipeLineProcessAlias", "rlnPipeLineProcessTypeLabel",
    "rlnPipeLineProcessStatusLabel", "rlnPipeLineNodeName", "rlnPipeLineNodeTypeLabel",
    "rlnPipeLineEdgeFromNode", "rlnPipeLineEdgeToNode", "rlnPipeLineEdgeProcess",
]  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
def test_a_pipeline_that_lacks_a_column_is_refused_before_a_job_runs(project, label):
    path = project.root / "default_pipeline.star"
    path.write_text(path.read_text().replace(f"_{label} ", "_rlnOther "))
    before = tree(project.root)
    with pytest.raises(InputError, match=f"has no column {label}; restore the file"):
        project.add_job("External", "relion.external")
    assert tree(project.root) == before
    # It can be looked at all the same, and info says what is wrong with it.
    assert "Extract/job024/" in {job.name for job in project.jobs()}
    assert project.next_job == 38
    assert any(label in sentence for sentence in project.problems())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("_rlnPipeLineJobCounter                      38", "_rlnPipeLineJobCounter many", "is 'many', no number"),
        ("_rlnPipeLineJobCounter                      38", "_rlnPipeLineJobCounter -3", "is '-3', no number"),
        ("_rlnPipeLineJobCounter                      38", "_rlnPipeLineJobCounter 0", "is '0', no number"),
        ("_rlnPipeLineJobCounter                      38", "_rlnPipeLineJobCounter ²", "is '²', no number"),
        ("_rlnPipeLineJobCounter                      38", f"_rlnPipeLineJobCounter {10**30}", "no number of a job"),
        ("_rlnPipeLineJobCounter                      38", "_rlnOther 38", "rlnPipeLineJobCounter is missing"),
        ("_rlnPipeLineJobCounter                      38", "", "rlnPipeLineJobCounter is missing"),
        ("data_pipeline_general", "data_other", "has no table data_pipeline_general"),
        ("# version 50001", "# version 30001", "older than 5"),
        ("# version 50001", "", "older than 5"),
    ],
)  # fmt: skip
def test_a_damaged_pipeline_is_refused_before_a_job_runs(project, old, new, sentence):
    edit(project, (old, new))
    before = tree(project.root)
    with pytest.raises(InputError, match=sentence):
        project.add_job("External", "relion.external")
    assert tree(project.root) == before
    assert project.next_job >= 38
    assert "Extract/job024/" in {job.name for job in project.jobs()}
    assert any(re.search(sentence, one) for one in project.problems())


@pytest.mark.parametrize("kind", ["empty", "text", "folder", "pipe", "dangling link"])
def test_what_is_no_pipeline_file_is_refused_and_kept(project, tmp_path, kind):
    path = project.root / "default_pipeline.star"
    path.unlink()
    if kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "hello\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "not mounted")
    cure = " is empty, .*; restore the file, .*, or remove it" if kind == "empty" else ""
    with pytest.raises(InputError, match=rf"default_pipeline\.star{cure}"):
        project.add_job("External", "relion.external")
    assert os.path.lexists(path)
    assert not (project.root / "External").exists()
    assert len(project.problems()) == 1
