"""Reconstruction: slices into a volume, symmetry, and what lies between its transforms.

A voxel of a volume is one aligned vector of four floats: re, im, weight and one that is not used; a pixel
of a slice has no fourth. The caller gives each thread bricks or planes of its own.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from napari_sta.kernels.compiled.jit import fast, inlined
from napari_sta.kernels.compiled.vectors import (
    FAST,
    FLOAT,
    INDEX,
    INT,
    between,
    elementwise,
    lanes,
    pointer,
    splat,
)

_EIGHT = 8
_F8, _I8 = ir.VectorType(FLOAT, _EIGHT), ir.VectorType(INT, _EIGHT)

_MOST = 1024
"""Candidates, voxels that may receive something of a slice, that are worked out before they are added."""

# Where their numbers lie in memory: share of the data's real part and weight, and of its imaginary part, side
# by side; fractions of u and v; pixel; voxel. Fixed, so that one register addresses all.
_SHARES, _PART_U, _PART_V, _PIXEL, _VOXEL, _ALL = (_MOST * k for k in (0, 2, 3, 4, 5, 6))


def _number(context, builder, array_type, array, base, at, which, width=1):  # type: ignore[no-untyped-def]
    """Address of one number of the candidates from ``at`` on, in the buffer that begins at ``base``."""
    at = builder.shl(at, ir.Constant(INDEX, 1)) if which == _SHARES else at
    place = builder.add(builder.add(base, at), ir.Constant(INDEX, which))
    return pointer(context, builder, array_type, array, place, width)


@intrinsic
def _place_eight(_, fields, base, at, reals, whole):  # type: ignore[no-untyped-def]
    """Work out eight candidates: voxels of one row that are the k-th above the slice's lower face.

    ``fields`` float32. ``reals``: first column, k, depth of column 0 and its step, 1 / thickness step,
    thickness step, least and largest thickness index, square radius left, u and v of column 0 and their
    steps along the row and the thickness, half, size. ``whole``: pixels a row of the slice and its limits,
    voxel (in floats, from the brick's first) of the first column and its steps.
    """
    signature = types.void(fields, types.intp, types.intp, reals, whole)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        from numba.core import cgutils

        (
            x, k, depth, depth_x, per_depth, depth_t, t_least, t_most, room, u, u_x, u_t, v, v_x, v_t, half,
            size,
        ) = (splat(builder, value, _EIGHT) for value in cgutils.unpack_tuple(builder, args[3]))  # fmt: skip
        row, u_last, v_last, voxel, step_x, step_t = (
            splat(builder, value, _EIGHT) for value in cgutils.unpack_tuple(builder, args[4])
        )
        zero, one = (ir.Constant(_F8, [value] * _EIGHT) for value in (0.0, 1.0))
        minus_one = ir.Constant(_F8, [-1.0] * _EIGHT)
        no, two, three = (ir.Constant(_I8, [value] * _EIGHT) for value in (0, 2, 3))
        ceil, absolute = (elementwise(builder, name, _F8) for name in ("ceil", "fabs"))

        def add(*terms):  # type: ignore[no-untyped-def]
            total = terms[0]
            for term in terms[1:]:
                total = builder.fadd(total, term, FAST)
            return total

        def times(a, b):  # type: ignore[no-untyped-def]
            return builder.fmul(a, b, FAST)

        def less(a, b):  # type: ignore[no-untyped-def]
            return builder.fcmp_ordered("<", a, b)

        def at_most(a, b):  # type: ignore[no-untyped-def]
            return builder.fcmp_ordered("<=", a, b)

        x = add(x, ir.Constant(_F8, [float(lane) for lane in range(_EIGHT)]))
        depth = add(depth, times(depth_x, x))
        t = add(ceil(times(builder.fsub(minus_one, depth, FAST), per_depth)), k)
        near = builder.fsub(one, absolute(add(depth, times(depth_t, t))), FAST)
        inside = less(zero, near)
        for condition in (
            at_most(t_least, t), at_most(t, t_most), at_most(add(times(x, x), times(t, t)), room),
        ):  # fmt: skip
            inside = builder.and_(inside, condition)
        u = add(u, times(u_x, x), times(u_t, t))
        v = add(v, times(v_x, x), times(v_t, t))
        # The half transform holds u >= 0; the Friedel mate of the rest.
        sign = builder.select(less(u, zero), minus_one, one)
        u, v = times(u, sign), add(times(v, sign), half)
        v = builder.select(less(v, zero), add(v, size), v)
        v = builder.select(at_most(size, v), builder.fsub(v, size, FAST), v)
        u, v, near = (builder.select(inside, value, zero) for value in (u, v, near))
        whole_u, whole_v = builder.fptosi(u, _I8), builder.fptosi(v, _I8)
        part_u = builder.fsub(u, builder.sitofp(whole_u, _F8), FAST)
        part_v = builder.fsub(v, builder.sitofp(whole_v, _F8), FAST)
        # Images with coarser pixels than the volume: beyond their edge there is nothing to tell apart.
        whole_u = builder.select(builder.icmp_signed("<", whole_u, u_last), whole_u, u_last)
        whole_v = builder.select(builder.icmp_signed("<", whole_v, v_last), whole_v, v_last)
        whole_v = builder.select(builder.icmp_signed("<", whole_v, no), no, whole_v)
        pixel = builder.mul(builder.add(builder.mul(whole_v, row), whole_u), three)
        lane = lanes(*range(_EIGHT))
        voxel = builder.add(
            voxel, builder.add(builder.mul(lane, step_x), builder.mul(builder.fptosi(t, _I8), step_t))
        )
        # What is outside adds 0 to a few voxels of the brick; to one alone, each would wait for the last.
        spare = builder.shl(builder.select(builder.icmp_signed("<", lane, u_last), lane, u_last), two)
        voxel = builder.select(inside, voxel, spare)
        signed = times(near, sign)
        pairs = [
            builder.shuffle_vector(
                near, signed, lanes(*[k // 2 + _EIGHT * (k % 2) for k in range(first, first + _EIGHT)])
            )
            for first in (0, _EIGHT)
        ]
        for number, value in (
            (_SHARES, pairs[0]), (_PART_U, part_u), (_PART_V, part_v), (_PIXEL, pixel), (_VOXEL, voxel),
        ):  # fmt: skip
            target = _number(context, builder, sig.args[0], args[0], args[1], args[2], number)
            builder.store(value, builder.bitcast(target, value.type.as_pointer()), align=4)
            if number == _SHARES:
                target = builder.gep(target, [ir.Constant(INDEX, _EIGHT)])
                builder.store(pairs[1], builder.bitcast(target, _F8.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _add_candidate(_, fields, base, at, slices, first, below, volume, origin):  # type: ignore[no-untyped-def]
    """Add a candidate's share of its slice, which begins at ``first``, to its voxel of ``volume``.

    ``below`` floats from one row of the slice to the next; ``origin``: the brick's first voxel.
    """
    signature = types.void(fields, types.intp, types.intp, slices, types.intp, types.intp, volume, types.intp)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        base, at, slices, first, below, volume, origin = args[1:]

        def number(which, kind=FLOAT):  # type: ignore[no-untyped-def]
            place = _number(context, builder, sig.args[0], args[0], base, at, which)
            value = builder.load(builder.bitcast(place, kind.as_pointer()), align=4)
            return builder.sext(value, INDEX) if kind == INT else value

        pixel, voxel = builder.add(first, number(_PIXEL, INT)), builder.add(origin, number(_VOXEL, INT))

        def load(place):  # type: ignore[no-untyped-def]
            return builder.load(pointer(context, builder, sig.args[3], slices, place, 8), align=4)

        both = between(
            builder, load(pixel), load(builder.add(pixel, below)), splat(builder, number(_PART_V), 8)
        )
        # The fourth lane of the volume is of no use; what it adds up is never read.
        left, right = (builder.shuffle_vector(both, both, lanes(*range(k, k + 4))) for k in (0, 3))
        pair = number(_SHARES, ir.VectorType(FLOAT, 2))
        share = builder.shuffle_vector(pair, pair, lanes(0, 1, 0, 1))
        value = builder.fmul(share, between(builder, left, right, splat(builder, number(_PART_U), 4)), FAST)
        target = pointer(context, builder, sig.args[6], volume, voxel, 4)
        builder.store(builder.fadd(builder.load(target, align=4), value, FAST), target, align=4)
        return context.get_dummy_value()

    return signature, generate


def _fetcher(which):  # type: ignore[no-untyped-def]
    """Make a function that asks for the cache line of a candidate's pixel or voxel, which is needed soon."""

    @intrinsic
    def fetch(_, fields, base, at, array, first):  # type: ignore[no-untyped-def]
        signature = types.void(fields, types.intp, types.intp, array, types.intp)

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            from numba.core import cgutils

            byte = ir.IntType(8).as_pointer()
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT]), "llvm.prefetch.p0i8"
            )
            place = _number(context, builder, sig.args[0], args[0], args[1], args[2], which)
            index = builder.load(builder.bitcast(place, INT.as_pointer()), align=4)
            index = builder.add(args[4], builder.sext(index, INDEX))
            target = builder.bitcast(pointer(context, builder, sig.args[3], args[3], index, 1), byte)
            read, keep, data = (ir.Constant(INT, value) for value in (0, 3, 1))
            builder.call(function, [target, read, keep, data])
            return context.get_dummy_value()

        return signature, generate

    return fetch


_fetch_pixel, _fetch_voxel = _fetcher(_PIXEL), _fetcher(_VOXEL)


@inlined
def _add_columns(fields, base, stride, n_thick, count, slices, first, below, volume, origin):  # type: ignore[no-untyped-def]
    """Add the candidates of some columns."""
    for k in range(n_thick):
        for j in range(k * stride, k * stride + count):
            _add_candidate(fields, base, j, slices, first, below, volume, origin)


@fast
def add_to_brick(z_first, z_last, y_first, y_last, slices, matrices, radii, volume):  # type: ignore[no-untyped-def]
    """Add central slices to the voxels of some planes and rows of a half-transform volume.

    Parameters
    ----------
    z_first, z_last, y_first, y_last
        The brick: planes and rows, the last ones not included; all columns. Its part of the volume stays in
        the second-level cache while all slices pass.
    slices
        (n, s + 1, h + 2, 3) float32 from :func:`napari_sta.kernels.windows.weighed_slices`; finite.
    matrices
        (n, 3, 3) float64, zyx: voxel frequency to image frequency (depth, v, u).
    radii
        (n,) float64 largest radius in voxels that receives data.
    volume
        (s, s, h, 4) float32; rows and planes from -s/2 upwards.

    Notes
    -----
    A slice is walked over the two axes that it is most parallel to: at each of their nodes, a column, at
    most 2 / abs(normal) + 1 voxels of the third axis, the *thickness*, lie within one voxel of it. A row of
    columns is worked out eight at a time, and added while the pixels and voxels of the next row are fetched.
    """
    size = volume.shape[0]
    half = size // 2
    width = half + 1
    f4, i4 = np.float32, np.int32
    low = (z_first - half, y_first - half, 0)
    high = (z_last - half - 1, y_last - half - 1, half)
    pitch = (4 * size * width, 4 * width, 4)
    flat, pixels = volume.reshape(-1), slices.reshape(-1)
    origin = 4 * (z_first * size + y_first) * width
    below, per_slice = 3 * (width + 2), 3 * (size + 1) * (width + 2)

    # Two buffers: one is filled while the pixels of the other come.
    fields = np.empty(2 * _ALL, f4)
    base = 0
    last_stride, last_thick, last_count, last_first = 0, 0, 0, 0

    for i in range(len(slices)):
        m = matrices[i]
        radius = radii[i]
        # Does the brick lie near the slice, and within its radius?
        middle, reach, square = 0.0, 0.0, 0.0
        for a in range(3):
            middle += m[0, a] * (low[a] + high[a]) * 0.5
            reach += abs(m[0, a]) * (high[a] - low[a]) * 0.5
            nearest = max(low[a], -high[a], 0)
            square += nearest * nearest
        if abs(middle) >= reach + 1.0 or square > radius * radius:
            continue
        dz, dy, dx = abs(m[0, 0]), abs(m[0, 1]), abs(m[0, 2])
        thick = 0 if dz >= dy and dz >= dx else (1 if dy >= dx else 2)
        inner = 1 if thick == 2 else 2
        outer = 3 - thick - inner
        up = 1.0 if m[0, thick] > 0 else -1.0
        depth_t = abs(m[0, thick])
        spread = 1.0 / depth_t
        slope, slope_outer = m[0, inner] / m[0, thick], m[0, outer] / m[0, thick]
        stretch = 1.0 + slope * slope
        n_thick = min(int(2.0 * spread) + 1, _MOST // _EIGHT)
        stride = _MOST // n_thick // _EIGHT * _EIGHT
        first = i * per_slice
        for o in range(low[outer], high[outer] + 1):
            # Columns where the slice passes through the ball; at a column t = -along - slope x.
            along = slope_outer * o
            room = (radius + spread) * (radius + spread) * stretch - stretch * o * o - along * along
            if room < 0:
                continue
            root = np.sqrt(room)
            x_low = max((-slope * along - root) / stretch, float(low[inner]))
            x_high = min((-slope * along + root) / stretch, float(high[inner]))
            # And through the brick.
            t_low, t_high = -high[thick] - spread - along, -low[thick] + spread - along
            if abs(slope) > 1e-6:
                a, b = t_low / slope, t_high / slope
                x_low, x_high = max(x_low, min(a, b)), min(x_high, max(a, b))
            elif t_low > 0 or t_high < 0:
                continue
            x_first = int(np.ceil(x_low))
            x_end = int(np.floor(x_high)) + 1
            rest = radius * radius - float(o * o)
            while x_first < x_end:
                count = min(x_end - x_first, stride)
                # Of the voxels above the lower face, those that may lie in the brick.
                bottom = -along - slope * x_first - spread
                bottom_end = -along - slope * (x_first + count - 1) - spread
                skip = max(0, low[thick] - int(np.ceil(max(bottom, bottom_end) + 1e-3)))
                n = min(n_thick, high[thick] - int(np.ceil(min(bottom, bottom_end) - 1e-3)) + 1) - skip
                voxel = i4(
                    (o - low[outer]) * pitch[outer] + (x_first - low[inner]) * pitch[inner]
                    - low[thick] * pitch[thick]
                )  # fmt: skip
                base = _ALL - base
                for j in range(0, count, _EIGHT):
                    whole = (
                        i4(width + 2), i4(half), i4(size - 1), i4(voxel + j * pitch[inner]), i4(pitch[inner]),
                        i4(pitch[thick]),
                    )  # fmt: skip
                    for k in range(n):
                        reals = (
                            f4(x_first + j), f4(skip + k), f4(up * m[0, outer] * o), f4(up * m[0, inner]),
                            f4(spread), f4(depth_t), f4(low[thick]), f4(high[thick]), f4(rest),
                            f4(m[2, outer] * o), f4(m[2, inner]), f4(m[2, thick]), f4(m[1, outer] * o),
                            f4(m[1, inner]), f4(m[1, thick]), f4(half), f4(size),
                        )  # fmt: skip
                        _place_eight(fields, base, k * stride + j, reals, whole)
                for k in range(n):
                    for j in range(k * stride, k * stride + count, 2):
                        _fetch_pixel(fields, base, j, pixels, first)
                        _fetch_pixel(fields, base, j, pixels, first + below)
                        _fetch_voxel(fields, base, j, flat, origin)
                _add_columns(
                    fields,
                    _ALL - base,
                    last_stride,
                    last_thick,
                    last_count,
                    pixels,
                    last_first,
                    below,
                    flat,
                    origin,
                )
                last_stride, last_thick, last_count, last_first = stride, n, count, first
                x_first += count
    _add_columns(fields, base, last_stride, last_thick, last_count, pixels, last_first, below, flat, origin)


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

    ``volume`` and ``out`` (s, s, h, 4) as in :func:`add_to_brick`, s at least 2; ``operators`` (n, 3, 3) zyx,
    the identity first. Trilinear; indices are clamped at Nyquist.
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
