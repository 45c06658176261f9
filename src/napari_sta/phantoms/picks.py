"""The particle set of a phantom, as a sphere picker and one refinement leave it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_sta.data.particles import OpticsGroup, Particles
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.kernels.rotations import euler_to_matrix_zyx, matrix_zyx_to_euler
from napari_sta.phantoms.density import Array
from napari_sta.phantoms.spec import PhantomSpec

PICK_ANGLES_DEG = (0.0, 90.0, 0.0)  # what RELION's sphere picker writes as rlnAngleRot/Tilt/Psi


def small_rotations(sigma_deg: float, n: int, rng: np.random.Generator) -> Array:
    """Draw rotations about random axes, (n, 3, 3): Gaussian of this standard deviation per axis."""
    vectors = np.deg2rad(sigma_deg) * rng.normal(size=(n, 3))
    return np.asarray(Rotation.from_rotvec(vectors).as_matrix()[:, ::-1, ::-1])


def picked(
    spec: PhantomSpec, all_series: Sequence[TiltSeries], poses: Sequence[tuple[Array, Array]]
) -> tuple[Particles, Array, Array, NDArray[np.int64]]:
    """Turn true poses into a particle set as a sphere picker and one refinement leave it."""
    rng = np.random.default_rng(np.random.SeedSequence([spec.seed, 1]))
    tomogram: list[str] = []
    names: list[str] = []
    position, angles, index = [], [], []
    offset = 0
    for series, (at, turned) in zip(all_series, poses, strict=True):
        n = len(at)
        twice = np.sort(rng.choice(n, round(spec.duplicate_fraction * n), replace=False))
        rows = np.concatenate([np.arange(n), twice])
        tomogram += [series.name] * len(rows)
        names += [f"{series.name}/{i}" for i in range(1, len(rows) + 1)]
        position.append(at[rows])
        angles.append(turned[rows])
        index.append(rows + offset)
        offset += n
    true_position, true_angles = np.concatenate(position), np.concatenate(angles)
    n = len(true_position)

    true_rotation = euler_to_matrix_zyx(true_angles)
    own_z = true_rotation[:, :, 0]
    picked_at = (
        true_position
        - spec.hidden_offset_px * spec.pixel_size_angst * own_z
        + spec.position_error_angst * rng.normal(size=(n, 3))
    )
    mates = Rotation.from_euler("Z", 60.0 * rng.integers(0, 6, (n, 1)), degrees=True).as_matrix()
    if spec.density is not None:  # only the hexamer is known to be six-fold
        mates = np.broadcast_to(np.eye(3), mates.shape)
    rotation = true_rotation @ mates[:, ::-1, ::-1] @ small_rotations(spec.angle_error_deg, n, rng)

    # The picker knows the surface normal and writes angles 0, 90, 0 inside the subtomogram; refinement
    # then turned the particle inside its subtomogram frame.
    picker = euler_to_matrix_zyx(np.array(PICK_ANGLES_DEG))
    spin = Rotation.from_euler("Z", rng.uniform(0, 360, (n, 1)), degrees=True).as_matrix()[:, ::-1, ::-1]
    aside = small_rotations(spec.angle_error_deg, n, rng)
    subtomogram = rotation @ spin @ aside @ picker.T
    subtomogram_angles = as_written(matrix_zyx_to_euler(subtomogram))
    subtomogram = euler_to_matrix_zyx(subtomogram_angles)
    particle_angles = matrix_zyx_to_euler(np.swapaxes(subtomogram, 1, 2) @ rotation)
    if spec.pick_grid_px > 0:
        grid = spec.pick_grid_px * spec.pixel_size_angst
        coordinate = np.round(picked_at / grid) * grid
        origin = np.einsum("nji,nj->ni", subtomogram, coordinate - picked_at)
    else:
        coordinate, origin = picked_at, np.zeros((n, 3))

    group = OpticsGroup(
        number=1, name="optics1", pixel_size_angst=spec.pixel_size_angst, voltage_kv=spec.voltage_kv,
        spherical_aberration_mm=spec.spherical_aberration_mm, amplitude_contrast=spec.amplitude_contrast,
        text={
            "rlnOpticsGroup": "1", "rlnOpticsGroupName": "optics1",
            "rlnSphericalAberration": f"{spec.spherical_aberration_mm:.6f}",
            "rlnVoltage": f"{spec.voltage_kv:.6f}",
            "rlnTomoTiltSeriesPixelSize": f"{spec.pixel_size_angst:.6f}",
            "rlnAmplitudeContrast": f"{spec.amplitude_contrast:.6f}",
        },
    )  # fmt: skip
    columns: dict[str, Sequence[object]] = {
        "rlnTomoName": tomogram,
        "rlnTomoParticleName": names,
        **_numbers("rlnCenteredCoordinate{}Angst", "XYZ", as_written(coordinate)[:, ::-1]),
        **_numbers("rlnTomoSubtomogram{}", ("Rot", "Tilt", "Psi"), subtomogram_angles),
        **_numbers("rlnAngle{}", ("Rot", "Tilt", "Psi"), as_written(particle_angles)),
        "rlnAngleTiltPrior": ["90.000000"] * n,
        "rlnAnglePsiPrior": ["0.000000"] * n,
        **_numbers("rlnOrigin{}Angst", "XYZ", as_written(origin)[:, ::-1]),
        "rlnOpticsGroup": ["1"] * n,
        "rlnRandomSubset": [str(1 + i % 2) for i in range(n)],
        "rlnClassNumber": ["1"] * n,
    }
    particles = Particles(
        tomogram=np.array(tomogram, dtype=object),
        name=np.array(names, dtype=object),
        coordinate_zyx_angst=as_written(coordinate),
        origin_zyx_angst=as_written(origin),
        angles_deg=as_written(particle_angles),
        subtomogram_angles_deg=subtomogram_angles,
        optics_group=np.ones(n, dtype=np.int64),
        half_set=1 + np.arange(n, dtype=np.int64) % 2,
        optics=(group,),
        text={label: np.array(column, dtype=object) for label, column in columns.items()},
    )
    return particles, true_position, true_angles, np.concatenate(index).astype(np.int64)


def as_written(values: NDArray[np.floating]) -> Array:
    """Round to what a STAR file keeps, so that a phantom in memory equals one read back."""
    rounded = np.round(values, 6) + 0.0  # no minus zero
    return np.asarray(rounded, dtype=np.float64)


def _numbers(label: str, parts: Sequence[str], values: Array) -> dict[str, Sequence[object]]:
    return {label.format(part): [f"{value:.6f}" for value in values[:, i]] for i, part in enumerate(parts)}
