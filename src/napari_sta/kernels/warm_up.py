"""Compile the fast CPU kernels before they are needed.

numba keeps compiled code beside the package, so this costs some 20 s once after an installation and a
few milliseconds afterwards. ``python -m napari_sta.kernels.warm_up`` does it at set-up.
"""

from __future__ import annotations

import numpy as np


def warm_up() -> None:
    """Call every compiled kernel once on arrays of a few elements."""
    from napari_sta.kernels import _numba, _numba_images

    f4 = np.float32
    size, half = 8, 5
    slices = np.zeros((1, size + 1, half + 1, 3), f4)
    weights = np.zeros((1, 1, size, half), f4)
    small = np.zeros((1, 4, 4, 3), f4)
    _numba.scatter_slices(
        0, 1, np.zeros((1, 1, size, half, 2), f4), weights, np.zeros((1, 1, 2, 3)),
        np.zeros((1, 1, size), np.int64), np.zeros((1, 4, 4, 3, 2), f4), small, small.copy(),
    )  # fmt: skip
    volume = np.zeros((size, size, half, 3), f4)
    _numba.gather_into_planes(0, 1, slices, np.zeros((1, 3, 3)), np.zeros(1), volume)
    _numba.symmetrise_planes(0, 1, volume, np.zeros((2, 3, 3)), volume.copy())
    square = np.zeros((4, 4), f4)
    _numba_images.subtomogram_images(
        np.zeros((9, 9), f4), np.zeros((1, 2), np.int64), np.zeros((1, 2)), size, 1.0, np.zeros((1, 5)),
        np.zeros(size), np.zeros(half), np.zeros((size, half), f4), np.zeros((0, 0), f4),
        np.zeros((0, 0, 0), f4), square, square, np.zeros(1, np.int64), square[None].copy(),
    )  # fmt: skip
    _numba_images.weighed_slices(
        np.zeros((9, 9), f4), np.zeros((1, 2), np.int64), np.zeros((1, 2)), size, 1.0, np.zeros((1, 5)),
        np.zeros(size), np.zeros(half), np.zeros((size, half), f4), np.zeros((0, 0), f4),
        np.zeros((0, 0, 0), f4), np.zeros(size, np.int64), *np.zeros((2, size, size), f4), slices,
    )  # fmt: skip
    _numba_images.round_to_half(np.zeros(4, f4), np.zeros(4, np.uint16))
    _numba.additive_generator(np.zeros(31, np.uint32), 1)


if __name__ == "__main__":
    warm_up()
