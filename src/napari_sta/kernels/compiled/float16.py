"""Rounding to float16, and the sums that headers of files state, in one pass."""

from __future__ import annotations

import numpy as np
from numba import njit

from napari_sta.kernels.compiled.jit import fast

_CHUNK = 4096


@fast
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


@fast
def _in_order(lowest, highest):  # type: ignore[no-untyped-def]
    """Return the two numbers whose places in the order of all float32 these are."""
    ends = np.empty(2, np.int32)
    for i, key in enumerate((lowest, highest)):
        ends[i] = key ^ (np.int32(key >> np.int32(31)) & np.int32(0x7FFFFFFF))
    extremes = ends.view(np.float32)
    return float(extremes[0]), float(extremes[1])
