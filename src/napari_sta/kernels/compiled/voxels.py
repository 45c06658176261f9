"""Refinement of volumes: the 3D forms of gather, phase ramps and insertion.

Voxels are listed row by row: row ``r`` has frequencies ``row_w[r]``, ``row_v[r]`` and columns
``row_u[r] ... row_u[r] + row_n[r] - 1``, stored from ``row_start[r]`` on; planar complex numbers as in
:mod:`napari_sta.kernels.compiled.slices`.
"""

from __future__ import annotations

import numpy as np

from napari_sta.kernels.compiled.jit import fast
from napari_sta.kernels.compiled.slices import TILE, spread, trilinear


@fast
def gather_voxels(volume, depth, width, axes, kw, kv, ku, weight, out, norm):  # type: ignore[no-untyped-def]
    """Sample turned volumes at listed voxels; add half their weighted norm.

    As :func:`~napari_sta.kernels.compiled.slices.gather_rows`, with a third frequency ``kw``: ``axes`` is
    (o, 3, 3), where steps along w, v and u go in the volume.
    """
    n = len(ku)
    middle = np.float32(depth // 2)
    one = np.float32(1)
    dy = np.int64(2 * width)
    dz = np.int64(2 * width * depth)
    at = np.empty(TILE, np.int32)
    px = np.empty(TILE, np.float32)
    py = np.empty(TILE, np.float32)
    pz = np.empty(TILE, np.float32)
    sign = np.empty(TILE, np.float32)
    real = np.empty(TILE, np.float32)
    imag = np.empty(TILE, np.float32)
    for first in range(0, n, TILE):
        count = min(TILE, n - first)
        for o in range(len(axes)):
            wz, wy, wx = axes[o, 0, 0], axes[o, 0, 1], axes[o, 0, 2]
            vz, vy, vx = axes[o, 1, 0], axes[o, 1, 1], axes[o, 1, 2]
            uz, uy, ux = axes[o, 2, 0], axes[o, 2, 1], axes[o, 2, 2]
            for j in range(count):
                k = first + j
                x = wx * kw[k] + vx * kv[k] + ux * ku[k]
                s = one if x >= 0 else -one
                x = x * s
                y = (wy * kw[k] + vy * kv[k] + uy * ku[k]) * s + middle
                z = (wz * kw[k] + vz * kv[k] + uz * ku[k]) * s + middle
                ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                px[j], py[j], pz[j] = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                sign[j] = s
                at[j] = np.int32(2) * ((iz * np.int32(depth) + iy) * np.int32(width) + ix)
            for j in range(count):
                real[j], imag[j] = trilinear(volume, np.int64(at[j]), dy, dz, px[j], py[j], pz[j])
            total = np.float32(0)
            for j in range(count):
                a, b = real[j], imag[j] * sign[j]
                out[o, first + j] = a
                out[o, n + first + j] = b
                total += weight[first + j] * (a * a + b * b)
            norm[o] += np.float32(0.5) * total


@fast
def shift_voxels(part, shift, size, reach, row_w, row_v, row_u, row_n, row_start, out):  # type: ignore[no-untyped-def]
    """Multiply some voxels of a transform by the phase ramps of many shifts.

    ``part`` (2n,) planar, ``shift`` (s, 3) float64 z, y and x in voxels of a box of ``size``; no frequency
    lies outside -reach ... reach. ``out`` (s, 2n); voxels in no row, the last ones, become 0.
    """
    n = part.shape[0] // 2
    ramp = np.empty((3, 2 * reach + 1, 2), np.float64)
    cu = np.empty(reach + 1, np.float32)
    su = np.empty(reach + 1, np.float32)
    for i in range(len(shift)):
        for axis in range(3):
            step = -2 * np.pi * shift[i, axis] / size
            cs, sn = np.cos(step), np.sin(step)
            c, s = 1.0, 0.0
            for k in range(reach + 1):
                ramp[axis, reach + k, 0], ramp[axis, reach + k, 1] = c, s
                ramp[axis, reach - k, 0], ramp[axis, reach - k, 1] = c, -s
                c, s = c * cs - s * sn, c * sn + s * cs
        for k in range(reach + 1):
            cu[k], su[k] = ramp[2, reach + k, 0], ramp[2, reach + k, 1]
        end = 0
        for r in range(len(row_w)):
            wc, ws = ramp[0, reach + row_w[r], 0], ramp[0, reach + row_w[r], 1]
            vc, vs = ramp[1, reach + row_v[r], 0], ramp[1, reach + row_v[r], 1]
            fc, fs = np.float32(wc * vc - ws * vs), np.float32(wc * vs + ws * vc)
            begin, u0 = row_start[r], row_u[r]
            for j in range(row_n[r]):
                pc = fc * cu[u0 + j] - fs * su[u0 + j]
                ps = fc * su[u0 + j] + fs * cu[u0 + j]
                a, b = part[begin + j], part[n + begin + j]
                out[i, begin + j] = a * pc - b * ps
                out[i, n + begin + j] = a * ps + b * pc
            end = begin + row_n[r]
        for k in range(end, n):
            out[i, k] = 0
            out[i, n + k] = 0


@fast
def scatter_voxels(data, weights, weight_of, axes, kw, kv, ku, volume):  # type: ignore[no-untyped-def]
    """Spread turned volumes at listed voxels into a half volume, trilinearly.

    As :func:`~napari_sta.kernels.compiled.slices.scatter_rows`, with a third frequency ``kw`` and ``axes``
    (o, 3, 3).
    """
    n = len(ku)
    depth, width = volume.shape[0], volume.shape[2]
    flat = volume.reshape(-1)
    middle = np.float32(depth // 2)
    one = np.float32(1)
    dy = np.int64(4 * width)
    dz = np.int64(4 * width * depth)
    at = np.empty(TILE, np.int64)
    px = np.empty(TILE, np.float32)
    py = np.empty(TILE, np.float32)
    pz = np.empty(TILE, np.float32)
    sign = np.empty(TILE, np.float32)
    for first in range(0, n, TILE):
        count = min(TILE, n - first)
        for o in range(len(axes)):
            wz, wy, wx = axes[o, 0, 0], axes[o, 0, 1], axes[o, 0, 2]
            vz, vy, vx = axes[o, 1, 0], axes[o, 1, 1], axes[o, 1, 2]
            uz, uy, ux = axes[o, 2, 0], axes[o, 2, 1], axes[o, 2, 2]
            wo = weight_of[o]
            for j in range(count):
                k = first + j
                x = wx * kw[k] + vx * kv[k] + ux * ku[k]
                s = one if x >= 0 else -one
                x = x * s
                y = (wy * kw[k] + vy * kv[k] + uy * ku[k]) * s + middle
                z = (wz * kw[k] + vz * kv[k] + uz * ku[k]) * s + middle
                ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                px[j], py[j], pz[j] = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                sign[j] = s
                at[j] = np.int64(4) * ((np.int64(iz) * depth + iy) * width + ix)
            for j in range(count):
                k = first + j
                if data[o, k] == 0 and data[o, n + k] == 0 and weights[k] == 0:
                    continue
                spread(
                    flat, at[j], dy, dz, px[j], py[j], pz[j], data[o, k], data[o, n + k] * sign[j],
                    weights[k] * wo,
                )  # fmt: skip
