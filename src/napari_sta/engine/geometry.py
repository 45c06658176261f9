"""Where the particles of one tomogram fall in its tilt images: shared by all that read tilt series."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.particles import Particles
from napari_sta.data.tilt_series import TiltSeries, Trajectories
from napari_sta.kernels.optics import Defocus, Microscope, phase_coefficients
from napari_sta.kernels.projection import (
    deform,
    depth_angst,
    particle_positions_zyx_px,
    project,
    projection_matrices_zyx,
)
from napari_sta.kernels.rotations import euler_to_matrix_zyx


class TiltGeometry(NamedTuple):
    """Particles of one tomogram in its tilt images; ``n`` particles, ``t`` tilts.

    Attributes
    ----------
    position_yx_px
        (n, t, 2) unbinned pixels.
    depth_angst
        (n, t) relative to the tomogram centre, along the beam.
    tilt_rotation_zyx
        (t, 3, 3) tomogram to image.
    subtomogram_rotation_zyx, particle_rotation_zyx
        (n, 3, 3) subtomogram to tomogram, reference to subtomogram.
    """

    position_yx_px: NDArray[np.float64]
    depth_angst: NDArray[np.float64]
    tilt_rotation_zyx: NDArray[np.float64]
    subtomogram_rotation_zyx: NDArray[np.float64]
    particle_rotation_zyx: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> TiltGeometry:
        """Keep the given particles."""
        return self._replace(
            position_yx_px=self.position_yx_px[rows],
            depth_angst=self.depth_angst[rows],
            subtomogram_rotation_zyx=self.subtomogram_rotation_zyx[rows],
            particle_rotation_zyx=self.particle_rotation_zyx[rows],
        )

    @property
    def slice_matrices_zyx(self) -> NDArray[np.float64]:
        """(n, t, 3, 3) reference to image: what turns a frequency of the map into one of the image."""
        pose = self.subtomogram_rotation_zyx @ self.particle_rotation_zyx
        return np.einsum("tij,njk->ntik", self.tilt_rotation_zyx, pose)


def matrices_zyx(series: TiltSeries, image_size_yx_px: tuple[int, int]) -> NDArray[np.float64]:
    """Projection matrices (t, 4, 4) of a tilt series, from its angles or as its file states them."""
    if series.matrices_zyx is not None:
        return series.matrices_zyx
    assert series.angles_xyz_deg is not None
    assert series.shift_yx_angst is not None
    return projection_matrices_zyx(
        series.angles_xyz_deg,
        series.shift_yx_angst / series.pixel_size_angst,
        series.size_zyx_px,
        image_size_yx_px,
    )


def tilt_geometry(
    particles: Particles,
    series: TiltSeries,
    trajectories: Trajectories | None,
    image_size_yx_px: tuple[int, int],
) -> TiltGeometry:
    """Project the particles of one tomogram into its tilt images.

    Raises
    ------
    InputError
        If the deformation coefficients of the tilt series do not fit its grid.
    """
    projection = matrices_zyx(series, image_size_yx_px)
    subtomogram = euler_to_matrix_zyx(particles.subtomogram_angles_deg)
    points = particle_positions_zyx_px(
        particles.coordinate_zyx_angst,
        particles.origin_zyx_angst,
        subtomogram,
        particles.per_particle("pixel_size_angst"),
        series.centre_zyx_px,
    )
    moving = points[:, None, :]
    if trajectories is not None:
        motion = np.stack([trajectories.shift_zyx_angst[name] for name in particles.name])
        moving = moving + motion / series.pixel_size_angst
    position = project(moving, projection)[..., 1:]
    if series.deformation is not None:
        for tilt, coefficients in enumerate(series.deformation.coefficients):
            try:
                position[:, tilt] = deform(
                    position[:, tilt],
                    image_size_yx_px,
                    series.deformation.kind,
                    series.deformation.grid_xy,
                    coefficients,
                )
            except ValueError as error:
                raise InputError(f"tilt series {series.name}, image {tilt + 1}: {error}") from error
    # The defocus follows the position at rest, not the trajectory (RELION).
    depth = depth_angst(points, projection, series.centre_zyx_px, series.pixel_size_angst)
    return TiltGeometry(
        position,
        depth,
        projection[:, :3, :3],
        subtomogram,
        euler_to_matrix_zyx(particles.angles_deg),
    )


def ctf_coefficients(
    series: TiltSeries, tilt: int, depth_of_particles_angst: NDArray[np.float64]
) -> NDArray[np.float64]:
    """CTF phase coefficients (n, 5) of particles at given depths in one tilt image."""
    shift = series.hand * series.defocus_slope * depth_of_particles_angst
    microscope = Microscope(series.voltage_kv, series.spherical_aberration_mm, series.amplitude_contrast)
    defocus = Defocus(
        series.defocus_u_angst[tilt] + shift,
        series.defocus_v_angst[tilt] + shift,
        np.full_like(shift, series.defocus_angle_deg[tilt]),
        np.full_like(shift, series.phase_shift_deg[tilt]),
    )
    return phase_coefficients(microscope, defocus)


def tilt_coefficients(
    series: TiltSeries, tilts: NDArray[np.int64], depth_angst: NDArray[np.float64]
) -> NDArray[np.float64]:
    """CTF phase coefficients (t, 5) of one particle in several tilt images, at its depth in each."""
    shift = series.hand * series.defocus_slope * depth_angst
    microscope = Microscope(series.voltage_kv, series.spherical_aberration_mm, series.amplitude_contrast)
    defocus = Defocus(
        series.defocus_u_angst[tilts] + shift,
        series.defocus_v_angst[tilts] + shift,
        series.defocus_angle_deg[tilts],
        series.phase_shift_deg[tilts],
    )
    return phase_coefficients(microscope, defocus)
