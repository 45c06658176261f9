"""Make a phantom: particles on spheres, their tilt series, the picks, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from napari_sta.data.particles import Particles
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.data.volume import Volume
from napari_sta.kernels.rotations import matrix_zyx_to_euler
from napari_sta.phantoms.averages import lattice_maps, leaflet_mass, soft_mask
from napari_sta.phantoms.density import Array, density_map, hexamer
from napari_sta.phantoms.lattice import sphere_lattice
from napari_sta.phantoms.picks import as_written, picked, small_rotations
from napari_sta.phantoms.projection import Images, project_particles, project_shells
from napari_sta.phantoms.spec import PhantomSpec


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
        disorder = small_rotations(spec.disorder_deg, len(lattice_zyx), rng)
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
                leaflet_mass(spec, blobs), spec.image_size_yx_px,
                with_ctf=spec.with_ctf, with_dose=spec.with_dose,
            )  # fmt: skip
        if np.isfinite(spec.snr):
            sigma = np.float32(signal / np.sqrt(spec.snr))
            stack += sigma * rng.standard_normal(stack.shape, dtype=np.float32)
        images[series.name] = stack
        all_series.append(series)
        poses.append((position, angles))

    particles, position, angles, index = picked(spec, all_series, poses)
    lattice_map, mask_align = lattice_maps(spec, blobs, 0.0)
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
        mask_fsc=soft_mask(blobs, spec, threshold=0.2, grow_angst=8.0, soft_angst=16.0),
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
        dose_e_per_angst2=as_written(dose),
        defocus_u_angst=as_written(defocus + spec.astigmatism_angst / 2),
        defocus_v_angst=as_written(defocus - spec.astigmatism_angst / 2),
        defocus_angle_deg=np.full(t, spec.astigmatism_angle_deg),
        phase_shift_deg=np.full(t, spec.phase_shift_deg),
        ctf_scale=as_written(scale),
        bfactor_angst2=np.zeros(t),
        angles_xyz_deg=as_written(angles),
        shift_yx_angst=as_written(spec.shift_spread_angst * rng.normal(size=(t, 2))),
        optics_group_name="optics1",
    )
