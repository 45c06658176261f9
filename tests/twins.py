"""Plain torch twins of compiled loops, in float64: what the loops are compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector
from napari_sta.kernels.refine.voxels import VoxelPart


def gather_reference(
    projector: Projector,
    axes: ndarray,
    pixels: PixelList | VoxelPart,
    weight: ndarray,
) -> tuple[Tensor, Tensor]:
    """Plain torch twin of :func:`gather`, float64, any device."""
    shape = (projector.depth, projector.depth, projector.width)
    volume = torch.view_as_complex(torch.as_tensor(projector.values).double().reshape(*shape, 2))
    where = torch.einsum("oai,an->oin", torch.as_tensor(axes).double(), _frequencies(pixels))
    flip = where[:, 2] < 0
    where = torch.where(flip[:, None], -where, where)
    low = where.floor()
    part = where - low
    index = low.long()
    index[:, :2] += projector.depth // 2
    total = torch.zeros_like(where[:, 0], dtype=torch.complex128)
    for corner in range(8):
        bits = [corner >> a & 1 for a in range(3)]
        w = torch.ones_like(where[:, 0])
        for a in range(3):
            w = w * (part[:, a] if bits[a] else 1 - part[:, a])
        total = total + w * volume[index[:, 0] + bits[0], index[:, 1] + bits[1], index[:, 2] + bits[2]]
    total = torch.where(flip, total.conj(), total)
    norm = 0.5 * (torch.as_tensor(weight).double() * total.abs() ** 2).sum(dim=1)
    return torch.cat([total.real, total.imag], dim=1), norm


def _frequencies(pixels: PixelList | VoxelPart) -> Tensor:
    k = (pixels.v, pixels.u) if isinstance(pixels, PixelList) else (pixels.w, pixels.v, pixels.u)
    return torch.as_tensor(np.stack(k)).double()


def shift_images_reference(image: ndarray, shift_yx_px: ndarray, pixels: PixelList | VoxelPart) -> Tensor:
    """Plain torch twin of :func:`shift_images`, float64."""
    n = len(pixels)
    z = torch.complex(torch.as_tensor(image[:n]).double(), torch.as_tensor(image[n:]).double())
    phase = torch.as_tensor(shift_yx_px).double() @ _frequencies(pixels)
    angle = -2 * torch.pi * phase / pixels.size
    moved = z[None] * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([moved.real, moved.imag], dim=1)


def complete_sums_reference(volume: ndarray, operators_zyx: ndarray, radius: int) -> Tensor:
    """Plain torch twin of :func:`complete_sums`."""
    full = torch.as_tensor(volume).double().clone()
    depth, width = full.shape[0], full.shape[2]
    mate = full[:, :, 0].flip(0, 1)
    mate[..., 1] *= -1
    half = depth // 2
    mate[half, half] = 0
    full[:, :, 0] += mate
    out = full.clone()
    k = torch.arange(-half, half + 1).double()
    grid = torch.stack(torch.meshgrid(k, k, torch.arange(width).double(), indexing="ij"), dim=-1)
    inside = (grid * grid).sum(dim=-1) <= radius * radius
    points = grid[inside]
    for operator in operators_zyx[1:]:
        at = points @ torch.as_tensor(operator).double().T
        sign = torch.where(at[:, 2] < 0, -1.0, 1.0).double()
        at = at * sign[:, None]
        low = at.floor()
        part = at - low
        for corner in range(8):
            bits = [corner >> a & 1 for a in range(3)]
            w = torch.ones_like(sign)
            for a in range(3):
                w = w * (part[:, a] if bits[a] else 1 - part[:, a])
            z, y, x = (low[:, a].long() + bits[a] + (half if a < 2 else 0) for a in range(3))
            legal = (z >= 0) & (z < depth) & (y >= 0) & (y < depth) & (x < width)
            value = full[z.clamp(0, depth - 1), y.clamp(0, depth - 1), x.clamp(max=width - 1)]
            value = value * (w * legal)[:, None]
            value[:, 1] *= sign
            out[inside] += value
    return out
