"""3D auto-refine of pseudo-subtomograms: truth, files, parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_sta.io.refinement.model import read_model
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.star import read_star
from napari_sta.jobs._job import job_named, value_as_text
from refine_project import Refinable, errors_of, make_refinable
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
    last = read_model(refined / f"run_it{ITERATIONS:03d}_half1_model.star")
    assert np.isfinite(last.sigma2_noise).all()
    history = json.loads((refined / "run_history.json").read_text())
    for factor in history[-1]["temperature"]:
        assert 1 <= factor < 2.5


def test_files_say_that_data_are_volumes(subtomograms, refined):
    name = refined / f"run_it{ITERATIONS:03d}"
    assert read_model(f"{name}_half1_model.star").n_dim == 3
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


def test_half_sets_and_particles_stay_as_they_were(subtomograms, refined):
    before = read_particles(subtomograms.particles)
    after = read_particles(refined / f"run_it{ITERATIONS:03d}_data.star")
    assert list(before.name) == list(after.name)
    if before.half_set is not None and before.half_set.any():
        np.testing.assert_array_equal(before.half_set, after.half_set)
