"""Transforms over rows, against the discrete Fourier transform by its matrix."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.kernels.compiled.fft import factors_of, tangle, transform_rows, transpose, untangle
from napari_sta.kernels.compiled.lanes import LANES


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 26, 34, 60, 77, 96, 121, 192, 250])
@pytest.mark.parametrize(("width", "step"), [(16, 1), (48, 2)])
def test_transform_of_rows(rng, n, width, step):
    """The discrete Fourier transform by its matrix, for all kinds of factors, and back."""
    factors = factors_of(n)
    assert np.prod(factors) == n
    turns = -2 * np.pi * np.arange(n * step) / (n * step)
    tables = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)
    rows = rng.normal(size=(2, n, width)).astype(np.float32)
    matrix = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    expected = matrix @ (rows[0] + 1j * rows[1])
    room = [np.full(n * width, np.nan, np.float32) for _ in range(2)]
    re, im, *others = transform_rows(
        *(part.ravel().copy() for part in rows), *room, width, factors, *tables, n
    )
    found = (re + 1j * im).reshape(n, width)
    np.testing.assert_allclose(found, expected, atol=4e-7 * np.abs(expected).max())
    im, re, *_ = transform_rows(im, re, *others, width, factors, *tables, n)
    np.testing.assert_allclose(re.reshape(n, width) / n, rows[0], atol=2e-6)
    np.testing.assert_allclose(im.reshape(n, width) / n, rows[1], atol=2e-6)


def tables(n: int) -> tuple[np.ndarray, np.ndarray]:
    turns = -2 * np.pi * np.arange(n) / n
    return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)


@pytest.mark.parametrize("n", [4, 6, 10, 24, 34])
def test_real_rows_by_half_as_many_complex_ones_and_back(rng, n):
    """Even + i odd rows, transformed and untangled, are the half transform; tangled and turned back, the rows."""
    width, m, half = 2 * LANES, n // 2, n // 2 + 1
    rows = rng.normal(size=(n, width)).astype(np.float32)
    cos, sin = tables(n)
    re, im = rows[0::2].ravel().copy(), rows[1::2].ravel().copy()
    room = [np.empty(half * width, np.float32) for _ in range(4)]
    re, im, *_ = transform_rows(re, im, *room[:2], width, factors_of(m), cos, sin, m)
    out = room[2:]
    untangle(re, im, *out, width, half, cos, sin)
    found = (out[0] + 1j * out[1]).reshape(half, width)
    expected = np.fft.rfft(rows.astype(float), axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    tangle(*out, width, cos, sin)
    spare = [np.empty(m * width, np.float32) for _ in range(2)]
    # The inverse: real and imaginary parts swapped.
    im, re, *_ = transform_rows(
        out[1][: m * width], out[0][: m * width], *spare, width, factors_of(m), cos, sin, m
    )
    back = np.stack([re.reshape(m, width), im.reshape(m, width)], axis=1).reshape(n, width)
    np.testing.assert_allclose(back / n, rows, atol=3e-6)


def test_transposition_rounds_up_to_lanes(rng):
    rows, columns = LANES + 3, 2 * LANES - 1
    source = rng.normal(size=(2 * LANES, 3 * LANES)).astype(np.float32)
    target = np.zeros((2 * LANES, 4 * LANES), np.float32)
    transpose(source.ravel(), 3 * LANES, target.ravel(), 4 * LANES, rows, columns)
    np.testing.assert_array_equal(target[:columns, :rows], source[:rows, :columns].T)
    assert not target[:, 2 * LANES :].any()
