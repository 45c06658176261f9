"""How loops are compiled: the two decorators of this folder."""

from __future__ import annotations

from numba import njit

fast = njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
"""A loop that Python calls: other threads run meanwhile, sums may be reordered, its code is kept on disk."""

inlined = njit(inline="always", error_model="numpy", fastmath=True)
"""A piece of such loops, compiled into each of them."""
