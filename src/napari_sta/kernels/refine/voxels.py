"""Which voxels of a pseudo-subtomogram's transform count: lists up to a radius, in parts, and their shells.

The voxels up to a radius are listed row by row, like the pixels of an image, and the list is cut into parts
of equal length: to the expectation step a particle is a stack of parts that share one pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier

_PART = 4096
"""Voxels of a part, about: slices and shifted copies of one stay in the level-2 cache."""

N_SECTORS = 16
"""Wedges about the x axis into which the half space is cut to see how scores scatter."""


@dataclass(frozen=True)
class VoxelPart:
    """Some voxels of a list; fields as in :class:`~napari_sta.kernels.refine.pixels.PixelList`, w along z.

    The last part of a list is filled up with voxels at frequency 0, which belong to no row.
    """

    size: int
    radius: int
    w: Int[ndarray, "n"]
    v: Int[ndarray, "n"]
    u: Int[ndarray, "n"]
    shell: Int[ndarray, "n"]
    row_w: Int[ndarray, "r"]
    row_v: Int[ndarray, "r"]
    row_u: Int[ndarray, "r"]
    row_n: Int[ndarray, "r"]
    row_start: Int[ndarray, "r"]
    kw: Float[ndarray, "n"]
    kv: Float[ndarray, "n"]
    ku: Float[ndarray, "n"]

    n_dim: ClassVar[int] = 3

    def __len__(self) -> int:
        return len(self.u)

    @property
    def friedel_mates(self) -> Float[ndarray, "n"]:
        """How often a window of the half transform holds each voxel: its plane u = 0 holds both mates."""
        zero = (self.w == 0) & (self.v == 0)
        mate = (self.u == 0) & (self.w < self.radius) & (self.v < self.radius)
        return np.where(mate & ~zero, 2.0, 1.0)

    @property
    def sector(self) -> Int[ndarray, "n"]:
        """Wedge about the x axis that each voxel is in."""
        turn = np.arctan2(self.w, self.v) / (2 * np.pi) + 0.5
        return np.minimum((turn * N_SECTORS).astype(np.int64), N_SECTORS - 1)


@dataclass(frozen=True)
class VoxelList:
    """Voxels of the half space within a radius, each Friedel pair once, frequency 0 included, in parts.

    Attributes
    ----------
    size, radius
        Box of the volumes, and the largest radius listed.
    w, v, u, shell
        (m,) frequencies and nearest shell of all; the columns u of a row (w, v) are contiguous.
    parts
        The same in parts of equal length.
    """

    size: int
    radius: int
    w: Int[ndarray, "m"]
    v: Int[ndarray, "m"]
    u: Int[ndarray, "m"]
    shell: Int[ndarray, "m"]
    parts: tuple[VoxelPart, ...]

    n_dim: ClassVar[int] = 3

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def count(self) -> int:
        """Voxels in all parts."""
        return len(self.u)

    def part(self, index: int) -> VoxelPart:
        """Voxels of one part."""
        return self.parts[index]

    def places_of(self, fewer: Any) -> Int[ndarray, "t n"]:
        """Return where a smaller :class:`VoxelList` is in this one, part by part; -1 for filling."""
        r = self.radius
        index = np.full((2 * r + 1, 2 * r + 1, r + 1), -1, dtype=np.int64)
        index[self.w + r, self.v + r, self.u] = np.arange(self.count)
        out = np.full(len(fewer.parts) * len(fewer), -1, dtype=np.int64)
        out[: fewer.count] = index[fewer.w + r, fewer.v + r, fewer.u]
        return out.reshape(len(fewer.parts), len(fewer))

    def split(self, values: Float[ndarray, "m"]) -> Float[ndarray, "t n"]:
        """Cut values of all voxels into parts (float32), 0 in the filling."""
        out = np.zeros(len(self.parts) * len(self), np.float32)
        out[: self.count] = values
        return out.reshape(len(self.parts), len(self))

    def pick(self, grid: Float[Tensor, "s s h"]) -> Float[ndarray, "t n"]:
        """Voxels of a half grid (FFTW order), in parts."""
        index = [torch.as_tensor(k) for k in (self.w % self.size, self.v % self.size, self.u)]
        return self.split(grid[index[0], index[1], index[2]].numpy())

    def take(self, spectrum: Complex[Tensor, "s s h"]) -> Float[ndarray, "t k"]:
        """Voxels of a half transform (FFTW order), in parts, planar [Re | Im]."""
        return np.concatenate([self.pick(spectrum.real), self.pick(spectrum.imag)], axis=1)


def make_voxel_list(size: int, radius: int, edge_ratio: float = 1.0, part: int = _PART) -> VoxelList:
    """List the voxels with abs(k) <= radius.

    Parameters
    ----------
    radius, edge_ratio
        As in :func:`~napari_sta.kernels.refine.pixels.make_pixel_list`.
    part
        Voxels of a part, at most.
    """
    reach = radius / edge_ratio
    radius = min(int(np.floor(reach + 1e-9)), size // 2)
    k = np.arange(-radius, radius + 1)
    w, v, u = (a.ravel() for a in np.meshgrid(k, k, np.arange(radius + 1), indexing="ij"))
    # Of a Friedel pair in the plane u = 0 the mate with v > 0, or v = 0 and w > 0; of those at Nyquist
    # (-size / 2 is size / 2) the positive one.
    mate = (u == 0) & ((v < 0) | ((v == 0) & (w < 0)))
    twice = (w == -size / 2) | (v == -size / 2)
    good = (w * w + v * v + u * u <= reach * reach + 1e-9) & ~mate & ~twice
    w, v, u = (a[good].astype(np.int64) for a in (w, v, u))
    shell = np.floor(np.sqrt(w * w + v * v + u * u) * edge_ratio + 0.5).astype(np.int64)
    n_parts = -(-len(u) // part)
    length = -(-len(u) // n_parts)
    cuts = [slice(first, first + length) for first in range(0, n_parts * length, length)]
    parts = tuple(_part(size, radius, w[cut], v[cut], u[cut], shell[cut], length) for cut in cuts)
    return VoxelList(size, radius, w, v, u, shell, parts)


def _part(
    size: int,
    radius: int,
    w: Int[ndarray, "n"],
    v: Int[ndarray, "n"],
    u: Int[ndarray, "n"],
    shell: Int[ndarray, "n"],
    length: int,
) -> VoxelPart:
    start = np.flatnonzero(np.concatenate([[True], (np.diff(w) != 0) | (np.diff(v) != 0)]))
    n = np.diff(np.concatenate([start, [len(u)]]))
    fw, fv, fu, fs = (np.concatenate([a, np.zeros(length - len(a), np.int64)]) for a in (w, v, u, shell))
    kw, kv, ku = (a.astype(np.float32) for a in (fw, fv, fu))
    rows = (w[start], v[start], u[start])
    return VoxelPart(size, radius, fw, fv, fu, fs, *rows, n, start.astype(np.int64), kw, kv, ku)


def half_space_shells(
    size: int, edge_ratio: float = 1.0, n_shells: int | None = None
) -> Int[Tensor, "s s h"]:
    """Shell of every half-grid voxel that counts, ``n_shells`` for those that do not (FFTW order).

    As :func:`~napari_sta.kernels.refine.pixels.half_plane_shells` of a whole image.
    """
    none = size // 2 + 1 if n_shells is None else n_shells
    shells = torch.floor(fourier.radius_px((size,) * 3) * edge_ratio + 0.5).long()
    k = torch.arange(size)
    k = torch.where(k <= size // 2, k, k - size)
    w, v = k[:, None], k[None, :]
    shells[:, :, 0][(v < 0) | ((v == 0) & (w < 0))] = none
    return shells.clamp(max=none)


def voxels_per_shell(size: int) -> Float[ndarray, "shells"]:
    """Half-space voxels in each shell of the full volume."""
    shells = half_space_shells(size).flatten()
    return torch.bincount(shells, minlength=size // 2 + 2)[: size // 2 + 1].double().numpy()
