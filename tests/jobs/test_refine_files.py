"""RELION's files of a refinement: what is written after each iteration, and going on from RELION's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import starfile

from napari_sta.cli import main
from napari_sta.io.mrc import write_stack
from napari_sta.io.refinement.model import read_model
from napari_sta.io.refinement.names import latest_iteration
from napari_sta.io.refinement.optimiser import read_optimiser
from napari_sta.io.refinement.sampling import read_sampling
from napari_sta.io.relion.particles import read_particles
from napari_sta.jobs._refine_folder import checkpoint_path, read_checkpoint_of
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx
from refine_project import (
    BOX_PX,
    THREADS,
    Refinable,
    errors_of,
    job_of,
)
from tiny_project import finish, likeness


@pytest.fixture(scope="module")
def project(refinable: Refinable) -> Refinable:
    return refinable


PER_ITERATION = (
    "half1_class001.mrc", "half2_class001.mrc", "half1_class001_angdist.bild", "half2_class001_angdist.bild",
    "half1_model.star", "half2_model.star", "data.star", "optimisation_set.star", "optimiser.star",
    "sampling.star", "checkpoint.npz",
)  # fmt: skip


LAST = (
    "half1_class001_unfil.mrc", "half2_class001_unfil.mrc", "class001.mrc", "class001_angdist.bild",
    "model.star", "data.star", "optimisation_set.star", "optimiser.star", "sampling.star",
)  # fmt: skip


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
        optimiser = read_optimiser(f"{stem}_optimiser.star")
        assert optimiser.iteration == number
        assert not optimiser.has_converged
        assert [Path(name).name for name in optimiser.model_files] == [
            f"{stem.name}_half{h}_model.star" for h in (1, 2)
        ]
        for half in (1, 2):
            model = read_model(f"{stem}_half{half}_model.star")
            assert model.size_px == BOX_PX
            assert Path(model.reference).name == f"{stem.name}_half{half}_class001.mrc"
            assert sum(model.group_n_particles) == 16
        assert read_sampling(f"{stem}_sampling.star").offset_step_angst > 0
    for what in LAST:
        assert (out / f"run_{what}").stat().st_size > 0, what
    assert read_optimiser(out / "run_optimiser.star").has_converged
    assert (out / "run_solvent_mask.mrc").exists()
    assert latest_iteration(out) == record["iterations"] - 1


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
    ours, theirs = (read_checkpoint_of(checkpoint_path(one, 2)).state for one in (tmp_path / "on", three))
    assert ours.perturbation == pytest.approx(theirs.perturbation, abs=1e-5)
    assert ours.current_size_px == theirs.current_size_px


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
    state = read_checkpoint_of(checkpoint_path(tmp_path / "run", 2)).state
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
    assert state.current_size_px == 38
