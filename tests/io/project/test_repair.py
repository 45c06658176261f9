"""Rows brought in line; a pipeline made of the folders."""

from __future__ import annotations

import os
import shutil

import pytest

from napari_sta.data.errors import InputError, JobError
from napari_sta.io.lock import process_mark
from napari_sta.io.project.job_pipeline import write_job_pipeline, write_output_nodes
from napari_sta.io.project.job_star import JobStar, write_job_star
from napari_sta.io.project.markers import mark
from napari_sta.io.project.tables import PipelineNode
from napari_sta.io.star import read_star
from project_changes import DEAD, MAP, SET, put_record


def test_an_empty_folder_left_long_ago_gives_its_number_back(project):
    (project.root / "Class3D/job038").mkdir(parents=True)
    (project.root / "Class3D/job012").mkdir()
    for number in (38, 12):
        os.utime(project.root / f"Class3D/job{number:03d}", (1e9, 1e9))
    assert project.add_job("External", "relion.external") == "External/job038/"
    assert (project.root / "Class3D/job012").is_dir()  # its number is not wanted


def test_rows_of_jobs_that_never_got_going_do_not_run_for_ever(project):
    empty, gone = (project.add_job("External", "relion.external") for _ in range(2))
    (project.root / gone).rmdir()
    assert {project.job(one).status for one in (empty, gone)} == {"Running"}
    for path in (project.root / empty, project.root / "default_pipeline.star"):
        os.utime(path, (1e9, 1e9))
    assert {project.job(one).status for one in (empty, gone)} == {"Aborted"}
    project.trash_job(empty)
    assert project.job("Extract/job024").status == "Succeeded"


@pytest.mark.parametrize("trouble", ["locked", "column", "no counter"])
def test_a_job_that_ended_while_the_pipeline_could_not_be_written(project, monkeypatch, trouble):
    name = project.add_job(
        "External", "relion.external", first=lambda folder: put_record(folder, **process_mark())
    )
    (project.root / name / "merged.mrc").touch()
    write_output_nodes(project.root / name, name, [MAP])
    mark(project.root / name, "Succeeded")
    path = project.root / "default_pipeline.star"
    whole = path.read_text()
    if trouble == "locked":
        (project.root / ".relion_lock").mkdir()
        (project.root / ".relion_lock/lock_default_pipeline.star").touch()
        real = project.lock
        monkeypatch.setattr(project, "lock", lambda: real(patience_s=0.1))
    else:
        label = "_rlnPipeLineProcessStatusLabel" if trouble == "column" else "_rlnPipeLineJobCounter"
        path.write_text(whole.replace(label, "_rlnOther"))
    sentence = project.finish_job(name, "Succeeded", [MAP])
    assert sentence.startswith(
        f"{name} has ended (succeeded), but default_pipeline.star does not say so yet: "
    )
    with pytest.raises((InputError, JobError)):
        project.finish_job(name, "Running")
    assert project.job(name).status == "Succeeded"  # the marker counts
    path.write_text(whole)
    shutil.rmtree(project.root / ".relion_lock", ignore_errors=True)
    project.add_job("External", "relion.external")
    job = project.job(name)
    assert (job.status, job.outputs) == ("Succeeded", (f"{name}merged.mrc",))
    text = path.read_text()
    assert any(name in line and "Succeeded" in line for line in text.splitlines())


def test_rows_of_ended_jobs_are_brought_in_line_with_the_next_change(project):
    ended, killed, live, foreign = (project.add_job("External", "relion.external") for _ in range(4))
    put_record(project.root / ended, status="Succeeded", **process_mark())
    (project.root / ended / "merged.mrc").touch()
    hostile = PipelineNode("../../../victim/x", "DensityMap.mrc")
    write_output_nodes(project.root / ended, ended, [MAP, hostile])
    mark(project.root / ended, "Succeeded")
    put_record(project.root / killed, **(process_mark() | {"process": DEAD}))
    put_record(project.root / live, **process_mark())
    mark(project.root / foreign, "Succeeded")  # RELION looks after its own
    project.trash_job("PostProcess/job037")
    table = read_star(project.root / "default_pipeline.star")["pipeline_processes"]
    rows = dict(zip(table["rlnPipeLineProcessName"], table["rlnPipeLineProcessStatusLabel"], strict=True))
    assert (rows[ended], rows[killed], rows[live], rows[foreign]) == (
        "Succeeded",
        "Aborted",
        "Running",
        "Running",
    )
    assert project.job(ended).outputs == (f"{ended}merged.mrc",)
    # A job that is started again runs, whatever its folder still says.
    project.finish_job(killed, "Running")
    text = (project.root / "default_pipeline.star").read_text()
    assert len([line for line in text.splitlines() if killed in line and "Running" in line]) == 1


def test_a_project_without_pipeline_gets_one_with_all_its_jobs(project):
    root = project.root
    (root / "default_pipeline.star").unlink()
    for folder in [one for kind in root.iterdir() for one in kind.glob("job*")]:
        for file in folder.glob("RELION_JOB_EXIT_*"):
            file.unlink()
    # As RELION leaves them: a job with a marker and a pipeline of its own, and one that is named.
    write_job_pipeline(root / "Extract/job024", "Extract/job024/", "relion.pseudosubtomo", "Running",
                       [PipelineNode("Select/job023/optimisation_set.star", "TomoOptimisationSet.star.relion"),
                        PipelineNode("../outside.star", "TomoOptimisationSet.star")],
                       [PipelineNode("particles.star", "ParticleGroupMetadata.star.relion.tomo.extract")])  # fmt: skip
    mark(root / "Extract/job024", "Succeeded")
    (root / "Select/start").symlink_to("../Select/job023")
    # No marker, but everything that it was to write is there.
    write_output_nodes(root / "Select/job023", "Select/job023/", [PipelineNode("optimisation_set.star", "TomoOptimisationSet.star.relion"),
                                                                  PipelineNode("../../x", "A.star")])  # fmt: skip
    # Programs run by hand tell of nothing, and leave no marker.
    (root / "Reconstruct/job030").mkdir(parents=True)
    (root / "Reconstruct/job030/merged.mrc").touch()
    for name, status in (("MyTool/job040", "Failed"), ("Class3D/job041", ""), ("External/job039", "")):
        (root / name).mkdir(parents=True)
        (root / name / "run.out").touch()
        if status:
            mark(root / name, status)
    put_record(root / "Class3D/job041", **(process_mark() | {"process": DEAD}))
    write_job_star(root / "Class3D/job041/job.star", JobStar("relion.class3d.special", {"a": "b"}))
    (root / "External/job042").symlink_to(root.parent)
    before = {job.name for job in project.jobs()}
    assert project.add_job("Reconstruct", "relion.reconstructparticletomo", [SET]) == "Reconstruct/job043/"
    jobs = {job.name: job for job in project.jobs() if job.in_pipeline}
    assert set(jobs) == before - {"External/job042/"} | {"Reconstruct/job043/"}
    assert list(jobs) == sorted(jobs, key=lambda name: jobs[name].number)
    expected = {
        "Extract/job024/": "Succeeded", "Select/job023/": "Succeeded", "MyTool/job040/": "Failed",
        "Class3D/job041/": "Aborted", "Polish/job020/": "Succeeded", "Reconstruct/job030/": "Succeeded",
        "External/job039/": "Aborted",
    }  # fmt: skip
    assert {name: jobs[name].status for name in expected} == expected
    assert jobs["Extract/job024/"].inputs == ("Select/job023/optimisation_set.star",)
    assert jobs["Extract/job024/"].outputs == ("Extract/job024/particles.star",)
    assert jobs["Select/job023/"].outputs == ("Select/job023/optimisation_set.star",)
    assert jobs["Select/job023/"].alias == "Select/start/"
    assert jobs["Class3D/job041/"].type_label == "relion.class3d.special"
    assert jobs["MyTool/job040/"].type_label == "relion.external"
    assert project.downstream("Select/job023") == ["Extract/job024/"]
    table = read_star(root / "default_pipeline.star")["pipeline_processes"]
    assert set(table["rlnPipeLineProcessStatusLabel"]) <= {
        "Running",
        "Scheduled",
        "Succeeded",
        "Failed",
        "Aborted",
    }
    assert project.next_job == 44
