"""Back-projection in real space: every voxel adds up what the tilt images show at its projection."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _inside(start, step, last, count):  # type: ignore[no-untyped-def]
    """Return the range of x with ``0 <= start + step x < last``, of 0 ... ``count`` - 1."""
    if abs(step) < 1e-12:
        return (0, count) if 0 <= start < last else (0, 0)
    a, b = -start / step, (last - start) / step
    low, high = min(a, b), max(a, b)
    first = max(0, int(np.ceil(min(low, 1e9))) if low > 0 else 0)
    end = min(count, int(np.floor(max(min(high, 1e9), -1.0))) + 1)
    # Rounding must not lead out of the image.
    while first < end and not 0 <= start + step * first < last:
        first += 1
    while end > first and not 0 <= start + step * (end - 1) < last:
        end -= 1
    return first, max(first, end)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def add_views(first_z, end_z, images, matrices, volume):  # type: ignore[no-untyped-def]
    """Add all images to the sections ``first_z`` ... ``end_z`` - 1 of a volume, by bilinear interpolation.

    ``images`` (t, h, w) float32; ``matrices`` (t, 2, 4) float64 from (z, y, x, 1) in voxels to (v, u) in
    pixels; ``volume`` (z, y, x) float32. A view adds nothing where it does not show a voxel.
    """
    n_views, height, width = images.shape
    n_y, n_x = volume.shape[1], volume.shape[2]
    one = np.float32(1)
    for z in range(first_z, end_z):
        for y in range(n_y):
            row = volume[z, y]
            # Whatever is near in the images is in the cache for the next row.
            for view in range(n_views):
                m, image = matrices[view], images[view].ravel()
                v_start = m[0, 0] * z + m[0, 1] * y + m[0, 3]
                u_start = m[1, 0] * z + m[1, 1] * y + m[1, 3]
                v_step, u_step = m[0, 2], m[1, 2]
                first, end = _inside(v_start, v_step, height - 1.001, n_x)
                first_u, end_u = _inside(u_start, u_step, width - 1.001, n_x)
                first, end = max(first, first_u), min(end, end_u)
                # From the first one on, so that rounding in float32 stays small.
                v_0, u_0 = np.float32(v_start + v_step * first), np.float32(u_start + u_step * first)
                dv, du = np.float32(v_step), np.float32(u_step)
                for x in range(max(0, end - first)):
                    v = max(v_0 + dv * np.float32(x), np.float32(0))
                    u = max(u_0 + du * np.float32(x), np.float32(0))
                    iv, iu = np.int32(v), np.int32(u)
                    fv, fu = v - np.float32(iv), u - np.float32(iu)
                    at = np.uint32(iv * np.int32(width) + iu)
                    top = image[at] * (one - fu) + image[at + np.uint32(1)] * fu
                    below = at + np.uint32(width)
                    bottom = image[below] * (one - fu) + image[below + np.uint32(1)] * fu
                    row[first + x] += top * (one - fv) + bottom * fv
