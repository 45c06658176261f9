"""Contrast transfer function on a grid, on any device; its phase is in :mod:`napari_sta.kernels.optics`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ctf_2d(
    coefficients: Float[Tensor, "*n 5"],
    ky_inv_angst: Float[Tensor, "h"],
    kx_inv_angst: Float[Tensor, "w"],
    phase_offset: Float[Tensor, "h w"] | None = None,
) -> Float[Tensor, "*n h w"]:
    """CTF on a grid of frequencies, without envelope: -sin(gamma).

    Parameters
    ----------
    coefficients
        From :func:`phase_coefficients`, any batch.
    phase_offset
        Even-aberration phase to add to gamma (:func:`zernike_phase`).

    Notes
    -----
    At k = 0 the CTF is +Q0: dark protein turns white only after contrast inversion.
    """
    yy, yx, xx, quartic, constant = (coefficients[..., i, None, None].to(torch.float64) for i in range(5))
    y = ky_inv_angst.to(torch.float64)[:, None]
    x = kx_inv_angst.to(torch.float64)[None, :]
    square = y * y + x * x
    gamma = yy * y * y + yx * y * x + xx * x * x + quartic * square * square + constant
    if phase_offset is not None:
        gamma = gamma + phase_offset
    return -torch.sin(gamma).to(coefficients.dtype)
