"""Small projects with known truth, and a way to run a job to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume
from napari_sta.jobs._job import Context, Job, job_named
from napari_sta.phantoms.density import Blobs, density_map
from napari_sta.phantoms.project import ProjectPaths, write_project
from napari_sta.phantoms.simulation import Phantom, simulate
from napari_sta.phantoms.spec import PhantomSpec, dose_symmetric

# Five blobs with no symmetry at all: any wrong turn, mirror or shift shows.
LOPSIDED = Blobs(
    np.array([[0.0, 0, 18], [14, -8, 0], [-16, 4, 6], [6, 18, -10], [-8, -16, -14]]),
    np.array([1.0, 1.4, 0.8, 1.1, 0.9]),
    4.5,
)


class Project(NamedTuple):
    """A written phantom and the phantom itself."""

    paths: ProjectPaths
    phantom: Phantom


def tiny_spec(**changes: Any) -> PhantomSpec:
    """Perfect picks of lopsided particles, without noise, membrane or neighbours in the box."""
    values: dict[str, Any] = {
        "seed": 5, "n_tomograms": 6, "particles_per_tomogram": 7, "pixel_size_angst": 4.0,
        "image_size_yx_px": (100, 100), "tomogram_size_zyx_px": (90, 100, 100), "density": LOPSIDED,
        "sphere_radius_angst": 110.0, "lattice_spacing_angst": 110.0, "tilts_deg": dose_symmetric(60, 15.0),
        "membrane_strength": 0.0, "snr": float("inf"), "angle_error_deg": 0.0, "position_error_angst": 0.0,
        "duplicate_fraction": 0.0, "hidden_offset_px": 0.0, "map_box_px": 32, "shift_spread_angst": 8.0,
    }  # fmt: skip
    return PhantomSpec(**(values | changes))


def make_project(root: Path, **changes: Any) -> Project:
    """Simulate and write a project of :func:`tiny_spec`."""
    phantom = simulate(tiny_spec(**changes))
    return Project(write_project(phantom, root), phantom)


def finish(job: Job, out: Path, threads: int = 1) -> dict[str, Any]:
    """Run a job without its runner, as a library user would; return the record."""
    out.mkdir(parents=True, exist_ok=True)
    steps = job.run(Context(out, threads=threads, device="cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def reconstruct(
    project: Project | ProjectPaths, out: Path, threads: int = 1, **values: Any
) -> dict[str, Any]:
    """Reconstruct a project's optimisation set in a box of 32."""
    paths = project.paths if isinstance(project, Project) else project
    values = {"in_optimisation_set": str(paths.optimisation_set), "box_size_px": 32, **values}
    return finish(job_named("reconstruct").from_text(values), out, threads)


class Likeness(NamedTuple):
    """Correlation with the truth about the centre, and the scale that fits."""

    correlation: float
    scale: float


def likeness(found: Volume | Path, blobs: Blobs = LOPSIDED, radius_angst: float = 42.0) -> Likeness:
    """Compare a map with the density it should show; scale 1 is sqrt(box) times the density."""
    if isinstance(found, Path):
        found = read_volume(found)
    size, pixel = found.box_px, found.pixel_size_angst
    truth = density_map(blobs, size, pixel).data
    index = (np.arange(size) - size // 2) * pixel
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    a, b = (v[r < radius_angst].astype(np.float64) for v in (found.data, truth))
    a, b = a - a.mean(), b - b.mean()
    return Likeness(float(a @ b / np.sqrt(a @ a * (b @ b))), float(a @ b / (b @ b) / np.sqrt(size)))
