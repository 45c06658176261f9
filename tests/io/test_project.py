"""Project folders and RELION's pipeline file."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from napari_sta.data.errors import InputError, JobError
from napari_sta.io.lock import process_mark
from napari_sta.io.project.job_pipeline import write_job_pipeline, write_output_nodes
from napari_sta.io.project.job_star import JobStar, read_job_star, write_job_star
from napari_sta.io.project.markers import append_note, clear_markers, mark, status_of
from napari_sta.io.project.project import Project
from napari_sta.io.project.status import was_killed
from napari_sta.io.project.tables import PipelineNode
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
    assert project.downstream("") == project.downstream("/") == []
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
        "import sys, os, signal; from napari_sta.io.project.project import Project\n"
        "with Project(sys.argv[1]).lock():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(project.root)], check=False)
    assert (project.root / ".relion_lock").exists()
    with project.lock(patience_s=2):
        pass
    assert not (project.root / ".relion_lock").exists()


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


# -- nothing leaves the project -----------------------------------------------------------------------


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: bytes of files, targets of links, names of folders; links not followed."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = kind
    return found


@pytest.fixture
def victim(project, tmp_path) -> Path:
    """A folder beside the project, in which nothing may change."""
    folder = tmp_path / "victim"
    for name in ("data/precious.txt", "secret.txt", "job024/particles.star", "Extract/job024/particles.star"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name == "secret.txt" else b"of great value")
    (folder / "link").symlink_to(folder / "data")
    return folder


def edit(project: Project, *changes: tuple[str, str]) -> None:
    path = project.root / "default_pipeline.star"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


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


@pytest.mark.parametrize("place", [".Nodes/ParticleGroupMetadata", ".Nodes/ParticleGroupMetadata/Extract"])
@pytest.mark.parametrize("where", ["victim", "project"])
def test_links_among_the_nodes_are_not_followed(project, victim, tmp_path, place, where):
    target = victim if where == "victim" else project.root
    (project.root / "Extract/job024/particles.star").write_bytes(b"")
    (victim / "Extract/job024/particles.star").write_bytes(b"")
    (project.root / place).parent.mkdir(parents=True, exist_ok=True)
    (project.root / place).symlink_to(target if place.endswith("Metadata") else target / "Extract")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="through a link"):
        project.trash_job("Extract/job024")
    assert tree(tmp_path) == before


def test_only_empty_files_are_taken_for_nodes(project):
    entry = project.root / ".Nodes/ParticleGroupMetadata/Extract/job024/particles.star"
    other = entry.with_name("optimisation_set.star")
    entry.parent.mkdir(parents=True)
    other = project.root / ".Nodes/TomoOptimisationSet/Extract/job024/optimisation_set.star"
    other.parent.mkdir(parents=True)
    entry.touch()
    other.write_text("not RELION's")
    project.trash_job("Extract/job024")
    assert not entry.exists()
    assert other.exists()


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


def test_small_files_are_not_written_through_links(project, victim):
    before = tree(victim)
    for name in (".pipeline_has_changed", "Extract/job024/note.txt", "Extract/job024/job_pipeline.star"):
        (project.root / name).unlink(missing_ok=True)
        (project.root / name).symlink_to(victim / "secret.txt")
    project.add_job("External", "relion.external")
    assert not (project.root / ".pipeline_has_changed").is_symlink()
    with pytest.raises(JobError, match="it is a link"):
        append_note(project.root / "Extract/job024", ["one"], "today")
    project.trash_job("Extract/job024")
    assert tree(victim) == before


# -- what a killed job leaves -------------------------------------------------------------------------


DEAD = 2**30


def put_record(folder: Path, **record: object) -> None:
    (folder / "job.json").write_text(
        json.dumps({"job": "practise", "values": {}, "status": "Running"} | record)
    )


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


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({"job": "x", "status": "Running", "host": socket.gethostname(), "process": one})
          for one in (2**31, 2**80, -1, 0, "12", "x", None, [1], {}, 1.5, True)),
        "[" * 100_000, '{"status":' * 100_000, "[]", "null", "1e999", "", "{", "\0", '"Running"',
        '{"status": ["Running"], "host": {}, "process": {}}', "\udcff",
    ],
)  # fmt: skip
def test_any_record_is_borne(project, text):
    name = project.add_job("External", "relion.external")
    (project.root / name / "job.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    (project.root / "External/job099").mkdir()
    shutil.copy(project.root / name / "job.json", project.root / "External/job099")
    assert project.job(name).status in ("Running", "Aborted")
    assert project.job("External/job099").status in ("Unknown", "Aborted")
    assert isinstance(was_killed(project.root / name), bool)
    assert project.add_job("External", "relion.external") == "External/job039/"


def test_a_live_job_that_the_pipeline_does_not_list_is_not_discarded(project):
    folder = project.root / "External/job050"
    folder.mkdir(parents=True)
    put_record(folder, **process_mark())
    assert project.job("External/job050").status == "Running"
    with pytest.raises(InputError, match="is running"):
        project.trash_job("External/job050")
    put_record(folder, **(process_mark() | {"process": DEAD}))
    assert project.job("External/job050").status == "Aborted"


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


# -- pipelines as they are out there ------------------------------------------------------------------


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


def test_a_number_in_the_pipeline_is_not_given_again(project):
    shutil.rmtree(project.root / "PostProcess/job037")
    edit(project, ("38\n", "36\n"))
    assert project.add_job("External", "relion.external") == "External/job036/"
    assert project.add_job("External", "relion.external") == "External/job038/"


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
