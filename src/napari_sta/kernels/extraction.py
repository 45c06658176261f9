"""Subtomograms as RELION stores them: premultiplied 2D images, or 3D data and weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier
from napari_sta.kernels.crop import circle_factor
from napari_sta.kernels.ctf import ctf_2d
from napari_sta.kernels.devices import run_each
from napari_sta.kernels.windows import CIRCLE_FALLOFF_PX, Contrast


def contrast_spectra(
    spectra: Complex[Tensor, "n s0 h0"],
    shift_yx_px: Float[ndarray, "n 2"],
    size: int,
    scale: float,
    contrast: Contrast,
    pixel_size_angst: float,
) -> Complex[Tensor, "n h s"]:
    """Bin, centre and CTF-multiply windows of tilt images, in Fourier space.

    Parameters
    ----------
    spectra
        Unnormalised half transforms of the windows (``rfft2``), FFTW order.
    shift_yx_px
        Where the particle lies relative to the window's centre pixel, in pixels of the output.
    size, pixel_size_angst
        Of the output; the transform is cropped to it (binning).
    scale
        Factor of the result, after unitary transforms both ways.

    Returns
    -------
    spectra
        Half transforms (unitary) of images whose pixel size // 2 is the particle; columns first: axis 1 is x
        = 0 ... size / 2, axis 2 is y in FFTW order. See :func:`images_from` and :func:`middle_images`.

    Notes
    -----
    RELION's order: Fourier crop, sub-pixel shift, contrast, inverse transform.
    """
    window, half = spectra.shape[1], size // 2 + 1
    rows = fourier.signed_frequency_px(size).numpy()
    row_of = np.where(rows < 0, rows + window, rows)
    shift = np.asarray(shift_yx_px, dtype=np.float64)
    factor = contrast.sign * scale / window  # torch's forward transform is not normalised
    ramp_y = factor * np.exp(2j * np.pi * shift[:, :1] * rows / size)
    ramp_x = np.exp(2j * np.pi * shift[:, 1:] * np.arange(half) / size)
    ky = rows / (size * pixel_size_angst)
    kx = np.arange(half) / (size * pixel_size_angst)
    device = spectra.device

    def put(array: ndarray, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(array).to(device=device, dtype=dtype)

    data = spectra[:, torch.as_tensor(row_of, device=device), : len(kx)]
    data = data * put(ramp_y, torch.complex64)[:, :, None] * put(ramp_x, torch.complex64)[:, None, :]
    if contrast.coefficients is None:
        data = -data
    else:
        phase = None if contrast.even_phase is None else put(contrast.even_phase, torch.float64)
        ctf = ctf_2d(
            put(contrast.coefficients, torch.float64),
            put(ky, torch.float64),
            put(kx, torch.float64),
            phase,
        )
        data = data * (-ctf.to(torch.float32) * put(contrast.envelope, torch.float32))
    if contrast.odd_phase is not None:
        data = data * torch.exp(-1j * put(contrast.odd_phase, torch.float32))
    return data.transpose(1, 2).contiguous()


def images_from(spectra: Complex[Tensor, "n h s"]) -> Float[Tensor, "n s s"]:
    """Images of the transforms that :func:`contrast_spectra` returns."""
    size = spectra.shape[2]
    columns = torch.fft.ifft(spectra, dim=-1, norm="ortho").transpose(1, 2)
    return torch.fft.irfft(columns, n=size, dim=-1, norm="ortho")


def middle_images(
    spectra: Complex[Tensor, "n h s"], crop: int, *, circle: bool = True
) -> Float[Tensor, "n c c"]:
    """Middle of the images, background-subtracted and faded to zero outside the inscribed circle.

    Parameters
    ----------
    spectra
        From :func:`contrast_spectra`.
    crop
        Edge of the output; size - crop must be even.
    circle
        Subtract the mean outside the circle (over the whole image) and fade over its last 5 px.

    Notes
    -----
    RELION's circle crop with radius crop / 2, about pixel size / 2. Only the middle is transformed back: what
    the background sums to follows from the zero frequency.
    """
    size = spectra.shape[2]
    margin = (size - crop) // 2
    middle = slice(margin, margin + crop)
    columns = torch.fft.ifft(spectra, dim=-1, norm="ortho")
    rows = torch.fft.irfft(
        columns[..., middle].transpose(1, 2), n=size, dim=-1, norm="ortho"
    )  # (n, crop, size)
    if not circle:
        return rows[..., middle].contiguous()
    factor, outside = (t[middle, middle] for t in circle_factor(size, crop / 2, CIRCLE_FALLOFF_PX))
    inside = 1 - outside
    totals = spectra[:, 0, 0].real.to(torch.float64) * size
    n_background = size * size - float(inside.sum())
    if margin:
        # Two pixels lie on the circle just beyond the middle; they are no background either.
        below = columns[..., margin + crop].real.to(
            torch.float64
        )  # (n, h); its centre pixel alternates in sign
        below[:, 1:-1] *= 2
        below[:, 1::2] *= -1
        totals = totals - below.sum(dim=1) / size**0.5 - rows[:, crop // 2, margin + crop]
        n_background -= 2
    part, inside = rows[..., middle], inside.to(rows)
    background = totals - (part * inside).sum(dim=(-2, -1), dtype=torch.float64)
    mean = (background / n_background).to(part.dtype)
    return (part - mean[:, None, None]) * factor.to(rows)


class PseudoSubtomogram(NamedTuple):
    """3D data and weights of particles.

    Attributes
    ----------
    data
        (n, c, c, c) real space, centre at voxel c // 2; sum of CTF-multiplied images, not divided.
    weight, multiplicity
        (n, c, c, c / 2 + 1) in Fourier space, FFTW order: sum of squared CTFs, and number of slices.
    """

    data: Float[Tensor, "n c c c"]
    weight: Float[Tensor, "n c c w"]
    multiplicity: Float[Tensor, "n c c w"]


def pseudo_subtomograms(
    images: Float[Tensor, "n t s s"],
    ctf_squared: Float[ndarray, "n t s h"],
    slice_matrices_zyx: Float[ndarray, "n t 3 3"],
    x_end: Int[ndarray, "n t s"],
    crop: int,
    scale: float,
    threads: int = 1,
) -> PseudoSubtomogram:
    """Back-project the 2D images of particles into small volumes.

    Parameters
    ----------
    images
        Circle-cropped images of all tilts.
    ctf_squared
        Weight of each Fourier pixel, FFTW order.
    slice_matrices_zyx
        Subtomogram to image rotation (depth, v, u).
    x_end
        Per tilt and row the first column left out; all 0 for a tilt that is not there.
    crop
        Edge of the volumes.
    scale
        Factor of the data after unitary transforms.

    Notes
    -----
    RELION's pseudo-subtomogram: trilinear spreading, weights not divided out.
    """
    n, _, size, _ = images.shape
    half = crop // 2 + 1
    # The image of a rotated volume is steeper in the cropped volume's coarser frequency steps.
    axes = np.ascontiguousarray(slice_matrices_zyx[:, :, 1:] * (crop / size))
    spectra = torch.fft.rfft2(images, norm="ortho") * fourier.checkerboard((size, size), images.device)
    data = torch.zeros((n, crop, crop, half, 2), dtype=torch.float32)
    weight = torch.zeros((n, crop, crop, half), dtype=torch.float32)
    multiplicity = torch.zeros_like(weight)
    from napari_sta.kernels.compiled.scatter import scatter_slices

    arrays = (
        torch.view_as_real(spectra.cpu().contiguous()).numpy(),
        np.ascontiguousarray(ctf_squared, dtype=np.float32),
        axes,
        np.ascontiguousarray(x_end, dtype=np.int64),
        data.numpy(),
        weight.numpy(),
        multiplicity.numpy(),
    )
    run_each(lambda i: scatter_slices(i, i + 1, *arrays), range(n), threads)
    numerator = torch.view_as_complex(data) * fourier.checkerboard((crop,) * 3)
    return PseudoSubtomogram(
        torch.fft.irfftn(numerator, s=(crop,) * 3, dim=(1, 2, 3), norm="ortho") * scale, weight, multiplicity
    )
