"""Compiled loops of refinement: slice gather, phase ramps, residual statistics, insertion.

All are serial and release the GIL; :mod:`napari_sta.kernels.refinement` holds their plain torch twins.
Pixels are listed row by row: row ``r`` of the list has frequency ``row_v[r]`` and columns
``row_u[r] ... row_u[r] + row_n[r] - 1``, stored from ``row_start[r]`` on. Complex numbers are planar:
``[Re | Im]`` of length 2n, so that a block of them is the operand of a matrix product.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def gather_rows(re, im, depth, width, axes, kv, ku, weight, out, norm):  # type: ignore[no-untyped-def]
    """Sample slices of a planar volume at listed pixels; add half their weighted norm.

    Parameters
    ----------
    re, im
        Flat float32, a (depth, depth, width) volume with frequency 0 at (depth // 2, depth // 2, 0) and one
        spare voxel beyond the largest radius on every side.
    axes
        (o, 2, 3) float32: where steps along v and u go in the volume, zyx, padding included.
    kv, ku
        (n,) float32 frequencies of the pixels.
    weight
        (n,) float32 weight of abs(V)² in the norm.
    out
        (o, 2n) float32: [Re | Im].
    norm
        (o,) float64, added to: sum of weight · abs(V)² / 2.
    """
    n = len(kv)
    middle = np.float32(depth // 2)
    one = np.float32(1)
    d1 = np.uint32(width)
    d2 = np.uint32(width * depth)
    for o in range(len(axes)):
        vz, vy, vx = axes[o, 0, 0], axes[o, 0, 1], axes[o, 0, 2]
        uz, uy, ux = axes[o, 1, 0], axes[o, 1, 1], axes[o, 1, 2]
        total = np.float32(0)
        for k in range(n):
            x = vx * kv[k] + ux * ku[k]
            s = one if x >= 0 else -one
            x = x * s
            y = (vy * kv[k] + uy * ku[k]) * s + middle
            z = (vz * kv[k] + uz * ku[k]) * s + middle
            ix, iy, iz = np.uint32(np.int32(x)), np.uint32(np.int32(y)), np.uint32(np.int32(z))
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            i000 = iz * d2 + iy * d1 + ix
            i010 = i000 + d1
            i100 = i000 + d2
            i110 = i100 + d1
            w = np.uint32(1)
            a = re[i000] + fx * (re[i000 + w] - re[i000])
            b = re[i010] + fx * (re[i010 + w] - re[i010])
            c = re[i100] + fx * (re[i100 + w] - re[i100])
            d = re[i110] + fx * (re[i110 + w] - re[i110])
            a = a + fy * (b - a)
            c = c + fy * (d - c)
            real = a + fz * (c - a)
            a = im[i000] + fx * (im[i000 + w] - im[i000])
            b = im[i010] + fx * (im[i010 + w] - im[i010])
            c = im[i100] + fx * (im[i100 + w] - im[i100])
            d = im[i110] + fx * (im[i110 + w] - im[i110])
            a = a + fy * (b - a)
            c = c + fy * (d - c)
            imag = s * (a + fz * (c - a))
            out[o, k] = real
            out[o, n + k] = imag
            total += weight[k] * (real * real + imag * imag)
        norm[o] += 0.5 * total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def shift_rows(image, shift, size, row_v, row_u, row_n, row_start, out):  # type: ignore[no-untyped-def]
    """Multiply one image by the phase ramps of many shifts.

    ``image`` (2n,) planar, ``shift`` (s, 2) float64 y and x in pixels of a box of ``size``; ``out`` (s, 2n):
    image · exp(-2 pi i k·shift / size). Powers of one float64 phase, so no sine per pixel.
    """
    n = image.shape[0] // 2
    n_u = 0
    for r in range(len(row_u)):
        n_u = max(n_u, row_u[r] + row_n[r])
    cu = np.empty(n_u, np.float32)
    su = np.empty(n_u, np.float32)
    for i in range(len(shift)):
        step = -2 * np.pi * shift[i, 1] / size
        cs, sn = np.cos(step), np.sin(step)
        c, s = 1.0, 0.0
        for u in range(n_u):
            cu[u], su[u] = c, s
            c, s = c * cs - s * sn, c * sn + s * cs
        angle = -2 * np.pi * shift[i, 0] / size
        step_c, step_s = np.cos(angle), np.sin(angle)
        cv, sv = np.cos(angle * row_v[0]), np.sin(angle * row_v[0])
        last = row_v[0]
        for r in range(len(row_v)):
            for _ in range(row_v[r] - last):
                cv, sv = cv * step_c - sv * step_s, cv * step_s + sv * step_c
            last = row_v[r]
            fc, fs = np.float32(cv), np.float32(sv)
            begin, u0 = row_start[r], row_u[r]
            for j in range(row_n[r]):
                pc = fc * cu[u0 + j] - fs * su[u0 + j]
                ps = fc * su[u0 + j] + fs * cu[u0 + j]
                a, b = image[begin + j], image[n + begin + j]
                out[i, begin + j] = a * pc - b * ps
                out[i, n + begin + j] = a * ps + b * pc


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def add_pair_products(slices, ramps, parent, step, n_c, n_d, out):  # type: ignore[no-untyped-def]
    """Add dot products of the children of chosen pairs; ``n_c`` and ``n_d`` children each, multiples of 4.

    ``slices`` (p · n_c, m) and ``ramps`` (q · n_d, m) float32, ``parent`` and ``step`` (k,); ``out``
    (p · n_c, q · n_d) float64. Tiles of 4 x 4 sums stay in registers.
    """
    m = slices.shape[1]
    for i in range(len(parent)):
        for a in range(parent[i] * n_c, (parent[i] + 1) * n_c, 4):
            for b in range(step[i] * n_d, (step[i] + 1) * n_d, 4):
                s00 = s01 = s02 = s03 = np.float32(0)
                s10 = s11 = s12 = s13 = np.float32(0)
                s20 = s21 = s22 = s23 = np.float32(0)
                s30 = s31 = s32 = s33 = np.float32(0)
                for k in range(m):
                    x0, x1, x2, x3 = slices[a, k], slices[a + 1, k], slices[a + 2, k], slices[a + 3, k]
                    y0, y1, y2, y3 = ramps[b, k], ramps[b + 1, k], ramps[b + 2, k], ramps[b + 3, k]
                    s00 += x0 * y0
                    s01 += x0 * y1
                    s02 += x0 * y2
                    s03 += x0 * y3
                    s10 += x1 * y0
                    s11 += x1 * y1
                    s12 += x1 * y2
                    s13 += x1 * y3
                    s20 += x2 * y0
                    s21 += x2 * y1
                    s22 += x2 * y2
                    s23 += x2 * y3
                    s30 += x3 * y0
                    s31 += x3 * y1
                    s32 += x3 * y2
                    s33 += x3 * y3
                out[a, b] += s00
                out[a, b + 1] += s01
                out[a, b + 2] += s02
                out[a, b + 3] += s03
                out[a + 1, b] += s10
                out[a + 1, b + 1] += s11
                out[a + 1, b + 2] += s12
                out[a + 1, b + 3] += s13
                out[a + 2, b] += s20
                out[a + 2, b + 1] += s21
                out[a + 2, b + 2] += s22
                out[a + 2, b + 3] += s23
                out[a + 3, b] += s30
                out[a + 3, b + 1] += s31
                out[a + 3, b + 2] += s32
                out[a + 3, b + 3] += s33


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def add_statistics(slices, sums, weight, model, shell, residual, cross, norm):  # type: ignore[no-untyped-def]
    """Shell sums of what residuals and scales need, over the kept orientations of one image.

    ``slices`` and ``sums`` (o, 2n) planar: V and the weighted image sum F; ``weight`` (o,) sums of weights;
    ``model`` (n,) M. Added to, float64 a shell: ``cross`` M Re(conj V · F), ``norm`` w M² abs(V)² and
    ``residual`` norm - 2 cross, all for scale 1.
    """
    n = len(model)
    for o in range(len(weight)):
        w = weight[o]
        for k in range(n):
            a, b = slices[o, k] * model[k], slices[o, n + k] * model[k]
            x = np.float64(a * sums[o, k] + b * sums[o, n + k])
            p = np.float64(w * (a * a + b * b))
            cross[shell[k]] += x
            norm[shell[k]] += p
            residual[shell[k]] += p - 2 * x


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def scatter_rows(data, weights, weight_of, axes, kv, ku, volume):  # type: ignore[no-untyped-def]
    """Spread slices at listed pixels into a half volume, trilinearly.

    Parameters
    ----------
    data
        (o, 2n) float32 planar.
    weights
        (n,) float32; multiplied by ``weight_of`` (o,).
    axes
        (o, 2, 3) as in :func:`gather_rows`.
    volume
        (d, d, w, 4) float32: re, im, weight, 0; added to.
    """
    n = len(kv)
    middle = np.float32(volume.shape[0] // 2)
    one = np.float32(1)
    for o in range(len(axes)):
        vz, vy, vx = axes[o, 0, 0], axes[o, 0, 1], axes[o, 0, 2]
        uz, uy, ux = axes[o, 1, 0], axes[o, 1, 1], axes[o, 1, 2]
        wo = weight_of[o]
        for k in range(n):
            x = vx * kv[k] + ux * ku[k]
            s = one if x >= 0 else -one
            x = x * s
            y = (vy * kv[k] + uy * ku[k]) * s + middle
            z = (vz * kv[k] + uz * ku[k]) * s + middle
            ix, iy, iz = np.uint32(np.int32(x)), np.uint32(np.int32(y)), np.uint32(np.int32(z))
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            a, b, c = data[o, k], data[o, n + k] * s, weights[k] * wo
            for dz in range(2):
                mz = fz if dz else one - fz
                for dy in range(2):
                    mzy = mz * (fy if dy else one - fy)
                    m1 = mzy * fx
                    m0 = mzy - m1
                    jz, jy = iz + np.uint32(dz), iy + np.uint32(dy)
                    volume[jz, jy, ix, 0] += m0 * a
                    volume[jz, jy, ix, 1] += m0 * b
                    volume[jz, jy, ix, 2] += m0 * c
                    jx = ix + np.uint32(1)
                    volume[jz, jy, jx, 0] += m1 * a
                    volume[jz, jy, jx, 1] += m1 * b
                    volume[jz, jy, jx, 2] += m1 * c


@njit(nogil=True, cache=True, error_model="numpy")
def add_symmetry_copies(first, step, volume, operators, radius, out):  # type: ignore[no-untyped-def]
    """Add to ``out`` the volume sampled at R·k for each operator, for every ``step``-th plane.

    ``volume`` and ``out`` (d, d, w, 4) float64, odd d, frequency 0 at (d // 2, d // 2, 0); the x = 0 plane
    holds both Friedel mates. Voxels beyond ``radius`` are left alone. Trilinear.
    """
    depth = volume.shape[0]
    middle = depth // 2
    limit = radius * radius
    for plane in range(first, depth, step):
        z = plane - middle
        for row in range(depth):
            y = row - middle
            for x in range(volume.shape[2]):
                if z * z + y * y + x * x > limit:
                    continue
                for o in range(len(operators)):
                    zz = operators[o, 0, 0] * z + operators[o, 0, 1] * y + operators[o, 0, 2] * x
                    yy = operators[o, 1, 0] * z + operators[o, 1, 1] * y + operators[o, 1, 2] * x
                    xx = operators[o, 2, 0] * z + operators[o, 2, 1] * y + operators[o, 2, 2] * x
                    sign = 1.0
                    if xx < 0:
                        zz, yy, xx, sign = -zz, -yy, -xx, -1.0
                    iz, iy, ix = int(np.floor(zz)), int(np.floor(yy)), int(xx)
                    fz, fy, fx = zz - iz, yy - iy, xx - ix
                    iz += middle
                    iy += middle
                    for a in range(2):
                        wz = fz if a else 1.0 - fz
                        for b in range(2):
                            wy = wz * (fy if b else 1.0 - fy)
                            for c in range(2):
                                w = wy * (fx if c else 1.0 - fx)
                                jz, jy, jx = iz + a, iy + b, ix + c
                                if w == 0.0 or jz < 0 or jz >= depth or jy < 0 or jy >= depth:
                                    continue
                                if jx >= volume.shape[2]:
                                    continue
                                out[plane, row, x, 0] += w * volume[jz, jy, jx, 0]
                                out[plane, row, x, 1] += sign * w * volume[jz, jy, jx, 1]
                                out[plane, row, x, 2] += w * volume[jz, jy, jx, 2]
