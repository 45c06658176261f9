"""Synthetic tilt series with known poses: for tests, the demo and the sample data.

The forward model is exact up to float32: a particle is a sum of Gaussian blobs, so its projection
is known in closed form at every spatial frequency and is evaluated there, for every tilt, with no
interpolation anywhere. The CTF of each particle is that of its own depth. Geometry, CTF, dose and
signs are RELION's; protein is dark in the tilt images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import irfftn, next_fast_len, rfftfreq
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from napari_sta.data.errors import InputError
from napari_sta.data.particles import OpticsGroup, Particles
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.data.volume import HalfMaps, Volume
from napari_sta.io.files import write_text
from napari_sta.io.mrc import write_stack, write_volume
from napari_sta.io.project import JobStar, write_job_star
from napari_sta.io.relion import write_optimisation_set, write_particles
from napari_sta.io.star import Table, table, write_star
from napari_sta.kernels.ctf import (
    Defocus,
    Microscope,
    ctf_2d,
    dose_weight,
    phase_coefficients,
    wavelength_angst,
)
from napari_sta.kernels.projection import depth_angst, project, projection_matrices_zyx
from napari_sta.kernels.rotations import euler_to_matrix_zyx, matrix_zyx_to_euler

Array = NDArray[np.float64]
Images = NDArray[np.float32]

PICK_ANGLES_DEG = (0.0, 90.0, 0.0)  # what RELION's sphere picker writes as rlnAngleRot/Tilt/Psi


class Blobs(NamedTuple):
    """A density made of equal Gaussians.

    Attributes
    ----------
    centre_zyx_angst
        (b, 3) Å from the particle's centre.
    mass
        (b,) integral of each blob.
    sigma_angst
        Standard deviation, the same for all.
    """

    centre_zyx_angst: Array
    mass: Array
    sigma_angst: float


def dose_symmetric(limit_deg: float = 60.0, step_deg: float = 6.0) -> tuple[float, ...]:
    """Return a dose-symmetric scheme in order of acquisition: 0, +s, -s, -2s, +2s, +3s and so on.

    References
    ----------
    Hagen, Wan & Briggs (2017), J. Struct. Biol. 197, 191. doi:10.1016/j.jsb.2016.06.007
    """
    tilts = [0.0]
    sign = 1.0
    for n in range(1, round(limit_deg / step_deg) + 1):
        tilts += [sign * n * step_deg, -sign * n * step_deg]
        sign = -sign
    return tuple(tilts)


@dataclass(frozen=True)
class PhantomSpec:
    """Everything that decides a phantom; equal specs give equal phantoms.

    Attributes
    ----------
    seed
        Of every random choice.
    n_tomograms
        How many tilt series, each with one particle-covered sphere.
    pixel_size_angst, image_size_yx_px, tomogram_size_zyx_px
        Of the tilt images, and of the tomogram they are said to show.
    density
        The particle; None for :func:`hexamer`.
    sphere_radius_angst, lattice_spacing_angst
        Where the particles' centres lie and how far apart they are.
    particles_per_tomogram
        Keep at most this many, spread over the sphere; None for all that fit.
    disorder_deg, disorder_angst
        Standard deviation per axis of the particles about the ideal lattice.
    tilts_deg
        ``rlnTomoYTilt`` in order of acquisition.
    sort_by_angle
        Whether the table lists the tilts by angle, as alignment programs write it, or as acquired.
    dose_e_per_angst2
        Per image.
    x_tilt_deg, tilt_axis_deg, tilt_axis_spread_deg, shift_spread_angst
        Alignment: the same X tilt for all images, ``rlnTomoZRot`` and shifts drawn per image.
    hand
        +1 or -1.
    voltage_kv, spherical_aberration_mm, amplitude_contrast, phase_shift_deg
        Optics.
    defocus_angst
        Lowest and highest mean defocus of a series.
    defocus_spread_angst, astigmatism_angst, astigmatism_angle_deg
        Standard deviation between the images of a series, U - V, and the direction of U.
    cosine_scale
        Whether each image is weaker by the cosine of its tilt (``rlnCtfScalefactor``).
    with_ctf, with_dose
        Leave the CTF (then images are the bare negative projections) or the radiation damage out.
    membrane_angst, membrane_strength
        Height of the two leaflets over the particles' centres, and their density relative to a
        continuous sheet of particle mass; strength 0 leaves the membrane out.
    snr
        Variance of the particles' signal in the first image taken over that of the white noise;
        ``inf`` for none.
    angle_error_deg, position_error_angst
        Standard deviation per axis of the picked poses about the true ones.
    duplicate_fraction
        Share of particles that are picked twice, with independent errors.
    pick_grid_px
        Coordinates are rounded to this grid and the rest is kept as origin, as after picking and one
        refinement; 0 leaves exact coordinates and zero origins.
    hidden_offset_px
        The average of the picks shows the particle this far towards +Z of the map's centre, in pixels
        of the tilt images.
    map_box_px
        Box of the truth map and the masks.
    """

    seed: int = 0
    n_tomograms: int = 2
    pixel_size_angst: float = 4.0
    image_size_yx_px: tuple[int, int] = (272, 272)
    tomogram_size_zyx_px: tuple[int, int, int] = (248, 272, 272)
    density: Blobs | None = None
    sphere_radius_angst: float = 330.0
    lattice_spacing_angst: float = 86.0
    particles_per_tomogram: int | None = None
    disorder_deg: float = 1.0
    disorder_angst: float = 1.0
    tilts_deg: tuple[float, ...] = dose_symmetric()
    sort_by_angle: bool = True
    dose_e_per_angst2: float = 2.6
    x_tilt_deg: float = 0.0
    tilt_axis_deg: float = 85.3
    tilt_axis_spread_deg: float = 0.06
    shift_spread_angst: float = 10.0
    hand: float = -1.0
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift_deg: float = 0.0
    defocus_angst: tuple[float, float] = (21_000.0, 39_000.0)
    defocus_spread_angst: float = 150.0
    astigmatism_angst: float = 300.0
    astigmatism_angle_deg: float = 37.0
    cosine_scale: bool = True
    with_ctf: bool = True
    with_dose: bool = True
    membrane_angst: tuple[float, float] = (70.0, 105.0)
    membrane_strength: float = 0.6
    snr: float = 0.1
    angle_error_deg: float = 2.0
    position_error_angst: float = 2.0
    duplicate_fraction: float = 0.05
    pick_grid_px: float = 3.0
    hidden_offset_px: float = 2.75
    map_box_px: int = 64


@dataclass(frozen=True)
class Phantom:
    """What :func:`simulate` makes: the data and the truth about them.

    Attributes
    ----------
    images
        Name of the tilt series to its images, (t, h, w) in table order.
    series, particles
        As a user would have them: particles carry pick errors and the hidden offset.
    true_position_zyx_angst, true_angles_deg
        (n, 3) of every entry of ``particles``: Å from the tomogram's centre, and rot, tilt, psi of
        reference to tomogram.
    true_index
        (n,) which physical particle an entry is; equal numbers are duplicates.
    truth_map
        The particle's density alone, centred; projections are sums over its voxels.
    lattice_map
        The same with its neighbours on the sphere and the membrane, as a perfect average shows it.
    mask_align, mask_fsc
        Wide (central particles of the lattice, without membrane) and tight soft masks, centred.
    """

    spec: PhantomSpec
    images: dict[str, Images]
    series: tuple[TiltSeries, ...]
    particles: Particles
    true_position_zyx_angst: Array
    true_angles_deg: Array
    true_index: NDArray[np.int64]
    truth_map: Volume
    lattice_map: Volume
    mask_align: Volume
    mask_fsc: Volume


# --- the particle ------------------------------------------------------------------------------------


def hexamer(seed: int = 8) -> Blobs:
    """Return a C6 hexamer about z: two helical domains per subunit and a central bundle below.

    About 90 Å wide and high, with rods 9 Å apart, so that it has features from 40 to 8 Å and no
    mirror plane across z.
    """
    rng = np.random.default_rng(seed)
    sixfold = Rotation.from_euler("Z", 60.0 * np.arange(6)[:, None], degrees=True)
    rods: list[Array] = []  # (length, 3) xyz of one subunit
    taken = np.zeros((0, 3))

    def place(points_xyz: Array, clearance_angst: float) -> bool:
        nonlocal taken
        copies = np.concatenate([r.apply(points_xyz) for r in sixfold])
        others = copies[len(points_xyz) :]
        if np.min(cKDTree(others).query(points_xyz)[0]) < clearance_angst:
            return False
        if len(taken) and np.min(cKDTree(taken).query(points_xyz)[0]) < clearance_angst:
            return False
        rods.append(points_xyz)
        taken = np.concatenate([taken, copies])
        return True

    bundle = np.stack([np.full(9, 9.5), np.linspace(-3, 3, 9), np.linspace(-26.0, -50.0, 9)], axis=1)
    place(bundle, 6.0)
    for centre, radius, count in (((29.0, 0.0, 20.0), 17.0, 7), ((21.0, 9.0, -14.0), 15.0, 5)):
        kept = 0
        for _ in range(4000):
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            half = rng.uniform(7.0, 11.0)
            middle = np.array(centre) + rng.normal(size=3) * radius / 2.2
            points = middle + np.arange(-half, half + 1e-6, 3.0)[:, None] * direction
            inside = np.linalg.norm(points - np.array(centre), axis=1).max() < radius
            if inside and place(points, 7.5):
                kept += 1
                if kept == count:
                    break
    subunit = np.concatenate(rods)
    xyz = np.concatenate([r.apply(subunit) for r in sixfold])
    xyz[:, 2] -= xyz[:, 2].mean()
    return Blobs(np.ascontiguousarray(xyz[:, ::-1]), np.ones(len(xyz)), 2.0)


def density_map(blobs: Blobs, box_px: int, pixel_size_angst: float) -> Volume:
    """Evaluate blobs on a grid, band-limited to Nyquist; a voxel holds the mass that falls into it.

    Parameters
    ----------
    blobs
        The density; its zero comes to lie on voxel ``box_px // 2``.
    box_px, pixel_size_angst
        Of the map; an even box.
    """
    n = box_px
    at_px = blobs.centre_zyx_angst / pixel_size_angst + n // 2
    k = np.fft.fftfreq(n)
    z, y = (np.exp(-2j * np.pi * k[:, None] * at_px[:, axis]) for axis in (0, 1))
    x = np.exp(-2j * np.pi * rfftfreq(n)[:, None] * at_px[:, 2]).astype(np.complex64)
    z, y = (z * blobs.mass).astype(np.complex64), y.astype(np.complex64)
    ft = np.stack([(y * row) @ x.T for row in z])
    r2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + rfftfreq(n) ** 2
    ft *= np.exp(-2 * (np.pi * blobs.sigma_angst / pixel_size_angst) ** 2 * r2)
    data = irfftn(ft, s=(n, n, n)).astype(np.float32)
    return Volume(np.ascontiguousarray(data), pixel_size_angst)


# --- poses -------------------------------------------------------------------------------------------


def sphere_lattice(radius_angst: float, spacing_angst: float) -> tuple[Array, Rotation]:
    """Cover a sphere with six coherent patches of a hexagonal lattice.

    Parameters
    ----------
    radius_angst, spacing_angst
        Of the sphere, and between neighbouring lattice points.

    Returns
    -------
    position_xyz_angst
        (n, 3) from the sphere's centre.
    rotation
        Takes reference to sphere directions: z points outwards, x along a lattice line.
    """
    reach = int(np.ceil(np.pi * radius_angst / spacing_angst / 2)) + 1
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    flat = spacing_angst * np.stack([(i + j / 2).ravel(), (j * np.sqrt(0.75)).ravel()], axis=1)
    arc = np.hypot(flat[:, 0], flat[:, 1])
    order = np.argsort(arc, kind="stable")
    flat, arc = flat[order], arc[order]
    keep = arc < radius_angst * np.arccos(1 / np.sqrt(3))  # up to the corner of a cube's face
    flat, arc = flat[keep], arc[keep]
    # A lattice vector is wrapped onto the sphere along the great circle that starts in its direction.
    axis = np.stack([-flat[:, 1], flat[:, 0], np.zeros(len(flat))], axis=1)
    axis /= np.maximum(arc, 1e-9)[:, None]
    wrap = Rotation.from_rotvec(axis * (arc / radius_angst)[:, None])
    faces = Rotation.from_euler("YX", [[0, 0], [90, 0], [180, 0], [270, 0], [0, 90], [0, -90]], degrees=True)
    normals = faces.apply([0.0, 0.0, 1.0])

    kept_points: list[Array] = []
    kept_rotations: list[Array] = []
    for face_index, face in enumerate(faces):
        rotation = face * wrap
        direction = rotation.apply([0.0, 0.0, 1.0])
        mine = (direction @ normals.T).argmax(axis=1) == face_index
        for point, quaternion in zip(radius_angst * direction[mine], rotation[mine].as_quat(), strict=True):
            # Seams between patches leave gaps, as in the real lattice, never overlaps.
            if kept_points and np.linalg.norm(np.array(kept_points) - point, axis=1).min() < (
                0.85 * spacing_angst
            ):
                continue
            kept_points.append(point)
            kept_rotations.append(quaternion)
    return np.array(kept_points), Rotation.from_quat(np.array(kept_rotations))


# --- the forward model -------------------------------------------------------------------------------


def projection_matrices(series: TiltSeries, image_size_yx_px: tuple[int, int]) -> Array:
    """Projection matrices (t, 4, 4) of a series that has alignment angles, in zyx order."""
    if series.angles_xyz_deg is None or series.shift_yx_angst is None:
        raise ValueError("a phantom's tilt series needs alignment angles and shifts")
    return projection_matrices_zyx(
        series.angles_xyz_deg,
        series.shift_yx_angst / series.pixel_size_angst,
        series.size_zyx_px,
        image_size_yx_px,
    )


def project_particles(
    series: TiltSeries,
    blobs: Blobs,
    position_zyx_angst: Array,
    angles_deg: Array,
    image_size_yx_px: tuple[int, int],
    *,
    with_ctf: bool = True,
    with_dose: bool = True,
) -> Images:
    """Image particles in every tilt of a series, without noise.

    Parameters
    ----------
    series
        Geometry, optics and dose.
    blobs
        The particle's density.
    position_zyx_angst, angles_deg
        (n, 3) Å from the tomogram's centre; rot, tilt, psi of reference to tomogram.
    image_size_yx_px
        Of the tilt images.
    with_ctf, with_dose
        Leave the CTF (with its scale and envelope) or the dose weights out.

    Returns
    -------
    images
        (t, h, w). Protein is dark: minus the projected mass per pixel, times CTF and dose weight.

    Notes
    -----
    Per particle and tilt the transform sum_b m_b exp(-2 pi i k·x_b) is evaluated exactly on the
    frequencies of a box wide enough for the CTF's spread, as one product of two phase tables; then
    the defocus at the particle's own depth (``hand · slope · depth``), and one inverse FFT.
    """
    pixel = series.pixel_size_angst
    matrices = projection_matrices(series, image_size_yx_px)
    n = _image_box_px(series, blobs, with_ctf)
    half = n // 2
    ky, kx = np.fft.fftfreq(n), rfftfreq(n)
    envelope = np.exp(-2 * (np.pi * blobs.sigma_angst / pixel) ** 2 * (ky[:, None] ** 2 + kx**2))
    filters = torch.from_numpy(-envelope * _static_filters(series, n, with_ctf, with_dose)).float()
    mass = torch.from_numpy(blobs.mass).float()
    ky_inv_angst, kx_inv_angst = torch.from_numpy(ky / pixel), torch.from_numpy(kx / pixel)

    position_px = position_zyx_angst / pixel + series.centre_zyx_px
    projected = project(position_px[:, None, :], matrices)  # (n_particles, t, 3)
    depth = depth_angst(position_px, matrices, series.centre_zyx_px, pixel)  # (n_particles, t)
    defocus_change = series.hand * series.defocus_slope * depth
    rotation = euler_to_matrix_zyx(angles_deg)
    height, width = image_size_yx_px
    margin = n  # boxes may hang over the edge
    canvas = np.zeros((series.n_tilts, height + 2 * margin, width + 2 * margin), dtype=np.float32)

    for index in range(len(position_px)):
        at = projected[index, :, 1:]  # (t, 2)
        corner = np.rint(at).astype(int) - half
        to_image = (matrices[:, 1:3, :3] @ rotation[index]) / pixel
        blobs_px = to_image @ blobs.centre_zyx_angst.T + (at - corner)[:, :, None]  # (t, 2, b)
        tables = _phases(blobs_px, half, n)  # (t, 2, 2 half + 2, b)
        product = (tables[:, 0] * mass) @ tables[:, 1].transpose(1, 2)
        cc, cs = product[:, : half + 1, : half + 1], product[:, : half + 1, half + 1 :]
        sc, ss = product[:, half + 1 :, : half + 1], product[:, half + 1 :, half + 1 :]
        # Rows of negative frequency are those of positive frequency with the sine turned round.
        upper = torch.complex(cc - ss, cs + sc)
        lower = torch.complex(cc + ss, cs - sc)
        ft = torch.cat([upper[:, :half], lower[:, 1:].flip(1)], dim=1) * filters
        if with_ctf:
            ft *= ctf_2d(_ctf_coefficients(series, defocus_change[index]), ky_inv_angst, kx_inv_angst).float()
        images = torch.fft.irfft2(ft, s=(n, n)).numpy()
        for t, (top, left) in enumerate(corner):
            if -n < top < height and -n < left < width:
                window = canvas[t, margin + top : margin + top + n, margin + left : margin + left + n]
                window += images[t]
    inner = canvas[:, margin : margin + height, margin : margin + width]
    return np.ascontiguousarray(inner)


def project_shells(
    series: TiltSeries,
    centre_zyx_angst: Array,
    radius_angst: Sequence[float],
    surface_mass: float,
    image_size_yx_px: tuple[int, int],
    *,
    sigma_angst: float = 6.0,
    with_ctf: bool = True,
    with_dose: bool = True,
) -> Images:
    """Image concentric spherical shells (membrane leaflets) in every tilt of a series, without noise.

    Parameters
    ----------
    centre_zyx_angst
        (3,) Å from the tomogram's centre.
    radius_angst, sigma_angst
        Of each shell, and its Gaussian thickness.
    surface_mass
        Mass per Å².

    Returns
    -------
    images
        (t, h, w), dark as particles are. The CTF is that of the shells' centre: a membrane is no
        object to average.
    """
    pixel = series.pixel_size_angst
    matrices = projection_matrices(series, image_size_yx_px)
    position_px = (centre_zyx_angst / pixel + series.centre_zyx_px)[None]
    projected = project(position_px[:, None, :], matrices)[0]
    change = (
        series.hand
        * series.defocus_slope
        * depth_angst(position_px, matrices, series.centre_zyx_px, pixel)[0]
    )
    spread = 2 * _ctf_spread_px(series) if with_ctf else 0
    height, width = (next_fast_len(size + spread, real=True) for size in image_size_yx_px)
    ky, kx = np.fft.fftfreq(height)[:, None] / pixel, rfftfreq(width) / pixel
    k = np.hypot(ky, kx)
    ft = sum(4 * np.pi * r**2 * np.sinc(2 * k * r) for r in radius_angst) * surface_mass
    ft = ft * np.exp(-2 * (np.pi * sigma_angst * k) ** 2)
    factor = torch.from_numpy(ft * np.ones((series.n_tilts, 1, 1)))
    v, u = projected[:, 1, None, None], projected[:, 2, None, None]
    factor = factor * torch.from_numpy(np.exp(-2j * np.pi * pixel * (ky * v + kx * u)))
    if with_ctf:
        factor *= ctf_2d(_ctf_coefficients(series, change), torch.from_numpy(ky[:, 0]), torch.from_numpy(kx))
        factor *= torch.from_numpy(
            series.ctf_scale[:, None, None] * np.exp(-series.bfactor_angst2[:, None, None] / 4 * k**2)
        )
    if with_dose:
        weights = [dose_weight(k, float(d), series.bfactor_per_dose) for d in series.dose_e_per_angst2]
        factor *= torch.from_numpy(np.array(weights))
    images = -torch.fft.irfft2(factor, s=(height, width))
    inner = images[:, : image_size_yx_px[0], : image_size_yx_px[1]].float()
    return np.ascontiguousarray(inner.numpy())


def _ctf_coefficients(series: TiltSeries, defocus_change_angst: Array) -> torch.Tensor:
    """Coefficients of the CTF phase of every tilt, (t, 5), for a change of defocus per tilt."""
    return torch.from_numpy(
        phase_coefficients(
            Microscope(series.voltage_kv, series.spherical_aberration_mm, series.amplitude_contrast),
            Defocus(
                series.defocus_u_angst + defocus_change_angst,
                series.defocus_v_angst + defocus_change_angst,
                series.defocus_angle_deg,
                series.phase_shift_deg,
            ),
        )
    )


def _ctf_spread_px(series: TiltSeries) -> int:
    """How far the CTF carries the finest detail sideways: wavelength · defocus · frequency."""
    defocus = float(np.max(np.abs(series.defocus_u_angst))) + 1000.0
    nyquist = 0.5 / series.pixel_size_angst
    spread_angst = wavelength_angst(series.voltage_kv) * defocus * nyquist
    return int(np.ceil(spread_angst / series.pixel_size_angst))


def _image_box_px(series: TiltSeries, blobs: Blobs, with_ctf: bool) -> int:
    """Even box that holds the particle, its blur and most of its CTF fringes."""
    radius = np.linalg.norm(blobs.centre_zyx_angst, axis=1).max() + 4 * blobs.sigma_angst
    size = 2 * (radius / series.pixel_size_angst + (_ctf_spread_px(series) if with_ctf else 0)) + 4
    return 2 * int(next_fast_len(int(np.ceil(size / 2))))


def _static_filters(series: TiltSeries, n: int, with_ctf: bool, with_dose: bool) -> Array:
    """Return what is the same for all particles: scale and envelope of the CTF, and dose weights."""
    k = np.hypot(np.fft.fftfreq(n)[:, None], rfftfreq(n)) / series.pixel_size_angst
    filters = np.ones((series.n_tilts, *k.shape))
    for t in range(series.n_tilts):
        if with_ctf:
            filters[t] *= series.ctf_scale[t] * np.exp(-series.bfactor_angst2[t] / 4 * k**2)
        if with_dose:
            filters[t] *= dose_weight(k, float(series.dose_e_per_angst2[t]), series.bfactor_per_dose)
    return filters.astype(np.float32)


def _phases(position_px: Array, half: int, n: int) -> torch.Tensor:
    """Cosines, then minus sines, of 2 pi k x / n for k = 0 … half: (…, b) to (…, 2 half + 2, b)."""
    k = torch.arange(half + 1, dtype=torch.float64)[:, None]
    # Whole turns are removed in float64, then float32 is exact enough and much faster.
    turns = k * torch.from_numpy(position_px / n)[..., None, :]
    angle = (2 * np.pi * (turns - turns.round())).float()
    return torch.cat([angle.cos(), -angle.sin()], dim=-2)


# --- simulate ----------------------------------------------------------------------------------------


def simulate(spec: PhantomSpec) -> Phantom:
    """Make a phantom: particles on spheres, their tilt series, the picks, and the truth.

    Raises
    ------
    ValueError
        If the sphere does not fit into the image.
    """
    blobs = spec.density or hexamer()
    widest = spec.sphere_radius_angst + max(spec.membrane_angst if spec.membrane_strength else (50.0,))
    room = min(*spec.image_size_yx_px, *spec.tomogram_size_zyx_px) * spec.pixel_size_angst / 2
    if widest > room:
        raise ValueError(
            f"a sphere of {widest:g} Å does not fit into a tomogram of {2 * room:g} Å; take a smaller "
            "sphere_radius_angst or larger sizes"
        )
    lattice_xyz, lattice_rotation = sphere_lattice(spec.sphere_radius_angst, spec.lattice_spacing_angst)
    lattice_xyz = lattice_xyz[: spec.particles_per_tomogram]
    lattice_zyx = np.ascontiguousarray(lattice_rotation.as_matrix()[: len(lattice_xyz), ::-1, ::-1])

    images: dict[str, Images] = {}
    all_series: list[TiltSeries] = []
    poses: list[tuple[Array, Array]] = []
    for number, stream in enumerate(np.random.SeedSequence(spec.seed).spawn(spec.n_tomograms), start=1):
        rng = np.random.default_rng(stream)
        series = _draw_series(spec, f"TS_{number:02d}", rng)
        turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()[::-1, ::-1]
        centre = rng.normal(size=3) * 2 * spec.pixel_size_angst
        disorder = _small_rotations(spec.disorder_deg, len(lattice_zyx), rng)
        rotation = turn @ lattice_zyx @ disorder
        position = lattice_xyz[:, ::-1] @ turn.T + centre
        position = position + rng.normal(size=position.shape) * spec.disorder_angst
        angles = matrix_zyx_to_euler(rotation)
        stack = project_particles(
            series, blobs, position, angles, spec.image_size_yx_px,
            with_ctf=spec.with_ctf, with_dose=spec.with_dose,
        )  # fmt: skip
        first_taken = int(np.argmin(series.dose_e_per_angst2))
        signal = float(stack[first_taken].std())
        if spec.membrane_strength > 0:
            stack += project_shells(
                series, centre, [spec.sphere_radius_angst + h for h in spec.membrane_angst],
                _leaflet_mass(spec, blobs), spec.image_size_yx_px,
                with_ctf=spec.with_ctf, with_dose=spec.with_dose,
            )  # fmt: skip
        if np.isfinite(spec.snr):
            sigma = np.float32(signal / np.sqrt(spec.snr))
            stack += sigma * rng.standard_normal(stack.shape, dtype=np.float32)
        images[series.name] = stack
        all_series.append(series)
        poses.append((position, angles))

    particles, position, angles, index = _pick(spec, all_series, poses)
    lattice_map, mask_align = _lattice_maps(spec, blobs, 0.0)
    truth = density_map(blobs, spec.map_box_px, spec.pixel_size_angst)
    return Phantom(
        spec=spec,
        images=images,
        series=tuple(all_series),
        particles=particles,
        true_position_zyx_angst=position,
        true_angles_deg=angles,
        true_index=index,
        truth_map=truth,
        lattice_map=lattice_map,
        mask_align=mask_align,
        mask_fsc=_soft_mask(blobs, spec, threshold=0.2, grow_angst=8.0, soft_angst=16.0),
    )


def _draw_series(spec: PhantomSpec, name: str, rng: np.random.Generator) -> TiltSeries:
    tilts = np.array(spec.tilts_deg, dtype=np.float64)
    order = np.argsort(tilts, kind="stable") if spec.sort_by_angle else np.arange(len(tilts))
    tilts = tilts[order]
    dose = spec.dose_e_per_angst2 * order
    t = len(tilts)
    defocus = rng.uniform(*spec.defocus_angst) + spec.defocus_spread_angst * rng.normal(size=t)
    angles = np.stack(
        [
            np.full(t, spec.x_tilt_deg),
            tilts,
            spec.tilt_axis_deg + spec.tilt_axis_spread_deg * rng.normal(size=t),
        ],
        axis=1,
    )
    scale = np.cos(np.deg2rad(tilts)) if spec.cosine_scale else np.ones(t)
    stack = f"tilt_stacks/{name}.mrc"
    return TiltSeries(
        name=name,
        images=tuple((stack, i) for i in range(t)),
        pixel_size_angst=spec.pixel_size_angst,
        voltage_kv=spec.voltage_kv,
        spherical_aberration_mm=spec.spherical_aberration_mm,
        amplitude_contrast=spec.amplitude_contrast,
        hand=spec.hand,
        size_zyx_px=spec.tomogram_size_zyx_px,
        dose_e_per_angst2=_as_written(dose),
        defocus_u_angst=_as_written(defocus + spec.astigmatism_angst / 2),
        defocus_v_angst=_as_written(defocus - spec.astigmatism_angst / 2),
        defocus_angle_deg=np.full(t, spec.astigmatism_angle_deg),
        phase_shift_deg=np.full(t, spec.phase_shift_deg),
        ctf_scale=_as_written(scale),
        bfactor_angst2=np.zeros(t),
        angles_xyz_deg=_as_written(angles),
        shift_yx_angst=_as_written(spec.shift_spread_angst * rng.normal(size=(t, 2))),
        optics_group_name="optics1",
    )


def _small_rotations(sigma_deg: float, n: int, rng: np.random.Generator) -> Array:
    vectors = np.deg2rad(sigma_deg) * rng.normal(size=(n, 3))
    return np.asarray(Rotation.from_rotvec(vectors).as_matrix()[:, ::-1, ::-1])


def _pick(
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
    rotation = true_rotation @ mates[:, ::-1, ::-1] @ _small_rotations(spec.angle_error_deg, n, rng)

    # The picker knows the surface normal and writes angles 0, 90, 0 inside the subtomogram; refinement
    # then turned the particle inside its subtomogram frame.
    picker = euler_to_matrix_zyx(np.array(PICK_ANGLES_DEG))
    spin = Rotation.from_euler("Z", rng.uniform(0, 360, (n, 1)), degrees=True).as_matrix()[:, ::-1, ::-1]
    aside = _small_rotations(spec.angle_error_deg, n, rng)
    subtomogram = rotation @ spin @ aside @ picker.T
    subtomogram_angles = _as_written(matrix_zyx_to_euler(subtomogram))
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
        **_numbers("rlnCenteredCoordinate{}Angst", "XYZ", _as_written(coordinate)[:, ::-1]),
        **_numbers("rlnTomoSubtomogram{}", ("Rot", "Tilt", "Psi"), subtomogram_angles),
        **_numbers("rlnAngle{}", ("Rot", "Tilt", "Psi"), _as_written(particle_angles)),
        "rlnAngleTiltPrior": ["90.000000"] * n,
        "rlnAnglePsiPrior": ["0.000000"] * n,
        **_numbers("rlnOrigin{}Angst", "XYZ", _as_written(origin)[:, ::-1]),
        "rlnOpticsGroup": ["1"] * n,
        "rlnRandomSubset": [str(1 + i % 2) for i in range(n)],
        "rlnClassNumber": ["1"] * n,
    }
    particles = Particles(
        tomogram=np.array(tomogram, dtype=object),
        name=np.array(names, dtype=object),
        coordinate_zyx_angst=_as_written(coordinate),
        origin_zyx_angst=_as_written(origin),
        angles_deg=_as_written(particle_angles),
        subtomogram_angles_deg=subtomogram_angles,
        optics_group=np.ones(n, dtype=np.int64),
        half_set=1 + np.arange(n, dtype=np.int64) % 2,
        optics=(group,),
        text={label: np.array(column, dtype=object) for label, column in columns.items()},
    )
    return particles, true_position, true_angles, np.concatenate(index).astype(np.int64)


def _as_written(values: NDArray[np.floating]) -> Array:
    """Round to what a STAR file keeps, so that a phantom in memory equals one read back."""
    rounded = np.round(values, 6) + 0.0  # no minus zero
    return np.asarray(rounded, dtype=np.float64)


def _numbers(label: str, parts: Sequence[str], values: Array) -> dict[str, Sequence[object]]:
    return {label.format(part): [f"{value:.6f}" for value in values[:, i]] for i, part in enumerate(parts)}


# --- what a perfect average looks like ---------------------------------------------------------------


def _leaflet_mass(spec: PhantomSpec, blobs: Blobs) -> float:
    """Mass per Å² of one leaflet."""
    area = spec.lattice_spacing_angst**2 * np.sqrt(0.75)
    return float(spec.membrane_strength * blobs.mass.sum() / area / 2)


def _lattice_blobs(spec: PhantomSpec, blobs: Blobs) -> Blobs:
    """Return the particle and its neighbours on the sphere, as far as they reach into the box."""
    position, rotation = sphere_lattice(spec.sphere_radius_angst, spec.lattice_spacing_angst)
    from_top = position - [0.0, 0.0, spec.sphere_radius_angst]
    distance = np.linalg.norm(from_top, axis=1)
    near = distance < spec.map_box_px * spec.pixel_size_angst / 2 + spec.lattice_spacing_angst / 2
    copies = [rotation[i].apply(blobs.centre_zyx_angst[:, ::-1]) + from_top[i] for i in np.flatnonzero(near)]
    xyz = np.concatenate(copies)
    half = spec.map_box_px * spec.pixel_size_angst / 2 - 3 * blobs.sigma_angst
    inside = (np.abs(xyz) < half).all(axis=1)
    mass = np.tile(blobs.mass, len(copies))[inside]
    return Blobs(np.ascontiguousarray(xyz[inside, ::-1]), mass, blobs.sigma_angst)


def _lattice_maps(spec: PhantomSpec, blobs: Blobs, offset_px: float) -> tuple[Volume, Volume]:
    """Return the lattice with its membrane, raised by an offset, and the mask of the unraised lattice."""
    pixel, n = spec.pixel_size_angst, spec.map_box_px
    lattice = _lattice_blobs(spec, blobs)
    raised = lattice.centre_zyx_angst + np.array([offset_px * pixel, 0.0, 0.0])
    density = density_map(lattice._replace(centre_zyx_angst=raised), n, pixel).data
    along = (np.arange(n) - n // 2) * pixel
    z, y, x = along[:, None, None], along[None, :, None], along[None, None, :]
    if spec.membrane_strength > 0:
        r = np.sqrt((z - offset_px * pixel + spec.sphere_radius_angst) ** 2 + y**2 + x**2)
        profile = sum(
            np.exp(-((r - spec.sphere_radius_angst - h) ** 2) / (2 * 6.0**2)) for h in spec.membrane_angst
        ) / (np.sqrt(2 * np.pi) * 6.0)
        density = density + (_leaflet_mass(spec, blobs) * pixel**3 * profile).astype(np.float32)
    mask = _soft_mask(lattice, spec, threshold=0.4, grow_angst=5.4, soft_angst=13.5).data
    # The lattice goes on sideways: users cut it with a soft cylinder, inside the taper of averages.
    radius = min(108.0, (n / 2 - 10) * pixel)
    cylinder = np.clip((radius - np.hypot(y, x)) / 13.5 + 0.5, 0, 1)
    mask = mask * (0.5 - 0.5 * np.cos(np.pi * cylinder))
    return Volume(density.astype(np.float32), pixel), Volume(mask.astype(np.float32), pixel)


def _soft_mask(
    blobs: Blobs, spec: PhantomSpec, *, threshold: float, grow_angst: float, soft_angst: float
) -> Volume:
    """Soft mask round a density blurred to about 18 Å; the threshold is relative to its maximum."""
    pixel = spec.pixel_size_angst
    blurred = density_map(blobs._replace(sigma_angst=6.0), spec.map_box_px, pixel).data
    distance = distance_transform_edt(blurred < threshold * blurred.max()) * pixel - grow_angst
    mask = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / soft_angst, 0, 1))
    return Volume(mask.astype(np.float32), pixel)


# --- files -------------------------------------------------------------------------------------------


class ProjectPaths(NamedTuple):
    """Where :func:`write_project` put things."""

    root: Path
    tomograms: Path
    particles: Path
    optimisation_set: Path
    mask_align: Path
    mask_fsc: Path
    truth_map: Path


@dataclass(frozen=True)
class PracticeProject:
    """What :func:`make_practice_project` made.

    Attributes
    ----------
    root
        The project folder.
    map_path, mask_path
        ``Reconstruct/job003/merged.mrc``, off by the hidden offset, and the mask to bring it to.
    particles_path, optimisation_set_path
        What to recentre.
    hidden_offset_px
        How far the map's content lies towards +Z of the mask's.
    """

    root: Path
    map_path: Path
    mask_path: Path
    particles_path: Path
    optimisation_set_path: Path
    hidden_offset_px: float


_TILT_COLUMNS = (
    ("rlnTomoXTilt", "angles_xyz_deg", 0),
    ("rlnTomoYTilt", "angles_xyz_deg", 1),
    ("rlnTomoZRot", "angles_xyz_deg", 2),
    ("rlnTomoXShiftAngst", "shift_yx_angst", 1),
    ("rlnTomoYShiftAngst", "shift_yx_angst", 0),
    ("rlnDefocusU", "defocus_u_angst", None),
    ("rlnDefocusV", "defocus_v_angst", None),
    ("rlnDefocusAngle", "defocus_angle_deg", None),
    ("rlnPhaseShift", "phase_shift_deg", None),
    ("rlnCtfScalefactor", "ctf_scale", None),
    ("rlnMicrographPreExposure", "dose_e_per_angst2", None),
    ("rlnTomoNominalStageTiltAngle", "angles_xyz_deg", 1),
)


def write_project(phantom: Phantom, out: Path) -> ProjectPaths:
    """Write a phantom as a RELION-5 project, with masks and the truth.

    Parameters
    ----------
    out
        The project folder: made if it is not there.

    Returns
    -------
    paths
        Of the files a user starts from.

    Raises
    ------
    InputError
        If the folder already holds a project.
    JobError
        If the disk is full or the folder cannot be written to.
    """
    out = Path(out).absolute()
    if (out / "default_pipeline.star").exists():
        raise InputError(f"{out} already holds a RELION project; choose a new or empty folder with --o")
    spec = phantom.spec
    (out / "tilt_stacks").mkdir(parents=True, exist_ok=True)
    paths = ProjectPaths(
        root=out,
        tomograms=out / "Tomograms/job001/tomograms.star",
        particles=out / "Select/job002/particles.star",
        optimisation_set=out / "Select/job002/optimisation_set.star",
        mask_align=out / "masks/mask_align.mrc",
        mask_fsc=out / "masks/mask_fsc.mrc",
        truth_map=out / "truth/truth_map.mrc",
    )
    for series in phantom.series:
        write_stack(out / series.images[0][0], phantom.images[series.name], spec.pixel_size_angst, True)
        write_star(paths.tomograms.parent / f"tilt_series/{series.name}.star", [_tilt_table(series)])
    write_star(paths.tomograms, [_global_table(phantom)])
    # The pipeline file tells the writers below that this is a project, so that they write relative paths.
    write_star(out / "default_pipeline.star", _pipeline_tables())
    write_particles(paths.particles, phantom.particles)
    write_optimisation_set(paths.optimisation_set, particles=paths.particles, tomograms=paths.tomograms)
    for path in (paths.tomograms, paths.particles):
        write_text(path.parent / "RELION_JOB_EXIT_SUCCESS", "")
    write_volume(paths.mask_align, phantom.mask_align)
    write_volume(paths.mask_fsc, phantom.mask_fsc)
    write_volume(paths.truth_map, phantom.truth_map)
    _write_truth(phantom, out / "truth")
    return paths


def _tilt_table(series: TiltSeries) -> Table:
    columns: dict[str, Sequence[object]] = {}
    for label, attribute, axis in _TILT_COLUMNS:
        values = getattr(series, attribute)
        columns[label] = [f"{v:.6f}" for v in (values if axis is None else values[:, axis])]
    columns["rlnMicrographName"] = [f"{index + 1:03d}@{file}" for file, index in series.images]
    return table(series.name, columns)


def _global_table(phantom: Phantom) -> Table:
    rows = []
    for series in phantom.series:
        depth, height, width = series.size_zyx_px
        rows.append(
            {
                "rlnTomoName": series.name,
                "rlnTomoTiltSeriesName": series.images[0][0],
                "rlnTomoFrameCount": series.n_tilts,
                "rlnTomoSizeX": width,
                "rlnTomoSizeY": height,
                "rlnTomoSizeZ": depth,
                "rlnTomoHand": f"{series.hand:g}",
                "rlnOpticsGroupName": series.optics_group_name,
                "rlnTomoTiltSeriesPixelSize": f"{series.pixel_size_angst:.6f}",
                "rlnVoltage": f"{series.voltage_kv:.6f}",
                "rlnSphericalAberration": f"{series.spherical_aberration_mm:.6f}",
                "rlnAmplitudeContrast": f"{series.amplitude_contrast:.6f}",
                "rlnMicrographOriginalPixelSize": f"{series.pixel_size_angst:.6f}",
                "rlnTomoImportFractionalDose": f"{phantom.spec.dose_e_per_angst2:.6f}",
                "rlnTomoTiltSeriesStarFile": f"Tomograms/job001/tilt_series/{series.name}.star",
            }
        )
    return table("global", {label: [row[label] for row in rows] for label in rows[0]})


_JOBS = (
    # folder, type, its outputs with their node labels
    (
        "Tomograms/job001/",
        "relion.reconstructtomograms",
        {"tomograms.star": "TomogramGroupMetadata.star.relion.tomo.reconstruct"},
    ),
    (
        "Select/job002/",
        "relion.select.onvalue",
        {
            "particles.star": "ParticleGroupMetadata.star.relion",
            "optimisation_set.star": "TomoOptimisationSet.star.relion.tomo",
        },
    ),
    (
        "Reconstruct/job003/",
        "relion.reconstructparticletomo",
        {
            "merged.mrc": "DensityMap.mrc.relion.tomo.map.reconstruct",
            "half1.mrc": "DensityMap.mrc.relion.tomo.halfmap.reconstruct",
        },
    ),
)


def _pipeline_tables(n_jobs: int = 2) -> list[Table]:
    """RELION's pipeline of the first jobs, each fed by the one before."""
    jobs = _JOBS[:n_jobs]
    nodes = [(folder + file, label) for folder, _, outputs in jobs for file, label in outputs.items()]
    depth = [99 if ".halfmap." in label else 1 for _, label in nodes]
    produced = [(folder, folder + file) for folder, _, outputs in jobs for file in outputs]
    inputs = [(before[0] + list(before[2])[-1], job[0]) for before, job in pairwise(jobs)]
    return [
        table("pipeline_general", {"rlnPipeLineJobCounter": [n_jobs + 1]}, is_loop=False),
        table(
            "pipeline_processes",
            {
                "rlnPipeLineProcessName": [job[0] for job in jobs],
                "rlnPipeLineProcessAlias": ["None"] * n_jobs,
                "rlnPipeLineProcessTypeLabel": [job[1] for job in jobs],
                "rlnPipeLineProcessStatusLabel": ["Succeeded"] * n_jobs,
            },
        ),
        table(
            "pipeline_nodes",
            {
                "rlnPipeLineNodeName": [name for name, _ in nodes],
                "rlnPipeLineNodeTypeLabel": [label for _, label in nodes],
                "rlnPipeLineNodeTypeLabelDepth": depth,
            },
        ),
        table(
            "pipeline_input_edges",
            {
                "rlnPipeLineEdgeFromNode": [node for node, _ in inputs],
                "rlnPipeLineEdgeProcess": [process for _, process in inputs],
            },
        ),
        table(
            "pipeline_output_edges",
            {
                "rlnPipeLineEdgeProcess": [process for process, _ in produced],
                "rlnPipeLineEdgeToNode": [node for _, node in produced],
            },
        ),
    ]


def _write_truth(phantom: Phantom, folder: Path) -> None:
    lines = ["rlnTomoParticleName,x_angst,y_angst,z_angst,rot_deg,tilt_deg,psi_deg,particle"]
    for name, (z, y, x), (rot, tilt, psi), index in zip(
        phantom.particles.name,
        phantom.true_position_zyx_angst,
        phantom.true_angles_deg,
        phantom.true_index,
        strict=True,
    ):
        lines.append(f"{name},{x:.6f},{y:.6f},{z:.6f},{rot:.6f},{tilt:.6f},{psi:.6f},{index}")
    write_text(folder / "particles.csv", "\n".join(lines) + "\n")
    spec = {key: value for key, value in asdict(phantom.spec).items() if key != "density"}
    write_text(folder / "phantom.json", json.dumps(spec, indent=1) + "\n")


def make_practice_project(out: Path, seed: int = 0) -> PracticeProject:
    """Write a small project whose map sits off its mask by an offset that depends on the seed.

    Two tomograms of one particle-covered sphere each, a particle set, a map with its half maps as a
    reconstruction of it would look, and a mask. All of it is made here, with nothing downloaded.

    Raises
    ------
    InputError
        If the folder already holds a project.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    offset_px = float(np.round(rng.choice([-1, 1]) * rng.uniform(1.5, 4.0) * 20) / 20)
    spec = PhantomSpec(
        seed=seed,
        image_size_yx_px=(180, 180),
        tomogram_size_zyx_px=(176, 180, 180),
        sphere_radius_angst=220.0,
        tilts_deg=dose_symmetric(60.0, 12.0),
        dose_e_per_angst2=4.5,
        defocus_angst=(20_000.0, 26_000.0),
        snr=0.3,
        hidden_offset_px=offset_px,
    )
    phantom = simulate(spec)
    paths = write_project(phantom, out)
    folder = paths.root / "Reconstruct/job003"
    halves = _ready_made_halves(spec, rng)
    write_volume(folder / "half1.mrc", halves.half1)
    write_volume(folder / "half2.mrc", halves.half2)
    mean = (halves.half1.data + halves.half2.data) / 2
    merged = Volume(mean.astype(np.float32), spec.pixel_size_angst)
    write_volume(folder / "merged.mrc", merged)
    options = {
        "in_optimisation": str(paths.optimisation_set.relative_to(paths.root)),
        "use_direct_entries": "No",
        "binning": "1",
        "box_size": "80",  # more would reach over the edges of these small images
        "crop_size": str(spec.map_box_px),
        "snr": "0",
        "sym_name": "C6",
    }
    write_job_star(folder / "job.star", JobStar("relion.reconstructparticletomo", options))
    write_text(folder / "RELION_JOB_EXIT_SUCCESS", "")
    write_star(paths.root / "default_pipeline.star", _pipeline_tables(3))
    return PracticeProject(
        root=paths.root,
        map_path=folder / "merged.mrc",
        mask_path=paths.mask_align,
        particles_path=paths.particles,
        optimisation_set_path=paths.optimisation_set,
        hidden_offset_px=offset_px,
    )


def _ready_made_halves(spec: PhantomSpec, rng: np.random.Generator) -> HalfMaps:
    """Return half maps as averaging would give them: blurred by pose errors, noisy, tapered."""
    blobs = (spec.density or hexamer())._replace(sigma_angst=3.2)
    signal, _ = _lattice_maps(spec, blobs, spec.hidden_offset_px)
    n = spec.map_box_px
    along = np.arange(n) - n // 2
    r = np.sqrt(along[:, None, None] ** 2 + along[:, None] ** 2 + along**2)
    taper = 0.5 + 0.5 * np.cos(np.pi * np.clip((r - n / 2 + 10) / 10, 0, 1))

    def half() -> Volume:
        noise = rng.standard_normal((n, n, n), dtype=np.float32) * np.float32(0.35 * signal.data.std())
        noisy = signal.data + noise
        noisy = taper * (noisy - (taper * noisy).sum() / taper.sum())
        return Volume(noisy.astype(np.float32), spec.pixel_size_angst)

    return HalfMaps(half(), half())
