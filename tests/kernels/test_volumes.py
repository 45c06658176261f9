"""Shift, box, grid, hand and symmetry: Gaussians that must land where arithmetic says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from laws import assert_inputs_untouched, assert_inverse, assert_linear
from napari_sta.kernels.rotations import symmetry_operators_zyx
from napari_sta.kernels.volumes import (
    invert_hand,
    rebox,
    rescale,
    rescaled_size,
    shift_volume,
    symmetrise_in_steps,
    symmetrise_volume,
)


def gaussian(shape, centre_zyx, sigma=1.8, pixel=1.0) -> np.ndarray:
    """A Gaussian whose centre is given relative to voxel n // 2, in units of ``pixel``."""
    axes = [(np.arange(n) - n // 2) * pixel for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    cz, cy, cx = centre_zyx
    square = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2
    return np.exp(-square / (2 * sigma**2)).astype(np.float32)


@pytest.mark.parametrize("shape", [(24, 24, 24), (23, 23, 23), (20, 25, 26)])
@pytest.mark.parametrize(
    "shift", [(1.0, -2.0, 3.0), (0.5, 0.0, 0.0), (-2.3, 1.75, 0.4), (0.0, 0.0, 0.0), (0.0, -0.5, 2.5)]
)
def test_density_moves_by_the_shift(shape, shift):
    before = gaussian(shape, (1.0, -2.0, 0.5))
    after = assert_inputs_untouched(shift_volume, before, shift)
    expected = gaussian(shape, np.add((1.0, -2.0, 0.5), shift))
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, expected, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_finest_wave_shrinks_by_the_cosine(axis):
    """(-1)^x moved by s is sampled as cos(pi s) (-1)^x: the mean of both ways to read it."""
    signs = (1.0 - 2.0 * (np.arange(8) % 2)).reshape([-1 if a == axis else 1 for a in range(3)])
    wave = np.broadcast_to(signs, (8, 8, 8)).astype(np.float32)
    shift = tuple(0.3 if a == axis else 0.0 for a in range(3))
    np.testing.assert_allclose(shift_volume(wave, shift), np.cos(0.3 * np.pi) * wave, atol=1e-6)


def test_whole_shifts_bring_zeros_in(rng):
    before = rng.normal(5, 1, (8, 9, 10)).astype(np.float32)
    after = shift_volume(before, (2.0, 0.0, -3.0))
    np.testing.assert_array_equal(after[2:, :, :7], before[:6, :, 3:])
    assert not after[:2].any()
    assert not after[:, :, 7:].any()
    assert not shift_volume(before, (0.0, 9.0, 0.0)).any()


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(-0.49, 0.49)] * 3))
def test_fractions_of_a_voxel_can_be_undone(shift):
    band_limited = np.random.default_rng(1).normal(size=(9, 11, 13)).astype(np.float32)  # odd: no Nyquist
    back = tuple(-s for s in shift)
    assert_inverse(lambda v: shift_volume(v, shift), lambda v: shift_volume(v, back), band_limited, 1e-5)


def test_shifting_is_linear(rng):
    a, b = rng.normal(size=(2, 8, 10, 12)).astype(np.float32)
    assert_linear(lambda v: shift_volume(v, (0.3, 2.0, -1.4)), a, b)


@pytest.mark.parametrize("size", [6, 7, 12, 13, 20])
@pytest.mark.parametrize("shape", [(12, 12, 12), (13, 13, 13), (10, 13, 16)])
def test_the_centre_voxel_stays_the_centre(rng, shape, size):
    """And every voxel keeps its place relative to it; what is outside is 0."""
    before = rng.normal(size=shape).astype(np.float32)
    after = assert_inputs_untouched(rebox, before, size)
    assert after.shape == (size,) * 3
    at = [np.arange(size) - size // 2 + n // 2 for n in shape]
    inside = [(a >= 0) & (a < n) for a, n in zip(at, shape, strict=True)]
    expected = np.zeros((size,) * 3, np.float32)
    expected[np.ix_(*inside)] = before[np.ix_(*[a[i] for a, i in zip(at, inside, strict=True)])]
    np.testing.assert_array_equal(after, expected)


def test_padding_and_cutting_back_changes_nothing(rng):
    for n in (10, 11):
        before = rng.normal(size=(n,) * 3).astype(np.float32)
        for larger in (16, 17):
            np.testing.assert_array_equal(rebox(rebox(before, larger), n), before)


@pytest.mark.parametrize(
    ("size", "pixel", "wanted", "new"),
    [(96, 2.7, 5.4, 48), (96, 1.35, 2.0, 64), (100, 1.0, 3.0, 32), (50, 2.0, 1.0, 100), (33, 2.0, 2.0, 32)],
)
def test_boxes_become_even(size, pixel, wanted, new):
    assert rescaled_size(size, pixel, wanted) == new


@pytest.mark.parametrize("old", [40, 41])
@pytest.mark.parametrize("new", [28, 40, 60, 64])
def test_a_rescaled_gaussian_is_the_gaussian_on_the_new_grid(old, new):
    """Values, place and centre; the centre voxel shows the same point before and after."""
    sigma, at = 3.2, (2.0, -3.5, 1.25)
    before = gaussian((old,) * 3, at, sigma)
    after = assert_inputs_untouched(rescale, before, new)
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, gaussian((new,) * 3, at, sigma, old / new), atol=3e-4)


def test_rescaling_keeps_waves_below_the_new_limit(rng):
    """Down and up again: what the coarse grid can hold comes back, and the mean is kept."""
    spectrum = np.fft.rfftn(rng.normal(size=(24, 24, 24)))
    k = np.fft.fftfreq(24, 1 / 24)
    spectrum *= (np.abs(k)[:, None, None] < 8) & (np.abs(k)[:, None] < 8) & (np.arange(13) < 8)
    smooth = np.fft.irfftn(spectrum, s=(24, 24, 24), axes=(0, 1, 2)) + 3.0
    small = rescale(smooth.astype(np.float32), 16)
    assert small.mean() == pytest.approx(smooth.mean(), rel=1e-5)
    np.testing.assert_allclose(rescale(small, 24), smooth, atol=2e-5)


@pytest.mark.parametrize("n", [12, 13])
def test_the_mirror_stands_in_the_centre_voxel(rng, n):
    before = rng.normal(size=(n,) * 3).astype(np.float32)
    after = assert_inputs_untouched(invert_hand, before)
    np.testing.assert_array_equal(after[:, :, n // 2], before[:, :, n // 2])
    for step in range(1, (n - 1) // 2 + 1):
        np.testing.assert_array_equal(after[:, :, n // 2 + step], before[:, :, n // 2 - step])
    np.testing.assert_array_equal(invert_hand(after), before)
    found, expected = invert_hand(gaussian((n,) * 3, (1, 2, 3))), gaussian((n,) * 3, (1, 2, -3))
    np.testing.assert_allclose(found[:, :, 1:], expected[:, :, 1:], atol=1e-6)


@pytest.mark.parametrize("name", ["C2", "C3", "C6", "D2", "D3", "T", "O", "I1"])
@pytest.mark.parametrize("n", [30, 31])
def test_a_blob_spreads_over_its_mates(name, n):
    """Of one Gaussian the average shows all its symmetry mates, each with 1 / order of the height."""
    operators = symmetry_operators_zyx(name)
    at = np.array([3.1, -2.2, 6.3])
    found = assert_inputs_untouched(symmetrise_volume, gaussian((n,) * 3, at), operators)
    expected = sum(gaussian((n,) * 3, operator @ at) for operator in operators) / len(operators)
    index = np.arange(n) - n // 2
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    np.testing.assert_allclose(found[r < 13], expected[r < 13], atol=0.01 * expected.max() + 1e-4)


def test_quarter_turns_are_exact(rng):
    """About voxel n / 2 of an even box; the edge, whose mates lie outside, is averaged over those that do not."""
    n = 12
    before = rng.normal(size=(n,) * 3).astype(np.float32)
    after = symmetrise_volume(before, symmetry_operators_zyx("C4")).astype(np.float64)
    total, count = np.zeros((n, n, n)), np.zeros((n, n, n))
    index = np.arange(n) - n // 2
    for turn in ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)):
        a, b, c, d = turn
        y = a * index[:, None] + b * index + n // 2
        x = c * index[:, None] + d * index + n // 2
        inside = (y >= 0) & (y < n) & (x >= 0) & (x < n)
        total[:, inside] += before[:, y[inside], x[inside]]
        count[:, inside] += 1
    np.testing.assert_allclose(after, total / count, atol=1e-5)


@pytest.mark.parametrize("name", ["C3", "C7", "D5", "O", "I2"])
def test_edges_do_not_darken(name):
    """A constant stays constant to the corners."""
    flat = np.full((14,) * 3, 2.5, np.float32)
    np.testing.assert_allclose(symmetrise_volume(flat, symmetry_operators_zyx(name)), flat, rtol=1e-6)


def test_the_average_has_the_symmetry(rng):
    """Inside the sphere a further turn changes nothing that splines do not smear."""
    n = 28
    blobs = sum(gaussian((n,) * 3, c, 2.5) for c in rng.normal(size=(6, 3)) * 4)
    once = symmetrise_volume(blobs, symmetry_operators_zyx("D3"))
    twice = symmetrise_volume(once, symmetry_operators_zyx("D3"))
    np.testing.assert_allclose(twice[6:22, 6:22, 6:22], once[6:22, 6:22, 6:22], atol=1e-3 * once.max())
    other = symmetrise_volume(once, symmetry_operators_zyx("C5"))
    assert np.abs(other - once).max() > 0.05 * once.max()


def test_the_identity_may_stand_anywhere(rng):
    volume = rng.normal(size=(9,) * 3).astype(np.float32)
    operators = symmetry_operators_zyx("D2")
    turned_round = symmetrise_volume(volume, operators[::-1].copy())
    np.testing.assert_allclose(turned_round, symmetrise_volume(volume, operators), atol=1e-6)
    np.testing.assert_array_equal(symmetrise_volume(volume, operators[:1]), volume)


@pytest.mark.parametrize("n", [14, 33, 48])
def test_threads_change_no_bit(rng, n):
    volume = rng.normal(size=(n,) * 3).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        steps = symmetrise_in_steps(volume, symmetry_operators_zyx("C3"), threads)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                results.append(end.value)
                break
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_steps_are_counted():
    steps = symmetrise_in_steps(np.ones((6,) * 3, np.float32), symmetry_operators_zyx("O"))
    assert list(steps) == list(range(1, 25))


def test_turns_go_the_way_of_the_operators():
    """Not only groups: one rotation by 40 deg about z takes +x towards +y."""
    turn = Rotation.from_euler("z", 40, degrees=True).as_matrix()[::-1, ::-1].copy()
    both = symmetrise_volume(gaussian((24,) * 3, (0, 0, 6.0)), np.stack([np.eye(3), turn]))
    back = Rotation.from_euler("z", -40, degrees=True).as_matrix()[::-1, ::-1] @ [0, 0, 6.0]
    expected = (gaussian((24,) * 3, (0, 0, 6.0)) + gaussian((24,) * 3, back)) / 2
    np.testing.assert_allclose(both[4:20, 4:20, 4:20], expected[4:20, 4:20, 4:20], atol=5e-3)
