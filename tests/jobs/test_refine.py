"""3D auto-refine on small simulated projects: truth, options, several processes, stopping."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_sta.data.errors import Stopped
from napari_sta.data.progress import Progress
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.project.markers import ABORT_NOW
from napari_sta.io.project.project import Project
from napari_sta.io.refinement.model import read_model
from napari_sta.io.refinement.optimiser import read_optimiser
from napari_sta.io.refinement.sampling import read_sampling
from napari_sta.io.relion.particles import read_particles, write_particles
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.io.star import read_star
from napari_sta.jobs._job import Context, Job, job_named
from napari_sta.jobs._refine_folder import checkpoint_path, read_checkpoint_of
from napari_sta.jobs._run import JobRun
from napari_sta.jobs._run_options import RunOptions
from napari_sta.kernels.fsc import fourier_shell_correlation
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx
from napari_sta.phantoms.density import Blobs
from refine_project import (
    BOX_PX,
    DIAMETER_ANGST,
    PIXEL_ANGST,
    THREADS,
    Refinable,
    edited,
    errors_of,
    job_of,
    make_refinable,
    noisy,
    refine,
    start_process,
    with_particles,
    words_of,
)
from tiny_project import finish, likeness


@pytest.fixture(scope="module")
def project(refinable: Refinable) -> Refinable:
    return refinable


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
    ours, theirs = (read_checkpoint_of(checkpoint_path(one, 1)).state for one in (tmp_path / "run", three))
    np.testing.assert_allclose(ours.offset_zyx_angst, theirs.offset_zyx_angst, atol=0.02)
    between = angular_distance_deg(
        euler_to_matrix_zyx(ours.angles_deg), euler_to_matrix_zyx(theirs.angles_deg)
    )
    assert between.max() < 0.05
    for mine, other in zip(ours.models, theirs.models, strict=True):
        np.testing.assert_allclose(mine.reference, other.reference, atol=2e-3 * np.abs(other.reference).max())


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
    assert read_sampling(tmp_path / "run" / "run_it002_sampling.star").symmetry == "C3"
    assert likeness(Volume(data.numpy(), PIXEL_ANGST), blobs, 36).correlation > 0.9


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


def test_two_processes_do_the_work_of_one(project, three, tmp_path):
    out = tmp_path / "ranks"
    words = words_of(project, max_iterations=2)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start_process([*words, "--o", str(out), "--j", "1", "--quiet"], tmp_path, *torchrun)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    one, two = (read_checkpoint_of(checkpoint_path(folder, 2)).state for folder in (three, out))
    np.testing.assert_allclose(two.angles_deg, one.angles_deg, atol=2e-3)
    np.testing.assert_allclose(two.offset_zyx_angst, one.offset_zyx_angst, atol=1e-3)
    np.testing.assert_allclose(two.p_max, one.p_max, atol=1e-3)
    for mine, other in zip(two.images, one.images, strict=True):
        np.testing.assert_allclose(mine.sigma2, other.sigma2, rtol=1e-4)
        np.testing.assert_allclose(mine.noise, other.noise, rtol=1e-3)
    np.testing.assert_allclose(two.fsc, one.fsc, atol=1e-4)
    most = max(np.abs(model.reference).max() for model in one.models)
    for mine, other in zip(two.models, one.models, strict=True):
        np.testing.assert_allclose(mine.reference, other.reference, atol=1e-4 * most)
    assert two.control.order == one.control.order
    assert [path.name for path in sorted(out.glob("run_it002*"))] == [
        path.name for path in sorted(three.glob("run_it002*"))
    ]


def test_padding_and_noise_around_the_particles(project, three, tmp_path):
    out = tmp_path / "run"
    refine(project, out, padding=1, zero_mask=False, max_iterations=2)
    assert read_model(out / "run_it002_half1_model.star").padding == 1
    assert not read_optimiser(out / "run_it002_optimiser.star").zero_mask
    after, before = errors_of(out / "run_it002_data.star", project), errors_of(project.particles, project)
    assert after.angle_deg < 0.7 * before.angle_deg
    assert after.position_angst < 0.6 * before.position_angst
    ours, theirs = (read_checkpoint_of(checkpoint_path(one, 1)).state for one in (out, three))
    assert not np.array_equal(ours.angles_deg, theirs.angles_deg)


def test_solvent_flattened_fsc(project, three, converged, tmp_path):
    """It is that of the masked maps up to where phases are randomised; without a mask a sphere serves."""
    out, _ = converged
    fsc = read_model(out / "run_it001_half1_model.star").fsc
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
    model = read_model(out / "run_it002_half1_model.star")
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
    state = read_checkpoint_of(checkpoint_path(out, 2)).state
    assert (state.p_max > 0.2).any()
    assert [images.temperature for images in state.images] == [1, 1]


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
