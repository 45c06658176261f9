"""Going on: after kills and damage, in the same folder, and from another job."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sta.cli import main
from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.files import written_files
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.refinement.model import read_model
from napari_sta.io.refinement.optimiser import read_optimiser
from napari_sta.io.relion import inputs
from napari_sta.io.star import Table, read_star, text_column
from napari_sta.jobs import _params
from napari_sta.jobs._refine_folder import checkpoint_path, latest_checkpoint, read_checkpoint_of
from napari_sta.jobs._run import JobRun, resume
from napari_sta.jobs._run_options import RunOptions
from refine_project import (
    BOX_PX,
    DIAMETER_ANGST,
    PIXEL_ANGST,
    THREADS,
    Refinable,
    edited,
    errors_of,
    job_of,
    run_job,
    same_iteration,
    start_process,
    with_particles,
    words_of,
)
from tiny_project import finish


@pytest.fixture(scope="module")
def project(refinable: Refinable) -> Refinable:
    return refinable


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError(f"{path.name} never came: {process.communicate()[0]}")
        time.sleep(0.01)


def test_a_killed_job_resumes_as_if_nothing_had_happened(project, three, tmp_path):
    """Also: another process with the same threads computes the same bits."""
    out = tmp_path / "killed"
    words = words_of(project, max_iterations=3)
    process = start_process([*words, "--o", str(out), "--j", str(THREADS)], tmp_path)
    wait_for(checkpoint_path(out, 1), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not checkpoint_path(out, 3).exists()
    before = checkpoint_path(out, 1).stat().st_mtime_ns
    run = resume(out)
    for _ in run.steps():
        pass
    assert checkpoint_path(out, 1).stat().st_mtime_ns == before, "iteration 1 was done again"
    for number in (1, 3):
        same_iteration(out, three, number)
    assert [one["iteration"] for one in json.loads((out / "run_history.json").read_text())] == [1, 2, 3]


def test_a_damaged_checkpoint_costs_one_iteration(project, tmp_path):
    """The mask beside the iterations is there afterwards, too."""
    out, mask = tmp_path / "run", tmp_path / "mask.mrc"
    write_volume(mask, Volume(np.full((BOX_PX,) * 3, 0.5, np.float32), PIXEL_ANGST))
    values = {**project.inputs(), "in_mask": mask, "max_iterations": 2}
    run_job(values, out)
    shutil.copytree(out, tmp_path / "whole")
    checkpoint_path(out, 2).write_bytes(checkpoint_path(out, 2).read_bytes()[:700])
    first = checkpoint_path(out, 1).stat().st_mtime_ns
    run_job(values, out)
    assert checkpoint_path(out, 1).stat().st_mtime_ns == first
    same_iteration(out, tmp_path / "whole", 2)
    assert (read_volume(out / "run_solvent_mask.mrc").data == 0.5).all()


def unfinished(three: Path, out: Path) -> None:
    """Copy a finished job as if it had been stopped."""
    shutil.copytree(three, out)
    (out / "RELION_JOB_EXIT_SUCCESS").unlink()
    record = json.loads((out / "job.json").read_text())
    (out / "job.json").write_text(json.dumps(record | {"status": "Aborted"}))


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_only_files_of_its_own_are_removed(project, three, tmp_path):
    """Named as a refinement names its files, but not written by this one."""
    out = tmp_path / "run"
    shutil.copytree(three, out)
    for path in checkpoint_path(out, 1), checkpoint_path(out, 2), checkpoint_path(out, 3):
        path.write_bytes(b"damaged")
    checkpoint_path(out, 0).write_bytes(b"damaged")
    (out / "run_it009_data.star").write_text("somebody's")
    run_job({**project.inputs(), "max_iterations": 1}, out)
    assert checkpoint_path(out, 1).stat().st_size > 1000
    assert not checkpoint_path(out, 2).exists()
    assert (out / "run_it009_data.star").read_text() == "somebody's"


def test_a_finished_refinement_is_not_replaced_by_another(project, three, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(three, out)
    before = content(out)
    with pytest.raises(
        InputError, match="holds a finished refine, but --seed was 1 and is 7 now; choose another folder"
    ):
        run_job({**project.inputs(), "max_iterations": 3, "seed": 7}, out)
    assert content(out) == before


def touch_images(project: Refinable, folder: Path) -> dict[str, Any]:
    values = with_particles(project, edited(project, folder / "particles.star", lambda tables: None))
    return {**values, "max_iterations": 3}


def other_seed(project: Refinable, folder: Path) -> dict[str, Any]:
    return {**project.inputs(), "max_iterations": 3, "seed": 7}


@pytest.mark.parametrize("make", [touch_images, other_seed])
def test_iterations_are_not_lost_to_other_values_or_inputs(project, three, tmp_path, make):
    """Days of work: neither mixed with others nor deleted."""
    out = tmp_path / "run"
    unfinished(three, out)
    before = content(out)
    with pytest.raises(InputError, match=r"holds an unfinished refine, but .*; choose another folder"):
        run_job(make(project, tmp_path), out)
    assert content(out) == before


@pytest.mark.parametrize(
    "name", ["run_it012_half1_class001.mrc", "run_it003_data.star", "run_it000_optimiser.star"]
)
def test_a_refinement_of_relions_that_has_not_converged_is_left_alone(project, three, tmp_path, name):
    out = tmp_path / "Refine3D/job016"
    out.mkdir(parents=True)
    for file in ("job.star", "note.txt", "run.out", name):
        (out / file).write_text("RELION's")
    (out / "job.star").write_text("data_job\n\n_rlnJobTypeLabel relion.refine3d\n")
    before = content(out)
    with pytest.raises(InputError, match=f"already holds {name}, which no refine of napari-sta wrote"):
        run_job({**project.inputs(), "max_iterations": 1}, out)
    assert content(out) == before


def test_continuing_from_an_optimiser_file_of_ours(project, three, tmp_path):
    run_job({"continue_from": three / "run_it001_optimiser.star", "max_iterations": 2}, tmp_path / "run")
    same_iteration(tmp_path / "run", three, 2)
    # Once more: it takes its options from the job before the job before.
    values = {"continue_from": tmp_path / "run" / "run_it002_optimiser.star", "max_iterations": 3}
    run_job(values, tmp_path / "again")
    same_iteration(tmp_path / "again", three, 3)


def test_continuing_with_other_particles_is_refused(project, three, tmp_path):
    def turn_round(tables: dict[str, Table]) -> None:
        columns = tables["particles"].columns
        for label in list(columns):
            columns[label] = columns[label][::-1]

    other = with_particles(project, edited(project, tmp_path / "other.star", turn_round))
    wanted = {**other, "continue_from": three / "run_it001_optimiser.star", "max_iterations": 2}
    with pytest.raises(InputError, match="is of other particles"):
        run_job(wanted, tmp_path / "run")


def test_continuing_in_the_same_folder_keeps_what_was_done(project, three, tmp_path):
    out = tmp_path / "run"
    unfinished(three, out)
    for path in [*out.glob("*.star"), out / "job.json"]:
        path.write_text(path.read_text().replace(str(three), str(out)))
    run_job({"continue_from": out / "run_it001_optimiser.star", "max_iterations": 2}, out)
    for number in (0, 1):
        same_iteration(out, three, number)
    assert checkpoint_path(out, 2).exists()
    assert not checkpoint_path(out, 3).exists()


def test_continuing_in_the_same_folder_takes_the_options_of_the_job(project, tmp_path):
    """Those that RELION's files do not hold too: in this folder the first job's record is replaced."""
    first, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    odd = {"relion_parity": True, "tilt_prior_width_deg": 20.0}
    run_job({**project.inputs(), **odd, "max_iterations": 1}, first)
    go_on = {"continue_from": first / "run_it001_optimiser.star", "max_iterations": 3}
    run_job(go_on, elsewhere)

    steps = JobRun(job_of(go_on), RunOptions(out=first, threads=THREADS)).steps()
    while not checkpoint_path(first, 2).exists():
        next(steps)
    steps.close()
    same_iteration(first, elsewhere, 2)
    for _ in resume(first, RunOptions(threads=THREADS)).steps():
        pass
    same_iteration(first, elsewhere, 3)
    run_job({"continue_from": first / "run_it003_optimiser.star", "max_iterations": 4}, first)
    run_job({"continue_from": elsewhere / "run_it003_optimiser.star", "max_iterations": 4}, elsewhere)
    same_iteration(first, elsewhere, 4)


def test_continuing_takes_the_options_of_the_job(project, tmp_path):
    run_job({**project.inputs(), "max_iterations": 1, "padding": 1, "seed": 11}, tmp_path / "first")
    words = ["refine", "--continue_from", str(tmp_path / "first" / "run_it001_optimiser.star")]
    assert main([*words, "--max_iterations", "2", "--o", str(tmp_path / "on"), "--j", "2", "--quiet"]) == 0
    assert read_model(tmp_path / "on" / "run_it002_half1_model.star").padding == 1
    optimiser = read_optimiser(tmp_path / "on" / "run_it002_optimiser.star")
    assert optimiser.seed == 11
    assert optimiser.diameter_angst == DIAMETER_ANGST


def test_joined_sets_of_the_same_names(project, tmp_path):
    """Two extractions of the same picks: names repeat, stacks differ; rows are kept apart, also to go on."""

    def edit(tables: dict[str, Table]) -> None:
        columns = tables["particles"].columns
        n = len(tables["particles"])
        columns["rlnTomoParticleName"] = text_column([f"TS_01/{row // 2}" for row in range(n)])
        columns["rlnMark"] = text_column([f"row{row}" for row in range(n)])

    values = with_particles(project, edited(project, tmp_path / "joined.star", edit)) | {"max_iterations": 1}
    finish(job_of(values), tmp_path / "run", THREADS)
    before = read_star(tmp_path / "joined.star")["particles"]
    after = read_star(tmp_path / "run/run_it001_data.star")["particles"]
    for label in ("rlnMark", "rlnTomoParticleName", "rlnRandomSubset"):
        assert after[label].tolist() == before[label].tolist()
    assert len(set(after["rlnAngleRot"])) == len(after)


def test_a_checkpoint_of_the_first_version_is_gone_on_with(project, data, tmp_path, caplog):
    """Written before states had models, of these very particles and another seed."""
    folder = tmp_path / "Refine3D" / "job001"
    shutil.copytree(data / "refine_checkpoint", folder)
    # These are named there, but the job is given others.
    for name in (folder / "run_it001_data.star", tmp_path / "project/Tomograms/job001/tomograms.star"):
        name.parent.mkdir(parents=True, exist_ok=True)
        name.touch()
    caplog.set_level(logging.INFO)
    values = {**project.inputs(), "continue_from": folder / "run_it001_optimiser.star", "max_iterations": 3}
    record = run_job(values, tmp_path / "run")
    assert [step["iteration"] for step in record["history"]] == [2, 3]
    assert "noise of the tilt images was measured" not in caplog.text, "RELION's files were read instead"
    before = read_checkpoint_of(checkpoint_path(folder, 1)).state
    after = read_checkpoint_of(checkpoint_path(tmp_path / "run", 3)).state
    np.testing.assert_array_equal(after.half_set, before.half_set)
    truth = errors_of(tmp_path / "run" / "run_it003_data.star", project)
    start = errors_of(project.particles, project)
    assert truth.angle_deg < 0.6 * start.angle_deg
    assert truth.position_angst < 0.5 * start.position_angst


def test_damaged_checkpoints_are_stepped_over(three, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(three, out)
    for number, content in ((3, b"PK\x05\x06" + bytes(18)), (2, b"")):
        checkpoint_path(out, number).write_bytes(content)
    fingerprint = json.loads((out / "job.json").read_text())["fingerprint"]
    checkpoint = latest_checkpoint(out, written_files(out), fingerprint)
    assert checkpoint is not None
    assert checkpoint.state.iteration == 1
    assert latest_checkpoint(out, written_files(out), "another") is None


def test_a_continued_job_reads_its_inputs_once(project, three, tmp_path, monkeypatch):
    """Checks, warnings, records and the run itself all need them."""
    reads: list[str] = []
    load = inputs.load_sta_inputs

    def spied(*args, **options):
        reads.append("inputs")
        return load(*args, **options)

    monkeypatch.setattr(inputs, "load_sta_inputs", spied)
    run_job({"continue_from": three / "run_it002_optimiser.star", "max_iterations": 3}, tmp_path / "run")
    assert len(reads) == 1
    assert not _params._KEPT
