"""Subtomogram images compiled by numba: cut, transform, filter, transform back and finish in one pass.

The transforms run over the rows of an image for 8 or 16 columns at once, held in vector registers
(:class:`Lanes`); a transposition between rows and columns comes in between. Everything of one image stays
in the second-level cache. The plain twin is torch's path in :mod:`napari_sta.kernels.extraction`.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from napari_sta.kernels._vectors import lanes, splat

LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
"""Columns that are computed with at once: with more, the registers do not hold a butterfly."""

# ----------------------------------------------------------------------------------------------------
# A vector of as many floats. Loops over butterflies are not vectorised by themselves: too many rows might
# overlap.


class Lanes(types.Type):  # type: ignore[misc]
    """numba's type of the float32 that are computed with at once."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}xf4")


_LANES = Lanes()
_INDEX = ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FLAGS = ("contract", "reassoc", "nsz", "arcp", "nnan", "ninf")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _as_operator(function: Any, instruction: str) -> None:
    @infer_global(function)
    class _Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and all(isinstance(a, Lanes) for a in args):
                return signature(_LANES, *args)
            return None

    @lower_builtin(function, _LANES, _LANES)  # type: ignore[untyped-decorator]
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=_FLAGS)


_as_operator(operator.add, "fadd")
_as_operator(operator.sub, "fsub")
_as_operator(operator.mul, "fmul")


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _unaligned_load(builder: Any, pointer: Any) -> Any:
    value = builder.load(pointer)
    value.align = 4
    return value


def _unaligned_store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, pointer).align = 4


@intrinsic
def _load(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Neighbours of a flat array, one a lane."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return _unaligned_load(builder, _pointer(context, builder, sig.args[0], args[0], args[1]))

    return _LANES(array, types.intp), generate


@intrinsic
def _store(typing_context, array, index, value):  # type: ignore[no-untyped-def]
    """Write neighbours of a flat array."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        _unaligned_store(builder, args[2], _pointer(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), generate


@intrinsic
def _all(typing_context, number):  # type: ignore[no-untyped-def]
    """One number in every lane."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        none = ir.Constant(_VECTOR, ir.Undefined)
        one = builder.insert_element(none, args[0], ir.Constant(_INDEX, 0))
        first = ir.Constant(ir.VectorType(_INDEX, LANES), [ir.Constant(_INDEX, 0)] * LANES)
        return builder.shuffle_vector(one, none, first)

    return _LANES(types.float32), generate


@intrinsic
def _transpose_block(typing_context, source, first, step, target, first_target, step_target):  # type: ignore[no-untyped-def]
    """Transpose ``LANES`` x ``LANES`` numbers; rows are ``step`` and ``step_target`` apart."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        source, first, step, target, first_target, step_target = args

        def at(array_type: Any, array: Any, start: Any, apart: Any, row: int) -> Any:
            index = builder.add(start, builder.mul(apart, ir.Constant(apart.type, row)))
            return _pointer(context, builder, array_type, array, index)

        def interleaved(part: int) -> Any:
            pick = [part + k // 2 + (LANES if k % 2 else 0) for k in range(LANES)]
            return ir.Constant(ir.VectorType(_INDEX, LANES), [ir.Constant(_INDEX, one) for one in pick])

        low, high, half = interleaved(0), interleaved(LANES // 2), LANES // 2
        rows = [_unaligned_load(builder, at(sig.args[0], source, first, step, row)) for row in range(LANES)]
        # Interleaving rows of the first half with those of the second rotates the bits of row and column; as
        # often as each has bits, it swaps them.
        for _ in range(LANES.bit_length() - 1):
            rows = [
                builder.shuffle_vector(rows[k], rows[k + half], part)
                for k in range(half)
                for part in (low, high)
            ]
        for row in range(LANES):
            _unaligned_store(builder, rows[row], at(sig.args[3], target, first_target, step_target, row))
        return context.get_dummy_value()

    indices = (types.intp, types.intp)
    return types.void(source, *indices, target, *indices), generate


_SIN_3, _SIN_5, _SIN_7, _SIN_9 = (
    np.float32(-5.16771278), np.float32(2.55016404), np.float32(-0.59926453), np.float32(0.08214588),
)  # fmt: skip
_PI = np.float32(np.pi)


@intrinsic
def _half_turns(typing_context, k, terms, index, slope, bend, base):  # type: ignore[no-untyped-def]
    """Phases ``terms`` + ``k`` (``slope`` + ``bend`` ``k``) + ``base`` less whole turns, in [-1, 1).

    Computed in float64. Once 1.5 * 2^21 is added, the last 32 bits are the fraction of a turn, exact to 2^-31
    half turns, of phases below 2^20 half turns.
    """

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        double = ir.VectorType(ir.DoubleType(), LANES)
        contract = ("contract",)

        def neighbours(place: int) -> Any:
            array = context.make_array(sig.args[place])(context, builder, args[place])
            at = builder.bitcast(builder.gep(array.data, [args[2]]), double.as_pointer())
            value = builder.load(at)
            value.align = 8
            return value

        k, terms = neighbours(0), neighbours(1)
        slope, bend, base = (splat(builder, number, LANES) for number in args[3:])
        inner = builder.fadd(slope, builder.fmul(bend, k, contract), contract)
        phase = builder.fadd(terms, builder.fmul(inner, k, contract), contract)
        # In this order: the large number last.
        shifted = builder.fadd(builder.fadd(phase, base), ir.Constant(double, [1.5 * 2.0**21] * LANES))
        words = builder.bitcast(shifted, ir.VectorType(_INDEX, 2 * LANES))
        fraction = builder.shuffle_vector(words, words, lanes(*range(0, 2 * LANES, 2)))
        scale = ir.Constant(_VECTOR, [2.0**-31] * LANES)
        return builder.fmul(builder.sitofp(fraction, _VECTOR), scale)

    return _LANES(k, terms, types.intp, *[types.float64] * 3), generate


@intrinsic
def _folded(typing_context, turns):  # type: ignore[no-untyped-def]
    """From [-1, 1) half turns to those with the same sine in [-1/2, 1/2]."""

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        one, minus_one = (ir.Constant(_VECTOR, [number] * LANES) for number in (1.0, -1.0))

        def chosen(comparison: str, a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(comparison, a, b), a, b)

        low = builder.fsub(minus_one, args[0])
        high = builder.fsub(one, args[0])
        return chosen("<", chosen(">", args[0], low), high)

    return _LANES(_LANES), generate


# ----------------------------------------------------------------------------------------------------
# Fourier transforms along the rows' axis

_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
_inlined = njit(inline="always", error_model="numpy", fastmath=True)


@_inlined
def _padded(n):  # type: ignore[no-untyped-def]
    return (n + LANES - 1) // LANES * LANES


@_inlined
def _clear(values, first, last):  # type: ignore[no-untyped-def]
    # Assigning to slices takes numba seconds to compile.
    for k in range(first, last):
        values[k] = 0


@_fast
def _factors(n):  # type: ignore[no-untyped-def]
    """Fours, then twos, threes and other primes whose product is ``n``."""
    found = np.empty(64, np.int64)
    count, p = 0, 4
    while n > 1:
        if n % p == 0:
            found[count] = p
            count, n = count + 1, n // p
        elif p == 4:
            p = 2
        elif p == 2:
            p = 3
        else:
            p += 2
    return found[:count]


@_inlined
def _store_turned(re, im, at, a, b, c, d):  # type: ignore[no-untyped-def]
    """Store (a + ib)(c + id)."""
    _store(re, at, a * c - b * d)
    _store(im, at, a * d + b * c)


@_fast
def transform_rows(re, im, re_2, im_2, width, factors, cos, sin, n):  # type: ignore[no-untyped-def]
    """Unnormalised forward transform over the rows of an array, for all its columns.

    Parameters
    ----------
    re, im, re_2, im_2
        Flat float32 arrays: the rows, ``width`` apart, and as much room again; both are overwritten. Swap
        ``re`` with ``im``, and the results too, for the inverse transform.
    width
        Columns, a multiple of ``LANES``.
    factors
        Of the number of rows.
    cos, sin
        Of -2 pi k / m for all k below m, a multiple of the number of rows.
    n
        The number of rows.

    Returns
    -------
    re, im, re_2, im_2
        The same arrays, those with the result first.

    Notes
    -----
    Stockham's self-sorting transform with mixed radices, decimation in frequency (C. Van Loan, Computational
    Frameworks for the Fast Fourier Transform, 1992, section 1.7).
    """
    step = len(cos) // n
    total, span = n, 1
    for factor in factors:
        m = n // factor
        leg, leg_out = span * m * width, span * width
        for j in range(m):
            turn = j * span * step
            for q in range(span):
                source, target = (q + span * j) * width, (q + span * factor * j) * width
                if factor == 4:
                    c1, d1 = _all(cos[turn]), _all(sin[turn])
                    c2, d2 = _all(cos[2 * turn]), _all(sin[2 * turn])
                    c3, d3 = _all(cos[3 * turn]), _all(sin[3 * turn])
                    for x in range(0, width, LANES):
                        i, o = source + x, target + x
                        r0, r1 = _load(re, i), _load(re, i + leg)
                        r2, r3 = _load(re, i + 2 * leg), _load(re, i + 3 * leg)
                        i0, i1 = _load(im, i), _load(im, i + leg)
                        i2, i3 = _load(im, i + 2 * leg), _load(im, i + 3 * leg)
                        ar, ai, br, bi = r0 + r2, i0 + i2, r0 - r2, i0 - i2
                        er, ei, fr, fi = r1 + r3, i1 + i3, r1 - r3, i1 - i3
                        _store(re_2, o, ar + er)
                        _store(im_2, o, ai + ei)
                        _store_turned(re_2, im_2, o + leg_out, br + fi, bi - fr, c1, d1)
                        _store_turned(re_2, im_2, o + 2 * leg_out, ar - er, ai - ei, c2, d2)
                        _store_turned(re_2, im_2, o + 3 * leg_out, br - fi, bi + fr, c3, d3)
                elif factor == 2:
                    c1, d1 = _all(cos[turn]), _all(sin[turn])
                    for x in range(0, width, LANES):
                        i, o = source + x, target + x
                        r0, r1, i0, i1 = _load(re, i), _load(re, i + leg), _load(im, i), _load(im, i + leg)
                        _store(re_2, o, r0 + r1)
                        _store(im_2, o, i0 + i1)
                        _store_turned(re_2, im_2, o + leg_out, r0 - r1, i0 - i1, c1, d1)
                elif factor == 3:
                    c1, d1 = _all(cos[turn]), _all(sin[turn])
                    c2, d2 = _all(cos[2 * turn]), _all(sin[2 * turn])
                    half, root = _all(np.float32(0.5)), _all(np.float32(0.75**0.5))
                    for x in range(0, width, LANES):
                        i, o = source + x, target + x
                        r0, r1, r2 = _load(re, i), _load(re, i + leg), _load(re, i + 2 * leg)
                        i0, i1, i2 = _load(im, i), _load(im, i + leg), _load(im, i + 2 * leg)
                        ar, ai, fr, fi = r1 + r2, i1 + i2, root * (r1 - r2), root * (i1 - i2)
                        _store(re_2, o, r0 + ar)
                        _store(im_2, o, i0 + ai)
                        br, bi = r0 - half * ar, i0 - half * ai
                        _store_turned(re_2, im_2, o + leg_out, br + fi, bi - fr, c1, d1)
                        _store_turned(re_2, im_2, o + 2 * leg_out, br - fi, bi + fr, c2, d2)
                else:
                    for x in range(0, width, LANES):
                        for b in range(factor):
                            ar, ai = _load(re, source + x), _load(im, source + x)
                            for k in range(1, factor):
                                w = (k * b % factor) * (total // factor) * step
                                c1, d1 = _all(cos[w]), _all(sin[w])
                                r0, i0 = _load(re, source + x + k * leg), _load(im, source + x + k * leg)
                                ar = ar + (r0 * c1 - i0 * d1)
                                ai = ai + (r0 * d1 + i0 * c1)
                            c1, d1 = _all(cos[b * turn]), _all(sin[b * turn])
                            _store_turned(re_2, im_2, target + x + b * leg_out, ar, ai, c1, d1)
        re, re_2 = re_2, re
        im, im_2 = im_2, im
        n, span = m, span * factor
    return re, im, re_2, im_2


@_fast
def _untangle(re, im, re_2, im_2, width, half, cos, sin):  # type: ignore[no-untyped-def]
    """From the transform of even + i odd rows to rows 0 ... ``half`` - 1 of that of all n real rows."""
    m = len(cos) // 2
    one_half = _all(np.float32(0.5))
    for k in range(half):
        a, b = k % m * width, (m - k) % m * width
        c, d = _all(cos[k]), _all(sin[k])
        for x in range(0, width, LANES):
            ar, ai, br, bi = _load(re, a + x), _load(im, a + x), _load(re, b + x), _load(im, b + x)
            er, ei = one_half * (ar + br), one_half * (ai - bi)
            fr, fi = one_half * (ai + bi), one_half * (br - ar)  # (Z - conj Z') / 2i
            _store(re_2, k * width + x, er + (fr * c - fi * d))
            _store(im_2, k * width + x, ei + (fr * d + fi * c))


@_fast
def _tangle(re, im, width, cos, sin):  # type: ignore[no-untyped-def]
    """Make of rows 0 ... n/2 of a half transform what is transformed into even + i odd rows, in place."""
    m = len(cos) // 2
    for x in range(width):
        # Only the real part of these two belongs to a real image.
        im[x] = 0
        im[m * width + x] = 0
    for k in range(m // 2 + 1):
        a, b = k * width, (m - k) * width
        c, d = _all(cos[k]), _all(sin[k])
        for x in range(0, width, LANES):
            ar, ai, br, bi = _load(re, a + x), _load(im, a + x), _load(re, b + x), _load(im, b + x)
            er, ei, fr, fi = ar + br, ai - bi, ar - br, ai + bi
            # i F w^-k, with w^-k = c - i d
            gr, gi = fr * d - fi * c, fr * c + fi * d
            _store(re, a + x, er + gr)
            _store(im, a + x, ei + gi)
            if b != a and k > 0:
                _store(re, b + x, er - gr)
                _store(im, b + x, gi - ei)


@_fast
def _transpose(source, width, target, width_target, rows, columns):  # type: ignore[no-untyped-def]
    """Transpose ``rows`` x ``columns``, both rounded up to ``LANES``."""
    for y in range(0, rows, LANES):
        for x in range(0, columns, LANES):
            _transpose_block(source, y * width + x, width, target, x * width_target + y, width_target)


@_fast
def _cut_transposed(re, im, width, image, x0, y0, size):  # type: ignore[no-untyped-def]
    """Even columns of a window to the rows of ``re``, odd ones to ``im``; pixels outside repeat the edge."""
    n_x, n_y = image.shape
    first = min(max(-y0, 0), size)
    last = max(min(n_y - y0, size), first)
    for x in range(size):
        column = image[min(max(x0 + x, 0), n_x - 1)]
        target = im if x % 2 else re
        start = x // 2 * width
        for y in range(first):
            target[start + y] = column[0]
        # Unsigned: what might count from the end is not vectorised.
        for y in range(first, last):
            target[np.uint64(start + y)] = column[np.uint64(y0 + y)]
        for y in range(last, size):
            target[start + y] = column[n_y - 1]


@_inlined
def _contrast_row(g, end, y, ky, kx, phase, terms, row_terms, envelope, extra_phase):  # type: ignore[no-untyped-def]
    """Fill row ``y`` of -CTF * envelope below column ``end``, and zeros from there on.

    ``phase`` (5,) coefficients in half turns, or (0,): no CTF; ``kx`` padded; ``terms`` what of the phase
    depends on the column only; ``row_terms`` room for as much.
    """
    if phase.shape[0] == 0:
        for x in range(end):
            g[x] = np.float32(-1)
    else:
        square = ky[y] * ky[y]
        base = phase[0] * square + phase[4] + phase[3] * square * square
        slope, bend = phase[1] * ky[y], 2 * phase[3] * square
        if extra_phase.shape[0] > 0:
            for x in range(end):
                row_terms[x] = terms[x] + extra_phase[y, x]
            terms = row_terms
        for x in range(0, end, LANES):
            half_turns = _folded(_half_turns(kx, terms, x, slope, bend, base))
            f2 = half_turns * half_turns
            series = _all(_SIN_3) + f2 * (_all(_SIN_5) + f2 * (_all(_SIN_7) + f2 * _all(_SIN_9)))
            _store(g, x, half_turns * (_all(_PI) + f2 * series))  # -CTF = +sin(gamma)
        for x in range(end):
            g[x] *= envelope[y, x]
    _clear(g, end, len(g))


@_inlined
def _fill_terms(terms, kx, phase):  # type: ignore[no-untyped-def]
    """Fill with what of the CTF's phase depends on the column only."""
    if phase.shape[0] > 0:
        for x in range(len(kx)):
            square = kx[x] * kx[x]
            terms[x] = (phase[2] + phase[3] * square) * square


@_inlined
def _fill_ramp(re, im, shift, n, count, scale):  # type: ignore[no-untyped-def]
    """Fill with ``scale`` exp(2 pi i shift k / n), k = 0 ... count - 1."""
    c, s = np.cos(2 * np.pi * shift / n), np.sin(2 * np.pi * shift / n)
    a, b = scale, 0.0
    for k in range(count):
        re[k], im[k] = np.float32(a), np.float32(b)
        a, b = a * c - b * s, a * s + b * c


@_inlined
def _turns(n):  # type: ignore[no-untyped-def]
    """Cosines and sines of -2 pi k / n."""
    angles = -2 * np.pi * np.arange(n) / n
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@_fast
def _transform_window(  # type: ignore[no-untyped-def]
    a_re, a_im, b_re, b_im, window, half, factors_half, factors, cos, sin
):  # fmt: skip
    """From real rows along x, as :func:`_cut_transposed` leaves them, to rows along y of ``half`` columns."""
    wide, narrow = _padded(window), _padded(half)
    a_re, a_im, b_re, b_im = transform_rows(a_re, a_im, b_re, b_im, wide, factors_half, cos, sin, window // 2)
    _untangle(a_re, a_im, b_re, b_im, wide, half, cos, sin)
    _clear(b_re, half * wide, narrow * wide)
    _clear(b_im, half * wide, narrow * wide)
    _transpose(b_re, wide, a_re, narrow, narrow, wide)
    _transpose(b_im, wide, a_im, narrow, narrow, wide)
    return transform_rows(a_re, a_im, b_re, b_im, narrow, factors, cos, sin, window)


@_inlined
def _filter_row(  # type: ignore[no-untyped-def]
    re, im, source, re_2, im_2, target, ry, iy, column_re, column_im, g, odd_factor, y, half
):  # fmt: skip
    """Multiply one row of a transform by a shift, real factors and the odd aberrations' factors."""
    c, d = _all(ry), _all(iy)
    for x in range(0, len(g), LANES):
        cr, ci, gx = _load(column_re, x), _load(column_im, x), _load(g, x)
        tr, ti = gx * (c * cr - d * ci), gx * (c * ci + d * cr)
        _store_turned(re_2, im_2, target + x, _load(re, source + x), _load(im, source + x), tr, ti)
    if odd_factor.shape[0] > 0:
        for x in range(half):
            a, b = re_2[target + x], im_2[target + x]
            cr, ci = odd_factor[y, x, 0], odd_factor[y, x, 1]
            re_2[target + x], im_2[target + x] = a * cr - b * ci, a * ci + b * cr


@_fast
def subtomogram_images(  # type: ignore[no-untyped-def]
    image, corners, shifts, window, scale, coefficients, ky, kx, envelope, even_phase, odd_factor,
    factor, inside, slots, out,
):  # fmt: skip
    """Make the images that one tilt image contributes to its particles' stacks.

    Parameters
    ----------
    image
        (w, h) float32: the tilt image, transposed.
    corners
        (n, 2) int64 top-left y and x of the windows.
    shifts
        (n, 2) float64 where the particle lies relative to the centre pixel, y and x in output pixels.
    window
        Edge of the windows, even.
    scale
        Of the unnormalised transforms there and back.
    coefficients, envelope, even_phase
        CTF phase in half turns (n, 5), or (0, 5): no CTF; (s, s / 2 + 1) amplitude factor; phase that is
        added, in half turns, or (0, 0). Rows in FFTW order.
    ky, kx
        (s,) and (s / 2 + 1,) frequencies in 1/Å of the output, s even.
    odd_factor
        (s, s / 2 + 1, 2) float32 factor of the odd aberrations, or (0, 0, 0).
    factor, inside
        (c, c) fading factor, and 1 where a pixel of the middle is no background; ``inside`` (0, 0): the
        plain middle.
    slots
        (n,) int64 which of ``out`` each image becomes.
    out
        (any, c, c) float32.
    """
    size, half, crop = len(ky), len(kx), out.shape[1]
    margin = (size - crop) // 2
    cos_0, sin_0 = _turns(window)
    cos_1, sin_1 = _turns(size)
    factors_0, factors_0_half = _factors(window), _factors(window // 2)
    factors_1, factors_1_half = _factors(size), _factors(size // 2)
    wide, narrow, middle = _padded(window), _padded(half), _padded(crop)
    room = max(window // 2 * wide, wide * narrow, (size + LANES) * narrow, narrow * middle, middle * middle)
    a_re, a_im = np.zeros(room, np.float32), np.zeros(room, np.float32)
    b_re, b_im = np.zeros(room, np.float32), np.zeros(room, np.float32)
    g = np.zeros(narrow, np.float32)
    terms, row_terms, padded_kx = np.zeros(narrow), np.zeros(narrow), np.zeros(narrow)
    no_phase = np.zeros(0)
    for x in range(half):
        padded_kx[x] = kx[x]
    column_re, column_im = np.zeros(narrow, np.float32), np.zeros(narrow, np.float32)
    row_re, row_im = np.zeros(size // 2 + 1, np.float32), np.zeros(size // 2 + 1, np.float32)
    n_background = float(size * size)
    if inside.shape[0] > 0:
        for y in range(crop):
            for x in range(crop):
                n_background -= inside[y, x]
        if margin > 0:
            # Two pixels lie on the circle just beyond the middle; they are no background either.
            n_background -= 2

    for n in range(len(corners)):
        _cut_transposed(a_re, a_im, wide, image, corners[n, 1], corners[n, 0], window)
        a_re, a_im, b_re, b_im = _transform_window(
            a_re, a_im, b_re, b_im, window, half, factors_0_half, factors_0, cos_0, sin_0
        )
        # Crop, shift, contrast.
        _fill_ramp(row_re, row_im, shifts[n, 0], size, size // 2 + 1, scale)
        _fill_ramp(column_re, column_im, shifts[n, 1], size, half, 1.0)
        phase = coefficients[n] if len(coefficients) else no_phase
        _fill_terms(terms, padded_kx, phase)
        for y in range(size):
            if y < size // 2:
                source, ry, iy = y * narrow, row_re[y], row_im[y]
            else:
                source, ry, iy = (y - size + window) * narrow, row_re[size - y], -row_im[size - y]
            _contrast_row(g, half, y, ky, padded_kx, phase, terms, row_terms, envelope, even_phase)
            _filter_row(
                a_re,
                a_im,
                source,
                b_re,
                b_im,
                y * narrow,
                ry,
                iy,
                column_re,
                column_im,
                g,
                odd_factor,
                y,
                half,
            )
        total = float(b_re[0]) * size * size
        # Back along y; of the rows only the middle is needed.
        b_im, b_re, a_im, a_re = transform_rows(b_im, b_re, a_im, a_re, narrow, factors_1, cos_1, sin_1, size)
        if margin > 0:
            below = (margin + crop) * narrow
            pixel = float(b_re[below])
            for x in range(1, half - 1):
                pixel += 2 * b_re[below + x] * (1 - 2 * (x % 2))
            total -= pixel + b_re[below + half - 1] * (1 - 2 * ((half - 1) % 2))
        _transpose(b_re[margin * narrow :], narrow, a_re, middle, crop, narrow)
        _transpose(b_im[margin * narrow :], narrow, a_im, middle, crop, narrow)
        # Back along x.
        _tangle(a_re, a_im, middle, cos_1, sin_1)
        a_im, a_re, b_im, b_re = transform_rows(
            a_im, a_re, b_im, b_re, middle, factors_1_half, cos_1, sin_1, size // 2
        )
        if margin > 0:
            x = margin + crop
            total -= (a_im if x % 2 else a_re)[x // 2 * middle + crop // 2]
        for x in range(crop):
            column = a_im if (x + margin) % 2 else a_re
            start = (x + margin) // 2 * middle
            for y in range(middle):
                b_re[x * middle + y] = column[start + y]
        _transpose(b_re, middle, b_im, middle, crop, crop)
        result = out[slots[n]]
        if inside.shape[0] == 0:
            for y in range(crop):
                for x in range(crop):
                    result[y, x] = b_im[y * middle + x]
            continue
        for y in range(crop):
            part = np.float32(0)
            for x in range(crop):
                part += b_im[y * middle + x] * inside[y, x]
            total -= float(part)
        mean = np.float32(total / n_background)
        for y in range(crop):
            for x in range(crop):
                result[y, x] = (b_im[y * middle + x] - mean) * factor[y, x]


@_fast
def _cut_faded_transposed(re, im, width, image, x0, y0, size, factor, ends):  # type: ignore[no-untyped-def]
    """As :func:`_cut_transposed`, less the mean outside a circle, and faded to zero towards it.

    ``factor`` (size, size) is wanted only where it is not 1; ``ends`` (size, 4): of each column, where the
    inside of the circle begins and ends, and where in it the factor is 1.
    """
    n_x, n_y = image.shape
    inside = y0 >= 0 and y0 + size <= n_y
    total, count = 0.0, 0
    for x in range(size):
        column = image[min(max(x0 + x, 0), n_x - 1)]
        part = np.float32(0)
        for first, last in ((0, ends[x, 0]), (ends[x, 1], size)):
            if inside:
                for y in range(y0 + first, y0 + last):
                    part += column[np.uint64(y)]
            else:
                for y in range(y0 + first, y0 + last):
                    part += column[min(max(y, 0), n_y - 1)]
            count += last - first
        total += float(part)
    mean = np.float32(total / max(count, 1))
    for x in range(size):
        column = image[min(max(x0 + x, 0), n_x - 1)]
        target = im if x % 2 else re
        start = x // 2 * width
        begin, end, whole, whole_end = ends[x, 0], ends[x, 1], ends[x, 2], ends[x, 3]
        _clear(target, start, start + begin)
        _clear(target, start + end, start + size)
        if inside:
            for y in range(whole, whole_end):
                target[np.uint64(start + y)] = column[np.uint64(y0 + y)] - mean
        else:
            for y in range(whole, whole_end):
                target[start + y] = column[min(max(y0 + y, 0), n_y - 1)] - mean
        for first, last in ((begin, whole), (whole_end, end)):
            for y in range(first, last):
                target[start + y] = (column[min(max(y0 + y, 0), n_y - 1)] - mean) * factor[x, y]


@_fast
def weighed_slices(  # type: ignore[no-untyped-def]
    image, corners, shifts, window, scale, coefficients, ky, kx, envelope, even_phase, odd_factor, x_end,
    factor, ends, out,
):  # fmt: skip
    """Make the slices that one tilt image contributes to a reconstruction.

    Parameters
    ----------
    image, corners, shifts, window, coefficients
        As in :func:`subtomogram_images`.
    scale
        Of the unnormalised transform.
    ky, kx, envelope, even_phase, odd_factor, x_end
        As there, but rows run from -s / 2 upwards; columns from ``x_end`` (s,) on are set to zero.
    factor, ends
        Of the circle crop, as in :func:`_cut_faded_transposed`.
    out
        (n, s + 1, s / 2 + 3, 3) float32: re, im, weight with phase origin at the centre; the last row repeats
        the first, the last column but one the fourth-last, so that interpolation needs no bounds; the last is
        0.
    """
    size, half = len(ky), len(kx)
    cos, sin = _turns(window)
    factors, factors_half = _factors(window), _factors(window // 2)
    wide, narrow = _padded(window), _padded(half)
    room = max(window // 2 * wide, wide * narrow)
    a_re, a_im = np.zeros(room, np.float32), np.zeros(room, np.float32)
    b_re, b_im = np.zeros(room, np.float32), np.zeros(room, np.float32)
    g = np.zeros(narrow, np.float32)
    terms, row_terms, padded_kx = np.zeros(narrow), np.zeros(narrow), np.zeros(narrow)
    no_phase = np.zeros(0)
    for x in range(half):
        padded_kx[x] = kx[x]
    column_re, column_im = np.zeros(narrow, np.float32), np.zeros(narrow, np.float32)
    row_re, row_im = np.zeros(size // 2 + 1, np.float32), np.zeros(size // 2 + 1, np.float32)
    for n in range(len(corners)):
        _cut_faded_transposed(a_re, a_im, wide, image, corners[n, 1], corners[n, 0], window, factor, ends)
        a_re, a_im, b_re, b_im = _transform_window(
            a_re, a_im, b_re, b_im, window, half, factors_half, factors, cos, sin
        )
        _fill_ramp(row_re, row_im, shifts[n, 0], size, size // 2 + 1, scale)
        _fill_ramp(column_re, column_im, shifts[n, 1], size, half, 1.0)
        phase = coefficients[n] if len(coefficients) else no_phase
        _fill_terms(terms, padded_kx, phase)
        for y in range(size):
            v = y - size // 2
            source = (v if v >= 0 else v + window) * narrow
            ry, iy = row_re[abs(v)], (row_im[v] if v >= 0 else -row_im[-v])
            if v % 2:
                ry, iy = -ry, -iy
            end = x_end[y]
            _contrast_row(g, end, y, ky, padded_kx, phase, terms, row_terms, envelope, even_phase)
            _filter_row(
                a_re, a_im, source, b_re, b_im, 0, ry, iy, column_re, column_im, g, odd_factor, y, half
            )
            # Phase origin from pixel 0 to the centre: (-1)^(x + y).
            row = out[n, y]
            for x in range(half):
                sign = np.float32(1 - 2 * (x % 2))
                row[x, 0], row[x, 1], row[x, 2] = sign * b_re[x], sign * b_im[x], g[x] * g[x]
            for c in range(3):
                row[half, c] = row[half - 2, c]
                row[half + 1, c] = 0
        for x in range(half + 2):
            for c in range(3):
                out[n, size, x, c] = out[n, 0, x, c]


# ----------------------------------------------------------------------------------------------------
# float16

_CHUNK = 4096


@_fast
def round_to_half(values, halves):  # type: ignore[no-untyped-def]
    """Round finite float32 to float16, nearest even, and say what is read back.

    Parameters
    ----------
    values
        (n,) float32 within float16's range.
    halves
        (n,) uint16: bits of the float16.

    Returns
    -------
    minimum, maximum, sum, sum_of_squares
        Of the rounded values, in float64.
    """
    n = len(values)
    rounded = np.empty(min(_CHUNK, n), np.float32)
    bits_out, order = rounded.view(np.uint32), rounded.view(np.int32)
    lowest, highest, total, square = np.int32(2**31 - 1), np.int32(-(2**31)), 0.0, 0.0
    # Below the smallest normal half number the steps are 2^-24.
    step, least = np.float32(2.0**-24), np.uint32(113 << 23)
    for first in range(0, n, _CHUNK):
        count = min(_CHUNK, n - first)
        chunk = values[first : first + count]
        bits = chunk.view(np.uint32)
        target = halves[first : first + count]
        n_small = np.uint32(0)
        for i in range(count):
            sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
            size = bits[i] & np.uint32(0x7FFFFFFF)
            nearest = size + np.uint32(0xFFF) + ((size >> np.uint32(13)) & np.uint32(1))
            normal = (nearest - np.uint32(112 << 23)) >> np.uint32(13)
            is_small = size < least
            target[i] = sign | (np.uint32(0) if is_small else normal)
            bits_out[i] = (np.uint32(0) if is_small else nearest & np.uint32(0x7FFFE000)) | (
                sign << np.uint32(16)
            )
            n_small += np.uint32(is_small & (size > np.uint32(0)))
        if n_small > 0:
            for i in range(count):
                if abs(chunk[i]) < np.float32(2.0**-14):
                    steps = np.rint(abs(chunk[i]) * np.float32(2.0**24))
                    target[i] = (target[i] & np.uint16(0x8000)) | np.uint16(steps)
                    rounded[i] = steps * (-step if chunk[i] < 0 else step)
        chunk_total, chunk_square = 0.0, 0.0
        for i in range(count):
            v = np.float64(rounded[i])
            chunk_total += v
            chunk_square += v * v
        total += chunk_total
        square += chunk_square
        for i in range(count):
            # Integers in the order of the numbers: their least is found in lanes, that of floats is not.
            one = order[i]
            key = np.int32(one ^ (np.int32(one >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            lowest = min(lowest, key)
            highest = max(highest, key)
    low, high = _in_order(lowest, highest)
    return low, high, total, square


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def sum_up(values):  # type: ignore[no-untyped-def]
    """Minimum, maximum, sum and sum of squares of float32 (n,), in one pass; the sums in float64.

    A value that is not finite makes the sums so.
    """
    n = len(values)
    order = values.view(np.int32)
    lowest, highest, total, square = np.int32(2**31 - 1), np.int32(-(2**31)), 0.0, 0.0
    for first in range(0, n, _CHUNK):
        count = min(_CHUNK, n - first)
        chunk, keys = values[first : first + count], order[first : first + count]
        chunk_total, chunk_square = 0.0, 0.0
        for i in range(count):
            v = np.float64(chunk[i])
            chunk_total += v
            chunk_square += v * v
        total += chunk_total
        square += chunk_square
        for i in range(count):
            # Integers in the order of the numbers: their least is found in lanes, that of floats is not.
            one = keys[i]
            key = np.int32(one ^ (np.int32(one >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            lowest = min(lowest, key)
            highest = max(highest, key)
    low, high = _in_order(lowest, highest)
    return low, high, total, square


@_fast
def _in_order(lowest, highest):  # type: ignore[no-untyped-def]
    """Return the two numbers whose places in the order of all float32 these are."""
    ends = np.empty(2, np.int32)
    for i, key in enumerate((lowest, highest)):
        ends[i] = key ^ (np.int32(key >> np.int32(31)) & np.int32(0x7FFFFFFF))
    extremes = ends.view(np.float32)
    return float(extremes[0]), float(extremes[1])
