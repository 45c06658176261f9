"""The C library's additive generator, from which RELION draws."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def additive_generator(state, count):  # type: ignore[no-untyped-def]
    """Continue x[i] = x[i - 31] + x[i - 3] mod 2^32 from its last 31 values (uint32)."""
    values = np.empty(31 + count, np.uint32)
    for i in range(31):
        values[i] = state[i]
    for i in range(31, 31 + count):
        values[i] = values[i - 31] + values[i - 3]
    return values[31:]
