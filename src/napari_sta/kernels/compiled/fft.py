"""Fourier transforms along the rows' axis of an image, for as many columns at once as registers hold.

A transposition between rows and columns comes in between the two directions.
"""

from __future__ import annotations

import numpy as np

from napari_sta.kernels.compiled.jit import fast, inlined
from napari_sta.kernels.compiled.lanes import LANES, every_lane, load, store, transpose_block


@inlined
def padded(n):  # type: ignore[no-untyped-def]
    """Round up to a multiple of the lanes."""
    return (n + LANES - 1) // LANES * LANES


@inlined
def clear(values, first, last):  # type: ignore[no-untyped-def]
    """Set values to 0."""
    # Assigning to slices takes numba seconds to compile.
    for k in range(first, last):
        values[k] = 0


@fast
def factors_of(n):  # type: ignore[no-untyped-def]
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


@inlined
def store_turned(re, im, at, a, b, c, d):  # type: ignore[no-untyped-def]
    """Store (a + ib)(c + id)."""
    store(re, at, a * c - b * d)
    store(im, at, a * d + b * c)


@fast
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
                    c1, d1 = every_lane(cos[turn]), every_lane(sin[turn])
                    c2, d2 = every_lane(cos[2 * turn]), every_lane(sin[2 * turn])
                    c3, d3 = every_lane(cos[3 * turn]), every_lane(sin[3 * turn])
                    for x in range(0, width, LANES):
                        i, o = source + x, target + x
                        r0, r1 = load(re, i), load(re, i + leg)
                        r2, r3 = load(re, i + 2 * leg), load(re, i + 3 * leg)
                        i0, i1 = load(im, i), load(im, i + leg)
                        i2, i3 = load(im, i + 2 * leg), load(im, i + 3 * leg)
                        ar, ai, br, bi = r0 + r2, i0 + i2, r0 - r2, i0 - i2
                        er, ei, fr, fi = r1 + r3, i1 + i3, r1 - r3, i1 - i3
                        store(re_2, o, ar + er)
                        store(im_2, o, ai + ei)
                        store_turned(re_2, im_2, o + leg_out, br + fi, bi - fr, c1, d1)
                        store_turned(re_2, im_2, o + 2 * leg_out, ar - er, ai - ei, c2, d2)
                        store_turned(re_2, im_2, o + 3 * leg_out, br - fi, bi + fr, c3, d3)
                elif factor == 2:
                    c1, d1 = every_lane(cos[turn]), every_lane(sin[turn])
                    for x in range(0, width, LANES):
                        i, o = source + x, target + x
                        r0, r1, i0, i1 = load(re, i), load(re, i + leg), load(im, i), load(im, i + leg)
                        store(re_2, o, r0 + r1)
                        store(im_2, o, i0 + i1)
                        store_turned(re_2, im_2, o + leg_out, r0 - r1, i0 - i1, c1, d1)
                elif factor == 3:
                    c1, d1 = every_lane(cos[turn]), every_lane(sin[turn])
                    c2, d2 = every_lane(cos[2 * turn]), every_lane(sin[2 * turn])
                    half, root = every_lane(np.float32(0.5)), every_lane(np.float32(0.75**0.5))
                    for x in range(0, width, LANES):
                        i, o = source + x, target + x
                        r0, r1, r2 = load(re, i), load(re, i + leg), load(re, i + 2 * leg)
                        i0, i1, i2 = load(im, i), load(im, i + leg), load(im, i + 2 * leg)
                        ar, ai, fr, fi = r1 + r2, i1 + i2, root * (r1 - r2), root * (i1 - i2)
                        store(re_2, o, r0 + ar)
                        store(im_2, o, i0 + ai)
                        br, bi = r0 - half * ar, i0 - half * ai
                        store_turned(re_2, im_2, o + leg_out, br + fi, bi - fr, c1, d1)
                        store_turned(re_2, im_2, o + 2 * leg_out, br - fi, bi + fr, c2, d2)
                else:
                    for x in range(0, width, LANES):
                        for b in range(factor):
                            ar, ai = load(re, source + x), load(im, source + x)
                            for k in range(1, factor):
                                w = (k * b % factor) * (total // factor) * step
                                c1, d1 = every_lane(cos[w]), every_lane(sin[w])
                                r0, i0 = load(re, source + x + k * leg), load(im, source + x + k * leg)
                                ar = ar + (r0 * c1 - i0 * d1)
                                ai = ai + (r0 * d1 + i0 * c1)
                            c1, d1 = every_lane(cos[b * turn]), every_lane(sin[b * turn])
                            store_turned(re_2, im_2, target + x + b * leg_out, ar, ai, c1, d1)
        re, re_2 = re_2, re
        im, im_2 = im_2, im
        n, span = m, span * factor
    return re, im, re_2, im_2


@fast
def untangle(re, im, re_2, im_2, width, half, cos, sin):  # type: ignore[no-untyped-def]
    """From the transform of even + i odd rows to rows 0 ... ``half`` - 1 of that of all n real rows."""
    m = len(cos) // 2
    one_half = every_lane(np.float32(0.5))
    for k in range(half):
        a, b = k % m * width, (m - k) % m * width
        c, d = every_lane(cos[k]), every_lane(sin[k])
        for x in range(0, width, LANES):
            ar, ai, br, bi = load(re, a + x), load(im, a + x), load(re, b + x), load(im, b + x)
            er, ei = one_half * (ar + br), one_half * (ai - bi)
            fr, fi = one_half * (ai + bi), one_half * (br - ar)  # (Z - conj Z') / 2i
            store(re_2, k * width + x, er + (fr * c - fi * d))
            store(im_2, k * width + x, ei + (fr * d + fi * c))


@fast
def tangle(re, im, width, cos, sin):  # type: ignore[no-untyped-def]
    """Make of rows 0 ... n/2 of a half transform what is transformed into even + i odd rows, in place."""
    m = len(cos) // 2
    for x in range(width):
        # Only the real part of these two belongs to a real image.
        im[x] = 0
        im[m * width + x] = 0
    for k in range(m // 2 + 1):
        a, b = k * width, (m - k) * width
        c, d = every_lane(cos[k]), every_lane(sin[k])
        for x in range(0, width, LANES):
            ar, ai, br, bi = load(re, a + x), load(im, a + x), load(re, b + x), load(im, b + x)
            er, ei, fr, fi = ar + br, ai - bi, ar - br, ai + bi
            # i F w^-k, with w^-k = c - i d
            gr, gi = fr * d - fi * c, fr * c + fi * d
            store(re, a + x, er + gr)
            store(im, a + x, ei + gi)
            if b != a and k > 0:
                store(re, b + x, er - gr)
                store(im, b + x, gi - ei)


@fast
def transpose(source, width, target, width_target, rows, columns):  # type: ignore[no-untyped-def]
    """Transpose ``rows`` x ``columns``, both rounded up to ``LANES``."""
    for y in range(0, rows, LANES):
        for x in range(0, columns, LANES):
            transpose_block(source, y * width + x, width, target, x * width_target + y, width_target)


@inlined
def turns_of(n):  # type: ignore[no-untyped-def]
    """Cosines and sines of -2 pi k / n."""
    angles = -2 * np.pi * np.arange(n) / n
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
