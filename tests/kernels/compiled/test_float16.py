"""Rounding to float16 as numpy rounds, and the sums on the way."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.kernels.compiled.float16 import round_to_half, sum_up


def test_every_half_number_and_every_tie(rng):
    """All float16 values, the middles between them, and their neighbours, as numpy rounds them."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    numbers = np.sort(every[np.isfinite(every)].astype(np.float32))
    middles = ((numbers[:-1].astype(np.float64) + numbers[1:]) / 2).astype(np.float32)
    values = np.concatenate(
        [numbers, middles, *(np.nextafter(middles, np.float32(s)) for s in (np.inf, -np.inf))]
    )
    rng.shuffle(values)
    halves = np.zeros(len(values), np.uint16)
    low, high, total, square = round_to_half(values, halves)
    expected = values.astype(np.float16)
    np.testing.assert_array_equal(halves, expected.view(np.uint16))
    wide = expected.astype(np.float64)
    assert (low, high) == (wide.min(), wide.max())
    assert total == pytest.approx(wide.sum(), abs=1e-9 * np.abs(wide).sum())
    assert square == pytest.approx((wide**2).sum(), rel=1e-9)


@pytest.mark.parametrize("n", [1, 15, 4096, 4097, 10_000])
def test_statistics_of_any_length(rng, n):
    values = rng.normal(-7, 1e-3, n).astype(np.float32)
    for found, stored in (
        (round_to_half(values, np.zeros(n, np.uint16)), values.astype(np.float16)), (sum_up(values), values),
    ):  # fmt: skip
        low, high, total, square = found
        wide = stored.astype(np.float64)
        assert (low, high) == (wide.min(), wide.max())
        assert total == pytest.approx(wide.sum(), rel=1e-12)
        assert square == pytest.approx((wide**2).sum(), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_sums(rng, bad):
    values = rng.normal(size=9000).astype(np.float32)
    values[8000] = bad
    assert not np.isfinite(sum_up(values)).all()
    values[100] = -bad
    assert not np.isfinite(sum_up(values)).all()
