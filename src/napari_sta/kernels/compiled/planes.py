"""Reconstruction: what is done to a volume plane by plane, from symmetry to the finished map.

Voxels of sums are as in :mod:`napari_sta.kernels.compiled.bricks`. The caller gives each thread every n-th
plane.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from napari_sta.kernels.compiled.jit import fast
from napari_sta.kernels.compiled.vectors import FAST, FLOAT, INT, between, lanes, pointer, splat


@intrinsic
def _add_turned(_, total, at, volume, index, dy, dz, fx, fy, fz, sign):  # type: ignore[no-untyped-def]
    """Add what ``volume`` holds between 8 voxels from ``index`` on, im times ``sign``, to one voxel."""
    signature = types.void(
        total, types.intp, volume, types.intp, types.intp, types.intp, *[types.float32] * 4
    )

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        total, at, volume, index, dy, dz, fx, fy, fz, sign = args

        def load(place):  # type: ignore[no-untyped-def]
            return builder.load(pointer(context, builder, sig.args[2], volume, place, 8), align=4)

        def plane(place):  # type: ignore[no-untyped-def]
            return between(builder, load(place), load(builder.add(place, dy)), splat(builder, fy, 8))

        pair = between(builder, plane(index), plane(builder.add(index, dz)), splat(builder, fz, 8))
        left, right = (builder.shuffle_vector(pair, pair, lanes(*range(k, k + 4))) for k in (0, 4))
        value = between(builder, left, right, splat(builder, fx, 4))
        signs = builder.insert_element(
            ir.Constant(ir.VectorType(FLOAT, 4), [1.0] * 4), sign, ir.Constant(INT, 1)
        )
        target = pointer(context, builder, sig.args[0], total, at, 4)
        value = builder.fadd(builder.load(target, align=4), builder.fmul(value, signs, FAST), FAST)
        builder.store(value, target, align=4)
        return context.get_dummy_value()

    return signature, generate


@fast
def symmetrise_planes(first, step, volume, operators, out):  # type: ignore[no-untyped-def]
    """Average a half-transform volume over rotations, for every ``step``-th plane.

    ``volume`` and ``out`` (s, s, h, 4), s at least 2; ``operators`` (n, 3, 3) zyx, the identity first.
    Trilinear; indices are clamped at Nyquist.
    """
    size = volume.shape[0]
    half = size // 2
    width = half + 1
    n = len(operators)
    f4, i4 = np.float32, np.int32
    flat, total = volume.reshape(-1), out.reshape(-1)
    dy, dz = 4 * width, 4 * size * width
    at = np.empty(width, np.int64)
    parts = np.empty((4, width), f4)
    share = f4(1) / f4(n)
    for plane in range(first, size, step):
        z = plane - half
        for row in range(size):
            y = row - half
            start = (plane * size + row) * dy
            for k in range(start, start + dy):
                total[k] = flat[k]
            for o in range(1, n):
                # In float64: on which side of x = 0 a voxel comes to lie should not hang on rounding.
                z0 = operators[o, 0, 0] * z + operators[o, 0, 1] * y
                y0 = operators[o, 1, 0] * z + operators[o, 1, 1] * y
                x0 = operators[o, 2, 0] * z + operators[o, 2, 1] * y
                zx, yx, xx = operators[o, 0, 2], operators[o, 1, 2], operators[o, 2, 2]
                for x in range(width):
                    px = x0 + xx * x
                    s = -1.0 if px <= 0.0 else 1.0
                    pz = min(max((z0 + zx * x) * s + half, 0.0), size - 1.0)
                    py = min(max((y0 + yx * x) * s + half, 0.0), size - 1.0)
                    px = min(px * s, float(half))
                    # The last voxel is reached from the one before it.
                    iz, iy = min(i4(pz), i4(size - 2)), min(i4(py), i4(size - 2))
                    ix = min(i4(px), i4(half - 1))
                    at[x] = np.int64(4) * ((np.int64(iz) * size + iy) * width + ix)
                    parts[0, x], parts[1, x], parts[2, x] = f4(px - ix), f4(py - iy), f4(pz - iz)
                    parts[3, x] = f4(s)
                for x in range(width):
                    _add_turned(
                        total, start + 4 * x, flat, at[x], dy, dz, parts[0, x], parts[1, x], parts[2, x],
                        parts[3, x],
                    )  # fmt: skip
            for k in range(start, start + dy):
                total[k] *= share


@fast
def numerator_planes(first, step, volume, out):  # type: ignore[no-untyped-def]
    """Put the data of every ``step``-th plane into FFTW order with their phase origin in pixel 0.

    ``out`` (s, s, 2 h) float32: re and im side by side.
    """
    size, width = volume.shape[0], volume.shape[2]
    half = size // 2
    for z in range(first, size, step):
        for y in range(size):
            source = volume[(z + half) % size, (y + half) % size]
            target = out[z, y]
            sign = np.float32(1 - 2 * ((z + y) % 2))
            for x in range(width):
                target[2 * x] = sign * source[x, 0]
                target[2 * x + 1] = sign * source[x, 1]
                sign = -sign


@fast
def weights_by_radius(first, step, volume, sums, counts):  # type: ignore[no-untyped-def]
    """Sum the weights of every ``step``-th plane by radius, each split between its two nearest whole ones.

    ``sums`` and ``counts`` (s, bins + 2) float64, a row a plane; radii beyond ``bins`` go to the last but
    one.
    """
    size, width = volume.shape[0], volume.shape[2]
    half, last = size // 2, sums.shape[1] - 2
    for z in range(first, size, step):
        for y in range(size):
            square = (z - half) * (z - half) + (y - half) * (y - half)
            for x in range(width):
                radius = np.sqrt(np.float64(square + x * x))
                low = int(radius)
                part = radius - low
                a, b = min(low, last), min(low + 1, last)
                weight = np.float64(volume[z, y, x, 2])
                sums[z, a] += (1 - part) * weight
                sums[z, b] += part * weight
                counts[z, a] += 1 - part
                counts[z, b] += part


@fast
def divide_planes(first, step, spectrum, volume, least, wiener):  # type: ignore[no-untyped-def]
    """Divide every ``step``-th plane of a transform by its weights.

    Parameters
    ----------
    spectrum
        (s, s, 2 h) float32, FFTW order, re and im side by side; changed.
    volume
        The sums, whose third number is the weight; centred order.
    least
        (squares,) float32 table: least divisor.
    wiener
        If positive, added to every weight instead; else what lies at or beyond Nyquist becomes 0.
    """
    size, width = volume.shape[0], volume.shape[2]
    half = size // 2
    for z in range(first, size, step):
        kz = z if z < half else z - size
        for y in range(size):
            ky = y if y < half else y - size
            square = kz * kz + ky * ky
            weights, row = volume[(z + half) % size, (y + half) % size], spectrum[z, y]
            for x in range(width):
                weight = weights[x, 2]
                if wiener > 0:
                    factor = np.float32(1) / (weight + np.float32(wiener))
                elif square + x * x >= half * half:
                    factor = np.float32(0)
                else:
                    weight = max(weight, least[square + x * x])
                    factor = np.float32(1) / weight if weight > 0 else np.float32(1)
                row[2 * x] *= factor
                row[2 * x + 1] *= factor


@fast
def full_weight_planes(first, step, volume, out):  # type: ignore[no-untyped-def]
    """Expand the weights to every ``step``-th plane of ``out`` (s, s, s); both in centred order."""
    size = volume.shape[0]
    half = size // 2
    for z in range(first, size, step):
        for y in range(size):
            mate_z, mate_y = (size - z) % size, (size - y) % size
            out[z, y, 0] = volume[z, y, half, 2]
            for x in range(1, half):
                out[z, y, x] = volume[mate_z, mate_y, half - x, 2]
            for x in range(half, size):
                out[z, y, x] = volume[z, y, x - half, 2]


@fast
def scale_planes(first, step, volume, offset, factor):  # type: ignore[no-untyped-def]
    """Subtract ``offset`` and multiply by a table of squared distances from voxel n // 2, in place."""
    size = volume.shape[0]
    half = size // 2
    offset = np.float32(offset)
    for z in range(first, size, step):
        for y in range(size):
            square = (z - half) * (z - half) + (y - half) * (y - half)
            row = volume[z, y]
            for x in range(size):
                row[x] = (row[x] - offset) * factor[square + (x - half) * (x - half)]


@fast
def sum_planes(first, step, volume, factor, sums):  # type: ignore[no-untyped-def]
    """Sum every ``step``-th plane times such a table, and the table, into ``sums`` (n, 2) float64."""
    size = volume.shape[0]
    half = size // 2
    for z in range(first, size, step):
        total, count = 0.0, 0.0
        for y in range(size):
            square = (z - half) * (z - half) + (y - half) * (y - half)
            row = volume[z, y]
            for x in range(size):
                weight = np.float64(factor[square + (x - half) * (x - half)])
                total += weight * row[x]
                count += weight
        sums[z, 0], sums[z, 1] = total, count
