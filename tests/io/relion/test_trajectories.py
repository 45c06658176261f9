"""Trajectory sets."""

from __future__ import annotations

import numpy as np

from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.relion.trajectories import read_trajectories, write_trajectories
from napari_sta.io.star import Table, read_star, write_star


def test_trajectories(project):
    motion = read_trajectories("Polish/job020/motion.star")
    assert len(motion.shift_zyx_angst) == 12
    table = read_star("Polish/job020/motion.star")["TS_03/2"]
    np.testing.assert_array_equal(
        motion.shift_zyx_angst["TS_03/2"][:, 0], table["rlnOriginZAngst"].astype(float)
    )
    write_trajectories("copy.star", motion)
    again = read_trajectories("copy.star")
    for name, shift in motion.shift_zyx_angst.items():
        np.testing.assert_allclose(again.shift_zyx_angst[name], shift, atol=1e-6)
    inputs = load_sta_inputs(
        "Select/job023/optimisation_set.star", in_trajectories="Polish/job020/motion.star"
    )
    assert inputs.trajectories is not None


def test_trajectories_by_position(project):
    tables = list(read_star("Polish/job020/motion.star").values())
    numbered = [tables[0], *(Table(str(n), one.columns) for n, one in enumerate(tables[1:]))]
    write_star("old.star", numbered)
    names = read_particles("Select/job023/particles.star").name.tolist()
    motion = read_trajectories("old.star", names)
    assert list(motion.shift_zyx_angst) == names
