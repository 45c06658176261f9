"""A tiny project with extracted particles, its truth, and what refinements are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.particles import Particles
from napari_sta.io.mrc import write_volume
from napari_sta.io.relion import read_particles, read_tilt_series_set
from napari_sta.jobs._job import job_named
from napari_sta.kernels.rotations import angular_distance_deg, euler_to_matrix_zyx
from napari_sta.phantoms.simulation import Phantom
from napari_sta.phantoms.spec import dose_symmetric
from tiny_project import finish, make_project

Array = NDArray[np.float64]

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
