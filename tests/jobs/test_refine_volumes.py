"""3D auto-refine of pseudo-subtomograms: truth, stacks beside it, files, and inputs that cannot be honoured."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io import refinement as files
from napari_sta.io.mrc import read_volume, write_volume
from napari_sta.io.relion import read_particles
from napari_sta.io.star import read_star, write_star
from napari_sta.jobs._job import job_named, value_as_text
from napari_sta.jobs._refine_loop import Refinement
from napari_sta.jobs._refine_volumes import VolumeSource
from napari_sta.kernels.refine.images import fill_outside, soft_disc
from napari_sta.kernels.refine.on_cpu import shift_images
from napari_sta.kernels.refine.volumes import volume_transform, weights_of
from refine_project import BOX_PX, PIXEL_ANGST, Refinable, errors_of, make_refinable
from tiny_project import finish

ITERATIONS = 3


@pytest.fixture(scope="module")
def subtomograms(tmp_path_factory: pytest.TempPathFactory) -> Refinable:
    return make_refinable(tmp_path_factory.mktemp("volumes"), extract={"stack2d": "No"})


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Refinable:
    """Return the same particles as 2D stacks."""
    return make_refinable(tmp_path_factory.mktemp("stacks"))


def refine(project: Refinable, out: Path, **values: Any) -> dict[str, Any]:
    given = {"max_iterations": ITERATIONS, **project.inputs(), **values}
    return finish(
        job_named("refine").from_text({key: value_as_text(value) for key, value in given.items()}), out, 2
    )


def prepared(project: Refinable, **values: Any) -> Refinement:
    given = {**project.inputs(), **values}
    job = job_named("refine").from_text({key: value_as_text(value) for key, value in given.items()})
    return job._prepared(logging.getLogger("test"), 1)[1]


@pytest.fixture(scope="module")
def refined(subtomograms: Refinable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refined")
    refine(subtomograms, out)
    return out


def test_poses_get_nearer_to_truth_as_from_stacks(subtomograms, stacks, refined, tmp_path):
    start = errors_of(subtomograms.particles, subtomograms)
    found = errors_of(refined / f"run_it{ITERATIONS:03d}_data.star", subtomograms)
    assert found.angle_deg < 0.5 * start.angle_deg
    assert found.position_angst < 0.5 * start.position_angst
    refine(stacks, tmp_path)
    beside = errors_of(tmp_path / f"run_it{ITERATIONS:03d}_data.star", stacks)
    assert found.angle_deg < 1.3 * beside.angle_deg
    assert found.position_angst < 1.3 * beside.position_angst


def test_noise_is_calibrated(refined):
    """The likelihood is about as sure as it may be: spreading and multiplicity are accounted for."""
    last = files.read_model(refined / f"run_it{ITERATIONS:03d}_half1_model.star")
    assert np.isfinite(last.sigma2_noise).all()
    history = json.loads((refined / "run_history.json").read_text())
    for factor in history[-1]["temperature"]:
        assert 1 <= factor < 2.5


def test_files_say_that_data_are_volumes(subtomograms, refined):
    name = refined / f"run_it{ITERATIONS:03d}"
    assert files.read_model(f"{name}_half1_model.star").n_dim == 3
    tables = read_star(f"{name}_data.star")
    assert tables["general"]["rlnTomoSubTomosAre2DStacks"][0] == "0"
    assert tables["optics"]["rlnImageDimensionality"][0] == "3"
    before = read_star(subtomograms.particles)
    for table, columns in (
        ("optics", before["optics"].columns),
        ("particles", ["rlnImageName", "rlnCtfImage"]),
    ):
        for label in columns:
            if table == "particles":
                assert [Path(one).name for one in tables[table][label]] == [
                    Path(one).name for one in before[table][label]
                ]
            else:
                np.testing.assert_array_equal(tables[table][label], before[table][label])


def test_relion_parity_runs_and_gets_nearer(subtomograms, tmp_path):
    refine(subtomograms, tmp_path, relion_parity="Yes")
    start = errors_of(subtomograms.particles, subtomograms)
    found = errors_of(tmp_path / f"run_it{ITERATIONS:03d}_data.star", subtomograms)
    assert found.angle_deg < 0.7 * start.angle_deg
    assert found.position_angst < 0.7 * start.position_angst


def test_shared_volumes_of_a_global_search_change_nothing(subtomograms, tmp_path, monkeypatch):
    from napari_sta.jobs import _refine_loop

    found = []
    for most in (32, 1):
        monkeypatch.setattr(_refine_loop, "_MOST_SHARING", most)
        out = tmp_path / str(most)
        refine(
            subtomograms, out, max_iterations=1, initial_sampling_deg="15", absolute_greyscale="No",
        )  # fmt: skip
        found.append(read_particles(out / "run_it001_data.star"))
    np.testing.assert_allclose(found[0].angles_deg, found[1].angles_deg, atol=1e-3)
    np.testing.assert_allclose(found[0].origin_zyx_angst, found[1].origin_zyx_angst, atol=1e-3)


def test_parity_moves_the_volume_under_the_mask(subtomograms):
    source = prepared(subtomograms, relion_parity="Yes").source
    assert isinstance(source, VolumeSource)
    window = source.windows(8)[0]
    loaded = source.load(0, window, None, np.array([2.2, -0.6, 0.3]))
    pixels = window.pixels
    stored = torch.from_numpy(read_volume(source._stack(0)).data)
    moved = torch.zeros_like(stored)
    moved[2:, :-1] = stored[:-2, 1:]  # by (2, -1, 0), zeros behind
    disc = soft_disc(BOX_PX, source.diameter_angst / (2 * PIXEL_ANGST), source.edge_px, 3)
    weights = weights_of(torch.from_numpy(read_volume(source._stack(0, "rlnCtfImage")).data))
    there = weights.multiplicity > 0
    for found, volume in ((loaded.masked, fill_outside(moved, disc, 3)), (loaded.unmasked, moved)):
        expected = pixels.take(volume_transform(volume) * there)
        for t in range(len(pixels.parts)):
            out = np.empty((1, expected.shape[1]), np.float32)
            shift_images(found[t], np.array([[2.0, -1.0, 0.0]]), pixels.part(t), out)
            np.testing.assert_allclose(out[0], expected[t], atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(loaded.model, pixels.pick(weights.ctf2))
    np.testing.assert_array_equal(loaded.multiplicity, pixels.pick(weights.multiplicity))


def test_model_of_a_particle_is_what_its_weights_hold(subtomograms):
    source = prepared(subtomograms).source
    window = source.windows(BOX_PX // 2)[0]
    loaded = source.load(3, window)
    # Beyond what spreading reaches nothing is known, and the filling is empty.
    assert (loaded.model >= 0).all()
    assert loaded.tilts.tolist() == [0] * len(window.pixels.parts)
    share = loaded.model.ravel()[: window.pixels.count] > 0
    assert 0.3 < share.mean() < 1
    np.testing.assert_allclose(loaded.matrices_zyx[0], np.eye(3))
    totals = source.model_shells()
    assert totals.shape == (len(source.series_names), 1, BOX_PX // 2 + 1)
    mine = np.bincount(window.pixels.shell, loaded.model.ravel()[: window.pixels.count], BOX_PX // 2 + 1)
    np.testing.assert_allclose(mine[1:10], totals[source.series_index[3], 0, 1:10], rtol=0.3)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"zero_mask": "No"}, "--zero_mask Yes"),
        ({"ctf_correction": "No"}, "--ctf_correction Yes"),
        ({"ignore_ctf_until_first_peak": "Yes"}, "--ignore_ctf_until_first_peak No"),
    ],
    ids=["noise-filled mask", "no CTF", "first peak"],
)
def test_options_that_volumes_cannot_honour(subtomograms, option, words):
    with pytest.raises(InputError, match=words):
        prepared(subtomograms, **option)


def edited(project: Refinable, root: Path, edit: Any) -> Refinable:
    """Copy the extracted folder and change its particle table."""
    folder = root / "Extract"
    shutil.copytree(project.particles.parent, folder)
    path = folder / "particles.star"
    tables = read_star(path)
    columns = tables["particles"].columns
    for label in ("rlnImageName", "rlnCtfImage"):
        columns[label] = np.array(
            [str(folder / Path(one).relative_to(project.particles.parent))
             if Path(one).is_absolute() else str(folder / one.partition("Extract/")[2]) for one in columns[label]],
            dtype=object,
        )  # fmt: skip
    edit(columns)
    write_star(path, tables)
    return replace(project, particles=path)


def direct(project: Refinable) -> dict[str, Any]:
    return {
        "in_optimisation_set": "", "in_parts": str(project.particles), "in_tomograms": str(project.tomograms)
    }  # fmt: skip


def test_damaged_inputs_are_refused(subtomograms, tmp_path):
    other = edited(subtomograms, tmp_path / "a", lambda columns: columns.pop("rlnCtfImage"))
    with pytest.raises(InputError, match="has no rlnCtfImage"):
        prepared(other, **direct(other))

    other = edited(subtomograms, tmp_path / "b", lambda columns: None)
    source = prepared(other, **direct(other)).source
    source.check_stacks()
    weights = source._stack(1, "rlnCtfImage")
    whole = read_volume(weights)
    write_volume(weights, Volume(whole.data[:BOX_PX], whole.pixel_size_angst))  # no multiplicity
    with pytest.raises(InputError, match=r"13 x 24 x 24 voxels; CTF² and multiplicity .* 13 x 24 x 48"):
        source.check_stacks()
    with pytest.raises(InputError, match="extract again"):
        source.load(1, source.windows(6)[0])
    source._stack(2).unlink()
    with pytest.raises(InputError, match="does not exist"):
        source.load(2, source.windows(6)[0])


def test_half_sets_and_particles_stay_as_they_were(subtomograms, refined):
    before = read_particles(subtomograms.particles)
    after = read_particles(refined / f"run_it{ITERATIONS:03d}_data.star")
    assert list(before.name) == list(after.name)
    if before.half_set is not None and before.half_set.any():
        np.testing.assert_array_equal(before.half_set, after.half_set)
