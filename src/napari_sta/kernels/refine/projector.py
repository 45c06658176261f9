"""The reference as a padded transform, from which slices are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels.grids import squared_radius


@dataclass(frozen=True)
class Projector:
    """Padded transform of a reference, from which slices are read.

    Attributes
    ----------
    values
        Flat float32 of a (depth, depth, width, 2) half volume, (re, im) side by side, frequency 0 at
        (depth // 2, depth // 2, 0), one spare voxel around the largest radius.
    padding
        Factor by which the map was padded.
    radius
        Largest radius kept, in pixels of the unpadded box.
    on_device
        (depth, depth, width) complex64, the same volume on a torch device, which then does the work; None:
        the compiled loops of the CPU do.
    """

    values: Float[ndarray, "m"]
    depth: int
    width: int
    padding: float
    radius: int
    on_device: Tensor | None = None


def padded_radius(radius: int, padding: float) -> int:
    """Radius in voxels of the padded transform, rounded half up."""
    return int(np.floor(padding * radius + 0.5))


def radius_grid(half: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Squared radius on a (2 half + 1)² × width grid in centred order, float64."""
    k = torch.arange(-half, half + 1, dtype=torch.float64, device=device)
    x = torch.arange(width, dtype=torch.float64, device=device)
    return squared_radius(k, k, x)


def interpolation_falloff(size: int, padding: float) -> Float[Tensor, "n n n"]:
    """sinc²(r / (padding · size)): what trilinear interpolation of the transform does to the map."""
    index = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.sinc(squared_radius(index, index, index).sqrt() / (padding * size)) ** 2


def make_projector(
    volume: Float[Tensor, "n n n"], radius: int, padding: float = 2.0, n_dim: int = 2
) -> Projector:
    """Transform a map for projection.

    Parameters
    ----------
    radius
        Slices are wanted up to here; beyond it the transform is zero.
    n_dim
        Of the images: 2 scales slices like transforms of 2D images, 3 like those of volumes.

    Notes
    -----
    The map is divided by sinc²(r / (padding · n)) first, against the interpolator's fall-off.
    """
    size = volume.shape[0]
    big = padded_radius(size, padding)
    big += big % 2
    corrected = volume.to(torch.float64) / interpolation_falloff(size, padding)
    padded = torch.zeros((big,) * 3, dtype=torch.float64)
    first = big // 2 - size // 2
    padded[first : first + size, first : first + size, first : first + size] = corrected
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(padded))
    spectrum /= float(size) ** (2 if n_dim == 2 else 3)
    reach = padded_radius(radius, padding)
    half, width = reach + 1, reach + 2
    k = torch.arange(-half, half + 1)
    rows = k % big
    columns = torch.arange(width).clamp(max=big // 2)
    cube = spectrum[rows][:, rows][:, :, columns]
    cube = torch.where(radius_grid(half, width) <= reach * reach, cube, torch.zeros((), dtype=cube.dtype))
    values = torch.view_as_real(cube.to(torch.complex64)).contiguous().flatten().numpy()
    return Projector(values, 2 * half + 1, width, padding, radius)


def placed(projector: Projector, device: torch.device | str) -> Projector:
    """Return the projector with its volume on a torch device as well, which then does the work."""
    shape = (projector.depth, projector.depth, projector.width, 2)
    values = torch.as_tensor(projector.values, device=device).reshape(shape)
    return replace(projector, on_device=torch.view_as_complex(values))


def slice_axes(
    matrices_zyx: Float[ndarray, "*o 3 3"], padding: float, n_dim: int = 2
) -> Float[ndarray, "*o a 3"]:
    """Where steps along v and u of an image (n_dim 3: w, v, u of a volume) go in a padded volume, float32.

    Matrices turn the volume into the image.
    """
    return np.ascontiguousarray(padding * matrices_zyx[..., 3 - n_dim :, :], dtype=np.float32)
