"""A tomogram from its tilt images: filters that undo overlap, dose and CTF, then back-projection.

Images are (v, u), volumes zyx; the first pixel and voxel is 0 on every axis. Filtering happens on the half
transform of the binned image, whose frequencies are in 1/Å of the microscope's plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.ctf import ctf_2d
from napari_sta.kernels.optics import dose_weight

_TAPER = 0.02
"""Share of an image's edge over which it fades to its mean: no frame around the tomogram."""

_RADIAL_STEPS = 16_384


@dataclass(frozen=True)
class Weighting:
    """What the images of a tilt series have been through, for :func:`filters`.

    Attributes
    ----------
    rotations_zyx
        (t, 3, 3) tomogram to image.
    thickness_angst
        Of the tomogram along z: slices count as overlapping where they are nearer than its inverse.
    dose_e_per_angst2
        (t,) before each exposure; None: frequencies are not weighed down by dose.
    ctf
        (t, 5) phase coefficients (:func:`napari_sta.kernels.optics.phase_coefficients`); None: not corrected.
    snr
        Signal-to-noise ratio of the Wiener filter.
    keep_first_peak
        Leave the CTF 1 below its first maximum, so that the coarse contrast stays as it is in the images.
    bfactor_per_dose
        As :func:`napari_sta.kernels.optics.dose_weight`.
    """

    rotations_zyx: Float[ndarray, "t 3 3"]
    thickness_angst: float
    dose_e_per_angst2: Float[ndarray, "t"] | None = None
    ctf: Float[ndarray, "t 5"] | None = None
    snr: float = 10.0
    keep_first_peak: bool = True
    bfactor_per_dose: float = 0.0


def binned_size(image_size_yx_px: tuple[int, int], binning: float) -> tuple[int, int]:
    """Return the even size (h, w) of a tilt image after binning; at least 2."""
    height, width = (max(2, min(2 * round(n / binning / 2), n // 2 * 2)) for n in image_size_yx_px)
    return height, width


def faded(image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return the image less its mean, fading to 0 at its edge."""
    result = image - image.mean()
    for axis, n in enumerate(image.shape):
        width = max(1, round(_TAPER * n))
        position = torch.arange(n, device=image.device, dtype=image.dtype)
        from_edge = torch.minimum(position, n - 1 - position)
        window = 0.5 - 0.5 * torch.cos(torch.pi * ((from_edge + 0.5) / width).clamp(max=1))
        result = result * (window[:, None] if axis == 0 else window[None, :])
    return result


def binned(image: Float[Tensor, "h w"], size_yx_px: tuple[int, int]) -> Complex[Tensor, "hb x"]:
    """Return the half transform, in FFTW order, of an image made smaller; grey values and pixel 0 stay."""
    height, width = image.shape
    h, w = size_yx_px
    spectrum = torch.fft.rfft2(image)[:, : w // 2 + 1]
    spectrum = torch.cat([spectrum[: h // 2], spectrum[height - h // 2 :]])
    return spectrum * (h * w / (height * width))


def filters(
    weighting: Weighting,
    size_yx_px: tuple[int, int],
    pixel_size_yx_angst: tuple[float, float],
    device: torch.device | str = "cpu",
) -> Iterator[Float[Tensor, "h x"]]:
    """Yield for each tilt what to multiply the half transform of its image with.

    Slice i is multiplied by ``a_i / (sum_j overlap_ij a_j² + 1 / snr)``, where ``a`` is what dose and CTF
    have left of a frequency: the Wiener filter of all slices that meet there.

    References
    ----------
    Harauz & van Heel (1986), Optik 73, 146: slices of an object of thickness D overlap at distance d by
    max(0, 1 - |d| D).
    """  # fmt: skip
    (h, w), (pixel_y, pixel_x) = size_yx_px, pixel_size_yx_angst
    ky = torch.fft.fftfreq(h, pixel_y, dtype=torch.float64, device=device)
    kx = torch.fft.rfftfreq(w, pixel_x, dtype=torch.float64, device=device)
    radius = torch.hypot(ky[:, None], kx[None, :])
    most = float(radius.max())
    place = (radius * (_RADIAL_STEPS / most)).round().long()
    rotations, count = weighting.rotations_zyx, len(weighting.rotations_zyx)
    radial = torch.arange(_RADIAL_STEPS + 1, dtype=torch.float64, device=device) * (most / _RADIAL_STEPS)
    zero = torch.zeros(1, dtype=torch.float64, device=device)
    # Overlap counts azimuthal means: astigmatism matters little where slices meet.
    power = torch.stack(
        [_left(weighting, tilt, zero, radial, radial, is_mean=True)[0] ** 2 for tilt in range(count)]
    ).float()
    for tilt in range(count):
        total = torch.zeros((h, len(kx)), device=device)
        for other in range(count):
            # The normal of the other slice, seen from this image.
            _, along_y, along_x = rotations[tilt] @ rotations[other, 0]
            distance = (float(along_y) * ky)[:, None] + (float(along_x) * kx)[None, :]
            overlap = (1 - distance.abs() * weighting.thickness_angst).clamp(min=0).float()
            total += overlap * power[other][place]
        left = _left(weighting, tilt, ky, kx, radius).float()
        yield left / (total + 1 / weighting.snr)


def _left(
    weighting: Weighting, tilt: int, ky: Tensor, kx: Tensor, radius: Tensor, *, is_mean: bool = False
) -> Tensor:
    """Return what dose and CTF have left of an image's frequencies, with the sign of the CTF."""
    left = torch.ones((len(ky), len(kx)), dtype=torch.float64, device=kx.device)
    if weighting.dose_e_per_angst2 is not None:
        dose = float(weighting.dose_e_per_angst2[tilt])
        weights = dose_weight(radius.cpu().numpy(), dose, weighting.bfactor_per_dose)
        left = left * torch.from_numpy(np.ascontiguousarray(weights)).to(kx.device)
    if weighting.ctf is None:
        return left
    coefficients = weighting.ctf[tilt].copy()
    if is_mean:
        coefficients[[0, 2]] = coefficients[[0, 2]].mean()
        coefficients[1] = 0
    # The first lobe is positive: protein, dark in the images, is dark in the tomogram.
    ctf = ctf_2d(torch.from_numpy(coefficients[None]), ky.cpu(), kx.cpu())[0].to(kx.device)
    if weighting.keep_first_peak:
        ctf = torch.where(radius < _first_peak(weighting.ctf[tilt]), torch.ones_like(ctf), ctf)
    return left * ctf


def _first_peak(coefficients: ndarray) -> float:
    """Return the frequency (1/Å) of the CTF's first maximum, astigmatism averaged; infinite without one."""
    k = np.linspace(0, 0.5, 20_001)
    quadratic = (coefficients[0] + coefficients[2]) / 2
    gamma = quadratic * k**2 + coefficients[3] * k**4 + coefficients[4]
    reached = np.flatnonzero(np.abs(gamma) >= np.pi / 2)
    return float(k[reached[0]]) if len(reached) else float("inf")


def voxel_matrices(
    matrices_zyx: Float[ndarray, "t 4 4"], binning: float, step_yx: Float[ndarray, "2"]
) -> Float[ndarray, "t 2 4"]:
    """Return what takes a voxel of a binned tomogram to its pixel (v, u) in the binned image.

    Parameters
    ----------
    matrices_zyx
        Unbinned pixels of the tomogram to pixels of the image.
    binning
        A voxel is so many unbinned pixels; voxel 0 is pixel 0 (RELION).
    step_yx
        A pixel of the binned image is so many of the unbinned one, along y and x.
    """
    result = matrices_zyx[:, 1:3, :].copy()
    result[:, :, :3] *= binning
    return np.ascontiguousarray(result / np.asarray(step_yx)[None, :, None])


def back_project(
    images: Float[Tensor, "t h w"], matrices: Float[ndarray, "t 2 4"], volume: Float[Tensor, "z y x"],
    first_z: int, end_z: int,
) -> None:  # fmt: skip
    """Add images to sections of a volume: compiled on a CPU, by torch elsewhere.

    Parameters
    ----------
    images
        Filtered and binned.
    matrices
        Of :func:`voxel_matrices`.
    volume
        float32, on the device of the images; sections ``first_z`` ... ``end_z`` - 1 are added to.
    """
    if volume.device.type == "cpu":
        from napari_sta.kernels.compiled.backprojection import add_views

        add_views(first_z, end_z, images.numpy(), matrices, volume.numpy())
        return
    _back_project_by_torch(images, matrices, volume, first_z, end_z)


def _back_project_by_torch(
    images: Tensor, matrices: ndarray, volume: Tensor, first_z: int, end_z: int
) -> None:
    _, n_y, n_x = volume.shape
    height, width = images.shape[1:]
    device = volume.device
    y = torch.arange(n_y, dtype=torch.float64, device=device)[:, None]
    x = torch.arange(n_x, dtype=torch.float64, device=device)[None, :]
    for z in range(first_z, end_z):
        for view in range(len(images)):
            (vz, vy, vx, v0), (uz, uy, ux, u0) = matrices[view].tolist()
            v, u = vz * z + vy * y + vx * x + v0, uz * z + uy * y + ux * x + u0
            seen = (v >= 0) & (v < height - 1.001) & (u >= 0) & (u < width - 1.001)
            # grid_sample counts from -1 at the first pixel to 1 at the last.
            grid = torch.stack([2 * u / (width - 1) - 1, 2 * v / (height - 1) - 1], dim=-1).float()
            sampled = torch.nn.functional.grid_sample(
                images[view][None, None], grid[None], mode="bilinear", align_corners=True
            )[0, 0]
            volume[z] += sampled * seen
