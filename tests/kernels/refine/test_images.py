"""Images masked and transformed, and their first noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.images import (
    fill_outside,
    image_transforms,
    initial_noise,
    soft_disc,
)
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
