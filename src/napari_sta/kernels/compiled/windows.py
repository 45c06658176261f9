"""Subtomogram images: cut, transform, filter, transform back and finish in one pass.

Everything of one image stays in the second-level cache. The plain twin is torch's path in
:mod:`napari_sta.kernels.extraction`.
"""

from __future__ import annotations

import numpy as np

from napari_sta.kernels.compiled.fft import (
    clear,
    factors_of,
    padded,
    store_turned,
    tangle,
    transform_rows,
    transpose,
    turns_of,
    untangle,
)
from napari_sta.kernels.compiled.jit import fast, inlined
from napari_sta.kernels.compiled.lanes import LANES, every_lane, folded, load, phase_half_turns, store

_SIN_3, _SIN_5, _SIN_7, _SIN_9 = (
    np.float32(-5.16771278), np.float32(2.55016404), np.float32(-0.59926453), np.float32(0.08214588),
)  # fmt: skip
_PI = np.float32(np.pi)


@fast
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


@inlined
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
            half_turns = folded(phase_half_turns(kx, terms, x, slope, bend, base))
            f2 = half_turns * half_turns
            series = every_lane(_SIN_3) + f2 * (
                every_lane(_SIN_5) + f2 * (every_lane(_SIN_7) + f2 * every_lane(_SIN_9))
            )
            store(g, x, half_turns * (every_lane(_PI) + f2 * series))  # -CTF = +sin(gamma)
        for x in range(end):
            g[x] *= envelope[y, x]
    clear(g, end, len(g))


@inlined
def _fill_terms(terms, kx, phase):  # type: ignore[no-untyped-def]
    """Fill with what of the CTF's phase depends on the column only."""
    if phase.shape[0] > 0:
        for x in range(len(kx)):
            square = kx[x] * kx[x]
            terms[x] = (phase[2] + phase[3] * square) * square


@inlined
def _fill_ramp(re, im, shift, n, count, scale):  # type: ignore[no-untyped-def]
    """Fill with ``scale`` exp(2 pi i shift k / n), k = 0 ... count - 1."""
    c, s = np.cos(2 * np.pi * shift / n), np.sin(2 * np.pi * shift / n)
    a, b = scale, 0.0
    for k in range(count):
        re[k], im[k] = np.float32(a), np.float32(b)
        a, b = a * c - b * s, a * s + b * c


@fast
def _transform_window(  # type: ignore[no-untyped-def]
    a_re, a_im, b_re, b_im, window, half, factors_half, factors, cos, sin
):  # fmt: skip
    """From real rows along x, as :func:`_cut_transposed` leaves them, to rows along y of ``half`` columns."""
    wide, narrow = padded(window), padded(half)
    a_re, a_im, b_re, b_im = transform_rows(a_re, a_im, b_re, b_im, wide, factors_half, cos, sin, window // 2)
    untangle(a_re, a_im, b_re, b_im, wide, half, cos, sin)
    clear(b_re, half * wide, narrow * wide)
    clear(b_im, half * wide, narrow * wide)
    transpose(b_re, wide, a_re, narrow, narrow, wide)
    transpose(b_im, wide, a_im, narrow, narrow, wide)
    return transform_rows(a_re, a_im, b_re, b_im, narrow, factors, cos, sin, window)


@inlined
def _filter_row(  # type: ignore[no-untyped-def]
    re, im, source, re_2, im_2, target, ry, iy, column_re, column_im, g, odd_factor, y, half
):  # fmt: skip
    """Multiply one row of a transform by a shift, real factors and the odd aberrations' factors."""
    c, d = every_lane(ry), every_lane(iy)
    for x in range(0, len(g), LANES):
        cr, ci, gx = load(column_re, x), load(column_im, x), load(g, x)
        tr, ti = gx * (c * cr - d * ci), gx * (c * ci + d * cr)
        store_turned(re_2, im_2, target + x, load(re, source + x), load(im, source + x), tr, ti)
    if odd_factor.shape[0] > 0:
        for x in range(half):
            a, b = re_2[target + x], im_2[target + x]
            cr, ci = odd_factor[y, x, 0], odd_factor[y, x, 1]
            re_2[target + x], im_2[target + x] = a * cr - b * ci, a * ci + b * cr


@fast
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
    cos_0, sin_0 = turns_of(window)
    cos_1, sin_1 = turns_of(size)
    factors_0, factors_0_half = factors_of(window), factors_of(window // 2)
    factors_1, factors_1_half = factors_of(size), factors_of(size // 2)
    wide, narrow, middle = padded(window), padded(half), padded(crop)
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
        transpose(b_re[margin * narrow :], narrow, a_re, middle, crop, narrow)
        transpose(b_im[margin * narrow :], narrow, a_im, middle, crop, narrow)
        # Back along x.
        tangle(a_re, a_im, middle, cos_1, sin_1)
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
        transpose(b_re, middle, b_im, middle, crop, crop)
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


@fast
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
        clear(target, start, start + begin)
        clear(target, start + end, start + size)
        if inside:
            for y in range(whole, whole_end):
                target[np.uint64(start + y)] = column[np.uint64(y0 + y)] - mean
        else:
            for y in range(whole, whole_end):
                target[start + y] = column[min(max(y0 + y, 0), n_y - 1)] - mean
        for first, last in ((begin, whole), (whole_end, end)):
            for y in range(first, last):
                target[start + y] = (column[min(max(y0 + y, 0), n_y - 1)] - mean) * factor[x, y]


@fast
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
    cos, sin = turns_of(window)
    factors, factors_half = factors_of(window), factors_of(window // 2)
    wide, narrow = padded(window), padded(half)
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
