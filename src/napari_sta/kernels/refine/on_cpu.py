"""The compiled loops of the CPU: one particle's tilt after the other, small enough to stay in the cache.

All is serial and releases the GIL; whoever calls gives each thread particles of its own. Images and parts of
volumes are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.pixels import PixelList
from napari_sta.kernels.refine.projector import Projector, slice_axes
from napari_sta.kernels.refine.terms import Terms, View
from napari_sta.kernels.refine.voxels import VoxelList, VoxelPart

_MOST_ROWS = 192
"""Orientations whose slices are held at a time: their rows stay in the level-2 cache."""


class OnCpu:
    """:class:`~napari_sta.kernels.refine.backend.Backend` of the compiled loops."""

    def terms(
        self,
        projector: Projector,
        particles: Sequence[ParticleImages],
        views: Sequence[View],
        pixels: PixelList | VoxelList,
        rotations_zyx: Float[ndarray, "o 3 3"],
        shifts_zyx_px: Float[ndarray, "s 3"],
        *,
        cross_correlation: bool = False,
        pairs: Bool[ndarray, "p q"] | None = None,
        go_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[Terms]:
        """Compare images with slices, view by view and block by block of orientations.

        Notes
        -----
        Per block one product [o, 2n] x [2n, s] in float32 for each image.
        """
        n, n_o, n_s = len(pixels), len(rotations_zyx), len(shifts_zyx_px)
        n_c = 1 if pairs is None else n_o // pairs.shape[0]
        at_once = min(n_o, max(1, _MOST_ROWS // n_c) * n_c)
        slices = np.empty((at_once, 2 * n), np.float32)
        most = max((len(view.images) for view in views), default=0)
        ramps = np.empty((most, n_s, 2 * n), np.float32)
        for view in views:
            here = pixels.part(view.images[0][1])
            weights = np.empty((len(view.images), n), np.float32)
            for k, (p, t) in enumerate(view.images):
                one = particles[p]
                factor, weights[k] = one.score_weights(t, here, cross_correlation=cross_correlation)
                moved = (one.offset_zyx_px + shifts_zyx_px) @ one.matrices_zyx[t, 3 - here.n_dim :].T
                shift_images(one.masked[t] * np.concatenate([factor, factor]), moved, here, ramps[k])
            axes = slice_axes(view.matrix_zyx @ rotations_zyx, projector.padding, here.n_dim)
            for first in range(0, n_o, at_once):
                if not go_on():
                    return
                rows = slice(first, min(first + at_once, n_o))
                norm = _slices_and_norms(projector, axes[rows], here, weights, slices)
                block = slices[: len(norm[0])]
                cross = [_products(block, one, pairs, rows, n_c) for one in ramps[: len(weights)]]
                yield Terms(view.images, rows, cross, norm)

    def zeros(self, shape: tuple[int, ...]) -> Float[ndarray, "*n"]:
        """Make an array of zeros."""
        return np.zeros(shape)

    def to_host(self, values: Float[ndarray, "*n"]) -> ndarray:
        """Return the array itself."""
        return values

    def add(
        self,
        volume: Float[ndarray, "d d w 4"] | None,
        projector: Projector,
        particle: ParticleImages,
        pixels: PixelList | VoxelList,
        rotations_zyx: Float[ndarray, "o 3 3"],
        shifts_zyx_px: Float[ndarray, "s 3"],
        weights: Float[ndarray, "o s"],
        kept: Float[ndarray, "n"],
        n_shells: int,
        *,
        statistics: bool = True,
    ) -> tuple[Float[ndarray, "t shells"], Float[ndarray, "t shells"]]:
        """Add the images of a particle to a volume, and compare them with the reference, tilt by tilt."""
        from napari_sta.kernels.compiled.slices import add_statistics

        n, n_o = len(pixels), len(weights)
        w = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32))
        of_orientation = weights.sum(axis=1).astype(np.float32)
        ramps = np.empty((len(shifts_zyx_px), 2 * n), np.float32)
        slices = np.empty((n_o, 2 * n), np.float32)
        mean = torch.empty((n_o, 2 * n))
        ignored, no_weight = np.zeros(n_o), np.zeros(n, np.float32)
        cross, norm = (np.zeros((particle.n_tilts, n_shells)) for _ in range(2))
        for t in range(particle.n_tilts):
            q = particle.matrices_zyx[t]
            here = pixels.part(t)
            axes = slice_axes(q @ rotations_zyx, projector.padding, here.n_dim)
            moved = shifts_zyx_px @ q[3 - here.n_dim :].T
            if statistics:
                shift_images(particle.masked[t], moved, here, ramps)
                torch.mm(w, torch.from_numpy(ramps), out=mean)
                gather(projector, axes, here, no_weight, slices, ignored)
                add_statistics(
                    slices, mean.numpy(), of_orientation, particle.model[t], here.shell, cross[t], norm[t]
                )
            if volume is not None:
                shift_images(particle.unmasked[t], moved, here, ramps)
                torch.mm(w, torch.from_numpy(ramps), out=mean)
                factor, weight = particle.sum_weights(t, here)
                data = mean.numpy()
                data *= np.tile((factor * kept).astype(np.float32), 2)
                spread(data, (weight * kept).astype(np.float32), of_orientation, axes, here, volume)
        return cross, norm


def _slices_and_norms(
    projector: Projector,
    axes: Float[ndarray, "o a 3"],
    pixels: PixelList | VoxelPart,
    weights: Float[ndarray, "k n"],
    slices: Float[ndarray, "most m"],
) -> Float[ndarray, "k o"]:
    """Sample slices into the first rows of ``slices``; return half their squared norms, weighed k times."""
    from napari_sta.kernels.compiled.products import add_products

    n, n_o = len(pixels), len(axes)
    rows, norm = slices[:n_o], np.zeros((len(weights), n_o))
    if len(weights) == 1:  # in passing
        gather(projector, axes, pixels, weights[0], rows, norm[0])
        return norm
    gather(projector, axes, pixels, np.zeros(n, np.float32), rows, np.zeros(n_o))
    squares = np.zeros((n_o, len(weights)))
    add_products(rows[:, :n] ** 2 + rows[:, n:] ** 2, weights, squares)
    return np.ascontiguousarray(0.5 * squares.T)


def _products(
    slices: Float[ndarray, "o m"],
    ramps: Float[ndarray, "s m"],
    pairs: Bool[ndarray, "p q"] | None,
    rows: slice,
    n_c: int,
) -> Float[ndarray, "o s"]:
    """Multiply slices with shifted images; with pairs, only their blocks, -inf elsewhere."""
    from napari_sta.kernels.compiled.products import add_pair_products, add_products

    cross = np.zeros((len(slices), len(ramps)))
    if pairs is None:
        add_products(slices, ramps, cross)
        return cross
    wanted = pairs[rows.start // n_c : rows.stop // n_c]
    n_d = len(ramps) // pairs.shape[1]
    cross[~np.repeat(np.repeat(wanted, n_c, axis=0), n_d, axis=1)] = -np.inf
    parent, step = np.nonzero(wanted)
    add_pair_products(slices, ramps, parent, step, n_c, n_d, cross)
    return cross


def gather(
    projector: Projector,
    axes: Float[ndarray, "o a 3"],
    pixels: PixelList | VoxelPart,
    weight: Float[ndarray, "n"],
    out: Float[ndarray, "o m"],
    norm: Float[ndarray, "o"],
) -> None:
    """Sample slices into ``out`` [Re | Im] and add half their weighted squared norms to ``norm``."""
    if isinstance(pixels, VoxelPart):
        from napari_sta.kernels.compiled.voxels import gather_voxels

        gather_voxels(
            projector.values, projector.depth, projector.width, axes, pixels.kw, pixels.kv, pixels.ku, weight,
            out, norm,
        )  # fmt: skip
        return
    from napari_sta.kernels.compiled.slices import gather_rows

    gather_rows(
        projector.values,
        projector.depth,
        projector.width,
        axes,
        pixels.kv,
        pixels.ku,
        weight,
        out,
        norm,
    )


def shift_images(
    image: Float[ndarray, "m"],
    shift_yx_px: Float[ndarray, "s a"],
    pixels: PixelList | VoxelPart,
    out: Float[ndarray, "s m"],
) -> None:
    """Multiply one planar image by exp(-2 pi i k·shift / size) for each shift: moves it by +shift.

    Part of a volume takes shifts zyx.
    """
    if isinstance(pixels, VoxelPart):
        from napari_sta.kernels.compiled.voxels import shift_voxels

        shift_voxels(
            image, np.ascontiguousarray(shift_yx_px, dtype=np.float64), float(pixels.size), pixels.radius,
            pixels.row_w, pixels.row_v, pixels.row_u, pixels.row_n, pixels.row_start, out,
        )  # fmt: skip
        return
    from napari_sta.kernels.compiled.slices import shift_rows

    shift_rows(
        image, np.ascontiguousarray(shift_yx_px, dtype=np.float64), float(pixels.size),
        pixels.row_v, pixels.row_u, pixels.row_n, pixels.row_start, out,
    )  # fmt: skip


def spread(
    data: Float[ndarray, "o m"],
    weight: Float[ndarray, "n"],
    of_orientation: Float[ndarray, "o"],
    axes: Float[ndarray, "o a 3"],
    pixels: PixelList | VoxelPart,
    volume: Float[ndarray, "d d w 4"],
) -> None:
    """Spread slices, or parts of turned volumes, into the sums."""
    if isinstance(pixels, VoxelPart):
        from napari_sta.kernels.compiled.voxels import scatter_voxels

        scatter_voxels(data, weight, of_orientation, axes, pixels.kw, pixels.kv, pixels.ku, volume)
        return
    from napari_sta.kernels.compiled.slices import scatter_rows

    scatter_rows(data, weight, of_orientation, axes, pixels.kv, pixels.ku, volume)
