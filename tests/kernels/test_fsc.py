"""FSC, resolution, phase randomisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laws import assert_inputs_untouched, assert_invariant
from napari_sta.kernels import fourier
from napari_sta.kernels.fsc import (
    RelionRandom,
    first_below,
    fourier_shell_correlation,
    masked_fsc,
    randomise_phases,
    resolution_angst,
)


def noise(rng, size: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(size,) * 3))


@pytest.mark.parametrize("size", [16, 15])
def test_identity(rng, size):
    a = noise(rng, size)
    curve = assert_inputs_untouched(fourier_shell_correlation, a, a)
    assert len(curve) == size // 2 + 1
    torch.testing.assert_close(curve, torch.ones_like(curve))
    torch.testing.assert_close(fourier_shell_correlation(a, -2 * a), -torch.ones_like(curve))
    assert_invariant(
        lambda b: fourier_shell_correlation(a, b), lambda b: 3.7 * b, noise(rng, size), rtol=1e-12
    )


def test_independent_noise_does_not_correlate(rng):
    curve = fourier_shell_correlation(noise(rng, 40), noise(rng, 40))
    shells = fourier.shell_index((40, 40, 40))
    count = fourier.shell_sum(torch.ones_like(shells, dtype=torch.float64), shells, 21)
    assert float((curve[3:].abs() * count[3:].sqrt()).max()) < 4.5


def test_signal_to_noise(rng):
    """Two copies of white signal with noise of half its variance: SNR / (1 + SNR) = 2/3."""
    signal = noise(rng, 48)
    a, b = (signal + np.sqrt(0.5) * noise(rng, 48) for _ in "ab")
    curve = fourier_shell_correlation(a, b)
    assert float(curve[8:].mean()) == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize("size", [8, 9])
def test_sums_run_over_the_half_transform_as_stored(rng, size):
    """Shell by shell against plain loops: the x = 0 plane holds both Friedel mates and counts twice."""
    a, b = rng.normal(size=(2, size, size, size))
    fa, fb = np.fft.rfftn(a), np.fft.rfftn(b)
    k = np.fft.fftfreq(size, 1 / size)
    sums = np.zeros((3, size))
    for z in range(size):
        for y in range(size):
            for x in range(size // 2 + 1):
                shell = int(np.floor(np.sqrt(k[z] ** 2 + k[y] ** 2 + x**2) + 0.5))
                one, two = fa[z, y, x], fb[z, y, x]
                if shell < size:
                    sums[:, shell] += (one * two.conjugate()).real, abs(one) ** 2, abs(two) ** 2
    expected = (sums[0] / np.sqrt(sums[1] * sums[2]))[: size // 2 + 1]
    curve = fourier_shell_correlation(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(curve.numpy(), expected, atol=1e-12)


def test_only_cubes_of_one_size(rng):
    a = noise(rng, 8)
    unchecked = getattr(fourier_shell_correlation, "__wrapped__", fourier_shell_correlation)
    with pytest.raises(
        ValueError, match="two cubic volumes of one size, got \\(8, 8, 8\\) and \\(6, 6, 6\\)"
    ):
        unchecked(a, noise(rng, 6))


@pytest.mark.parametrize(
    ("curve", "resolution"),
    [
        pytest.param([1.0, 0.9, 0.5, 0.1, 0.9], 8 * 2.5 / 2, id="last shell before the first failure"),
        pytest.param([1.0, 0.9, 0.143, 0.142, 0.0], 8 * 2.5 / 2, id="the threshold itself passes"),
        pytest.param([1.0, 0.9, 0.8, 0.7, 0.6], 8 * 2.5 / 4, id="never below: Nyquist"),
        pytest.param([0.1, 0.9, 0.8, 0.7, 0.6], 999.0, id="shell 0 fails"),
        pytest.param([1.0, 0.1, 0.8, 0.7, 0.6], float("inf"), id="only shell 0 passes"),
    ],
)
def test_resolution(curve, resolution):
    assert resolution_angst(torch.tensor(curve), 8, 2.5) == pytest.approx(resolution)


def test_first_below():
    curve = torch.tensor([0.5, 1.0, 0.7, 0.3])
    assert first_below(curve, 0.8) == 0
    assert first_below(curve, 0.8, first=1) == 2
    assert first_below(curve, 0.1) is None


# What rand() of the C library gives after srand(0); C programs print these.
RAND = [1804289383, 846930886, 1681692777, 1714636915, 1957747793]


def test_stream_is_that_of_the_c_library():
    step = np.float32(np.float32(2147483647) / np.float32(2 * np.pi))
    expected = np.array(RAND, np.float32) / step
    np.testing.assert_array_equal(RelionRandom(0).phases(5), expected.astype(np.float64))
    np.testing.assert_array_equal(RelionRandom(1).phases(5), expected.astype(np.float64))
    assert not np.array_equal(RelionRandom(2).phases(5), expected)


def test_stream_continues():
    whole, parts = RelionRandom(7), RelionRandom(7)
    together = whole.phases(100)
    np.testing.assert_array_equal(np.concatenate([parts.phases(n) for n in (3, 50, 0, 47)]), together)
    assert together.min() >= 0
    assert together.max() <= 2 * np.pi + 1e-6


@pytest.mark.parametrize("size", [16, 15])
def test_randomised_phases_keep_amplitudes(rng, size):
    volume = noise(rng, size)
    changed = assert_inputs_untouched(randomise_phases, volume, 4, RelionRandom(0))
    before, after = torch.fft.rfftn(volume), torch.fft.rfftn(changed)
    radius = fourier.radius_px((size,) * 3)
    inner = radius < 4
    torch.testing.assert_close(after[inner], before[inner])
    # On the planes that hold Friedel mates the inverse transform decides; off them amplitudes stay.
    free = torch.zeros_like(inner)
    free[..., 1 : (size + 1) // 2] = True
    outer = (radius >= 4) & free
    torch.testing.assert_close(after[outer].abs(), before[outer].abs())
    assert float((after[outer] - before[outer]).abs().min()) > 0
    angle = torch.angle(after[outer])
    assert abs(float(torch.exp(1j * angle).mean().abs())) < 4 / np.sqrt(int(outer.sum()))


def test_replaced_components_take_the_stream_in_order(rng):
    """z, y, x with x fastest, from the first component with |k| >= the shell."""
    size, shell = 8, 3
    changed = torch.fft.rfftn(randomise_phases(noise(rng, size), shell, RelionRandom(0)))
    radius = fourier.radius_px((size,) * 3)
    places = (radius >= shell).nonzero().tolist()
    phases = RelionRandom(0).phases(len(places))
    for (z, y, x), phase in list(zip(places, phases, strict=True))[:60]:
        if 0 < x < size // 2:
            assert np.angle(complex(changed[z, y, x]) * np.exp(-1j * phase)) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def halves():
    """Half maps with signal to about shell 12 of 24, and a soft ball as mask."""
    rng = np.random.default_rng(4)
    size = 48
    radius = fourier.radius_px((size,) * 3)
    index = np.arange(size) - size // 2
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    inside = torch.from_numpy(np.clip((16 - r) / 4, 0, 1))
    signal = torch.fft.irfftn(
        torch.fft.rfftn(noise(rng, size)) * torch.exp(-((radius / 8) ** 2)), s=(size,) * 3
    )
    signal = signal * inside
    a, b = (signal + 0.03 * noise(rng, size) for _ in "ab")
    return a, b, inside


def test_masked_fsc(halves):
    a, b, mask = halves
    found = masked_fsc(a, b, mask)
    start = found.randomised_from
    torch.testing.assert_close(found.unmasked[1:], fourier_shell_correlation(a, b)[1:])
    torch.testing.assert_close(found.masked, fourier_shell_correlation(a * mask, b * mask))
    assert start == first_below(found.unmasked, 0.8, first=1)
    torch.testing.assert_close(found.corrected[: start + 2], found.masked[: start + 2])
    tail = slice(start + 2, None)
    expected = (found.masked[tail] - found.randomised[tail]) / (1 - found.randomised[tail])
    torch.testing.assert_close(found.corrected[tail], expected)
    # Below the shell nothing changes; beyond it randomised halves hardly correlate under a soft mask.
    assert float(found.randomised[start // 2]) > 0.9
    assert float(found.randomised[start + 3 :].abs().mean()) < 0.25
    assert resolution_angst(found.corrected, 48, 2.0) < resolution_angst(found.unmasked, 48, 2.0)


def test_second_half_continues_the_stream(halves):
    """The same phases for both halves would correlate perfectly."""
    a, _, mask = halves
    found = masked_fsc(a, a + 0, mask, from_shell=5)
    assert float(found.randomised[9:].abs().mean()) < 0.25


def test_mask_cannot_hide_that_noise_is_noise(rng):
    """A tight hard mask alone makes unrelated noise correlate; the correction takes that away."""
    size = 32
    radius = fourier.radius_px((size,) * 3)
    low = (radius < 4).double()
    shared = torch.fft.irfftn(torch.fft.rfftn(noise(rng, size)) * low, s=(size,) * 3) * 4
    mask = torch.zeros((size,) * 3, dtype=torch.float64)
    mask[12:19, 13:20, 12:20] = 1
    found = masked_fsc(shared + 0.2 * noise(rng, size), shared + 0.2 * noise(rng, size), mask)
    assert float(found.masked[7:11].mean()) > 0.25
    assert abs(float(found.corrected[7:11].mean())) < 0.5 * float(found.masked[7:11].mean())


def test_printed_example_of_the_correction(halves):
    """(0.378195 - 0.055894) / (1 - 0.055894) = 0.341382, by way of a shell of our own numbers."""
    a, b, mask = halves
    found = masked_fsc(a, b, mask)
    shell = found.randomised_from + 4
    masked, randomised = float(found.masked[shell]), float(found.randomised[shell])
    assert float(found.corrected[shell]) == pytest.approx((masked - randomised) / (1 - randomised))
    assert pytest.approx(0.341382, abs=1e-6) == (0.378195 - 0.055894) / (1 - 0.055894)


def test_identical_halves_cannot_be_randomised(rng):
    a = noise(rng, 12)
    with pytest.raises(ValueError, match=r"the unmasked FSC never falls below 0\.8"):
        masked_fsc(a, a, torch.ones_like(a))
