"""Which jobs a project has."""

from __future__ import annotations

import pytest

from napari_sta.data.errors import InputError
from napari_sta.io.project.tables import PipelineNode
from project_changes import edit, tree


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
    assert project.downstream("") == project.downstream("/") == []
    assert project.nodes()[0] == PipelineNode(
        "Tomograms/job007/tomograms.star", "TomogramGroupMetadata.star.relion.tomo.reconstruct", 1
    )
    with pytest.raises(InputError, match="has no job Extract/job999"):
        project.job("Extract/job999")


PROCESS_NAMES = [
    "../victim/data/",
    "{victim}/data/",
    "Extract/../../victim/data/",
    ".",
    "./",
    "/",
    "..",
    "//",
    "../",
]


@pytest.mark.parametrize("name", PROCESS_NAMES)
def test_a_process_whose_name_leads_out_is_neither_moved_nor_read(project, victim, tmp_path, name):
    name = name.format(victim=victim)
    edit(project, ("PostProcess/job037/       None", f"{name} None"), ("Failed", "Running"))
    (victim / "data/RELION_JOB_EXIT_SUCCESS").touch()
    before = tree(tmp_path)
    assert [job.name for job in project.jobs() if job.number in (7, 23, 24)] == [
        "Tomograms/job007/", "Select/job023/", "Extract/job024/",
    ]  # fmt: skip
    assert all("victim" not in job.name and ".." not in job.name for job in project.jobs())
    assert any("rlnPipeLineProcessName" in sentence for sentence in project.problems())
    for action in (project.trash_job, project.job):
        with pytest.raises(InputError, match=r"leads out|has no job"):
            action(name)
    assert tree(tmp_path) == before
    # The other jobs can be worked with.
    assert project.trash_job("Extract/job024").is_dir()
    assert project.add_job("External", "relion.external") == "External/job038/"
    assert tree(victim) == {
        k.removeprefix("victim/"): v for k, v in before.items() if k.startswith("victim/")
    }
