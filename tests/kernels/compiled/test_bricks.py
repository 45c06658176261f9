"""Slices added brick by brick."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from napari_sta.kernels.compiled.bricks import add_to_brick

SIZE, WIDTH = 12, 7


def test_bricks_add_up_to_the_whole(rng):
    slices = rng.normal(size=(6, SIZE + 1, WIDTH + 2, 3)).astype(np.float32)
    matrices, radii = Rotation.random(6, random_state=2).as_matrix(), np.full(6, 5.3)
    whole, parts = np.zeros((2, SIZE, SIZE, WIDTH, 4), np.float32)
    add_to_brick(0, SIZE, 0, SIZE, slices, matrices, radii, whole)
    for z in (0, 5):
        for y in (0, 4, 9):
            end = {0: 4, 4: 9, 9: SIZE}[y]
            before = parts.copy()
            add_to_brick(z, 5 if z == 0 else SIZE, y, end, slices, matrices, radii, parts)
            changed = (parts != before)[..., :3].any(axis=(2, 3))
            assert not np.delete(changed, range(y, end), axis=1).any()
    np.testing.assert_allclose(parts[..., :3], whole[..., :3], atol=1e-5)
    assert whole[..., :3].any()


def test_a_flat_slice_lies_in_its_plane():
    """Unturned: each voxel of z = 0 within the radius takes its pixel; turned about y, in x = 0."""
    slices = np.ones((1, SIZE + 1, WIDTH + 2, 3), np.float32)
    volume = np.zeros((SIZE, SIZE, WIDTH, 4), np.float32)
    add_to_brick(0, SIZE, 0, SIZE, slices, np.eye(3)[None], np.array([4.0]), volume)
    y, x = np.meshgrid(np.arange(SIZE) - SIZE // 2, np.arange(WIDTH), indexing="ij")
    np.testing.assert_allclose(volume[SIZE // 2, ..., 2], x**2 + y**2 <= 16, atol=1e-6)
    assert not np.delete(volume[..., :3], SIZE // 2, axis=0).any()
