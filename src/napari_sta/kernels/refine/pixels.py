"""Which pixels of a transformed image count: lists up to a radius, and their shells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from napari_sta.kernels import fourier


@dataclass(frozen=True)
class PixelList:
    """Pixels of the half plane within a radius, each Friedel pair once, frequency 0 included.

    Attributes
    ----------
    size, radius
        Box of the images, and the largest radius listed.
    v, u
        (n,) frequencies; rows run upwards from v = -radius + 1, the columns of a row are contiguous.
    shell
        (n,) nearest shell.
    row_v, row_u, row_n, row_start
        Per row: frequency, first column, number of columns, position of the first in the list.
    edge_ratio
        See :func:`make_pixel_list`.
    """

    size: int
    radius: int
    v: Int[ndarray, "n"]
    u: Int[ndarray, "n"]
    shell: Int[ndarray, "n"]
    row_v: Int[ndarray, "r"]
    row_u: Int[ndarray, "r"]
    row_n: Int[ndarray, "r"]
    row_start: Int[ndarray, "r"]
    edge_ratio: float = 1.0

    n_dim: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.v)

    @property
    def count(self) -> int:
        """Pixels listed."""
        return len(self.v)

    def part(self, _: int) -> PixelList:
        """Pixels of any tilt image: the same for all."""
        return self

    @property
    def kv(self) -> Float[ndarray, "n"]:
        """Frequencies v as float32."""
        return self.v.astype(np.float32)

    @property
    def ku(self) -> Float[ndarray, "n"]:
        """Frequencies u as float32."""
        return self.u.astype(np.float32)

    @property
    def friedel_mates(self) -> Float[ndarray, "n"]:
        """How often a window of the half transform holds each pixel: its column u = 0 holds both mates."""
        return np.where((self.u == 0) & (self.v > 0) & (self.v < self.radius), 2.0, 1.0)

    def places_of(self, fewer: Any) -> Int[ndarray, "m"]:
        """Return where the pixels of a smaller :class:`PixelList` are in this one."""
        row = {int(v): int(start) - int(first) for v, first, start in zip(
            self.row_v, self.row_u, self.row_start, strict=True)}  # fmt: skip
        offset = np.array([row[int(v)] for v in fewer.v], dtype=np.int64)
        return offset + fewer.u

    def take(self, spectra: Complex[Tensor, "t s h"]) -> Float[ndarray, "t m"]:
        """Pixels of half transforms (FFTW order) as planar float32 [Re | Im]."""
        rows = torch.as_tensor(self.v % self.size)
        values = spectra[:, rows, torch.as_tensor(self.u)]
        return torch.cat([values.real, values.imag], dim=1).to(torch.float32).numpy()


def make_pixel_list(size: int, radius: int, edge_ratio: float = 1.0) -> PixelList:
    """List the pixels with abs(k) <= radius; rows run from -radius + 1 to radius, as in RELION's windows.

    Parameters
    ----------
    radius
        In Fourier pixels of the reference.
    edge_ratio
        Edge (Å) of the reference's box over that of the images: their pixel k is the reference's
        ``edge_ratio * k``, and ``shell`` counts the reference's.
    """
    reach = radius / edge_ratio
    radius = min(int(np.floor(reach + 1e-9)), size // 2)
    row_v: list[int] = []
    row_u: list[int] = []
    row_n: list[int] = []
    for row in range(-radius + 1, radius + 1):
        first = 1 if row < 0 else 0
        last = min(int(np.floor(np.sqrt(max(reach * reach - row * row, 0)) + 1e-9)), size // 2)
        if last >= first:
            row_v.append(row)
            row_u.append(first)
            row_n.append(last - first + 1)
    v = np.repeat(row_v, row_n)
    u = np.concatenate([np.arange(a, a + n) for a, n in zip(row_u, row_n, strict=True)])
    shell = np.floor(np.sqrt(v * v + u * u) * edge_ratio + 0.5).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(row_n)[:-1]])
    return PixelList(
        size, radius, v.astype(np.int64), u.astype(np.int64), shell,
        np.array(row_v), np.array(row_u), np.array(row_n), start.astype(np.int64), edge_ratio,
    )  # fmt: skip


def half_plane_shells(
    size: int, radius: int | None = None, edge_ratio: float = 1.0, n_shells: int | None = None
) -> Int[Tensor, "s h"]:
    """Shell of every half-grid pixel that counts, ``n_shells`` for those that do not (FFTW order).

    Parameters
    ----------
    edge_ratio, n_shells
        As in :func:`make_pixel_list`, and the number of shells of the reference (size // 2 + 1).
    radius
        Of the current window: up to this shell, rows outside -radius < v <= radius do not count (RELION
        windows images before it sums); None counts the whole image.
    """
    none = size // 2 + 1 if n_shells is None else n_shells
    shells = fourier.shell_index((size, size))
    if edge_ratio != 1.0:
        shells = torch.floor(fourier.radius_px((size, size)).double() * edge_ratio + 0.5).long()
    index = torch.arange(size)
    v = torch.where(index <= size // 2, index, index - size)[:, None].expand_as(shells)
    u = torch.arange(size // 2 + 1)[None, :].expand_as(shells)
    out = shells.clone()
    out[(u == 0) & (v < 0)] = none
    if radius is not None:
        inner = (shells <= radius * edge_ratio) & ((v <= -radius) | (v > radius))
        out[inner] = none
    return out.clamp(max=none)


def pixels_per_shell(size: int) -> Float[ndarray, "shells"]:
    """Half-plane pixels in each shell of the full image."""
    shells = half_plane_shells(size).flatten()
    return torch.bincount(shells, minlength=size // 2 + 2)[: size // 2 + 1].double().numpy()
