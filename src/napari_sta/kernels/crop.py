"""Windows of tilt images around projected particles."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.devices import run_in_threads

CIRCLE_FALLOFF_PX = 5.0
"""Width of the soft edge of RELION's circle crop."""


def round_half_away(x: Float[ndarray, "*n"]) -> Int[ndarray, "*n"]:
    """Round as C does: halves away from zero."""
    return (np.sign(x) * np.floor(np.abs(x) + 0.5)).astype(np.int64)


def window_corners(
    position_yx_px: Float[ndarray, "n 2"], window_px: int
) -> tuple[Int[ndarray, "n 2"], Float[ndarray, "n 2"]]:
    """Top-left pixels of windows about projected particles, and what rounding left over.

    Returns
    -------
    corner_yx_px
        round(position) - window / 2.
    offset_yx_px
        Position of the particle relative to the window's centre pixel, in [-0.5, 0.5].
    """
    corner = round_half_away(position_yx_px) - window_px // 2
    return corner, position_yx_px - corner - window_px // 2


def cut_windows(
    image: Float[Tensor, "h w"],
    corner_yx_px: Int[ndarray, "n 2"],
    window_px: int,
    *,
    circle: bool = True,
    threads: int = 1,
) -> Float[Tensor, "n s s"]:
    """Cut square windows out of an image; pixels outside it repeat its nearest edge pixel.

    Parameters
    ----------
    image
        float32, on any device.
    circle
        Subtract the mean of the corners (everything outside the inscribed circle) and fade to zero over
        the last 5 px of the circle.

    Notes
    -----
    RELION's extraction and circle crop (radius s / 2, raised cosine inside it).
    """
    if image.device.type == "cpu":
        from napari_sta.kernels._numba import cut_windows as fast

        n = len(corner_yx_px)
        out = torch.empty((n, window_px, window_px), dtype=torch.float32)
        factor = outside = np.zeros((0, 0), np.float32)
        if circle:
            factor, outside = (t.numpy() for t in circle_factor(window_px, window_px / 2, CIRCLE_FALLOFF_PX))
        arrays = image.numpy(), np.ascontiguousarray(corner_yx_px), factor, outside, out.numpy()
        run_in_threads(lambda first, last: fast(first, last, *arrays), n, threads)
        return out
    return cut_windows_reference(image, corner_yx_px, window_px, circle=circle)


def cut_windows_reference(
    image: Float[Tensor, "h w"], corner_yx_px: Int[ndarray, "n 2"], window_px: int, *, circle: bool = True
) -> Float[Tensor, "n s s"]:
    """Plain torch twin of :func:`cut_windows`, for any device."""
    device = image.device
    corner = torch.as_tensor(corner_yx_px, device=device)
    index = torch.arange(window_px, device=device)
    y = (corner[:, :1] + index).clamp(0, image.shape[0] - 1)
    x = (corner[:, 1:] + index).clamp(0, image.shape[1] - 1)
    windows = image[y[:, :, None], x[:, None, :]]
    return circle_crop(windows, window_px / 2) if circle else windows


def circle_crop(
    images: Float[Tensor, "*n s s"], radius_px: float, falloff_px: float = CIRCLE_FALLOFF_PX
) -> Float[Tensor, "*n s s"]:
    """Subtract the mean outside a circle and fade to zero inside its rim (RELION's circle crop)."""
    factor, outside = (t.to(images) for t in circle_factor(images.shape[-1], radius_px, falloff_px))
    mean = (images * outside).sum(dim=(-2, -1), keepdim=True) / outside.sum().clamp(min=1)
    return (images - mean) * factor


@lru_cache(maxsize=8)
def circle_factor(
    size: int, radius_px: float, falloff_px: float
) -> tuple[Float[Tensor, "s s"], Float[Tensor, "s s"]]:
    """Fading factor, and 1 outside the circle; float32."""
    index = torch.arange(size, dtype=torch.float64) - size // 2
    r = torch.sqrt(index[:, None] ** 2 + index[None, :] ** 2)
    edge = 0.5 - 0.5 * torch.cos(torch.pi * (radius_px - r) / falloff_px)
    factor = torch.where(r < radius_px - falloff_px, torch.ones_like(r), edge)
    factor = torch.where(r < radius_px, factor, torch.zeros_like(r))
    return factor.to(torch.float32), (r > radius_px).to(torch.float32)
