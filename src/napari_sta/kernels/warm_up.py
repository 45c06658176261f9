"""Compile the fast CPU kernels before they are needed.

numba keeps compiled code beside the package, so this costs some 20 s once after an installation and a
few milliseconds afterwards. ``python -m napari_sta.kernels.warm_up`` does it at set-up.
"""

from __future__ import annotations

import numpy as np


def warm_up() -> None:
    """Call every compiled kernel once on arrays of a few elements."""
    from napari_sta.kernels import reconstruction
    from napari_sta.kernels.compiled import backprojection, bricks, float16, random, scatter, windows

    f4 = np.float32
    size, half = 8, 5
    slices = np.zeros((1, size + 1, half + 2, 3), f4)
    weights = np.zeros((1, 1, size, half), f4)
    small = np.zeros((1, 4, 4, 3), f4)
    scatter.scatter_slices(
        0, 1, np.zeros((1, 1, size, half, 2), f4), weights, np.zeros((1, 1, 2, 3)),
        np.zeros((1, 1, size), np.int64), np.zeros((1, 4, 4, 3, 2), f4), small, small.copy(),
    )  # fmt: skip
    volume = np.zeros((size, size, half, 4), f4)
    bricks.add_to_brick(0, size, 0, size, slices, np.eye(3)[None], np.zeros(1), volume)
    reconstruction.symmetrise(volume, np.repeat(np.eye(3)[None], 2, axis=0))
    data = reconstruction.real_space_data(volume)
    reconstruction.taper(reconstruction.divided_by_weight(data, volume), 2.0)
    reconstruction.full_weight(volume)
    square = np.zeros((4, 4), f4)
    windows.subtomogram_images(
        np.zeros((9, 9), f4), np.zeros((1, 2), np.int64), np.zeros((1, 2)), size, 1.0, np.zeros((1, 5)),
        np.zeros(size), np.zeros(half), np.zeros((size, half), f4), np.zeros((0, 0), f4),
        np.zeros((0, 0, 0), f4), square, square, np.zeros(1, np.int64), square[None].copy(),
    )  # fmt: skip
    windows.weighed_slices(
        np.zeros((9, 9), f4), np.zeros((1, 2), np.int64), np.zeros((1, 2)), size, 1.0, np.zeros((1, 5)),
        np.zeros(size), np.zeros(half), np.zeros((size, half), f4), np.zeros((0, 0), f4),
        np.zeros((0, 0, 0), f4), np.zeros(size, np.int64), np.zeros((size, size), f4),
        np.zeros((size, 4), np.int64), slices,
    )  # fmt: skip
    backprojection.add_views(0, 1, small[0], np.zeros((4, 2, 4)), small[0].copy())
    float16.sum_up(np.zeros(4, f4))
    float16.round_to_half(np.zeros(4, f4), np.zeros(4, np.uint16))
    random.additive_generator(np.zeros(31, np.uint32), 1)
    _warm_up_refinement()


def _warm_up_refinement() -> None:
    """Search and average one particle, as a stack and as a volume."""
    import torch

    from napari_sta.kernels.refine import maps
    from napari_sta.kernels.refine import sums as sums_of
    from napari_sta.kernels.refine.particle import ParticleImages
    from napari_sta.kernels.refine.pixels import make_pixel_list
    from napari_sta.kernels.refine.posterior import at_pose
    from napari_sta.kernels.refine.projector import make_projector
    from napari_sta.kernels.refine.scores import score_poses
    from napari_sta.kernels.refine.voxels import VoxelList, make_voxel_list

    size, radius, shells = 8, 3, 5
    volume = torch.zeros((size,) * 3)
    volume[4, 4, 4] = 1
    turns = np.repeat(np.eye(3)[None], 4, axis=0)
    for pixels in (make_pixel_list(size, radius), make_voxel_list(size, radius)):
        n, n_parts = len(pixels), len(pixels.parts) if isinstance(pixels, VoxelList) else 1
        image, model = np.ones((n_parts, 2 * n), np.float32), np.ones((n_parts, n), np.float32)
        particle = ParticleImages(
            image, image, model, None, np.repeat(np.eye(3)[None], n_parts, axis=0), np.ones((1, shells)),
            np.ones(shells), np.zeros(3), np.zeros(3), 1.0, np.ones(1),
        )  # fmt: skip
        projector = make_projector(volume, radius, 2.0, pixels.n_dim)
        shifts = np.zeros((4, 3))
        score_poses(projector, particle, pixels, turns, shifts)
        score_poses(projector, particle, pixels, turns, shifts, pairs=np.ones((1, 1), dtype=bool))
        sums = sums_of.new_sums(radius, 2.0, 1, 1, shells)
        sums_of.add_particle(sums, at_pose(np.eye(3)), projector, particle, pixels, 0, 0, 1.0)
        maps.complete_sums(np.asarray(sums.volume, np.float64), turns[:2], 2 * radius)


if __name__ == "__main__":
    warm_up()
