"""Whole linear jobs on a project: `extract`, `reconstruct`, `remove_duplicates`; time and memory.

    python benchmarks/bench_extract.py SET.star --box 192 --crop 96 [--max_dose 50] [--symmetry C6]
    python benchmarks/bench_extract.py SET.star --box 192 --crop 96 --repeat 10
    python benchmarks/bench_extract.py SET.star --duplicates_of 200000

Each run is a new process, cold start included, as a user sees it: wall and CPU seconds, largest resident
memory. With --repeat every particle is taken that many times under other names; memory must stay flat. With
--duplicates_of only duplicates are removed, from that many particles at random places, a tenth picked twice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_sta.data.particles import concatenate
from napari_sta.io.relion.inputs import load_sta_inputs
from napari_sta.io.relion.particles import write_particles


def repeated_set(optimisation_set: str, times: int, folder: Path) -> str:
    """Write a set that holds every particle several times."""
    inputs = load_sta_inputs(optimisation_set)
    one = inputs.particles
    parts = [
        replace(one, name=np.array([f"{name}_{k}" for name in one.name], dtype=object)) for k in range(times)
    ]
    path = folder / "particles.star"
    write_particles(path, concatenate(parts))
    inputs.write_set(folder / "optimisation_set.star", path)
    return str(folder / "optimisation_set.star")


def large_set(optimisation_set: str, n: int, folder: Path) -> str:
    """Write a set of many particles in 40 tomograms; returns the particle file."""
    one = load_sta_inputs(optimisation_set).particles
    rng = np.random.default_rng(0)
    position = rng.uniform(-4000, 4000, (n, 3))
    tomogram = np.array([f"TS_{i * 40 // n:02d}" for i in range(n)], dtype=object)
    position[::10] = position[5::10] + 5.0
    particles = replace(
        one[np.arange(n) % len(one)],
        tomogram=tomogram,
        name=np.array([f"{tomogram[i]}/{i}" for i in range(n)], dtype=object),
        coordinate_zyx_angst=position,
    )
    write_particles(folder / "particles.star", particles)
    return str(folder / "particles.star")


def timed(job: str, arguments: list[str]) -> str:
    """Run one job in a new process; return its figures."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "napari_sta.cli", job, *arguments, "--o", out, "--quiet"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"{job} failed")
        cpu = usage.ru_utime + usage.ru_stime
        return f"{seconds:6.2f} s wall  {cpu:6.2f} s cpu  {usage.ru_maxrss / 1024:6.0f} MB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("optimisation_set")
    parser.add_argument("--box", default="192")
    parser.add_argument("--crop", default="96")
    parser.add_argument("--binning", default="1")
    parser.add_argument("--max_dose", default="")
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--duplicates_of", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = given.optimisation_set
        if given.repeat > 1:
            source = repeated_set(source, given.repeat, Path(folder))
        if given.duplicates_of:
            rule = [
                "--in_parts",
                large_set(source, given.duplicates_of, Path(folder)),
                "--min_distance_angst",
            ]
            for run in range(given.runs):
                for name in ("relion", "geometric"):
                    print(
                        f"run {run + 1} {name:12s}{timed('remove_duplicates', [*rule, '30', '--rule', name])}"
                    )
            raise SystemExit(0)
        shared = ["--in_optimisation_set", source, "--box_size_px", given.box, "--crop_size_px", given.crop]
        shared += ["--binning", given.binning]
        jobs = {
            "extract": [*shared, *(["--max_dose_e_per_angst2", given.max_dose] if given.max_dose else [])],
            "reconstruct": [*shared, "--symmetry", given.symmetry],
        }
        for run in range(given.runs):
            for job, arguments in jobs.items():
                print(f"run {run + 1} {job:12s}{timed(job, arguments)}")
