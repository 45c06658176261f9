"""The forward model: particles and membranes as a tilt series shows them, without noise.

It is exact up to float32: a particle is a sum of Gaussian blobs, so its projection is known in closed form at
every spatial frequency and is evaluated there, for every tilt, with no interpolation anywhere. The CTF of
each particle is that of its own depth. Geometry, CTF, dose and signs are RELION's; protein is dark in the
tilt images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len, rfftfreq

from napari_sta.data.tilt_series import TiltSeries
from napari_sta.kernels.ctf import ctf_2d
from napari_sta.kernels.optics import Defocus, Microscope, dose_weight, phase_coefficients, wavelength_angst
from napari_sta.kernels.projection import depth_angst, project, projection_matrices_zyx
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from napari_sta.phantoms.density import Array, Blobs

Images = NDArray[np.float32]


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
