"""Pseudo-subtomograms transformed, and what their weights say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.volumes import (
    initial_volume_noise,
    moved_by_voxels,
    shell_totals,
    spreading_falloff,
    volume_transform,
    volume_window_power,
    weights_of,
)
from napari_sta.kernels.refine.voxels import half_space_shells, make_voxel_list
from toy_refinement import RADIUS, SHELLS, SIZE, joined


def test_transform_of_a_wave_is_one_voxel():
    k = torch.arange(SIZE) - SIZE // 2
    wave = 2 * torch.cos(2 * torch.pi * (3 * k[None, None] - 2 * k[None, :, None] + k[:, None, None]) / SIZE)
    spectrum = volume_transform(wave.float())
    assert spectrum[1, -2 % SIZE, 3].real == pytest.approx(1, abs=1e-6)
    assert float(spectrum.abs().sum()) == pytest.approx(1, abs=1e-3)
    pixels = make_voxel_list(SIZE, RADIUS, part=100)
    taken = joined(pixels.take(spectrum), pixels)
    at = (pixels.w == 1) & (pixels.v == -2) & (pixels.u == 3)
    assert taken[at] == pytest.approx(1, abs=1e-6)
    assert np.abs(taken[~at]).max() < 1e-6


def test_volume_moves_by_whole_voxels_with_zeros_behind():
    volume = torch.arange(64.0).reshape(4, 4, 4)
    moved = moved_by_voxels(volume, (1, -2, 0))
    assert moved[2, 1, 3] == volume[1, 3, 3]
    assert not moved[0].any()
    assert not moved[:, 2:].any()
    assert not moved_by_voxels(volume, (5, 0, 0)).any()


def test_weights_are_empty_where_no_slice_came():
    stored = torch.zeros((4, 2, 2))
    stored[:2] = -0.5
    stored[2:] = 3.0
    stored[2, 0, 0] = 0.005
    weights = weights_of(stored)
    assert weights.ctf2[0, 0, 0] == 0
    assert weights.multiplicity[0, 0, 0] == 0
    assert weights.ctf2[1, 0, 0] == 0.5


def test_spreading_fades_a_volume_like_sinc_squared():
    """A slice's pixel, spread over 8 voxels, is a wave that fades away from the centre, on average."""
    rng = np.random.default_rng(0)
    size = 8
    r = np.arange(size) - size // 2
    total = np.zeros((size,) * 3, complex)
    n = 3000
    for _ in range(n):
        k = rng.uniform(-3, 3, 3)
        low = np.floor(k)
        wave = np.ones((1, 1, 1), complex)
        for axis in range(3):
            f = k[axis] - low[axis]
            one = (1 - f) * np.exp(2j * np.pi * low[axis] * r / size) + f * np.exp(
                2j * np.pi * (low[axis] + 1) * r / size
            )
            shape = [-1 if a == axis else 1 for a in range(3)]
            wave = wave * (one * np.exp(-2j * np.pi * k[axis] * r / size)).reshape(shape)
        total += wave / n
    np.testing.assert_allclose(total.real, spreading_falloff(size).numpy(), atol=0.03)


def test_window_power_counts_both_mates(rng):
    volume = torch.from_numpy(rng.normal(size=(SIZE,) * 3).astype(np.float32))
    spectrum = volume_transform(volume)
    full = np.fft.fftn(volume.numpy()) / SIZE**3
    rows = np.arange(-4, 6)
    expected = (np.abs(full[np.ix_(rows, rows, np.arange(6))]) ** 2).sum()
    assert volume_window_power(spectrum, 5) == pytest.approx(expected, rel=1e-5)


def test_noise_at_the_start_is_that_of_one_slice(rng):
    signal = rng.normal(size=(SIZE,) * 3)
    slices = torch.full((SIZE, SIZE, SHELLS), 3.0)
    spectra = [
        volume_transform(
            torch.from_numpy((signal + np.sqrt(3) * rng.normal(size=signal.shape)).astype(np.float32))
        )
        for _ in range(60)
    ]
    sigma2 = initial_volume_noise(spectra, [slices] * 60)
    np.testing.assert_allclose(sigma2[2:], 0.5 / SIZE**3, rtol=0.1)


@pytest.mark.parametrize("shift", [(1, -2, 0), (0, 3, -1), (-3, 0, 2), (0, 0, 0), (-9, 1, 1), (4, 0, 0)])
def test_moves_of_every_axis(rng, shift):
    volume = torch.from_numpy(rng.normal(size=(4, 4, 4)))
    padded = np.zeros((24, 24, 24))
    padded[10:14, 10:14, 10:14] = volume.numpy()
    expected = np.roll(padded, shift, (0, 1, 2))[10:14, 10:14, 10:14]
    np.testing.assert_array_equal(moved_by_voxels(volume, shift).numpy(), expected)


def test_noise_at_the_start_by_hand(rng):
    """Power of the volumes less that of their average, over twice the slices of each shell."""
    size, n = 6, 3
    spectra = [
        torch.from_numpy(rng.normal(size=(6, 6, 4)) + 1j * rng.normal(size=(6, 6, 4))) for _ in range(n)
    ]
    slices = [torch.from_numpy(rng.uniform(1, 3, (6, 6, 4))) for _ in range(n)]
    shells = half_space_shells(size)
    mean = sum(spectra) / n
    expected = []
    for k in range(size // 2 + 1):
        here = shells == k
        power = sum(float((one[here].abs() ** 2).sum()) for one in spectra) - n * float(
            (mean[here].abs() ** 2).sum()
        )
        expected.append(power / (2 * sum(float(one[here].sum()) for one in slices)))
    found = initial_volume_noise(spectra, slices)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(
        shell_totals(slices[0], shells, 3), [float(slices[0][shells == k].sum()) for k in range(3)]
    )


def test_falloff_by_hand():
    size = 6
    found = spreading_falloff(size)
    for z, y, x in np.ndindex(size, size, size):
        expected = np.prod([np.sinc((a - 3) / size) ** 2 for a in (z, y, x)])
        assert float(found[z, y, x]) == pytest.approx(expected)


def test_weights_at_the_limit():
    stored = torch.tensor([0.2, -0.3, 0.02, 0.0101, 0.01, 0.009])[:, None, None].repeat(1, 2, 2)[
        [0, 1, 2, 2, 3, 4]
    ]
    weights = weights_of(stored, 0.0101)
    assert weights.ctf2[:, 0, 0].tolist() == pytest.approx([0.2, 0, 0])
    assert weights.multiplicity[:, 0, 0].tolist() == pytest.approx([0.02, 0, 0])
    assert weights_of(stored).ctf2[:, 0, 0].tolist() == pytest.approx([0.2, 0.3, 0])
