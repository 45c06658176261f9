"""Images masked and transformed, and their first noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.images import (
    fill_outside,
    filled_noise,
    image_transforms,
    initial_noise,
    pixel_ctf,
    shell_powers,
    soft_disc,
    window_power,
)
from napari_sta.kernels.refine.pixels import make_pixel_list
from toy_refinement import SIZE


def test_transform_of_a_wave_is_one_pixel():
    k = torch.arange(SIZE) - SIZE // 2
    wave = 2 * torch.cos(2 * torch.pi * (3 * k[None, :] - 2 * k[:, None]) / SIZE)
    spectrum = image_transforms(wave[None].float())[0]
    assert spectrum[-2 % SIZE, 3].real == pytest.approx(1, abs=1e-6)
    assert float(spectrum.abs().sum()) == pytest.approx(1, abs=1e-4)


def test_fill_outside_takes_the_mean_of_the_outside():
    disc = soft_disc(32, 8.0, 5.0)
    image = torch.full((32, 32), 7.0)
    image[16, 16] = 100
    filled = fill_outside(image, disc)
    assert float(filled[0, 0]) == pytest.approx(7)
    assert float(filled[16, 16]) == pytest.approx(100)
    k = torch.arange(32) - 16
    r = (k[:, None] ** 2 + k[None, :] ** 2).sqrt()
    assert (disc[r <= 8] == 1).all()
    assert (disc[r >= 13] == 0).all()
    assert float(disc[16, 16 + 10]) == pytest.approx(0.5 + 0.5 * np.cos(np.pi * 0.4))


def test_initial_noise_of_signal_plus_noise():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(SIZE, SIZE)) * 2
    images = torch.from_numpy((signal + rng.normal(size=(500, SIZE, SIZE))).astype(np.float32))
    sigma2 = initial_noise(image_transforms(images))
    np.testing.assert_allclose(sigma2[2:], 0.5 / SIZE**2, rtol=0.1)


def test_ctf_at_listed_pixels_by_hand(rng):
    """Every coefficient at its power of the frequency, pixel by pixel; the envelope times it."""
    pixels, pixel = make_pixel_list(SIZE, 6), 2.7
    coefficients = rng.normal(size=(3, 5)) * np.array([300, 300, 300, 4000, 1])
    envelopes = rng.uniform(0.5, 1, (3, len(pixels)))
    extra = rng.normal(size=len(pixels))
    found = pixel_ctf(coefficients, envelopes, pixels, pixel, extra_phase=extra)
    peak = pixel_ctf(coefficients, envelopes, pixels, pixel, first_peak=True, extra_phase=extra)
    for i, (v, u) in enumerate(zip(pixels.v / (SIZE * pixel), pixels.u / (SIZE * pixel), strict=True)):
        for t, (yy, yx, xx, quartic, constant) in enumerate(coefficients):
            k2 = v**2 + u**2
            gamma = yy * v**2 + yx * v * u + xx * u**2 + quartic * k2**2 + constant + extra[i]
            assert found[t, i] == pytest.approx(-np.sin(gamma) * envelopes[t, i])
            before = abs(gamma) < np.pi / 2
            assert peak[t, i] == pytest.approx((1.0 if before else -np.sin(gamma)) * envelopes[t, i])
    assert 0 < (peak != found).mean() < 1
    plain = pixel_ctf(coefficients, envelopes, pixels, pixel)
    assert np.abs(plain - found).max() > 0.1


def test_ctf_is_never_nothing():
    pixels = make_pixel_list(SIZE, 2)
    tiny = np.array([[0, 0, 0, 0, 1e-10], [0, 0, 0, 0, -1e-10], [0, 0, 0, 0, 0.0]])
    found = pixel_ctf(tiny, np.ones((3, len(pixels))), pixels, 1.0)
    assert found[:, 0].tolist() == [-1e-8, 1e-8, 1e-8]
    # On the brink nothing changes.
    brink = np.array([[0, 0, 0, 0, -2e-8]])
    assert pixel_ctf(brink, np.ones((1, len(pixels))), pixels, 1.0)[0, 0] == pytest.approx(2e-8)


def test_powers_by_shell(rng):
    spectra = torch.from_numpy(rng.normal(size=(2, 4, 3)) + 1j * rng.normal(size=(2, 4, 3)))
    shells = torch.tensor([[0, 1, 2], [1, 1, 3], [2, 2, 9], [1, 3, 9]])
    found = shell_powers(spectra, shells, 3)
    assert found.shape == (2, 3)
    for t, k in np.ndindex(2, 3):
        assert found[t, k] == pytest.approx(float((spectra[t][shells == k].abs() ** 2).sum()))


def test_power_of_a_window(rng):
    spectra = torch.from_numpy(rng.normal(size=(3, 10, 6)) + 1j * rng.normal(size=(3, 10, 6)))
    rows = [v % 10 for v in range(-2, 4)]  # -radius < v <= radius
    expected = (spectra[:, rows][:, :, :4].abs() ** 2).sum(dim=(1, 2))
    np.testing.assert_allclose(window_power(spectra, 3), expected.numpy())


def test_shells_without_positive_noise_take_the_one_before():
    filled = filled_noise(np.array([-1.0, 0.0, 3.0, -2.0, 0.0, 5.0, -1.0]))
    assert filled.tolist() == [3, 3, 3, 3, 3, 5, 5]
    assert filled_noise(np.array([-1.0, 0.0])).tolist() == [1, 1]


def test_balls_and_discs_off_the_device():
    ball = soft_disc(9, 2.0, 1.5, n_dim=3)
    assert ball.shape == (9, 9, 9)
    assert ball[4, 4, 6] == 1
    assert float(ball[4, 4, 7]) == pytest.approx(0.5 + 0.5 * np.cos(np.pi / 1.5))
    assert ball[4, 4, 8] == 0
    assert ball[6, 6, 6] < 1


def test_fill_outside_of_volumes(rng):
    volume, ball = torch.from_numpy(rng.normal(size=(8, 8, 8))), soft_disc(8, 2.0, 2.0, n_dim=3)
    filled = fill_outside(volume, ball, n_dim=3)
    mean = float((volume * (1 - ball)).sum() / (1 - ball).sum())
    torch.testing.assert_close(filled, volume * ball + mean * (1 - ball))
    assert fill_outside(volume[0], torch.ones(8, 8, dtype=torch.float64)).equal(volume[0])
