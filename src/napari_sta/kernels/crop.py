"""Windows of tilt images around projected particles."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.windows import (
    CIRCLE_FALLOFF_PX,
    circle_factor_2d,
)


def cut_windows(
    image: Float[Tensor, "h w"],
    corner_yx_px: Int[ndarray, "n 2"],
    window_px: int,
    *,
    circle: bool = True,
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


def circle_factor(
    size: int, radius_px: float, falloff_px: float
) -> tuple[Float[Tensor, "s s"], Float[Tensor, "s s"]]:
    """Fading factor, and 1 outside the circle; float32."""
    factor, outside = circle_factor_2d(size, radius_px, falloff_px)
    return torch.from_numpy(factor), torch.from_numpy(outside)
