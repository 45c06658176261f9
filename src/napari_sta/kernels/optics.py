"""Microscope optics: CTF phase, aberrations, dose. numpy only, so that jobs start fast.

Defocus is underfocus-positive in Å, frequencies are in 1/Å, angles in degrees.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from napari_sta.kernels.grids import squared_radius

DOSE_CUTOFF = 0.01
"""RELION leaves out frequencies that dose has weakened below this."""


class Microscope(NamedTuple):
    """Voltage (kV), spherical aberration (mm) and amplitude contrast (0 to 1)."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


class Defocus(NamedTuple):
    """Defocus along u and v (Å), angle of u from +x towards +y (deg), phase shift (deg); any batch."""

    u_angst: Float[ndarray, "*n"]
    v_angst: Float[ndarray, "*n"]
    angle_deg: Float[ndarray, "*n"]
    phase_shift_deg: Float[ndarray, "*n"]


def wavelength_angst(voltage_kv: float) -> float:
    """Relativistic electron wavelength, with RELION's constants (300 kV: 0.0196876 Å)."""
    volts = voltage_kv * 1e3
    return float(12.2643247 / np.sqrt(volts * (1 + volts * 0.978466e-6)))


def phase_coefficients(microscope: Microscope, defocus: Defocus) -> Float[ndarray, "*n 5"]:
    """Coefficients of the CTF phase as a polynomial in the frequency.

    Returns
    -------
    coefficients
        ``(c_yy, c_yx, c_xx, c_4, c_0)``, such that
        gamma = c_yy·ky² + c_yx·ky·kx + c_xx·kx² + c_4·k⁴ + c_0 in radians, k in 1/Å; CTF = -sin(gamma).

    Notes
    -----
    RELION: c_4 = (pi/2)·Cs·lambda³, c_0 = -phase shift - atan(Q0 / sqrt(1 - Q0²)), the quadratic form is
    -pi·lambda·(U cos² + V sin², ...). float64, because gamma reaches 10³ rad.
    """
    wavelength = wavelength_angst(microscope.voltage_kv)
    angle = np.deg2rad(np.asarray(defocus.angle_deg, dtype=np.float64))
    u = np.asarray(defocus.u_angst, dtype=np.float64)
    v = np.asarray(defocus.v_angst, dtype=np.float64)
    c, s = np.cos(angle), np.sin(angle)
    q = microscope.amplitude_contrast
    quartic = 0.5 * np.pi * microscope.spherical_aberration_mm * 1e7 * wavelength**3
    constant = -np.deg2rad(np.asarray(defocus.phase_shift_deg, dtype=np.float64))
    constant = constant - np.arctan2(q, np.sqrt(1 - q * q))
    scale = -np.pi * wavelength
    columns = (
        scale * (u * s * s + v * c * c),
        scale * 2 * (u - v) * s * c,
        scale * (u * c * c + v * s * s),
        quartic,
        constant,
    )
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float64)


def dose_weight(
    frequency_inv_angst: Float[ndarray, "*k"], dose_e_per_angst2: float, bfactor_per_dose: float = 0.0
) -> Float[ndarray, "*k"]:
    """Weight of a frequency after a cumulative dose.

    Parameters
    ----------
    dose_e_per_angst2
        Dose before the exposure (``rlnMicrographPreExposure``), used as it is.
    bfactor_per_dose
        If positive, exp(-B·dose·k²/4) instead of the exposure model.

    References
    ----------
    Grant & Grigorieff (2015), eLife 4, e06980: critical dose 0.245·k^-1.665 + 2.81 e/Å², no voltage factor.
    """
    k = np.asarray(frequency_inv_angst, dtype=np.float64)
    if bfactor_per_dose > 0:
        weight: ndarray = np.exp(-bfactor_per_dose * dose_e_per_angst2 * k * k / 4)
        return weight
    with np.errstate(divide="ignore"):
        critical = 0.245 * k**-1.665 + 2.81
    weight = np.exp(-0.5 * dose_e_per_angst2 / critical)
    return weight


def zernike_phase(
    coefficients: tuple[float, ...] | list[float],
    ky_inv_angst: Float[ndarray, "h"],
    kx_inv_angst: Float[ndarray, "w"],
    *,
    odd: bool = False,
) -> Float[ndarray, "h w"]:
    """Aberration phase, in radians, from RELION's Zernike coefficients.

    Parameters
    ----------
    coefficients
        ``rlnEvenZernike``; with ``odd``, ``rlnOddZernike``.
    ky_inv_angst, kx_inv_angst
        Frequencies of rows and columns.
    odd
        They are of the odd polynomials: antisymmetric aberrations.

    Notes
    -----
    Unnormalised Zernike polynomials of the frequency itself (1/Å, not scaled to 1 at Nyquist).
    """
    y, x = np.meshgrid(ky_inv_angst, kx_inv_angst, indexing="ij")
    rho, phi = np.hypot(y, x), np.arctan2(y, x)
    phase = np.zeros_like(rho)
    for i, coefficient in enumerate(coefficients):
        if odd:
            q = int((np.sqrt(1 + 4 * i) - 1) / 2)
            n = 2 * q + 1
            m = 2 * (i - q * q - q) - n
        else:
            q = int(np.sqrt(i))
            n = 2 * q
            m = 2 * (i - q * q - q)
        radial = _zernike_radial(n, abs(m), rho)
        phase += coefficient * radial * (np.cos(m * phi) if m >= 0 else np.sin(-m * phi))
    return phase


def _zernike_radial(n: int, m: int, rho: ndarray) -> ndarray:
    from math import factorial

    radial = np.zeros_like(rho)
    for k in range((n - m) // 2 + 1):
        top = (-1) ** k * factorial(n - k)
        bottom = factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k)
        radial += top / bottom * rho ** (n - 2 * k)
    return radial


def tilt_envelope(
    size: int,
    pixel_size_angst: float,
    dose_e_per_angst2: float,
    scale: float,
    bfactor_angst2: float,
    bfactor_per_dose: float = 0.0,
) -> tuple[Float[ndarray, "s h"], Int[ndarray, "s"]]:
    """Amplitude factor of one tilt image on its half transform, and where dose ends it.

    Returns
    -------
    envelope
        scale · exp(-B k² / 4) · dose weight, centred order.
    x_end
        Per row, one past the last column within the circle of radius size / 2 whose dose weight exceeds 1 %;
        0 if there is none. Row size / 2 (frequency 0) gives the largest radius worth inserting.
    """
    y = np.arange(size) - size // 2
    x = np.arange(size // 2 + 1)
    square = squared_radius(y, x)
    k = np.sqrt(square) / (size * pixel_size_angst)
    weight = dose_weight(k, dose_e_per_angst2, bfactor_per_dose)
    inside = square <= size * size // 4
    useful = inside & (weight > DOSE_CUTOFF)
    last = np.where(useful.any(axis=1), size // 2 + 1 - useful[:, ::-1].argmax(axis=1), 0)
    envelope = scale * np.exp(-bfactor_angst2 * k * k / 4) * weight
    return envelope.astype(np.float32), last.astype(np.int64)
