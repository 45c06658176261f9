"""Iterations: the two halves know nothing of each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_sta.engine import loop
from napari_sta.engine.maximisation import maximise
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
