"""The search: priors, global and local, slices shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine_steps import begin, planned
from napari_sta.engine import search
from napari_sta.engine.search import Searcher
from napari_sta.engine.workers import Watch
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.star import Table, read_star, text_column, write_star
from napari_sta.jobs._refine_folder import checkpoint_path, read_checkpoint_of
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx
from refine_project import (
    THREADS,
    Refinable,
    edited,
    errors_of,
    job_of,
    noisy,
    refine,
    with_particles,
)
from tiny_project import finish


@pytest.fixture(scope="module")
def project(stacks: Refinable) -> Refinable:
    return stacks


ITERATIONS = 3


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
    tilt = read_checkpoint_of(checkpoint_path(tmp_path / "run", 1)).state.angles_deg[:, 1]
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
    away = np.abs(read_checkpoint_of(checkpoint_path(tmp_path / "run", 1)).state.angles_deg[:, 1] - 90)
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


def test_shared_volumes_of_a_global_search_change_nothing(subtomograms, tmp_path, monkeypatch):
    found = []
    for most in (32, 1):
        monkeypatch.setattr(search, "_MOST_SHARING", most)
        out = tmp_path / str(most)
        refine(
            subtomograms, out, max_iterations=1, initial_sampling_deg="15", absolute_greyscale="No",
        )  # fmt: skip
        found.append(read_particles(out / "run_it001_data.star"))
    np.testing.assert_allclose(found[0].angles_deg, found[1].angles_deg, atol=1e-3)
    np.testing.assert_allclose(found[0].origin_zyx_angst, found[1].origin_zyx_angst, atol=1e-3)


@pytest.fixture(scope="module")
def wide(project):
    """A global search at 15 degrees."""
    begun = begin(project, initial_sampling_deg="15", local_searches_from_deg="1.8")
    return begun, planned(*begun)


def test_groups_are_of_one_tilt_series_and_no_larger_than_allowed(wide, monkeypatch):
    (run, state), (plan, _) = wide
    searcher = Searcher(run, 1, state, plan)
    rows = run.rows_of(state.half_set, 1)
    for most in (3, 32):
        monkeypatch.setattr(search, "_MOST_SHARING", most)
        groups = list(searcher._groups(rows))
        assert [index for group in groups for index in group] == rows.tolist()
        assert max(map(len, groups)) == min(most, max(np.bincount(run.source.series_index[rows])))
        for group in groups:
            assert len(set(run.source.series_index[group])) == 1
    monkeypatch.setattr(search, "_SCORE_BYTES", 1.0)
    assert {len(group) for group in searcher._groups(rows)} == {1}
    assert list(searcher._groups(rows[:0])) == []


def test_shared_scores_are_those_of_each_particle(wide):
    (run, state), (plan, projectors) = wide
    searcher = Searcher(run, 1, state, plan)
    rows = run.rows_of(state.half_set, 1)[:3]
    found = {}
    for index, particle, scores in searcher.prepared(rows, projectors[0], Watch()):
        assert scores is not None
        shared, tried = searcher.search(index, particle, projectors[0], scores)
        alone, _ = searcher.search(index, particle, projectors[0], None)
        assert shared.best == alone.best
        np.testing.assert_allclose(shared.weights, alone.weights, atol=1e-3)
        np.testing.assert_array_equal(tried, np.arange(len(plan.grid)))
        found[index] = shared
    assert list(found) == rows.tolist()


def test_directions_without_probability_are_not_tried(wide):
    (run, state), (plan, projectors) = wide
    pdf = np.zeros(plan.grid.n_directions)
    pdf[[2, 7]] = 0.5
    state = replace(state, models=tuple(replace(model, pdf_direction=pdf) for model in state.models))
    searcher = Searcher(run, 1, state, plan)
    index = int(run.rows_of(state.half_set, 1)[0])
    particle = run.particle(state, 1, index, plan.windows[0])
    posterior, tried = searcher.search(index, particle, projectors[0])
    assert set(tried // plan.grid.n_psi) == {2, 7}
    assert set(tried[posterior.parents] // plan.grid.n_psi) <= {2, 7}


def test_a_stop_ends_the_reading(wide):
    (run, state), (plan, projectors) = wide
    watch = Watch()
    watch.stop.set()
    searcher = Searcher(run, 1, state, plan)
    assert list(searcher.prepared(run.rows_of(state.half_set, 1), projectors[0], watch)) == []


def test_local_searches_stay_near_the_pose(begun, halves):
    run, state = begun
    plan, _ = halves
    searcher = Searcher(run, 2, state, plan)
    assert searcher.is_local
    assert searcher.whole is None
    index = int(run.rows_of(state.half_set, 2)[1])
    orientation, log_prior = searcher._near_prior(index)
    assert len(orientation) < len(plan.grid) / 10
    np.testing.assert_allclose(np.exp(log_prior).sum(), 1)
    best = euler_to_matrix_zyx(plan.grid.angles_deg(orientation[[int(log_prior.argmax())]]))
    here = euler_to_matrix_zyx(state.angles_deg[index][None])
    assert angular_distance_deg(best, here)[0] < 1.5 * plan.grid.step_deg
