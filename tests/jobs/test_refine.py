"""3D auto-refine on small simulated projects: truth, files, restarts, independence of the halves, options."""

from __future__ import annotations

import io
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
import torch

from napari_sta.cli import main
from napari_sta.data.errors import InputError, Stopped
from napari_sta.data.volume import Volume
from napari_sta.io import refinement as files
from napari_sta.io.files import written_files
from napari_sta.io.mrc import read_images, read_volume, write_stack, write_volume
from napari_sta.io.project import ABORT_NOW, Project
from napari_sta.io.relion import read_particles, read_tilt_series_set, write_particles
from napari_sta.io.star import Table, read_star, text_column, write_star
from napari_sta.jobs._job import Context, Job, Progress, job_named, value_as_text
from napari_sta.jobs._refine_files import checkpoint_path, latest_checkpoint, read_checkpoint
from napari_sta.jobs._refine_loop import Refinement
from napari_sta.jobs._run import JobRun, RunOptions, resume
from napari_sta.kernels.fsc import fourier_shell_correlation
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx
from napari_sta.phantoms.density import Blobs
from refine_project import (
    BOX_PX,
    DIAMETER_ANGST,
    PIXEL_ANGST,
    Refinable,
    errors_of,
    make_refinable,
)
from tiny_project import finish, likeness

THREADS = 2


def refine(project: Refinable, out: Path, threads: int = THREADS, **values: Any) -> dict[str, Any]:
    """Run the job as a library user would."""
    return finish(job_of({**project.inputs(), **values}), out, threads)


def job_of(values: dict[str, Any]) -> Job:
    """Make a refine job of values that need not be text."""
    return job_named("refine").from_text({key: value_as_text(value) for key, value in values.items()})


def run_job(values: dict[str, Any], out: Path, threads: int = THREADS) -> dict[str, Any]:
    """Run a job with its records, as the command line does."""
    steps = JobRun(job_of(values), RunOptions(out=out, threads=threads)).steps()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def words_of(project: Refinable, **values: Any) -> list[str]:
    """Command line of the job."""
    found = ["refine"]
    for name, value in {**project.inputs(), **values}.items():
        found += [f"--{name}", str(value)]
    return found


def prepared(project: Refinable, threads: int = 1, **values: Any) -> Refinement:
    """Set the job up without running it."""
    job = job_of({**project.inputs(), **values})
    return job._prepared(logging.getLogger("test"), threads)[1]


def edited(project: Refinable, path: Path, edit: Callable[[dict[str, Table]], None]) -> Path:
    """Write a changed particle set beside a copy of nothing: stacks are named with absolute paths."""
    tables = read_star(project.particles)
    columns = tables["particles"].columns
    columns["rlnImageName"] = np.array(
        [
            str(project.root / name) if not Path(name).is_absolute() else name
            for name in columns["rlnImageName"]
        ],
        dtype=object,
    )
    edit(tables)
    write_star(path, list(tables.values()))
    return path


def with_particles(project: Refinable, path: Path) -> dict[str, Any]:
    """Values of a job on another particle set of the same tilt series."""
    values = project.inputs()
    del values["in_optimisation_set"]
    return {**values, "in_parts": str(path), "in_tomograms": str(project.tomograms)}


def same_iteration(one: Path, other: Path, number: int) -> None:
    """Compare everything an iteration leaves, bit for bit."""
    stem = f"run_it{number:03d}"
    for half in (1, 2):
        name = f"{stem}_half{half}_class001.mrc"
        np.testing.assert_array_equal(
            read_volume(one / name).data, read_volume(other / name).data, err_msg=name
        )
    mine, theirs = (
        [line for line in (folder / f"{stem}_data.star").read_text().splitlines() if "mrcs" in line]
        for folder in (one, other)
    )
    assert [line.split() for line in mine] == [line.split() for line in theirs]
    with np.load(checkpoint_path(one, number)) as a, np.load(checkpoint_path(other, number)) as b:
        assert set(a.files) == set(b.files)
        for name in a.files:
            if name != "about":
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        one_says, other_says = (json.loads(str(found["about"])) for found in (a, b))
        assert one_says["control"] == other_says["control"]
        assert one_says["plain"] == other_says["plain"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Refinable:
    """32 lopsided particles, extracted; read it, don't change it."""
    return make_refinable(tmp_path_factory.mktemp("refine"))


@pytest.fixture(scope="module")
def three(project, tmp_path_factory) -> Path:
    """Three iterations that nothing disturbed."""
    out = tmp_path_factory.mktemp("three") / "run"
    record = run_job({**project.inputs(), "max_iterations": 3}, out)
    assert record["iterations"] == 3
    assert not record["converged"]
    assert "--continue_from" in record["summary"]
    return out


# ---- poses


def test_poses_get_nearer_to_the_truth(project, three):
    before = errors_of(project.particles, project)
    after = errors_of(three / "run_it003_data.star", project)
    assert before.angle_deg > 6
    assert before.position_angst > 4
    assert after.angle_deg < 0.6 * before.angle_deg
    assert after.position_angst < 0.5 * before.position_angst
    # The half maps show the particle too.
    for half in (1, 2):
        found = read_volume(three / f"run_it003_half{half}_class001.mrc")
        assert likeness(found, radius_angst=36).correlation > 0.85


def test_the_grey_scale_of_the_reference_does_not_matter(project, three, tmp_path):
    volume = read_volume(project.reference)
    bright = tmp_path / "bright.mrc"
    write_volume(bright, Volume(volume.data * np.float32(37), volume.pixel_size_angst))
    refine(project, tmp_path / "run", in_3dref=bright, max_iterations=1)
    ours, theirs = (read_checkpoint(checkpoint_path(one, 1)).state for one in (tmp_path / "run", three))
    np.testing.assert_allclose(ours.offset_zyx_angst, theirs.offset_zyx_angst, atol=0.02)
    between = angular_distance_deg(
        euler_to_matrix_zyx(ours.angles_deg), euler_to_matrix_zyx(theirs.angles_deg)
    )
    assert between.max() < 0.05
    np.testing.assert_allclose(
        ours.references, theirs.references, atol=2e-3 * np.abs(theirs.references).max()
    )


def test_a_reference_that_does_not_match_is_compared_by_correlation_first(project, tmp_path, caplog):
    rng = np.random.default_rng(3)
    wrong = tmp_path / "wrong.mrc"
    write_volume(wrong, Volume(rng.normal(size=(BOX_PX,) * 3).astype(np.float32), PIXEL_ANGST))
    record = refine(project, tmp_path / "run", in_3dref=wrong, max_iterations=1)
    assert "the first iteration uses cross-correlation" in caplog.text
    # That iteration estimates no accuracy and claims no resolution beyond the start map's.
    assert record["history"][0]["accuracy_deg"] is None
    assert record["resolution_angst"] == pytest.approx(24, abs=0.1)
    assert np.abs(read_volume(tmp_path / "run" / "run_it001_half1_class001.mrc").data).max() > 0
    # A job that dies before its first checkpoint but one does the same when it goes on.
    checkpoint_path(tmp_path / "run", 1).rename(tmp_path / "moved.npz")
    again = refine(project, tmp_path / "run", in_3dref=wrong, max_iterations=1)
    assert again["history"][0]["accuracy_deg"] is None


def test_an_unknown_grey_scale_leaves_the_noise_alone(project, tmp_path):
    """Iteration 1 by correlation, whatever the reference's scale; iteration 2 has the right noise."""
    noise = {}
    for factor in (1.0, 20.0):
        reference = read_volume(project.reference)
        path = tmp_path / f"times{factor:g}.mrc"
        write_volume(path, Volume(reference.data * np.float32(factor), PIXEL_ANGST))
        loop = prepared(project, in_3dref=path, absolute_greyscale="No")
        _, _, references, start = job_of(
            {**project.inputs(), "in_3dref": path, "absolute_greyscale": "No"}
        )._prepared(logging.getLogger("test"), 1)
        noise[factor] = loop.start(references, start, fit_scale=False)[0].noise
    np.testing.assert_allclose(noise[20.0], noise[1.0], rtol=1e-3)


def test_a_symmetric_particle(tmp_path):
    corner = np.array([[0.0, 17, 8], [6, 9, -14]])
    turn = np.array([[1, 0, 0], [0, -0.5, -(3**0.5) / 2], [0, 3**0.5 / 2, -0.5]])  # zyx: 120 degrees about z
    centres = np.concatenate([corner @ np.linalg.matrix_power(turn, k).T for k in range(3)])
    blobs = Blobs(centres, np.tile([1.0, 1.3], 3), 4.5)
    project = make_refinable(tmp_path, density=blobs, n_tomograms=2, snr=2)
    before = errors_of(project.particles, project, "C3")
    refine(project, tmp_path / "run", symmetry="C3", max_iterations=2)
    after = errors_of(tmp_path / "run" / "run_it002_data.star", project, "C3")
    assert after.angle_deg < 0.65 * before.angle_deg
    assert after.position_angst < 0.65 * before.position_angst
    data = torch.from_numpy(read_volume(tmp_path / "run" / "run_it002_half1_class001.mrc").data)
    assert files.read_sampling(tmp_path / "run" / "run_it002_sampling.star").symmetry == "C3"
    assert likeness(Volume(data.numpy(), PIXEL_ANGST), blobs, 36).correlation > 0.9


# ---- files

PER_ITERATION = (
    "half1_class001.mrc", "half2_class001.mrc", "half1_class001_angdist.bild", "half2_class001_angdist.bild",
    "half1_model.star", "half2_model.star", "data.star", "optimisation_set.star", "optimiser.star",
    "sampling.star", "checkpoint.npz",
)  # fmt: skip
LAST = (
    "half1_class001_unfil.mrc", "half2_class001_unfil.mrc", "class001.mrc", "class001_angdist.bild",
    "model.star", "data.star", "optimisation_set.star", "optimiser.star", "sampling.star",
)  # fmt: skip


@pytest.fixture(scope="module")
def converged(project, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A refinement to its end, inside a RELION project, with mask and solvent-flattened FSC."""
    root = project.root / "project"
    mask = project.root / "mask.mrc"
    index = (np.arange(BOX_PX) - BOX_PX // 2) * PIXEL_ANGST
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    write_volume(mask, Volume(np.clip((40 - r) / 8, 0, 1).astype(np.float32), PIXEL_ANGST))
    values = {**project.inputs(), "in_mask": mask, "solvent_flattened_fsc": "Yes"}
    run = JobRun(job_of(values), RunOptions(threads=THREADS, project=root))
    steps = run.steps()
    seen: list[Progress] = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            record = end.value
            break
    phases = {one.data["phase"] for one in seen if one.data and "phase" in one.data}
    assert phases >= {"accuracy", "expectation", "maximisation", "done"}
    assert run.out is not None
    return run.out, record


def test_it_converges_and_says_so(project, converged):
    out, record = converged
    assert record["converged"]
    assert 4 <= record["iterations"] <= 25
    history = record["history"]
    assert [one["iteration"] for one in history] == list(range(1, record["iterations"] + 1))
    assert history[-1]["converged"]
    assert history[-1]["image_size_px"] == BOX_PX
    assert history[0]["sampling_deg"] == pytest.approx(3.75)
    assert json.loads((out / "run_history.json").read_text()) == json.loads(json.dumps(history))
    after = errors_of(out / "run_data.star", project)
    before = errors_of(project.particles, project)
    assert after.angle_deg < 0.6 * before.angle_deg
    assert after.position_angst < 0.4 * before.position_angst
    assert likeness(out / "run_class001.mrc", radius_angst=36).correlation > 0.93


def test_every_iteration_leaves_relions_files(converged):
    out, record = converged
    for number in range(record["iterations"]):
        stem = out / f"run_it{number:03d}"
        for what in PER_ITERATION:
            assert Path(f"{stem}_{what}").stat().st_size > 0, what
        optimiser = files.read_optimiser(f"{stem}_optimiser.star")
        assert optimiser.iteration == number
        assert not optimiser.has_converged
        assert [Path(name).name for name in optimiser.model_files] == [
            f"{stem.name}_half{h}_model.star" for h in (1, 2)
        ]
        for half in (1, 2):
            model = files.read_model(f"{stem}_half{half}_model.star")
            assert model.size_px == BOX_PX
            assert Path(model.reference).name == f"{stem.name}_half{half}_class001.mrc"
            assert sum(model.group_n_particles) == 16
        assert files.read_sampling(f"{stem}_sampling.star").offset_step_angst > 0
    for what in LAST:
        assert (out / f"run_{what}").stat().st_size > 0, what
    assert files.read_optimiser(out / "run_optimiser.star").has_converged
    assert (out / "run_solvent_mask.mrc").exists()
    assert files.latest_iteration(out) == record["iterations"] - 1


def test_the_tables_have_relions_labels(converged, data):
    """Of the refinement that RELION 5.0.1 wrote, column by column; the starfile package reads ours."""
    out, _ = converged
    for what in ("data", "half1_model", "sampling", "optimiser"):
        ours = starfile.read(out / f"run_it003_{what}.star", always_dict=True)
        theirs = starfile.read(data / "refine" / f"run_it001_{what}.star", always_dict=True)
        for name, table in theirs.items():
            if what == "data" and name == "particles":
                # RELION's input had these from the picker; ours has others there.
                wanted = {label for label in table if not label.startswith("rlnTomoVisible")}
                assert wanted <= set(ours[name]), name
            elif name == "general":
                assert set(ours[name]) >= set(table)
            else:
                assert list(ours[name]) == list(table), f"{what} {name}"


def test_the_refined_set_can_be_reconstructed(project, converged, tmp_path):
    out, _ = converged
    values = {
        "in_optimisation_set": str(out / "run_optimisation_set.star"), "box_size_px": 32, "crop_size_px": BOX_PX,
    }  # fmt: skip
    made = {}
    for name, given in (
        ("refined", values),
        ("picked", {**values, "in_optimisation_set": str(project.optimisation_set)}),
    ):
        finish(job_named("reconstruct").from_text(given), tmp_path / name, THREADS)
        made[name] = likeness(tmp_path / name / "merged.mrc", radius_angst=36).correlation
    assert made["refined"] > max(0.9, made["picked"] + 0.02)


def test_pipeline_and_job_star(project, converged):
    out, record = converged
    root = Project.find(out)
    assert root is not None
    assert root.job(record["name"]).status == "Succeeded"
    nodes = read_star(root.root / "default_pipeline.star")["pipeline_nodes"]
    kinds = dict(zip(nodes["rlnPipeLineNodeName"], nodes["rlnPipeLineNodeTypeLabel"], strict=True))
    for name, node in job_named("refine").outputs.items():
        assert kinds[record["name"] + name] == node.label
    assert len(root.job(record["name"]).outputs) == len(job_named("refine").outputs)
    star = read_star(out / "job.star")
    assert star["job"]["rlnJobTypeLabel"][0] == "relion.refine3d"
    options = star["joboptions_values"]
    values = dict(zip(options["rlnJobOptionVariable"], options["rlnJobOptionValue"], strict=True))
    assert values["particle_diameter"] == f"{DIAMETER_ANGST:g}"
    assert values["sampling"] == "3.7 degrees"
    assert values["do_solvent_fsc"] == "Yes"


# ---- restarts


def start_process(words: list[str], folder: Path, *before: str) -> subprocess.Popen[str]:
    command = [sys.executable, *before, "-m", "napari_sta", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], how: int = zipfile.ZIP_STORED) -> None:
    """Change members of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def header_of_terabytes(members: dict[str, bytes]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 190_000)}
    )
    members["p_max.npy"] = file.getvalue()


def about(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        found = json.loads(str(np.load(io.BytesIO(members["about.npy"]))))
        for name, value in changes.items():
            found[name] = found[name] | value if isinstance(value, dict) else value
        file = io.BytesIO()
        np.save(file, np.array(json.dumps(found)))
        members["about.npy"] = file.getvalue()

    return change


DAMAGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "terabytes": header_of_terabytes,
    "header no dictionary": lambda m: m.update({"p_max.npy": m["p_max.npy"].replace(b"{", b"(", 1)}),
    "header unclosed": lambda m: m.update({"p_max.npy": m["p_max.npy"].replace(b"}", b"(", 1)}),
    "objects": lambda m: m.update({"p_max.npy": m["p_max.npy"].replace(b"<f8", b"|O8", 1)}),
    "short": lambda m: m.update({"p_max.npy": m["p_max.npy"][:-8]}),
    "no array": lambda m: m.update({"p_max.npy": b""}),
    "missing": lambda m: m.pop("p_max.npy"),
    "too many": lambda m: m.update({"surprise.npy": m["p_max.npy"]}),
    "nothing": lambda m: m.clear(),
    "about a list": lambda m: m.update({"about.npy": m["p_max.npy"]}),
    "plain a list": about(plain=[]),
    "control empty": about(control=None),
    "order a word": about(control={"order": "3"}),
    "order huge": about(control={"order": 10**30}),
    "iteration": about(plain={"iteration": None}),
    "half sets": about(half_set=[1, 2]),
    "half sets huge": about(half_set=[10**30]),
    "size": about(size_px="huge"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_told_and_stepped_over(three, tmp_path, damage):
    out = tmp_path / "run"
    shutil.copytree(three, out)
    rewritten(checkpoint_path(out, 2), damage)
    with pytest.raises(InputError, match=r"run_it002_checkpoint\.npz cannot be read"):
        read_checkpoint(checkpoint_path(out, 2))
    checkpoint_path(out, 3).write_bytes(b"PK\x05\x06" + bytes(18))
    fingerprint = json.loads((out / "job.json").read_text())["fingerprint"]
    found = latest_checkpoint(out, written_files(out), fingerprint)
    assert found is not None
    assert found.state.iteration == 1


def test_a_checkpoint_that_unpacks_to_terabytes(three, tmp_path):
    path = shutil.copy(checkpoint_path(three, 1), tmp_path / "run_it001_checkpoint.npz")
    rewritten(path, lambda m: m.update({"p_max.npy": bytes(50_000_000)}), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(path)


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
    assert files.read_model(tmp_path / "on" / "run_it002_half1_model.star").padding == 1
    optimiser = files.read_optimiser(tmp_path / "on" / "run_it002_optimiser.star")
    assert optimiser.seed == 11
    assert optimiser.diameter_angst == DIAMETER_ANGST


def test_continuing_from_relions_files(project, three, tmp_path):
    """Ours without what RELION does not write: checkpoint, history and job.json."""
    relion = tmp_path / "relion"
    relion.mkdir()
    for path in three.glob("run_it001_*"):
        if path.suffix != ".npz":
            text = path.read_bytes()
            if path.suffix == ".star":
                text = text.replace(str(three).encode(), str(relion).encode())
            (relion / path.name).write_bytes(text)
    words = ["refine", "--continue_from", str(relion / "run_it001_optimiser.star"), "--max_iterations", "3"]
    assert main([*words, "--o", str(tmp_path / "on"), "--j", "2", "--quiet"]) == 0
    record = json.loads((tmp_path / "on" / "job.json").read_text())["result"]
    assert [one["iteration"] for one in record["history"]] == [2, 3]
    assert record["history"][0]["sampling_deg"] == pytest.approx(3.75)
    after = errors_of(tmp_path / "on" / "run_it003_data.star", project)
    reached = errors_of(three / "run_it003_data.star", project)
    assert after.angle_deg < reached.angle_deg + 1
    assert after.position_angst < reached.position_angst + 1
    ours, theirs = (read_checkpoint(checkpoint_path(one, 2)).state for one in (tmp_path / "on", three))
    assert ours.perturbation == pytest.approx(theirs.perturbation, abs=1e-5)
    assert ours.current_size == theirs.current_size


# ---- the two halves


def test_half_1_does_not_know_the_particles_of_half_2(project, tmp_path, monkeypatch):
    """Other images, other poses for half 2: what half 1 adds up stays the same, bit for bit."""
    sums: list[list[Any]] = []
    maximise = Refinement._maximise

    def spied(self, state, steer, grid, perturbation, volumes, statistics, found, radius, cc):
        mine = [one for one in found if self.half_set[one.row] == 1]
        poses = np.array([np.r_[one.rotation_zyx.ravel(), one.offset_zyx_px, one.p_max] for one in mine])
        first = statistics[0]
        seen = [volumes[0].copy(), first.residual, first.tilt_residual, first.offset2_angst2, poses]
        seen += [state.noise[0], state.sigma2[0], state.references[0], volumes[1].copy()]
        sums.append(seen)
        return maximise(self, state, steer, grid, perturbation, volumes, statistics, found, radius, cc)

    monkeypatch.setattr(Refinement, "_maximise", spied)

    def worse(tables: dict[str, Table]) -> None:
        columns = tables["particles"].columns
        second = np.flatnonzero(columns["rlnRandomSubset"] == "2")
        for label in ("rlnAngleRot", "rlnOriginXAngst", "rlnOriginZAngst"):
            changed = columns[label][second].astype(float) + 3 * np.sin(second)
            columns[label][second] = [f"{value:.6f}" for value in changed]
        for place, row in enumerate(second):
            name = str(columns["rlnImageName"][row])
            images = read_images([(name, image) for image in range(7)])
            noise = np.random.default_rng(int(row)).normal(size=images.shape) * images.std()
            columns["rlnImageName"][row] = str(tmp_path / f"{place}.mrcs")
            write_stack(tmp_path / f"{place}.mrcs", images + noise.astype(np.float32), PIXEL_ANGST)

    plain = edited(project, tmp_path / "plain.star", lambda tables: None)
    other = edited(project, tmp_path / "other.star", worse)
    for name, path in (("a", plain), ("b", other)):
        values = with_particles(project, path) | {"absolute_greyscale": "Auto", "max_iterations": 1}
        finish(job_of(values), tmp_path / name, THREADS)
    assert len(sums) == 2
    for one, another in zip(sums[0][:-1], sums[1][:-1], strict=True):
        np.testing.assert_array_equal(one, another)
    assert not np.array_equal(sums[0][-1], sums[1][-1])


def noisy(project: Refinable, path: Path) -> Path:
    """Write half of the particle set with white noise for images."""
    (path.parent / "noise").mkdir()

    def drown(tables: dict[str, Table]) -> None:
        columns = {label: column[:16] for label, column in tables["particles"].columns.items()}
        tables["particles"] = Table("particles", columns)
        for row, name in enumerate(columns["rlnImageName"]):
            count = int(sum(map(int, columns["rlnTomoVisibleFrames"][row].strip("[]").split(","))))
            stack = np.random.default_rng([77, row]).normal(size=(count, BOX_PX, BOX_PX))
            columns["rlnImageName"][row] = str(path.parent / "noise" / f"{row}.mrcs")
            write_stack(columns["rlnImageName"][row], stack.astype(np.float32), PIXEL_ANGST)
            assert read_images([(name, 0)]).shape[1:] == (BOX_PX, BOX_PX)

    return edited(project, path, drown)


def test_noise_stays_noise(project, tmp_path):
    """Half maps of nothing must not agree beyond the shells that they share, up to 3 here (40 Å is at 2.4).

    A shell of radius r has about 2 pi r² independent voxels, so by chance its FSC scatters by 1 / sqrt(2 pi r²);
    two of those are allowed, and together the shells must average to nothing.
    """
    path = noisy(project, tmp_path / "noise.star")
    values = with_particles(project, path) | {"initial_lowpass_angst": 48, "max_iterations": 5}
    record = finish(job_of(values), tmp_path / "run", THREADS)
    fsc = np.array(record["history"][-1]["fsc"])
    r = np.arange(len(fsc))
    assert record["history"][-1]["image_size_px"] >= 2 * 8
    assert (fsc[4:] < 0.143 + 2 / np.sqrt(2 * np.pi * r[4:] ** 2)).all(), fsc
    assert abs((fsc * r**2)[4:].sum() / (r**2)[4:].sum()) < 0.1, fsc


# ---- several processes


def test_two_processes_do_the_work_of_one(project, three, tmp_path):
    out = tmp_path / "ranks"
    words = words_of(project, max_iterations=2)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start_process([*words, "--o", str(out), "--j", "1", "--quiet"], tmp_path, *torchrun)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    one, two = (read_checkpoint(checkpoint_path(folder, 2)).state for folder in (three, out))
    np.testing.assert_allclose(two.angles_deg, one.angles_deg, atol=2e-3)
    np.testing.assert_allclose(two.offset_zyx_angst, one.offset_zyx_angst, atol=1e-3)
    np.testing.assert_allclose(two.p_max, one.p_max, atol=1e-3)
    np.testing.assert_allclose(two.sigma2, one.sigma2, rtol=1e-4)
    np.testing.assert_allclose(two.noise, one.noise, rtol=1e-3)
    np.testing.assert_allclose(two.fsc, one.fsc, atol=1e-4)
    np.testing.assert_allclose(two.references, one.references, atol=1e-4 * np.abs(one.references).max())
    assert two.control.order == one.control.order
    assert [path.name for path in sorted(out.glob("run_it002*"))] == [
        path.name for path in sorted(three.glob("run_it002*"))
    ]


# ---- what users do wrong


def half_missing(project: Refinable, folder: Path) -> dict[str, Any]:
    shutil.copy(project.reference, folder / "half1.mrc")
    return project.inputs() | {"in_3dref": folder / "half1.mrc"}


def not_extracted(project: Refinable, folder: Path) -> dict[str, Any]:
    return project.inputs() | {"in_optimisation_set": project.picks}


def an_image_too_few(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        columns = tables["particles"].columns
        images = read_images([(str(columns["rlnImageName"][4]), image) for image in range(6)])
        write_stack(folder / "six.mrcs", images, PIXEL_ANGST)
        columns["rlnImageName"][4] = str(folder / "six.mrcs")

    return with_particles(project, edited(project, folder / "few.star", edit))


def mixed_halves(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        tables["particles"].columns["rlnRandomSubset"][3] = "0"

    return with_particles(project, edited(project, folder / "mixed.star", edit))


def a_tilt_too_many(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        column = tables["particles"].columns["rlnTomoVisibleFrames"]
        column[2] = column[2].replace("]", ",0]")

    return with_particles(project, edited(project, folder / "tilt.star", edit))


def half_premultiplied(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        optics = tables["optics"].columns
        for label in list(optics):
            optics[label] = np.concatenate([optics[label][:1]] * 2)
        optics["rlnOpticsGroup"][:] = ["1", "2"]
        optics["rlnOpticsGroupName"][:] = ["a", "b"]
        optics["rlnCtfDataAreCtfPremultiplied"][:] = ["1", "0"]
        tables["particles"].columns["rlnOpticsGroup"][::2] = "2"

    return with_particles(project, edited(project, folder / "mixed_ctf.star", edit))


def one_half_only(project: Refinable, folder: Path) -> dict[str, Any]:
    def edit(tables: dict[str, Table]) -> None:
        tables["particles"].columns["rlnRandomSubset"][:] = "1"

    return with_particles(project, edited(project, folder / "one.star", edit))


def values(**changes: Any) -> Callable[[Refinable, Path], dict[str, Any]]:
    return lambda project, folder: project.inputs() | changes


def with_text(table: str, label: str, text: str) -> Callable[[Refinable, Path], dict[str, Any]]:
    """Put a text into a column, which is made if it is not there, in one row or the only one."""

    def make(project: Refinable, folder: Path) -> dict[str, Any]:
        def edit(tables: dict[str, Table]) -> None:
            columns = tables[table].columns
            if label not in columns:
                columns[label] = text_column(["0"] * len(tables[table]))
            columns[label][min(3, len(tables[table]) - 1)] = text

        return with_particles(project, edited(project, folder / "text.star", edit))

    return make


WRONG = [
    *(
        pytest.param(with_text("particles", "rlnTomoVisibleFrames", text), "row 4", id=f"frames {text}")
        for text in ("1", "[1,1", "[a,b]", "<NA>")
    ),
    *(
        pytest.param(with_text("optics", "rlnImageSize", text), "rlnImageSize", id=f"box {text}")
        for text in ("-2", "5000", "100000", "1e18", "nan")
    ),
    *(
        pytest.param(with_text("particles", label, text), "row 4 (particle", id=f"{label} {text}")
        for label, text in (
            ("rlnAngleTiltPrior", "ten"),
            ("rlnOriginXPriorAngst", "[1"),
            ("rlnOriginXAngst", "<NA>"),
        )
    ),
    pytest.param(
        with_text("general", "rlnTomoSubTomosAre2DStacks", "0"),
        "images are 2D stacks; set it to 1",
        id="kind",
    ),
    pytest.param(
        values(mask_diameter_angst=97), "mask_diameter_angst 97 is larger than the box", id="diameter"
    ),
    pytest.param(values(initial_lowpass_angst=8), "not coarser than the Nyquist limit", id="low-pass"),
    pytest.param(
        values(initial_lowpass_angst=99_999), "leaves nothing of a map", id="low-pass beyond the box"
    ),
    pytest.param(values(in_3dref="no/such.mrc"), "no/such.mrc", id="no reference"),
    pytest.param(values(initial_sampling_deg="5"), "initial_sampling_deg", id="sampling"),
    pytest.param(values(symmetry="Q7"), "Q7", id="symmetry"),
    pytest.param(
        values(continue_from="run_it003_optimiser.star"), "run_it003_optimiser.star", id="no optimiser"
    ),
    pytest.param(half_missing, "half2.mrc", id="no half2"),
    pytest.param(not_extracted, "extract the particles first", id="not extracted"),
    pytest.param(an_image_too_few, "six.mrcs holds 6 images", id="stack too short"),
    pytest.param(a_tilt_too_many, "counts 8 tilts, its tilt series 7", id="tilts changed"),
    pytest.param(half_premultiplied, "extract all particles in the same way", id="mixed premultiplication"),
    pytest.param(mixed_halves, "row 4: rlnRandomSubset is 0", id="mixed half sets"),
    pytest.param(one_half_only, "rlnRandomSubset must hold 1 and 2", id="one half set"),
]


@pytest.mark.parametrize(("make", "says"), WRONG)
def test_what_is_wrong_is_said_before_work_starts(project, tmp_path, capsys, make, says):
    words = ["refine"]
    for name, value in make(project, tmp_path).items():
        words += [f"--{name}", str(value)]
    assert main([*words, "--o", str(tmp_path / "out"), "--quiet"]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert said.count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_nothing_to_start_from(project, tmp_path, capsys):
    words = ["refine", "--in_optimisation_set", str(project.optimisation_set), "--o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--in_3dref (Reference map) must be given" in capsys.readouterr().err


# ---- options


def test_padding_and_noise_around_the_particles(project, three, tmp_path):
    out = tmp_path / "run"
    refine(project, out, padding=1, zero_mask=False, max_iterations=2)
    assert files.read_model(out / "run_it002_half1_model.star").padding == 1
    assert not files.read_optimiser(out / "run_it002_optimiser.star").zero_mask
    after, before = errors_of(out / "run_it002_data.star", project), errors_of(project.particles, project)
    assert after.angle_deg < 0.7 * before.angle_deg
    assert after.position_angst < 0.6 * before.position_angst
    ours, theirs = (read_checkpoint(checkpoint_path(one, 1)).state for one in (out, three))
    assert not np.array_equal(ours.angles_deg, theirs.angles_deg)


def test_noise_fills_what_lies_outside_the_mask(project):
    """In power like the noise of the images, where zero_mask leaves nearly nothing."""
    power = {}
    for zero in (True, False):
        loop = prepared(project, zero_mask=zero)
        window = loop.source.windows(12)[0]
        sigma2 = np.full(13, 0.01)
        power[zero] = loop.source.load(0, window, sigma2).power[:, 8:].mean()
        plain = loop.source.load(0, window, sigma2)
        assert np.isfinite(plain.masked).all()
    count = 2 * np.pi * 10  # pixels of a shell, with two components of variance sigma2 each
    outside = 1 - float(prepared(project).source.mask_share[0])
    added = power[False] - power[True]
    assert added == pytest.approx(outside * count * 2 * 0.01 / 2, rel=0.6)


def test_ctf_options(project):
    """Where the model of an image is 1, and where it is the CTF squared (stacks hold one factor)."""
    models = {}
    for name, given in (
        ("ctf", {}), ("none", {"ctf_correction": False}), ("peak", {"ignore_ctf_until_first_peak": True}),
    ):  # fmt: skip
        source = prepared(project, **given).source
        models[name] = source.load(0, source.windows(12)[0]).model
        pixels = source.windows(12)[0].pixels
    assert (models["none"] == 1).all()
    assert models["ctf"].min() < 0.1
    assert models["ctf"].max() < 1
    first = int(np.argmax(models["ctf"].mean(axis=1)))  # the first image taken
    near = pixels.shell == 1
    assert models["ctf"][first][near].max() < 0.3
    # Damage by the first dose and the microscope's tilt scale are left.
    assert models["peak"][first][near].min() > 0.8
    beyond = pixels.shell >= 8
    np.testing.assert_array_equal(models["peak"][:, beyond], models["ctf"][:, beyond])


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


@pytest.mark.parametrize("width", [None, 10])
def test_the_tilt_prior_restrains_a_global_search(project, tmp_path, width):
    """Noise has no orientation: without a prior particles turn anywhere, with one they stay near 90 degrees."""
    path = noisy(project, tmp_path / "noise.star")
    values = with_particles(project, path) | {
        "initial_sampling_deg": "15", "local_searches_from_deg": "1.8", "max_iterations": 1,
    }  # fmt: skip
    if width:
        values["tilt_prior_width_deg"] = width
    finish(job_of(values), tmp_path / "run", THREADS)
    tilt = read_checkpoint(checkpoint_path(tmp_path / "run", 1)).state.angles_deg[:, 1]
    away = np.abs(tilt - 90)
    assert (away.max() < 3 * 10 + 15) if width else (np.median(away) > 20)


def test_particles_without_a_tilt_prior_are_searched_everywhere(project, tmp_path, caplog):
    path = noisy(project, tmp_path / "noise.star")
    tables = read_star(path)
    column = text_column(["90.0"] * len(tables["particles"]))
    column[::2] = "<NA>"
    column[::4] = "nan"
    columns = {**tables["particles"].columns, "rlnAngleTiltPrior": column}
    write_star(path, tables | {"particles": Table("particles", columns)})
    values = with_particles(project, path) | {
        "initial_sampling_deg": "15", "local_searches_from_deg": "1.8", "max_iterations": 1,
        "tilt_prior_width_deg": 10,
    }  # fmt: skip
    finish(job_of(values), tmp_path / "run", THREADS)
    away = np.abs(read_checkpoint(checkpoint_path(tmp_path / "run", 1)).state.angles_deg[:, 1] - 90)
    assert away[1::2].max() < 3 * 10 + 15
    assert np.median(away[::2]) > 20
    written = read_star(tmp_path / "run/run_it001_data.star")["particles"]
    assert written["rlnAngleTiltPrior"].tolist() == column.tolist()
    assert "have no rlnAngleTiltPrior" in caplog.text


def test_a_global_search_finds_what_local_search_would(project, tmp_path):
    """Orientations at random: only a search over all of them helps."""

    def forget(tables: dict[str, Table]) -> None:
        columns = tables["particles"].columns
        rng = np.random.default_rng(5)
        for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"):
            columns[label][:] = [f"{value:.4f}" for value in rng.uniform(0, 180, len(columns[label]))]

    path = edited(project, tmp_path / "lost.star", forget)
    values = with_particles(project, path) | {
        "initial_sampling_deg": "15", "local_searches_from_deg": "1.8", "max_iterations": 1,
        "absolute_greyscale": "No",
    }  # fmt: skip
    assert errors_of(path, project).angle_deg > 60
    finish(job_of(values), tmp_path / "run", THREADS)
    assert errors_of(tmp_path / "run" / "run_it001_data.star", project).angle_deg < 12


def test_the_reference_is_resized(project, three, tmp_path, capsys):
    """A map of another box and pixel size (40 px of 3 Å) does the same; without resizing it is refused."""
    from napari_sta.kernels.filters import resample_to_grid

    volume = read_volume(project.reference)
    large = resample_to_grid(np.array(volume.data), PIXEL_ANGST, 40, 3.0)
    write_volume(tmp_path / "large.mrc", Volume(np.asarray(large, np.float32), 3.0))
    refine(project, tmp_path / "run", in_3dref=tmp_path / "large.mrc", max_iterations=1)
    ours, theirs = (read_checkpoint(checkpoint_path(one, 1)).state for one in (tmp_path / "run", three))
    moved = np.linalg.norm(ours.offset_zyx_angst - theirs.offset_zyx_angst, axis=1)
    assert np.median(moved) < 0.3
    words = words_of(project, in_3dref=tmp_path / "large.mrc", resize_reference="No")
    assert main([*words, "--o", str(tmp_path / "no"), "--quiet"]) == 2
    assert "use --resize_reference Yes" in capsys.readouterr().err


def test_what_is_assumed_of_reference_and_mask_is_said_before(project, tmp_path):
    """Pixel sizes, grids and values of maps and masks: what is changed is said, what cannot be meant is refused."""
    from napari_sta.kernels.filters import resample_to_grid

    def write(name: str, data: Any, pixel: float | None) -> str:
        write_volume(tmp_path / name, Volume(np.asarray(data, np.float32), pixel))
        return str(tmp_path / name)

    truth = read_volume(project.reference).data
    ball = np.asarray(truth > 0.2 * truth.max(), np.float32)

    def looked_at(**values: Any) -> list[str]:
        job = job_of({**project.inputs(), **values})
        job.check()
        return [one for one in job.warnings() if str(tmp_path) in one and "starts both half sets" not in one]

    assert looked_at() == []
    silent = write("silent.mrc", truth, None)
    [said] = looked_at(in_3dref=silent)
    assert said.startswith(f"{silent} states no pixel size")
    assert said.endswith("taken to be that of the particles (24 px at 4 Å), whose box it has")
    # It is not rescaled.
    references = job_of({**project.inputs(), "in_3dref": silent})._prepared(logging.getLogger("test"), 1)[2]
    np.testing.assert_array_equal(references[0].numpy(), truth)
    large = write("large.mrc", resample_to_grid(truth, PIXEL_ANGST, 40, 3.0), 3.0)
    assert looked_at(in_3dref=large) == [f"{large} is resampled from 40 px at 3 Å to 24 px at 4 Å"]
    mask, coarse = (
        write("mask.mrc", ball, None),
        write("coarse.mrc", resample_to_grid(ball, 4.0, 16, 6.0), 6.0),
    )
    assert "states no pixel size" in looked_at(in_mask=mask)[0]
    assert (
        "coarse.mrc (16 px at 6 Å) is resampled to the grid of the particles" in looked_at(in_mask=coarse)[0]
    )
    ringing = write("ringing.mrc", 1.1 * ball - 0.05, 4.0)
    assert "are cut off to 0…1" in looked_at(in_mask=ringing)[0]
    for values, words in (
        (
            {"in_3dref": write("other.mrc", truth[2:-2, 2:-2, 2:-2], None)},
            "its box is 20 px, not that of the particles",
        ),
        ({"in_3dref": write("huge.mrc", 3e38 * ball, 4.0)}, "which cannot be computed with"),
        ({"in_3dref": write("zero.mrc", 0 * ball, 4.0)}, "holds nothing: all voxels are 0"),
        (
            {"in_mask": write("map.mrc", 7 * ball - 3, 4.0)},
            "must lie between 0 and 1, these run from -3 to 4",
        ),
        ({"in_mask": write("stack.mrc", ball[:21], 4.0)}, "a mask is a cube"),
        ({"in_mask": write("small.mrc", np.ones((12, 12, 12)), 4.0)}, "reaches the edge of its own box"),
    ):
        with pytest.raises(InputError) as error:
            looked_at(**values)
        assert words in str(error.value)


@pytest.mark.parametrize("names", ["half{}.mrc 1 2", "map_half_{}.mrc A B", "emd_1_half_map_{}.map 1 2"])
def test_half_maps_as_reference(project, tmp_path, names):
    """Each half set starts from its own, however the two are named; they must belong together."""
    pattern, *which = names.split()
    truth = read_volume(project.reference).data
    paths = [tmp_path / pattern.format(one) for one in which]
    for factor, path in enumerate(paths, start=1):
        write_volume(path, Volume(truth * np.float32(factor), PIXEL_ANGST))
    for path in paths:
        job = job_of({**project.inputs(), "in_3dref": path})
        references = job._prepared(logging.getLogger("test"), 1)[2]
        for factor, one in enumerate(references, start=1):
            np.testing.assert_array_equal(one.numpy(), truth * np.float32(factor))
    write_volume(paths[1], Volume(truth, PIXEL_ANGST * 1.1))
    with pytest.raises(InputError, match="differ in pixel size"):
        job.check()
    write_volume(paths[1], Volume(truth, None))
    job.check()
    assert any(
        f"{paths[1]} states no pixel size" in one and "taken to be that of" in one for one in job.warnings()
    )
    paths[1].unlink()
    with pytest.raises(InputError, match=rf"{paths[1].name} is missing; .* rename a map that is none of two"):
        job_of({**project.inputs(), "in_3dref": paths[0]}).check()


def test_solvent_flattened_fsc(project, three, converged, tmp_path):
    """It is that of the masked maps up to where phases are randomised; without a mask a sphere serves."""
    out, _ = converged
    fsc = files.read_model(out / "run_it001_half1_model.star").fsc
    one, two, mask = (
        torch.from_numpy(read_volume(out / name).data)
        for name in (
            "run_it001_half1_class001_unfil.mrc",
            "run_it001_half2_class001_unfil.mrc",
            "run_solvent_mask.mrc",
        )
    )
    masked = np.asarray(fourier_shell_correlation(one * mask, two * mask))
    whole = np.asarray(fourier_shell_correlation(one, two))
    np.testing.assert_allclose(fsc[1:5], masked[1:5], atol=2e-4)
    assert np.abs(whole - masked)[1:5].max() > 0.01
    assert (fsc[7:10] < masked[7:10] - 0.01).all()
    assert not (three / "run_it001_half1_class001_unfil.mrc").exists()
    job = job_of({**project.inputs(), "solvent_flattened_fsc": True})
    assert any("measured in a sphere" in sentence for sentence in job.warnings())


def test_optics_groups_of_other_box_and_pixel_size(project, tmp_path):
    """Every second particle comes with 6 Å pixels and a wider box."""
    coarse = tmp_path / "coarse"
    job = {"in_optimisation_set": str(project.picks), "box_size_px": 28, "crop_size_px": 20, "binning": 1.5}
    finish(job_named("extract").from_text(job), coarse, THREADS)
    series = read_tilt_series_set(project.tomograms)
    fine = read_particles(edited(project, tmp_path / "fine.star", lambda tables: None), series)
    wide = read_particles(coarse / "particles.star", series)
    assert list(fine.name) == list(wide.name)
    second = np.arange(len(fine)) // 2 % 2 == 1
    groups = (fine.optics[0], replace(wide.optics[0], number=2, name="optics2", text={
        **wide.optics[0].text, "rlnOpticsGroup": "2", "rlnOpticsGroupName": "optics2",
    }))  # fmt: skip
    text = dict(fine.text)
    theirs = np.array([str(tmp_path / name) for name in wide.text["rlnImageName"]], dtype=object)
    text["rlnImageName"] = np.where(second, theirs, fine.text["rlnImageName"])
    merged = replace(fine, optics=groups, optics_group=np.where(second, 2, 1), text=text)
    write_particles(tmp_path / "merged.star", merged)
    out = tmp_path / "run"
    finish(job_of(with_particles(project, tmp_path / "merged.star") | {"max_iterations": 2}), out, THREADS)
    found = read_particles(out / "run_it002_data.star", series)
    before = errors_of(project.particles, project)
    for rows in (second, ~second):
        write_particles(tmp_path / "part.star", found[np.flatnonzero(rows)])
        after = errors_of(tmp_path / "part.star", project)
        assert after.angle_deg < 0.75 * before.angle_deg
        assert after.position_angst < 0.6 * before.position_angst
    model = files.read_model(out / "run_it002_half1_model.star")
    assert len(model.sigma2_noise) == 2
    assert read_star(out / "run_it002_data.star")["optics"]["rlnImageSize"].tolist() == [str(BOX_PX), "20"]


def test_relions_way_with_a_first_iteration_by_correlation(project, tmp_path):
    out = tmp_path / "run"
    record = refine(project, out, relion_parity=True, absolute_greyscale="No", max_iterations=2)
    first, second = record["history"]
    assert first["accuracy_deg"] is None
    assert first["resolution_angst"] == pytest.approx(24, abs=0.1)
    assert first["image_size_px"] == min(BOX_PX, 2 * (4 + 10))
    assert second["accuracy_deg"] > 0
    before = errors_of(project.particles, project)
    after = errors_of(out / "run_it002_data.star", project)
    assert after.angle_deg < 0.85 * before.angle_deg
    assert after.position_angst < 0.6 * before.position_angst
    # RELION's particles are at samples of its grid: the offset moves by half the fine step or more.
    state = read_checkpoint(checkpoint_path(out, 2)).state
    assert (state.p_max > 0.2).any()
    assert state.temperature.tolist() == [1, 1]


# ---- stopping


def long_job(project: Refinable) -> Job:
    """A global search that takes minutes."""
    return job_of({**project.inputs(), "initial_sampling_deg": "3.7", "local_searches_from_deg": "0.9",
                   "offset_range_px": 4})  # fmt: skip


def in_expectation(steps: Iterator[Progress]) -> Progress:
    for progress in steps:
        if progress.data and progress.data.get("phase") == "expectation":
            return progress
    raise AssertionError("it ended")


def test_it_stops_within_two_seconds(project, tmp_path):
    steps = long_job(project).run(Context(tmp_path, threads=THREADS, device="cpu"))
    progress = in_expectation(steps)
    assert progress.done < progress.total
    assert progress.data is not None
    assert progress.data["eta_s"] > 0
    began = time.monotonic()
    steps.close()
    assert time.monotonic() - began < 2
    assert not checkpoint_path(tmp_path, 1).exists()


def test_relions_abort_file_stops_it(project, tmp_path):
    run = JobRun(long_job(project), RunOptions(out=tmp_path / "run", threads=THREADS))
    steps = run.steps()
    in_expectation(steps)
    (tmp_path / "run" / ABORT_NOW).touch()
    began = time.monotonic()
    with pytest.raises(Stopped, match=ABORT_NOW):
        for _ in steps:
            pass
    assert time.monotonic() - began < 2
    assert (tmp_path / "run" / "RELION_JOB_EXIT_ABORTED").exists()


# ---- RELION


def test_relions_second_iteration_again(data, tmp_path):
    """Seven particles of a RELION 5.0.1 refinement, from its files of iteration 1: its poses of iteration 2.

    Both halves are given half 1's map here, so only the six particles of half 1 count.
    """
    folder = tmp_path / "replay"
    shutil.copytree(data / "refine_replay", folder)
    (folder / "tilt_stacks").mkdir()
    write_stack(folder / "tilt_stacks" / "TS_45.mrc", np.zeros((21, 384, 384), np.float32), 2.7, float16=True)
    values = {
        "continue_from": folder / "run_it001_optimiser.star", "relion_parity": True, "max_iterations": 2,
    }  # fmt: skip
    finish(job_of(values), tmp_path / "run", THREADS)
    state = read_checkpoint(checkpoint_path(tmp_path / "run", 2)).state
    theirs = read_particles(folder / "run_it002_data.star")
    assert theirs.half_set is not None
    rows = theirs.half_set == 1
    assert rows.sum() == 6
    p_max = theirs.text["rlnMaxValueProbDistribution"].astype(float)
    difference = np.abs(state.p_max - p_max)[rows]
    assert p_max[rows].min() < 0.4
    assert difference.mean() < 0.01, difference
    np.testing.assert_array_equal(
        state.n_significant[rows], theirs.text["rlnNrOfSignificantSamples"].astype(int)[rows]
    )
    apart = angular_distance_deg(
        euler_to_matrix_zyx(state.angles_deg), euler_to_matrix_zyx(theirs.angles_deg), "C6"
    )
    assert apart[rows].max() < 0.01
    np.testing.assert_allclose(state.offset_zyx_angst[rows], theirs.origin_zyx_angst[rows], atol=0.01)
    assert state.perturbation == pytest.approx(0.275636, abs=1e-5)
    assert state.current_size == 38
