"""A tiny project with extracted particles, its truth, and what refinements are judged by."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.particles import Particles
from napari_sta.io.mrc import read_images, read_volume, write_stack, write_volume
from napari_sta.io.relion.particles import read_particles
from napari_sta.io.relion.tilt_series import read_tilt_series_set
from napari_sta.io.star import Table, read_star, write_star
from napari_sta.jobs._job import Job, job_named, value_as_text
from napari_sta.jobs._refine_folder import checkpoint_path
from napari_sta.jobs._refine_inputs import Prepared, prepare
from napari_sta.jobs._run import JobRun
from napari_sta.jobs._run_options import RunOptions
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx
from napari_sta.phantoms.simulation import Phantom
from napari_sta.phantoms.spec import dose_symmetric
from tiny_project import finish, make_project

Array = NDArray[np.float64]

THREADS = 2

BOX_PX, PIXEL_ANGST, DIAMETER_ANGST = 24, 4.0, 76.0
"""Of the extracted particles, and of the mask."""

REFINE: dict[str, Any] = {
    "mask_diameter_angst": DIAMETER_ANGST, "initial_lowpass_angst": 24, "initial_sampling_deg": "3.7",
    "local_searches_from_deg": "3.7", "offset_range_px": 2, "offset_step_px": 1,
}  # fmt: skip
"""A refinement that takes a second or two an iteration; local from the start."""


@dataclass(frozen=True)
class Refinable:
    """Extracted particles of a phantom.

    Attributes
    ----------
    phantom
        With the true poses.
    particles, tomograms, optimisation_set
        STAR files.
    picks
        Optimisation set of the particles before they were extracted.
    reference
        The true map in the box of the particles, on the grey scale of the images.
    """

    phantom: Phantom
    root: Path
    particles: Path
    tomograms: Path
    optimisation_set: Path
    reference: Path
    picks: Path

    def inputs(self) -> dict[str, Any]:
        """Return what a refine job needs."""
        return {"in_optimisation_set": str(self.optimisation_set), "in_3dref": str(self.reference), **REFINE}


class Errors(NamedTuple):
    """Median distance from the truth."""

    angle_deg: float
    position_angst: float


def make_refinable(root: Path, extract: dict[str, Any] | None = None, **changes: Any) -> Refinable:
    """Simulate and extract; picks are off by 4 degrees and 3 Å an axis."""
    values: dict[str, Any] = {
        "n_tomograms": 4, "particles_per_tomogram": 8, "snr": 0.6, "tilts_deg": dose_symmetric(60, 20.0),
        "angle_error_deg": 4.0, "position_error_angst": 3.0, "map_box_px": BOX_PX, "lattice_spacing_angst": 90.0,
    }  # fmt: skip
    project = make_project(root / "project", **(values | changes))
    out = root / "Extract"
    job = {
        "in_optimisation_set": str(project.paths.optimisation_set),
        "box_size_px": 32,
        "crop_size_px": BOX_PX,
    }
    finish(job_named("extract").from_text({**job, **(extract or {})}), out)
    reference = root / "reference.mrc"
    write_volume(reference, project.phantom.truth_map)
    return Refinable(
        project.phantom, root, out / "particles.star", project.paths.tomograms,
        out / "optimisation_set.star", reference, project.paths.optimisation_set,
    )  # fmt: skip


def pose_errors(found: Particles, phantom: Phantom, symmetry: str = "C1") -> Errors:
    """Compare poses with the truth of the particles of the same name."""
    place = {name: i for i, name in enumerate(phantom.particles.name)}
    rows = np.array([place[name] for name in found.name])
    turned = euler_to_matrix_zyx(found.subtomogram_angles_deg) @ euler_to_matrix_zyx(found.angles_deg)
    angle = angular_distance_deg(turned, euler_to_matrix_zyx(phantom.true_angles_deg[rows]), symmetry)
    frame = euler_to_matrix_zyx(found.subtomogram_angles_deg)
    position = found.coordinate_zyx_angst - np.einsum("nij,nj->ni", frame, found.origin_zyx_angst)
    miss = np.linalg.norm(position - phantom.true_position_zyx_angst[rows], axis=1)
    return Errors(float(np.median(angle)), float(np.median(miss)))


def errors_of(path: Path, project: Refinable, symmetry: str = "C1") -> Errors:
    """Read a particle set and compare it with the truth."""
    return pose_errors(
        read_particles(path, read_tilt_series_set(project.tomograms)), project.phantom, symmetry
    )


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


def prepared(project: Refinable, **values: Any) -> Prepared:
    """Set the job up without running it."""
    return prepare(job_of({**project.inputs(), **values}), logging.getLogger("test"), 1)


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


def start_process(words: list[str], folder: Path, *before: str) -> subprocess.Popen[str]:
    command = [sys.executable, *before, "-m", "napari_sta", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
