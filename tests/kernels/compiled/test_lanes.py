"""Vectors of lanes do what their elements do one by one."""

from __future__ import annotations

import numpy as np
from numba import njit

from napari_sta.kernels.compiled.lanes import (
    LANES,
    every_lane,
    folded,
    load,
    phase_half_turns,
    store,
    transpose_block,
)


@njit
def _combined(a, b, out, at):
    store(out, at, load(a, at) * every_lane(np.float32(3)) - load(b, at + 1) + load(b, at))


def test_arithmetic_from_any_place(rng):
    a, b = rng.normal(size=(2, 3 * LANES)).astype(np.float32)
    out = np.zeros(3 * LANES, np.float32)
    _combined(a, b, out, 5)
    here = slice(5, 5 + LANES)
    np.testing.assert_allclose(out[here], 3 * a[here] - b[6 : 6 + LANES] + b[here], rtol=1e-6, atol=1e-6)
    assert not out[:5].any()
    assert not out[5 + LANES :].any()


@njit
def _transposed(source, first, step, target, to, step_target):
    transpose_block(source, first, step, target, to, step_target)


def test_a_block_is_transposed(rng):
    source = rng.normal(size=(LANES, LANES + 7)).astype(np.float32)
    target = np.zeros((LANES, LANES + 2), np.float32)
    _transposed(source.ravel(), 4, LANES + 7, target.ravel(), 1, LANES + 2)
    np.testing.assert_array_equal(target[:, 1:-1], source[:, 4 : 4 + LANES].T)
    assert not target[:, 0].any()


@njit
def _phase(k, terms, at, slope, bend, base, turns, same_sine):
    phase = phase_half_turns(k, terms, at, slope, bend, base)
    store(turns, 0, phase)
    store(same_sine, 0, folded(phase))


def test_phases_lose_whole_turns_only(rng):
    """In half turns: [-1, 1) has the cosine and sine of the phase, [-1/2, 1/2] still its sine."""
    k, terms = rng.uniform(-3, 3, 2 * LANES), rng.uniform(-4e5, 4e5, 2 * LANES)
    slope, bend, base, at = 17.25, -411.5, 3.75, 3
    turns, same_sine = np.zeros((2, LANES), np.float32)
    _phase(k, terms, at, slope, bend, base, turns, same_sine)
    here = slice(at, at + LANES)
    phase = terms[here] + k[here] * (slope + bend * k[here]) + base
    assert (np.abs(turns) <= 1).all()
    assert np.ptp(turns) > 1
    np.testing.assert_allclose(np.exp(1j * np.pi * turns), np.exp(1j * np.pi * phase), atol=2e-6)
    assert (np.abs(same_sine) <= 0.5).all()
    np.testing.assert_allclose(np.sin(np.pi * same_sine), np.sin(np.pi * phase), atol=2e-6)
