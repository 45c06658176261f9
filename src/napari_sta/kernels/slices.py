"""Central slices for reconstruction: image transforms weighed, and added to a volume, whatever the processor.

Volumes and slices are half transforms in *centred order* (see :mod:`napari_sta.kernels.fourier`). A slice's
matrix turns zyx frequencies of the volume into (depth, v, u) of the image; its rows 1 and 2 span the slice.
What refinement reads and spreads is in :mod:`napari_sta.kernels.refine`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.ctf import ctf_2d
from napari_sta.kernels.windows import add_slices


def weigh_transforms(
    spectra: Complex[Tensor, "n s0 h0"],
    shift_yx_px: Float[ndarray, "n 2"],
    size: int,
    scale: float,
    coefficients: Float[ndarray, "n 5"] | None,
    pixel_size_angst: float,
    envelope: Float[ndarray, "s h"],
    x_end: Int[ndarray, "s"],
    even_phase: Float[ndarray, "s h"] | None = None,
    odd_phase: Float[ndarray, "s h"] | None = None,
) -> Float[Tensor, "n s1 h2 3"]:
    """Crop, shift and CTF-weigh image transforms: data -CTF·envelope·F and weight (CTF·envelope)².

    Parameters
    ----------
    spectra
        Half transforms of windows whose phase origin is pixel 0, FFTW order.
    shift_yx_px
        Where the particle lies relative to the centre pixel, in pixels of the *output* (binned) image.
    size
        Output box, at most the input's: the transform is cropped (binning).
    scale
        Factor of the data (normalisation of the transform and binning).
    coefficients
        CTF phase from :func:`napari_sta.kernels.ctf.phase_coefficients`; None leaves the CTF out (data × -1,
        weight 1).
    pixel_size_angst
        Of the output.
    envelope, x_end
        In centred order: dose and amplitude factor; first column of each row that is left out.
    even_phase, odd_phase
        Aberration phases in radians (centred order) or None.

    Returns
    -------
    slices
        (n, size + 1, size / 2 + 3, 3): re, im, weight in centred order with phase origin at the box
        centre. The last row repeats the first and the last column but one the fourth-last, for
        interpolation; the last is 0.

    Notes
    -----
    Contrast is inverted, as RELION does: dark protein becomes bright.
    """
    half = size // 2 + 1
    rows = torch.arange(size) - size // 2
    row_of = torch.where(rows < 0, rows + spectra.shape[1], rows)
    # Phase origin from pixel 0 to the centre pixel: (-1)^(x + y), folded into the ramps.
    shift = np.asarray(shift_yx_px, dtype=np.float64)
    angle_y = 2 * np.pi * shift[:, :1] * rows.numpy() / size
    angle_x = 2 * np.pi * shift[:, 1:] * np.arange(half) / size
    sign_y, sign_x = 1 - 2.0 * (rows.numpy() % 2), 1 - 2.0 * (np.arange(half) % 2)
    ramp_y = scale * sign_y * np.exp(1j * angle_y)
    ramp_x = sign_x * np.exp(1j * angle_x)
    ky = rows.numpy() / (size * pixel_size_angst)
    kx = np.arange(half) / (size * pixel_size_angst)
    device, n = spectra.device, len(spectra)

    def put(array: ndarray, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(array).to(device=device, dtype=dtype)

    data = spectra[:, row_of.to(device), :half]
    data = data * put(ramp_y, torch.complex64)[:, :, None] * put(ramp_x, torch.complex64)[:, None, :]
    keep = torch.arange(half, device=device)[None, :] < put(x_end, torch.int64)[:, None]
    if coefficients is None:
        g = -torch.ones((n, size, half), device=device)
    else:
        phase = None if even_phase is None else put(even_phase, torch.float64)
        ctf = ctf_2d(put(coefficients, torch.float64), put(ky, torch.float64), put(kx, torch.float64), phase)
        g = -ctf.to(torch.float32) * put(envelope, torch.float32)
    g = g * keep
    data = data * g
    if odd_phase is not None:
        data = data * torch.exp(-1j * put(odd_phase, torch.float32))
    out = torch.zeros((n, size + 1, half + 2, 3), dtype=torch.float32, device=device)
    out[:, :size, :half, 0] = data.real
    out[:, :size, :half, 1] = data.imag
    out[:, :size, :half, 2] = g * g
    out[:, :size, half] = out[:, :size, half - 2]
    out[:, size] = out[:, 0]
    return out


def gather_slices(
    slices: Float[Tensor, "n s1 h2 3"],
    matrices_zyx: Float[ndarray, "n 3 3"],
    radius_px: float,
    volume: Float[Tensor, "s s h 4"],
    threads: int = 1,
) -> None:
    """Add weighted central slices to a volume, each voxel interpolating in the slice (RELION's rule).

    Parameters
    ----------
    slices
        From :func:`weigh_transforms`.
    matrices_zyx
        Voxel frequency to image frequency (depth, v, u).
    radius_px
        Voxels at larger radii receive nothing.
    volume
        Changed in place: re, im, weight and one that is not used.

    Notes
    -----
    A voxel takes (1 - |depth|) times the bilinear value of the slice if |depth| < 1. float32 sums: the
    rounding error grows as the square root of the number of slices, 1e-6 for ten thousand.
    """
    if volume.device.type == "cpu":
        add_slices(
            slices.numpy(), matrices_zyx, np.full(len(slices), float(radius_px)), volume.numpy(), threads
        )
    else:
        gather_slices_on_device(slices, matrices_zyx, radius_px, volume)


def gather_slices_on_device(
    slices: Float[Tensor, "n s1 h2 3"],
    matrices_zyx: Float[ndarray, "n 3 3"],
    radius_px: float,
    volume: Float[Tensor, "s s h 4"],
) -> None:
    """:func:`gather_slices` by torch operations: what runs on a GPU, and on the CPU the oracle of the tests.

    Each slice is visited along the volume axis nearest to its normal: at every node of the other two axes
    at most four voxels can lie within one voxel of it.
    """
    size, half = volume.shape[0], volume.shape[0] // 2
    device = volume.device
    matrices = torch.as_tensor(matrices_zyx).to(device=device, dtype=torch.float32)
    normals = np.asarray(matrices_zyx)[:, 0]
    main_axis = np.abs(normals).argmax(axis=1)
    ranges = [
        torch.arange(size, device=device) - half, torch.arange(size, device=device) - half,
        torch.arange(half + 1, device=device),
    ]  # fmt: skip
    flat = volume.view(-1, 4)[:, :3]
    for axis in range(3):
        chosen = np.flatnonzero(main_axis == axis)
        if not len(chosen):
            continue
        others = [a for a in range(3) if a != axis]
        reach = int(np.ceil(1 / np.abs(normals[chosen, axis]).min()))
        p, q = torch.meshgrid(ranges[others[0]], ranges[others[1]], indexing="ij")
        m = matrices[torch.as_tensor(chosen, device=device)]
        image = slices[torch.as_tensor(chosen, device=device)]
        d = m[:, 0, :, None, None]  # (n, 3, 1, 1)
        middle = -(d[:, others[0]] * p + d[:, others[1]] * q) / d[:, axis]
        for step in range(1 - reach, reach + 1):
            along = middle.floor() + step
            at = [torch.zeros_like(along)] * 3
            at[axis], at[others[0]], at[others[1]] = (
                along,
                p.expand_as(along).float(),
                q.expand_as(along).float(),
            )
            z, y, x = at
            depth, v, u = (
                m[:, r, 0, None, None] * z + m[:, r, 1, None, None] * y + m[:, r, 2, None, None] * x
                for r in range(3)
            )
            near = 1 - depth.abs()
            square = z * z + y * y + x * x
            legal = (near > 0) & (square <= radius_px * radius_px) & (x >= 0) & (x <= half)
            legal &= (z >= -half) & (z < half) & (y >= -half) & (y < half)
            n_index = legal.nonzero(as_tuple=True)[0]
            near, u, v = near[legal], u[legal], v[legal]
            flip = u < 0
            u, v = torch.where(flip, -u, u), torch.where(flip, -v, v) + half
            v = torch.where(v < 0, v + size, torch.where(v >= size, v - size, v))
            iu, iv = u.floor().long(), v.floor().long()
            fu, fv = (u - iu)[:, None], (v - iv)[:, None]
            iu = iu.clamp(max=half)
            value = (
                image[n_index, iv, iu] * (1 - fv) * (1 - fu) + image[n_index, iv, iu + 1] * (1 - fv) * fu
                + image[n_index, iv + 1, iu] * fv * (1 - fu) + image[n_index, iv + 1, iu + 1] * fv * fu
            ) * near[:, None]  # fmt: skip
            value[:, 1] = torch.where(flip, -value[:, 1], value[:, 1])
            zi, yi, xi = (z[legal].long() + half, y[legal].long() + half, x[legal].long())
            flat.index_add_(0, (zi * size + yi) * (half + 1) + xi, value)
