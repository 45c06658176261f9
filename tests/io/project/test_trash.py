"""Discarded and brought back, and nothing outside of the project touched."""

from __future__ import annotations

import os
import shutil

import pytest

from napari_sta.data.errors import InputError
from project_changes import MAP, edit, tree


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


NODES = [
    ("Extract/job024/particles.star", "../../../victim/secret.txt"),
    ("Extract/job024/particles.star", "{victim}/secret.txt"),
    ("Extract/job024/particles.star", "Extract/job024/../../../../victim/secret.txt"),
    ("Extract/job024/particles.star", "Extract/job024/./particles.star"),
    ("ParticleGroupMetadata.star.relion.tomo.extract", "../../victim"),
    ("ParticleGroupMetadata.star.relion.tomo.extract", "{victim}"),
    ("ParticleGroupMetadata.star.relion.tomo.extract", "a/../../../victim"),
    ("ParticleGroupMetadata.star.relion.tomo.extract            1", "x./../../../victim 3"),
    ("ParticleGroupMetadata.star.relion.tomo.extract            1", "..x 99"),
    ("ParticleGroupMetadata.star.relion.tomo.extract            1", ".. 2"),
]


@pytest.mark.parametrize(("old", "new"), NODES)
def test_a_node_or_label_that_leads_out_is_refused_before_anything_moves(project, victim, tmp_path, old, new):
    for path in (victim / "Extract/job024/optimisation_set.star", victim / "Extract/job024/particles.star"):
        path.write_bytes(b"")
    edit(project, (old, new.format(victim=victim)))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"leads out|is no type of a file"):
        project.trash_job("Extract/job024")
    assert tree(tmp_path) == before
    assert project.job("Extract/job024").status == "Succeeded"


@pytest.mark.parametrize("alias", ["../victim/link/", "{victim}/link/", "Select/../../victim/link/", "../"])
def test_an_alias_that_leads_out_is_refused(project, victim, tmp_path, alias):
    project.trash_job("Extract/job024")
    edit(project, ("Select/start/", alias.format(victim=victim)))
    before = tree(tmp_path)
    assert project.job("Select/job023").alias == ""
    assert any("rlnPipeLineProcessAlias" in sentence for sentence in project.problems())
    with pytest.raises(InputError, match=r"rlnPipeLineProcessAlias: .* leads out"):
        project.trash_job("Select/job023")
    assert tree(tmp_path) == before


def test_an_alias_of_something_else_stays(project):
    project.trash_job("Extract/job024")
    (project.root / "Select/start").symlink_to("../Polish/job020")
    project.trash_job("Select/job023")
    assert (project.root / "Select/start").is_symlink()


@pytest.mark.parametrize("place", ["Trash", "Trash/Extract", "Extract", ".Nodes"])
def test_folders_of_the_project_that_are_links_are_not_followed(project, victim, tmp_path, place):
    link = project.root / place
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(project.root / "elsewhere")
    link.symlink_to(victim)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"through a link|is a link"):
        project.trash_job("Extract/job024")
    assert project.job("Extract/job024").status == "Succeeded"
    if place == "Extract":
        with pytest.raises(InputError, match="through a link"):
            project.add_job("Extract", "relion.pseudosubtomo")
    assert tree(tmp_path) == before
    # Nodes are no more than a convenience of RELION's GUI.
    name = project.add_job("External", "relion.external")
    project.finish_job(name, "Succeeded", [MAP])
    assert project.job(name).outputs == (f"{name}merged.mrc",)
    assert tree(victim) == {
        k.removeprefix("victim/"): v for k, v in before.items() if k.startswith("victim/")
    }


def test_a_job_folder_that_is_a_link_is_moved_as_a_link(project, victim, tmp_path):
    folder = project.root / "Extract/job024"
    shutil.rmtree(folder)
    folder.symlink_to(victim / "job024")
    (victim / "job024/RELION_JOB_EXIT_FAILURE").touch()
    before, outside = project.job("Extract/job024"), tree(victim)
    pipeline = (project.root / "default_pipeline.star").read_text()
    edit(project, ("relion.pseudosubtomo    Succeeded", "relion.pseudosubtomo    Running"))
    assert project.job("Extract/job024").status == "Running"  # nothing is read out there
    edit(project, ("relion.pseudosubtomo    Running", "relion.pseudosubtomo    Succeeded"))
    target = project.trash_job("Extract/job024")
    assert target.is_symlink()
    assert not os.path.lexists(folder)
    assert tree(victim) == outside
    assert project.restore_job(target) == "Extract/job024/"
    assert folder.is_symlink()
    assert project.job("Extract/job024") == before
    assert sorted((project.root / "default_pipeline.star").read_text().split()) == sorted(pipeline.split())
    assert list((project.root / "Trash/Extract").iterdir()) == []
    assert tree(victim) == outside


def test_undo_brings_everything_back(project):
    project.trash_job("Extract/job024")
    (project.root / "Select/start").symlink_to("../Select/job023")
    nodes = [
        project.root / f".Nodes/TomoOptimisationSet/Select/{one}/optimisation_set.star"
        for one in ("job023", "start")
    ]
    for node in nodes:
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch()
    before = project.job("Select/job023")
    target = project.trash_job("Select/start")
    assert not any(node.exists() for node in nodes)
    assert project.restore_job(target) == "Select/job023/"
    assert project.job("Select/start") == before
    assert (project.root / "Select/start").resolve() == project.root / "Select/job023"
    assert nodes[0].exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Extract/job024/particles.star", "Extract/job024/../../../victim/new.txt"),
        ("Extract/job024/particles.star", "{victim}/new.txt"),
        ("Extract/job024/particles.star", "Select/job023/new.txt"),
        ("ParticleGroupMetadata.star.relion.tomo.extract", "../../victim"),
        ("ParticleGroupMetadata.star.relion.tomo.extract", "{victim}"),
        ("None", "../victim/new/"),
        ("None", "{victim}/new/"),
    ],
)
def test_what_the_trash_holds_leads_nowhere_else(project, victim, tmp_path, old, new):
    target = project.trash_job("Extract/job024")
    own = target / "job_pipeline.star"
    text = own.read_text()
    assert old in text
    own.write_text(text.replace(old, new.format(victim=victim)))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"leads out|is no type|is no file of Extract/job024/"):
        project.restore_job(target)
    assert tree(tmp_path) == before


def test_a_kept_pipeline_speaks_for_its_own_job_only(project):
    target = project.trash_job("Extract/job024")
    own = target / "job_pipeline.star"
    own.write_text(
        own.read_text()
        .replace("Succeeded", "Running")
        .replace(
            "Extract/job024/ Extract/job024/optimisation_set.star", "Polish/job020/ Polish/job020/motion.star"
        )
    )
    project.restore_job(target)
    text = (project.root / "default_pipeline.star").read_text()
    assert "Polish" not in text
    assert project.job("Extract/job024").status == "Aborted"  # nothing in the Trash runs


def test_only_the_trash_is_restored_from(project, victim, tmp_path):
    (project.root / "Trash/deep/Extract/job099").mkdir(parents=True)
    (project.root / "Trash/Extract").symlink_to(victim / "Extract")
    before = tree(tmp_path)
    for folder in (
        victim / "job024",
        project.root / "Trash/../../victim/job024",
        project.root / "Extract/job024",
        project.root / "Trash/deep/Extract/job099",
        project.root / "Trash/Extract/job024",
        project.root / "Trash",
        project.root,
    ):
        with pytest.raises(InputError, match=r"in the Trash|through a link"):
            project.restore_job(folder)
    with pytest.raises(InputError, match="was the Trash emptied"):
        project.restore_job(project.root / "Trash/Polish/job020")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["Extract/", "Trash/job001/", ".Nodes/job001/", "Extract/job024/Subtomograms/", "a/b/job001/"]
)
def test_only_job_folders_are_discarded(project, tmp_path, name):
    (project.root / name).mkdir(parents=True, exist_ok=True)
    edit(project, ("PostProcess/job037/", name))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"is no job folder such as"):
        project.trash_job(name)
    assert tree(tmp_path) == before
