"""Squared distances on grids, of numpy arrays and of tensors: modules that do without torch need them too.

Which frequencies an axis has, and where its centre is, says :mod:`napari_sta.kernels.fourier`.
"""

from __future__ import annotations

from typing import Any


def squared_radius(*axes: Any) -> Any:
    """Sum the squares of the coordinates at every point of a grid.

    Parameters
    ----------
    axes
        Coordinates along each axis of the grid, (d,), (h,), …: all arrays, or all tensors of one device.

    Returns
    -------
    squared
        (d, h, …), of the kind and dtype of the axes; exact for whole numbers.
    """
    total: Any = 0
    for number, coordinates in enumerate(axes):
        shape = [-1 if axis == number else 1 for axis in range(len(axes))]
        total = total + (coordinates * coordinates).reshape(shape)
    return total
