"""Project folders and RELION's pipeline file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from napari_sta.data.errors import InputError, JobError
from napari_sta.io.project import (
    JobStar,
    PipelineNode,
    Project,
    append_note,
    clear_markers,
    mark,
    read_job_star,
    status_of,
    write_job_pipeline,
    write_job_star,
    write_output_nodes,
)
from napari_sta.io.star import read_star

MAP = PipelineNode("merged.mrc", "DensityMap.mrc.relion.tomo.map.reconstruct", 1)
HALF = PipelineNode("half1.mrc", "DensityMap.mrc.relion.tomo.halfmap.reconstruct", 99)
SET = PipelineNode("Extract/job024/optimisation_set.star", "TomoOptimisationSet.star")


@pytest.fixture
def project(data, tmp_path) -> Project:
    shutil.copytree(data / "project", tmp_path / "project")
    return Project(tmp_path / "project")


def test_reading(project):
    jobs = {job.name: job for job in project.jobs()}
    assert list(jobs)[:2] == ["Tomograms/job007/", "Extract/job013/"]
    extract = jobs["Extract/job024/"]
    assert (extract.type_label, extract.status, extract.number) == ("relion.pseudosubtomo", "Succeeded", 24)
    assert extract.inputs == ("Select/job023/optimisation_set.star",)
    assert extract.outputs == ("Extract/job024/particles.star", "Extract/job024/optimisation_set.star")
    assert jobs["Select/job023/"].alias == "Select/start/"
    assert project.job("Select/start").name == "Select/job023/"
    # A folder that the pipeline file does not list is shown all the same.
    assert not jobs["Polish/job020/"].in_pipeline
    assert jobs["Polish/job020/"].type_label == "relion.framealigntomo"
    assert jobs["Polish/job020/"].status == "Unknown"
    assert project.next_job == 38
    assert project.downstream("Select/job023/") == ["Extract/job024/"]
    assert project.nodes()[0] == PipelineNode(
        "Tomograms/job007/tomograms.star", "TomogramGroupMetadata.star.relion.tomo.reconstruct", 1
    )
    with pytest.raises(InputError, match="has no job Extract/job999"):
        project.job("Extract/job999")


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


def test_markers_overrule_a_running_job(project):
    name = project.add_job("External", "relion.external")
    mark(project.root / name, "Failed")
    assert project.job(name).status == "Failed"


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
        "import sys, os, signal; from napari_sta.io.project import Project\n"
        "with Project(sys.argv[1]).lock():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(project.root)], check=False)
    assert (project.root / ".relion_lock").exists()
    with project.lock(patience_s=2):
        pass
    assert not (project.root / ".relion_lock").exists()


def test_two_processes_get_different_numbers(project):
    code = (
        "import sys; from napari_sta.io.project import Project\n"
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


def test_trash(project):
    (project.root / "Select/start").symlink_to(project.root / "Select/job023")
    with pytest.raises(InputError, match=r"Select/job023/ cannot be discarded: Extract/job024/ use"):
        project.trash_job("Select/job023")
    target = project.trash_job("Extract/job024/")
    assert target == project.root / "Trash/Extract/job024"
    assert (target / "particles.star").exists()
    assert not (project.root / "Extract/job024").exists()
    text = (project.root / "default_pipeline.star").read_text()
    assert "Extract/job024" not in text
    assert "Select/job023/optimisation_set.star" in text
    project.trash_job("Select/job023")
    assert not os.path.lexists(project.root / "Select/start")
    (project.root / "Extract/job024").mkdir()
    assert project.trash_job("Extract/job024").name == "job024.2"
    name = project.add_job("External", "relion.external")
    with pytest.raises(InputError, match="is running"):
        project.trash_job(name)


def test_job_star(tmp_path):
    path = tmp_path / "job.star"
    write_job_star(
        path, JobStar("relion.pseudosubtomo", {"in_particles": "", "binning": "4", "do_stack2d": "Yes"})
    )
    assert read_job_star(path).options == {"binning": "4", "do_stack2d": "Yes", "in_particles": ""}
    tables = read_star(path)
    assert tables["job"].row() == {
        "rlnJobTypeLabel": "relion.pseudosubtomo",
        "rlnJobIsContinue": "0",
        "rlnJobIsTomo": "1",
    }
    assert tables["joboptions_values"]["rlnJobOptionVariable"].tolist() == [
        "binning",
        "do_stack2d",
        "in_particles",
    ]
    path.write_text("data_x\n\n_rlnA 1\n")
    with pytest.raises(InputError, match=r"no job\.star"):
        read_job_star(path)


def test_small_files_of_a_job(tmp_path):
    assert status_of(tmp_path) == "Unknown"
    for status in ("Aborted", "Failed", "Succeeded"):  # RELION looks at success first
        mark(tmp_path, status)
        assert status_of(tmp_path) == status
    (tmp_path / "RELION_JOB_ABORT_NOW").touch()
    clear_markers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    append_note(tmp_path, ["one", "two"], "today")
    append_note(tmp_path, ["three"], "later")
    assert (tmp_path / "note.txt").read_text().splitlines() == [
        " ++++ Executing new job on today",
        " ++++ with the following command(s): ",
        "one",
        "two",
        " ++++ ",
        " ++++ Executing new job on later",
        " ++++ with the following command(s): ",
        "three",
        " ++++ ",
    ]
    write_output_nodes(tmp_path, "Reconstruct/job038/", [MAP, HALF])
    nodes = read_star(tmp_path / "RELION_OUTPUT_NODES.star")["output_nodes"]
    assert nodes["rlnPipeLineNodeName"].tolist() == [
        "Reconstruct/job038/merged.mrc",
        "Reconstruct/job038/half1.mrc",
    ]
    assert nodes["rlnPipeLineNodeTypeLabelDepth"].tolist() == ["1", "99"]
    write_job_pipeline(Path(tmp_path), "Reconstruct/job038/", "relion.x", "Running", [SET], [MAP])
    tables = read_star(tmp_path / "job_pipeline.star")
    assert list(tables) == [
        "pipeline_general",
        "pipeline_processes",
        "pipeline_nodes",
        "pipeline_input_edges",
        "pipeline_output_edges",
    ]
    assert tables["pipeline_output_edges"].row() == {
        "rlnPipeLineEdgeProcess": "Reconstruct/job038/",
        "rlnPipeLineEdgeToNode": "Reconstruct/job038/merged.mrc",
    }
