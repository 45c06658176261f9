"""Slices of a reference, and images spread into sums: gather, phase ramps, insertion.

Pixels are listed row by row: row ``r`` of the list has frequency ``row_v[r]`` and columns
``row_u[r] ... row_u[r] + row_n[r] - 1``, stored from ``row_start[r]`` on. Complex numbers are planar:
``[Re | Im]`` of length 2n, so that a block of them is the operand of a matrix product.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from napari_sta.kernels.compiled.jit import fast
from napari_sta.kernels.compiled.vectors import FAST, between, lanes, pointer, splat


@intrinsic
def trilinear(_, volume, index, dy, dz, fx, fy, fz):  # type: ignore[no-untyped-def]
    """Interpolate an interleaved (re, im) volume, flat float32, between 8 voxels from ``index`` on."""
    result = types.UniTuple(types.float32, 2)
    signature = result(volume, *[types.int64] * 3, *[types.float32] * 3)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        first, y, z = args[1:4]

        def load(place):  # type: ignore[no-untyped-def]
            return builder.load(pointer(context, builder, sig.args[0], args[0], place, 4), align=4)

        px, py, pz = (splat(builder, value, 4) for value in args[4:7])
        above = builder.add(first, z)
        plane = between(builder, load(first), load(builder.add(first, y)), py)
        next_plane = between(builder, load(above), load(builder.add(above, y)), py)
        row = between(builder, plane, next_plane, pz)
        nothing = ir.Constant(ir.VectorType(ir.FloatType(), 4), ir.Undefined)
        value = between(builder, row, builder.shuffle_vector(row, nothing, lanes(2, 3, 2, 3)), px)
        parts = [builder.extract_element(value, ir.Constant(ir.IntType(32), k)) for k in (0, 1)]
        return context.make_tuple(builder, sig.return_type, parts)

    return signature, generate


@intrinsic
def spread(_, volume, index, dy, dz, fx, fy, fz, re, im, weight):  # type: ignore[no-untyped-def]
    """Add (re, im, weight, 0) to 8 voxels from ``index`` on, trilinearly; adjoint of :func:`trilinear`."""
    signature = types.void(volume, *[types.int64] * 3, *[types.float32] * 6)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        first, y, z, fx, fy, fz, re, im, weight = args[1:]
        one = ir.Constant(ir.FloatType(), 1.0)
        pair = ir.Constant(ir.VectorType(ir.FloatType(), 8), ir.Undefined)
        low = builder.fsub(one, fx, FAST)
        for place, (value, share) in enumerate((v, s) for s in (low, fx) for v in (re, im, weight, None)):
            lane = ir.Constant(ir.FloatType(), 0.0) if value is None else builder.fmul(value, share, FAST)
            pair = builder.insert_element(pair, lane, ir.Constant(ir.IntType(32), place))
        for step_z, part_z in ((None, builder.fsub(one, fz, FAST)), (z, fz)):
            plane = first if step_z is None else builder.add(first, step_z)
            for step_y, part_y in ((None, builder.fsub(one, fy, FAST)), (y, fy)):
                at = plane if step_y is None else builder.add(plane, step_y)
                target = pointer(context, builder, sig.args[0], args[0], at, 8)
                share = splat(builder, builder.fmul(part_z, part_y, FAST), 8)
                old = builder.load(target, align=4)
                builder.store(builder.fadd(old, builder.fmul(share, pair, FAST), FAST), target, align=4)
        return context.get_dummy_value()

    return signature, generate


TILE = 128
"""Pixels of a row of orientations that are read together: their neighbourhood stays in the first cache."""


@fast
def gather_rows(volume, depth, width, axes, kv, ku, weight, out, norm):  # type: ignore[no-untyped-def]
    """Sample slices of a volume at listed pixels; add half their weighted norm.

    Parameters
    ----------
    volume
        Flat float32 of a (depth, depth, width, 2) volume, (re, im) side by side, with frequency 0 at
        (depth // 2, depth // 2, 0) and one spare voxel beyond the largest radius on every side.
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
            vz, vy, vx = axes[o, 0, 0], axes[o, 0, 1], axes[o, 0, 2]
            uz, uy, ux = axes[o, 1, 0], axes[o, 1, 1], axes[o, 1, 2]
            for j in range(count):
                k = first + j
                x = vx * kv[k] + ux * ku[k]
                s = one if x >= 0 else -one
                x = x * s
                y = (vy * kv[k] + uy * ku[k]) * s + middle
                z = (vz * kv[k] + uz * ku[k]) * s + middle
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


@fast
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
            vz, vy, vx = axes[o, 0, 0], axes[o, 0, 1], axes[o, 0, 2]
            uz, uy, ux = axes[o, 1, 0], axes[o, 1, 1], axes[o, 1, 2]
            wo = weight_of[o]
            for j in range(count):
                k = first + j
                x = vx * kv[k] + ux * ku[k]
                s = one if x >= 0 else -one
                x = x * s
                y = (vy * kv[k] + uy * ku[k]) * s + middle
                z = (vz * kv[k] + uz * ku[k]) * s + middle
                ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)
                px[j], py[j], pz[j] = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
                sign[j] = s
                at[j] = np.int64(4) * ((np.int64(iz) * depth + iy) * width + ix)
            for j in range(count):
                k = first + j
                spread(
                    flat, at[j], dy, dz, px[j], py[j], pz[j], data[o, k], data[o, n + k] * sign[j],
                    weights[k] * wo,
                )  # fmt: skip


@fast
def add_statistics(slices, sums, weight, model, shell, cross, norm):  # type: ignore[no-untyped-def]
    """Shell sums of what residuals and scales need, over the kept orientations of one image.

    ``slices`` and ``sums`` (o, 2n) planar: V and the weighted image sum F; ``weight`` (o,) sums of weights;
    ``model`` (n,) M. Added to, float64 a shell: ``cross`` M Re(conj V · F) and ``norm`` w M² abs(V)²,
    for scale 1.
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
