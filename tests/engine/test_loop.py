"""Iterations: what is told while they run, calibration, and halves that know nothing of each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine_steps import finished
from napari_sta.engine import loop
from napari_sta.engine.loop import iterate
from napari_sta.engine.maximisation import maximise
from napari_sta.engine.quirks import Quirk
from napari_sta.engine.run import Run
from napari_sta.io.mrc import read_images, write_stack
from napari_sta.io.star import Table
from refine_project import (
    PIXEL_ANGST,
    THREADS,
    Refinable,
    edited,
    job_of,
    with_particles,
)
from tiny_project import finish


@pytest.fixture(scope="module")
def project(stacks: Refinable) -> Refinable:
    return stacks


def test_half_1_does_not_know_the_particles_of_half_2(project, tmp_path, monkeypatch):
    """Other images, other poses for half 2: what half 1 adds up stays the same, bit for bit."""
    sums: list[list[Any]] = []

    def spied(run, state, plan, halves):
        first, second = halves
        poses = np.array([np.r_[a.rotation_zyx.ravel(), a.offset_zyx_px, a.p_max] for a in first.alignments])
        seen = [first.volume.copy(), first.statistics.residual, first.statistics.tilt_residual]
        seen += [first.statistics.offset2_angst2, poses, state.images[0].noise, state.images[0].sigma2]
        seen += [state.model(1).reference, second.volume.copy()]
        sums.append(seen)
        return maximise(run, state, plan, halves)

    monkeypatch.setattr(loop, "maximise", spied)

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


def test_it_tells_what_it_does(begun):
    run, state = begun
    steps = list(iterate(run, state))
    phases = [step.data["phase"] for step in steps]
    order = [phase for k, phase in enumerate(phases) if k == 0 or phases[k - 1] != phase]
    assert order == ["accuracy", "expectation", "maximisation"]
    done = [step.done for step in steps if step.data["phase"] == "expectation"]
    assert done == sorted(done)
    assert 0 < done[0] <= done[-1] <= len(run.source)
    last = steps[-1]
    assert last.done == last.total == len(run.source)
    assert last.data["iteration"] == 1
    assert not last.data["last"]
    assert last.data["sampling_deg"] == pytest.approx(3.75)
    for step in steps:
        if step.data["phase"] == "expectation":
            assert step.data["eta_s"] >= 0


def test_the_likelihood_is_calibrated_unless_relion_is_followed(begun):
    run, state = begun
    new, _ = finished(iterate(run, state))
    for images in new.images:
        assert 1 <= images.temperature < 5
    believing = Run(
        run.source, replace(run.settings, quirks=frozenset({Quirk.NO_CALIBRATION})), run.rules, run.mask
    )
    warm = replace(state, images=tuple(replace(images, temperature=1.5) for images in state.images))
    new, _ = finished(iterate(believing, warm))
    assert [images.temperature for images in new.images] == [1.5, 1.5]


def test_temperatures_stay_within_reason(begun, monkeypatch):
    for factor, expected in ((1e6, 100.0), (1e-6, 1.0)):
        monkeypatch.setattr(loop.calibration, "overconfidence", lambda seen, factor=factor: factor)
        new, _ = finished(iterate(*begun))
        assert [images.temperature for images in new.images] == [expected, expected]


def test_it_can_be_stopped_while_particles_are_searched(begun):
    steps = iterate(*begun)
    for step in steps:
        if step.data["phase"] == "expectation":
            break
    steps.close()
    assert list(steps) == []
