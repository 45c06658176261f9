"""Extraction written out a second time: plain numpy in float64, one image and one Fourier pixel at a time.

Follows RELION's recipe step by step (crop at the rounded position, unitary transforms, Fourier crop, shift, contrast,
circle crop; trilinear spreading for 3D) and shares no kernel with the program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation


def relion_rotation_xyz(angles_deg) -> np.ndarray:
    """Reference to particle coordinates, xyz: RELION's Euler matrix."""
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True).inv().as_matrix()


class Optics(NamedTuple):
    """Of one tilt image; U, V and depth in Å, angles in degrees, the rest as the files have it."""

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    u: float = 20000.0
    v: float = 20000.0
    angle: float = 0.0
    phase_shift: float = 0.0
    scale: float = 1.0
    bfactor: float = 0.0


def ctf(o: Optics, ky, kx, even=0.0) -> np.ndarray:
    """-sin(gamma) · envelope at frequencies in 1/Å."""
    volts = o.voltage_kv * 1000
    wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    a = np.deg2rad(o.angle)
    axx = -(o.u * np.cos(a) ** 2 + o.v * np.sin(a) ** 2)
    ayy = -(o.u * np.sin(a) ** 2 + o.v * np.cos(a) ** 2)
    axy = -(o.u - o.v) * np.sin(a) * np.cos(a)
    square = kx**2 + ky**2
    gamma = np.pi * wavelength * (axx * kx**2 + 2 * axy * kx * ky + ayy * ky**2)
    gamma = gamma + np.pi / 2 * o.spherical_aberration_mm * 1e7 * wavelength**3 * square**2
    q = o.amplitude_contrast
    gamma = gamma - np.deg2rad(o.phase_shift) - np.arctan(q / np.sqrt(1 - q * q)) + even
    return -np.sin(gamma) * np.exp(-o.bfactor / 4 * square) * o.scale


def dose_weight(k, dose: float, per_dose: float = 0.0) -> np.ndarray:
    """What radiation leaves of a frequency."""
    k = np.asarray(k, dtype=np.float64)
    if per_dose > 0:
        return np.exp(-per_dose * dose * k**2 / 4)
    with np.errstate(divide="ignore"):
        return np.exp(-0.5 * dose / (0.245 * k**-1.665 + 2.81))


def frequencies(size: int, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Columns ky and row kx of a half transform in 1/Å; row size / 2 is negative."""
    index = np.arange(size)
    y = np.where(index < size // 2, index, index - size)
    return y[:, None] / (size * pixel), np.arange(size // 2 + 1)[None, :] / (size * pixel)


def unitary(image: np.ndarray) -> np.ndarray:
    """Half transform whose phase origin is the centre pixel."""
    return np.fft.rfft2(np.fft.ifftshift(image), norm="ortho")


def image_of(spectrum: np.ndarray) -> np.ndarray:
    """Back from :func:`unitary`."""
    size = spectrum.shape[0]
    return np.fft.fftshift(np.fft.irfft2(spectrum, s=(size, size), norm="ortho"))


def window_of(image: np.ndarray, position_yx, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Window about a position, edges repeated, and the position relative to its centre pixel."""
    position = np.asarray(position_yx, dtype=np.float64)
    nearest = np.trunc(position + np.copysign(0.5, position)).astype(int)
    corner = nearest - size // 2
    rows = np.clip(corner[0] + np.arange(size), 0, image.shape[0] - 1)
    columns = np.clip(corner[1] + np.arange(size), 0, image.shape[1] - 1)
    return image[np.ix_(rows, columns)].astype(np.float64), position - nearest


def circle_cropped(image: np.ndarray, radius: float) -> np.ndarray:
    """Mean outside the circle subtracted, raised cosine over its last 5 px."""
    size = len(image)
    index = np.arange(size) - size // 2
    r = np.hypot(*np.meshgrid(index, index, indexing="ij"))
    g = np.where(r < radius - 5, 1.0, np.where(r < radius, 0.5 - 0.5 * np.cos(np.pi * (radius - r) / 5), 0.0))
    return (image - image[r > radius].mean()) * g


def contrast_spectrum(window, offset_yx, size, pixel, gain, odd=None) -> np.ndarray:
    """Bin, centre and multiply: half transform of the image in a box of ``size``; mean grey value kept."""
    binning = len(window) / size
    full = unitary(window)
    index = np.arange(size)
    rows = np.where(index < size // 2, index, index - size)
    cut = full[rows, : size // 2 + 1] / binning  # negative rows count from the end
    ky, kx = frequencies(size, pixel)
    ramp = np.exp(2j * np.pi * pixel * (ky * offset_yx[0] + kx * offset_yx[1]) / binning)
    cut = cut * ramp * gain
    return cut if odd is None else cut * np.exp(-1j * odd)


class Extracted(NamedTuple):
    """One particle: its visible tilts, 2D images, and what 3D insertion needs (all tilts)."""

    visible: np.ndarray
    stack: np.ndarray
    position_yx_px: np.ndarray
    full_images: np.ndarray  # (t, s, s), circle-cropped, before cutting and the second division by binning
    weights: np.ndarray  # (t, s, h)
    matrices_xyz: np.ndarray  # (t, 3, 3) subtomogram to image
    x_end: np.ndarray  # (t, s)


def extract(
    series: Any, images: np.ndarray, centred_xyz, origin_xyz, subtomogram_angles, box, crop, binning, *,
    use_ctf=True, sign=-1.0, circle=True, max_dose=None, motion_xyz=None, deform=None, even=None, odd=None,
) -> Extracted:  # fmt: skip
    """Extract one particle as the specification says; ``even`` and ``odd`` are functions of ky, kx."""
    a = series.pixel_size_angst
    window = int(binning * box + 0.5)
    window += window % 2
    binning = window / box
    pixel = a * binning
    height, width = images.shape[1:]
    size_xyz = np.array(series.size_zyx_px[::-1], dtype=np.float64)
    turn = relion_rotation_xyz(subtomogram_angles)
    x = np.asarray(centred_xyz) / a + size_xyz / 2 - turn @ np.asarray(origin_xyz) / a
    margin = (box - crop) // 2
    n = len(images)
    visible = np.zeros(n, dtype=bool)
    positions, full, weights, matrices, ends = [], [], [], [], []
    ky, kx = frequencies(box, pixel)
    k = np.sqrt(ky**2 + kx**2)
    for f in range(n):
        x_tilt, y_tilt, z_rot = series.angles_xyz_deg[f]
        rotation = Rotation.from_euler("xyz", [x_tilt, y_tilt, z_rot], degrees=True).as_matrix()  # Rz·Ry·Rx
        centre = np.trunc(size_xyz / 2)
        image_centre = np.array([width // 2, height // 2, 0]) + np.array(
            [*(series.shift_yx_angst[f, ::-1] / a), 0]
        )
        at = x if motion_xyz is None else x + motion_xyz[f] / a
        u, v = (rotation @ (at - centre) + image_centre)[:2]
        if deform is not None:
            u, v = deform(f, u, v)
        r = binning * crop / 2
        visible[f] = r < u < width - r and r < v < height - r
        if max_dose is not None and series.dose_e_per_angst2[f] > max_dose:
            visible[f] = False
        depth = (rotation @ (x - size_xyz / 2))[2] * a * series.hand * series.defocus_slope
        optics = Optics(
            series.voltage_kv, series.spherical_aberration_mm, series.amplitude_contrast,
            series.defocus_u_angst[f] + depth, series.defocus_v_angst[f] + depth, series.defocus_angle_deg[f],
            series.phase_shift_deg[f], series.ctf_scale[f], series.bfactor_angst2[f],
        )  # fmt: skip
        dose = dose_weight(k, series.dose_e_per_angst2[f], series.bfactor_per_dose)
        gain = ctf(optics, ky, kx, even(ky, kx) if even else 0.0) * dose if use_ctf else np.ones_like(k)
        cut, offset = window_of(images[f], (v, u), window)
        spectrum = contrast_spectrum(
            cut, offset, box, pixel, sign * gain, odd(ky, kx) if odd is not None else None
        )
        image = image_of(spectrum)
        full.append(circle_cropped(image, box // 2 - margin) if circle else image)
        weights.append(gain**2 if use_ctf else np.ones_like(k))
        matrices.append(rotation @ turn)
        positions.append((v, u))
        index = np.arange(box)
        rows = np.where(index < box // 2, index, index - box)
        end = np.zeros(box, dtype=int)
        for i, y in enumerate(rows):
            good = [c for c in range(box // 2 + 1) if c * c <= box * box // 4 - y * y and dose[i, c] > 0.01]
            end[i] = 1 + good[-1] if good else 0
        ends.append(end)
    full_images = np.array(full)
    inner = slice(margin, margin + crop)
    return Extracted(
        visible, full_images[visible][:, inner, inner] / binning, np.array(positions), full_images,
        np.array(weights), np.array(matrices), np.array(ends),
    )  # fmt: skip


def insert(images, weights, matrices_xyz, x_end, crop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spread slices into a small half volume; returns data (unscaled, real space), weight, multiplicity."""
    size = images.shape[-1]
    half = crop // 2 + 1
    data = np.zeros((crop, crop, half), complex)
    weight, multiplicity = np.zeros(data.shape), np.zeros(data.shape)

    def add(gz, gy, gx, m, value, w):
        at = gz % crop, gy % crop, gx
        data[at] += m * value
        weight[at] += m * w
        multiplicity[at] += m

    for image, w2, matrix, end in zip(images, weights, matrices_xyz, x_end, strict=True):
        spectrum = unitary(image)
        s1, s2 = matrix[0] * crop / size, matrix[1] * crop / size  # xyz
        area = np.linalg.norm(s1) * np.linalg.norm(s2)
        for row in range(size):
            y = row if row < size // 2 else row - size
            for x in range(0 if row < size // 2 else 1, end[row]):
                p, value = x * s1 + y * s2, spectrum[row, x]
                if p[0] < 0:
                    p, value = -p, np.conj(value)
                low = np.floor(p).astype(int)
                for dx in (0, 1):
                    for dy in (0, 1):
                        for dz in (0, 1):
                            g = low + np.array([dx, dy, dz])
                            if g[0] >= half or not (-crop // 2 <= g[1] < crop // 2):
                                continue
                            if not -crop // 2 <= g[2] < crop // 2:
                                continue
                            m = area * np.prod(1 - np.abs(p - g))
                            add(g[2], g[1], g[0], m, value, w2[row, x])
                            if g[0] == 0:
                                add(-g[2], -g[1], 0, m, np.conj(value), w2[row, x])
    z, y, x = np.meshgrid(np.arange(crop), np.arange(crop), np.arange(half), indexing="ij")
    signs = (-1.0) ** (x + y + z)
    return np.fft.irfftn(data * signs, s=(crop,) * 3, axes=(0, 1, 2), norm="ortho"), weight, multiplicity
