"""Everything that decides a phantom."""

from __future__ import annotations

from dataclasses import dataclass

from napari_sta.phantoms.density import Blobs


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
