"""The runner: folders, records, markers, and what happens when things go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import napari_sta.jobs
from napari_sta.data.errors import InputError, JobError, Stopped
from napari_sta.data.progress import Progress
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_stack, write_volume
from napari_sta.io.project.markers import status_of
from napari_sta.io.project.project import Project
from napari_sta.io.star import read_star
from napari_sta.jobs._job import job_named
from napari_sta.jobs._records import read_record
from napari_sta.jobs._run import JobRun, resume
from napari_sta.jobs._run_options import RunOptions
from practise_runs import EXTRA, practise, run_to_end

pytestmark = pytest.mark.usefixtures("extra_jobs")


@pytest.fixture
def project(data, tmp_path, monkeypatch) -> Project:
    shutil.copytree(data / "project", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    write_volume("masks/mask.mrc", Volume(np.ones((2, 2, 2), np.float32), 1.0))
    return Project(tmp_path / "project")


# Runs Practise in a process of its own: folder, then field=value words.
SCRIPT = f"""
import sys, pathlib, napari_sta.jobs
napari_sta.jobs.__path__.append({str(EXTRA)!r})
from napari_sta.jobs._job import job_named
from napari_sta.jobs._run_options import RunOptions
from napari_sta.jobs._run import JobRun
job = job_named("practise").from_text(dict(word.split("=") for word in sys.argv[2:]))
for progress in JobRun(job, RunOptions(out=pathlib.Path(sys.argv[1]))).steps():
    print(progress.message, flush=True)
"""


def test_in_a_project(project):
    run = JobRun(practise(in_mask="masks/mask.mrc"), RunOptions(threads=3))
    steps = run.steps()
    assert run.name == "External/job038/"
    assert run.out == project.root / "External/job038"
    assert project.job(run.name).status == "Running"
    messages = [step.message for step in steps]
    assert messages == ["step 0", "step 1", "step 2"]
    names = {one.name for one in run.out.iterdir()}
    assert names == {
        "job.star",
        "job.json",
        "job_pipeline.star",
        "note.txt",
        "run.out",
        "run.err",
        "map.mrc",
        "RELION_OUTPUT_NODES.star",
        "RELION_JOB_EXIT_SUCCESS",
        ".napari-sta-files",
    }
    job = project.job(run.name)
    assert (job.status, job.type_label) == ("Succeeded", "relion.external")
    assert job.inputs == ("masks/mask.mrc",)
    # Only what was written becomes an output.
    assert job.outputs == ("External/job038/map.mrc",)
    assert _labels(project)["masks/mask.mrc"] == "Mask3D.mrc"
    nodes = read_star(run.out / "RELION_OUTPUT_NODES.star")["output_nodes"]
    assert nodes["rlnPipeLineNodeName"].tolist() == ["External/job038/map.mrc"]
    command = "napari-sta practise --in_mask masks/mask.mrc --needed_angst 4.5 --o External/job038/"
    assert command in (run.out / "note.txt").read_text().splitlines()
    assert "step 2" in (run.out / "run.out").read_text()
    assert (run.out / "run.err").read_text() == ""


def _labels(project: Project) -> dict[str, str]:
    return {node.path: node.label for node in project.nodes()}


def test_the_record(project):
    _, record = run_to_end(
        JobRun(practise(in_mask=str(project.root / "masks/mask.mrc")), RunOptions(threads=3))
    )
    assert record["summary"] == "counted 3"
    assert (record["job"], record["name"], record["threads"]) == ("practise", "External/job038/", 3)
    assert record["outputs"] == {"map.mrc": str(project.root / "External/job038/map.mrc")}
    saved = read_record(project.root / "External/job038")
    assert saved["status"] == "Succeeded"
    assert saved["result"] == {"summary": "counted 3", "threads": 3, "curve": [0, 1, 2]}
    assert saved["values"]["needed_angst"] == 4.5
    # A path given in full is written as RELION's files have it.
    assert saved["values"]["in_mask"] == "masks/mask.mrc"
    (given,) = saved["inputs"].values()
    assert len(given["sha256"]) == 64
    assert given["bytes"] == os.path.getsize("masks/mask.mrc")
    assert saved["versions"]["napari-sta"] == napari_sta.__version__
    assert (saved["threads"], saved["device"]) == (3, "auto")
    assert saved["commands"]["relion"] is None


def test_a_record_names_the_members_of_a_set(project):
    from napari_sta.jobs._params import StaInputsJob

    class Reader(StaInputsJob):
        """Read nothing."""

        uses_torch: ClassVar[bool] = False

        def run(self, context):
            yield Progress(1, 1)
            return {}

    for name in ("TS_01", "TS_03"):
        write_stack(f"tilt_stacks/{name}.mrc", np.zeros((21, 8, 8), np.float32), 2.7)
    job = Reader(in_optimisation_set="Extract/job024/optimisation_set.star")
    assert len(job.load().particles) == 12
    run = JobRun(job, RunOptions(out=Path("out")))
    run_to_end(run)
    assert set(json.loads(Path("out/job.json").read_text())["inputs"]) == {
        "Extract/job024/optimisation_set.star",
        "Extract/job024/particles.star",
        "Tomograms/job007/tomograms.star",
        "tilt series",
        "sizes or dates of tilt images",
    }


def test_into_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = JobRun(practise(needed_angst=0), RunOptions(out=tmp_path / "deep/out"))
    _, record = run_to_end(run)
    assert status_of(tmp_path / "deep/out") == "Succeeded"
    assert record["warnings"] == ["a zero looks odd"]
    assert "a zero looks odd" in (tmp_path / "deep/out/run.err").read_text()
    assert not (tmp_path / "default_pipeline.star").exists()


def test_the_marker_is_left_where_the_record_finds_no_room(tmp_path, monkeypatch):
    """RELION takes a job without marker to be running, for ever."""

    def full(self: JobRun, out: Path) -> None:
        raise JobError("the disk is full")

    def run_out_of_room(self: JobRun, began: float) -> None:
        monkeypatch.setattr(JobRun, "_write_record", full)
        raise JobError("the disk is full")

    monkeypatch.setattr(JobRun, "_write_start", run_out_of_room)
    with pytest.raises(JobError, match="the disk is full"):
        run_to_end(JobRun(practise(), RunOptions(out=tmp_path / "out")))
    assert status_of(tmp_path / "out") == "Failed"


def test_results_of_others_are_not_overwritten(tmp_path, project):
    out = tmp_path / "theirs"
    first = next(iter(practise().outputs))
    out.mkdir()
    (out / first).write_text("theirs")
    with pytest.raises(InputError, match=f"already holds {first}, which no practise of napari-sta wrote"):
        JobRun(practise(), RunOptions(out=out)).steps()
    assert (out / first).read_text() == "theirs"
    run_to_end(JobRun(practise(), RunOptions(out=tmp_path / "ours")))
    run_to_end(JobRun(practise(), RunOptions(out=tmp_path / "ours")))  # our own may be made again
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        JobRun(practise(), RunOptions(out=tmp_path / "file")).steps()


def test_numbers_that_are_none(project):
    for value in ("nan", "inf", "-inf"):
        with pytest.raises(InputError, match="--needed_angst"):
            practise(needed_angst=value)


def test_inputs_are_files_also_those_that_are_not_read(project):
    """All are hashed for the record, and neither a device nor a pipe ever ends."""
    os.mkfifo("pipe.star")
    particles = str(next(Path().rglob("particles.star")))
    for name, words in (
        ("/dev/zero", "device or a pipe"),
        ("pipe.star", "device or a pipe"),
        (".", "a folder"),
    ):
        job = job_named("recenter").from_text(
            {"in_parts": particles, "in_trajectories": name, "center_z_px": "1"}
        )
        with pytest.raises(InputError, match=f"--in_trajectories: .*{words}"):
            JobRun(job, RunOptions(out=Path("new"))).steps()
        assert not Path("new").exists()


def test_a_folder_cannot_lie_in_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="which is a file; name a folder"):
        JobRun(practise(), RunOptions(out=tmp_path / "file/x/y")).steps()


def test_no_folder_and_no_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give one with --o, or start inside a RELION project"):
        JobRun(practise()).steps()
    assert list(tmp_path.iterdir()) == []


def test_files_are_found_from_the_project_folder(project, monkeypatch):
    monkeypatch.chdir("/")
    run = JobRun(practise(in_mask="masks/mask.mrc"), RunOptions(project=project.root))
    run_to_end(run)
    assert read_record(run.out)["values"]["in_mask"] == "masks/mask.mrc"


def test_wrong_input_leaves_no_trace(project):
    before = (project.root / "default_pipeline.star").read_bytes()
    with pytest.raises(InputError, match="too large"):
        JobRun(practise(needed_angst=2000)).steps()
    with pytest.raises(InputError, match=r"--in_mask: no\.mrc does not exist"):
        JobRun(practise(in_mask="no.mrc")).steps()
    assert (project.root / "default_pipeline.star").read_bytes() == before
    assert not (project.root / "External").exists()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("memory", "ran out of memory on this computer; close other programs"),
        ("runtime", "lost the GPU .*--device cpu"),
        ("fault", r"failed unexpectedly \(KeyError: 'surprise'\).*run\.err"),
        ("disk", r"map\.mrc could not be written: the disk is full"),
        ("known", "it cannot be done; try less"),
    ],
)
def test_failures_are_told_in_words(project, end, words):
    run = JobRun(practise(end=end))
    with pytest.raises(JobError, match=words):
        run_to_end(run)
    assert status_of(run.out) == "Failed"
    assert project.job(run.name).status == "Failed"
    assert project.job(run.name).outputs == ()
    saved = read_record(run.out)
    assert saved["status"] == "Failed"
    assert saved["failure"]
    if end == "fault":
        assert "Traceback" in (run.out / "run.err").read_text()


def test_closing_the_generator_stops_the_job(project):
    run = JobRun(practise())
    steps = run.steps()
    next(steps)
    steps.close()
    assert status_of(run.out) == "Aborted"
    assert project.job(run.name).status == "Aborted"
    assert read_record(run.out)["status"] == "Aborted"


def test_relions_request_to_stop(project):
    run = JobRun(practise())
    steps = run.steps()
    next(steps)
    (run.out / "RELION_JOB_ABORT_NOW").touch()
    with pytest.raises(Stopped, match="RELION_JOB_ABORT_NOW"):
        next(steps)
    assert status_of(run.out) == "Aborted"


def test_resume(project, monkeypatch, tmp_path):
    run = JobRun(practise(in_mask="masks/mask.mrc", n_steps=5), RunOptions(threads=2))
    steps = run.steps()
    next(steps)
    steps.close()
    (run.out / ".map.mrc.99.sta-tmp").write_bytes(b"half")
    monkeypatch.chdir(tmp_path)  # from elsewhere: the mask is found in the project
    again = resume(run.out)
    assert again.job.n_steps == 5
    seen, _ = run_to_end(again)
    assert len(seen) == 5
    assert again.name == run.name
    assert project.job(run.name).status == "Succeeded"
    assert status_of(run.out) == "Succeeded"
    assert not (run.out / ".map.mrc.99.sta-tmp").exists()
    assert read_record(run.out)["values"]["in_mask"] == "masks/mask.mrc"
    assert (run.out / "note.txt").read_text().count("++++ Executing new job") == 2
    with pytest.raises(InputError, match="has already finished"):
        resume(run.out)
    with pytest.raises(InputError, match=r"no job\.json"):
        resume(tmp_path)
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        resume(tmp_path)


def test_sigkill_leaves_nothing_half_written(tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-c", SCRIPT, str(out), "needed_angst=1", "n_steps=1000", "delay_s=0.01"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline().startswith("step")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert status_of(out) == "Unknown"
    assert not (out / "map.mrc").exists()
    assert read_record(out)["status"] == "Running"
    for file in out.glob("*.star"):
        read_star(file)
    run_to_end(JobRun(resume(out).job.model_copy(update={"n_steps": 1, "delay_s": 0.0}), RunOptions(out=out)))
    assert read_volume(out / "map.mrc").data[0, 0, 0] == 1


def test_a_killed_job_of_a_project_can_be_resumed_or_discarded(project):
    name = project.add_job("External", "relion.external")
    out = project.root / name
    words = [sys.executable, "-c", SCRIPT, str(out), "needed_angst=1", "n_steps=1000", "delay_s=0.01"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert project.job(name).status == "Running"
        with pytest.raises(InputError, match="is running"):
            project.trash_job(name)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert project.job(name).status == "Aborted"
    assert project.trash_job(name) == project.root / "Trash/External/job038"


def test_started_by_relions_gui_as_an_external_job(project, capsys):
    from napari_sta.cli import main

    name = project.add_job("External", "relion.external")
    out = project.root / name
    for file in ("job.star", "job_pipeline.star"):
        (out / file).write_text("RELION's own")
    before = (project.root / "default_pipeline.star").read_bytes()
    words = ["practise", "--in_3dref", "masks/mask.mrc", "--needed_angst", "2", "--o", name, "--j", "1"]
    assert main([*words, "--pipeline_control", name]) == 0
    assert status_of(out) == "Succeeded"
    assert (out / "RELION_OUTPUT_NODES.star").exists()
    # RELION enters what it finds there itself.
    assert (project.root / "default_pipeline.star").read_bytes() == before
    assert (out / "job.star").read_text() == (out / "job_pipeline.star").read_text() == "RELION's own"
    assert f"{name}: done" in capsys.readouterr().out


def test_stop_takes_effect_at_once(tmp_path):
    run = JobRun(practise(n_steps=1000, delay_s=0.01), RunOptions(out=tmp_path / "out"))
    steps = run.steps()
    next(steps)
    began = time.monotonic()
    steps.close()
    assert time.monotonic() - began < 0.5


def test_a_job_star_of_relions_gui_is_left_alone(tmp_path):
    out = tmp_path / "External/job001"
    out.mkdir(parents=True)
    (out / "job.star").write_text("data_job\n\n_rlnJobTypeLabel relion.external\n")
    run_to_end(JobRun(practise(), RunOptions(out=out)))
    assert (out / "job.star").read_text() == "data_job\n\n_rlnJobTypeLabel relion.external\n"


def test_inputs_are_read_once_a_run(small_project, tmp_path, monkeypatch):
    """Checks, warnings and the run share them; another run reads again, and nothing is held afterwards."""
    from napari_sta.io.relion import inputs
    from napari_sta.jobs import _params

    reads = []
    plain = inputs.load_sta_inputs
    monkeypatch.setattr(inputs, "load_sta_inputs", lambda *a, **k: reads.append(1) or plain(*a, **k))
    particles = next(small_project.root.rglob("particles.star"))
    job = job_named("remove_duplicates").from_text({"in_parts": str(particles)})
    for number in (1, 2):
        run = JobRun(job, RunOptions(out=tmp_path / str(number)))
        for _ in run.steps():
            pass
        assert len(reads) == number
    wrong = job_named("remove_duplicates").from_text(
        {"in_parts": str(particles), "rule": "geometric", "score_column": "rlnTomoName"}
    )
    with pytest.raises(InputError):
        JobRun(wrong, RunOptions(out=tmp_path / "3")).steps()
    stopped = JobRun(job, RunOptions(out=tmp_path / "4")).steps()
    next(stopped)
    stopped.close()
    assert not _params._KEPT
