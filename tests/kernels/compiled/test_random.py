"""The additive generator of the C library."""

from __future__ import annotations

import numpy as np

from napari_sta.kernels.compiled.random import additive_generator


def test_the_c_library_s_first_numbers():
    """glibc's rand() after srand(1): a multiplicative generator starts it, the first 310 numbers are dropped."""
    stream = [1]
    for _ in range(30):
        stream.append(16807 * stream[-1] % 2147483647)
    stream += stream[:3]  # the lags run over a ring that begins at its fourth value
    numbers = additive_generator(np.array(stream[3:], np.uint32), 310 + 5) >> 1
    assert numbers[310:].tolist() == [1804289383, 846930886, 1681692777, 1714636915, 1957747793]


def test_it_goes_on_from_its_last_31_values(rng):
    state = rng.integers(0, 2**32, 31, dtype=np.uint32)
    together = additive_generator(state, 100)
    first = additive_generator(state, 40)
    np.testing.assert_array_equal(additive_generator(first[-31:], 60), together[40:])
    wide = np.concatenate([state, together]).astype(np.uint64)
    np.testing.assert_array_equal(wide[31:], (wide[:-31] + wide[28:-3]) % 2**32)
