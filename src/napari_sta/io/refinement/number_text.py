"""Numbers as RELION writes them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from napari_sta.io.star import Column, text_column


def number_text(value: float) -> str:
    """Write a number as RELION does: six decimals, five if it is negative; scientific where those are few."""
    if not math.isfinite(value):
        return str(value)
    decimals = 5 if value < 0 else 6
    size = abs(value)
    if size == 0 or 0.001 < size < 100000:
        return f"{value + 0.0:.{decimals}f}"
    return f"{value:.{decimals}e}"


def numbers_text(values: ArrayLike) -> Column:
    """Write a column of numbers."""
    return text_column(map(number_text, np.asarray(values, dtype=np.float64).ravel().tolist()))


def whole_text(values: ArrayLike) -> Column:
    """Write a column of whole numbers."""
    return text_column(map(str, np.asarray(values, dtype=np.int64).ravel().tolist()))
