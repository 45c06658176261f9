"""Filters: printed values, planted B-factors, and resampling that keeps centres."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laws import assert_inputs_untouched
from napari_sta.kernels import fourier
from napari_sta.kernels.filters import (
    Guinier,
    Sharpener,
    bfactor_factor,
    fit_line,
    fsc_weight,
    guinier,
    lowpass,
    lowpass_factor,
    mtf_of_radius,
    resample_to_grid,
    sharpen_map,
)


def test_lowpass_profile():
    """N = 40, 1.35 Å, 15 Å: half value at shell 4, one shell to either side."""
    factor = lowpass_factor(40, 1.35, 15.0)
    assert factor[0, 0, :7].tolist() == pytest.approx([1, 1, 1, 1, 0.5, 0, 0])
    r = float(np.sqrt(3**2 + 1 + 1))
    assert float(factor[3, 1, 1]) == pytest.approx(0.5 + 0.5 * np.cos(np.pi * (r - 3) / 2))
    assert float(factor[-3, -1, 1]) == pytest.approx(float(factor[3, 1, 1]))


def test_lowpass_at_very_low_resolution():
    """Shell 0: the edge begins at 0 and ends at 1."""
    factor = lowpass_factor(20, 2.0, 500.0)
    assert factor[0, 0, :3].tolist() == pytest.approx([1, 0, 0])


def test_lowpass_of_a_wave():
    x = torch.arange(40, dtype=torch.float64)
    for shell, left in ((3, 1.0), (4, 0.5), (5, 0.0)):
        wave = torch.cos(2 * torch.pi * shell * x / 40).expand(40, 40, 40).contiguous()
        filtered = assert_inputs_untouched(lowpass, wave, 1.35, 15.0)
        torch.testing.assert_close(filtered, left * wave, atol=1e-12, rtol=0)


def test_bfactor_profile():
    factor = bfactor_factor(32, 2.5, -90.0)
    k = np.sqrt(5**2 + 2**2 + 7**2) / (32 * 2.5)
    assert float(factor[5, -2, 7]) == pytest.approx(np.exp(90 / 4 * k * k))
    assert float(factor[0, 0, 16]) == pytest.approx(np.exp(90 / 4 * 0.04))
    assert float(factor[1, 0, 16]) == 0  # beyond Nyquist
    assert float(factor[0, 0, 0]) == 1


def test_fsc_weights():
    """f = 0.341382 gives 0.713443; 0 from the first shell below 1e-4 on, even if later shells recover."""
    fsc = torch.tensor([1.0, 0.341382, 0.5, 0.00009, 0.9, -0.2], dtype=torch.float64)
    weight = fsc_weight(fsc)
    assert weight[:3].tolist() == pytest.approx([1.0, 0.713443, np.sqrt(2 / 3)], abs=1e-6)
    assert weight[3:].tolist() == [0, 0, 0]
    assert fsc_weight(torch.tensor([0.9, 0.8])).tolist() == pytest.approx(np.sqrt([1.8 / 1.9, 1.6 / 1.8]))


@pytest.mark.parametrize("bfactor", [-150.0, 80.0, 244.783])
def test_guinier_fit_recovers_a_planted_bfactor(bfactor):
    size, pixel = 48, 1.5
    spectrum = 7.0 * torch.exp(-bfactor / 4 * (fourier.radius_px((size,) * 3) / (size * pixel)) ** 2)
    plot = guinier(spectrum.to(torch.complex128), size, pixel)
    assert len(plot.log_amplitude) == 25
    assert float(plot.inverse_square_angst2[10]) == pytest.approx((10 / 72) ** 2)
    assert float(plot.log_amplitude[0]) == pytest.approx(np.log(7 / size**3))
    fit = fit_line(plot, 10.0)
    assert 4 * fit.slope == pytest.approx(-bfactor, rel=0.01)
    assert fit.intercept == pytest.approx(np.log(7 / size**3), abs=0.03)
    assert fit.correlation > 0.999


def test_fit_of_a_known_line():
    x = torch.linspace(0, 0.1, 30, dtype=torch.float64)
    plot = Guinier(x, 2.0 - 61.1957 * x)
    fit = fit_line(plot, 10.0)
    assert 4 * fit.slope == pytest.approx(-244.783, abs=1e-3)  # printed example
    assert fit.intercept == pytest.approx(2.0)
    assert fit.correlation == pytest.approx(1.0)


def test_fit_range_and_empty_shells():
    """Points outside the range and shells without signal take no part."""
    d = torch.tensor([40.0, 20.0, 9.9, 8.0, 6.0, 5.0], dtype=torch.float64)
    x = d**-2
    y = 1.0 + 3.0 * x
    y[:2], y[3] = 50.0, -99.0
    assert fit_line(Guinier(x, y), 10.0).slope == pytest.approx(3.0)
    y[5] = 50.0
    assert fit_line(Guinier(x, y), 10.0, 5.5).slope == pytest.approx(3.0)
    with pytest.raises(ValueError, match=r"fewer than two shells with signal are finer than 5\.5"):
        fit_line(Guinier(x, y), 5.5)


def test_empty_shells_are_marked():
    spectrum = torch.zeros((12, 12, 7), dtype=torch.complex128)
    spectrum[0, 0, 3] = 5.0
    plot = guinier(spectrum, 12, 2.0)
    assert float(plot.log_amplitude[2]) == -99
    assert float(plot.log_amplitude[3]) > -20


def smooth_map(size: int) -> np.ndarray:
    rng = np.random.default_rng(11)
    spectrum = torch.fft.rfftn(torch.from_numpy(rng.normal(size=(size,) * 3)))
    spectrum *= torch.exp(-((fourier.radius_px((size,) * 3) / (size / 6)) ** 2))
    return torch.fft.irfftn(spectrum, s=(size,) * 3).float().numpy()


@pytest.mark.parametrize(
    ("bfactor", "resolution", "with_fsc"),
    [
        pytest.param(-120.0, None, False, id="sharpened"),
        pytest.param(0.0, 12.0, False, id="low-passed"),
        pytest.param(90.0, 9.0, True, id="all"),
        pytest.param(0.0, None, True, id="FSC-weighted"),
    ],
)
def test_sharpener_does_what_the_filters_do(bfactor, resolution, with_fsc):
    size, pixel = 36, 2.4
    volume = smooth_map(size)
    fsc = np.clip(1.1 - np.arange(size // 2 + 1) / 14, -1, 1) if with_fsc else None
    spectrum = torch.fft.rfftn(torch.from_numpy(volume).double())
    if fsc is not None:
        weight = torch.cat([fsc_weight(torch.from_numpy(fsc)), torch.zeros(1, dtype=torch.float64)])
        spectrum = spectrum * weight[fourier.shell_index((size,) * 3).clamp(max=len(fsc))]
    if bfactor:
        spectrum = spectrum * bfactor_factor(size, pixel, bfactor)
    if resolution:
        spectrum = spectrum * lowpass_factor(size, pixel, resolution)
    expected = torch.fft.irfftn(spectrum, s=(size,) * 3).numpy()
    found = assert_inputs_untouched(sharpen_map, volume, pixel, bfactor, resolution, fsc)
    assert found.dtype == np.float32
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03 * expected.std()


def test_sharpener_can_be_asked_again():
    volume = smooth_map(24)
    sharpener = Sharpener(volume, 2.0)
    sharpener(-200.0, 10.0)
    np.testing.assert_allclose(sharpener(), volume, atol=1e-6)


def blob(size: int, pixel: float, at_zyx_angst) -> np.ndarray:
    axes = [(np.arange(size) - size // 2) * pixel - c for c in at_zyx_angst]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.exp(-(z**2 + y**2 + x**2) / (2 * 9.0**2)).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "pixel", "new_size", "new_pixel"),
    [
        pytest.param(40, 2.0, 24, 3.3, id="coarser"),
        pytest.param(24, 3.3, 40, 2.0, id="finer"),
        pytest.param(40, 2.0, 31, 2.6, id="to an odd box"),
        pytest.param(31, 2.6, 40, 2.0, id="from an odd box"),
        pytest.param(40, 2.0, 64, 2.0, id="larger box"),
    ],
)
def test_resampling_keeps_centres(size, pixel, new_size, new_pixel):
    at = (5.0, -7.0, 3.0)
    moved = assert_inputs_untouched(resample_to_grid, blob(size, pixel, at), pixel, new_size, new_pixel)
    assert moved.shape == (new_size,) * 3
    axis = (np.arange(new_size) - new_size // 2) * new_pixel
    for which, wanted in enumerate(at):
        profile = moved.sum(axis=tuple(a for a in range(3) if a != which))
        assert (profile * axis).sum() / profile.sum() == pytest.approx(wanted, abs=0.01 * new_pixel)
    assert moved.max() <= 1
    assert moved.min() >= 0


def test_resampling_to_the_same_grid_changes_nothing():
    volume = smooth_map(12)
    np.testing.assert_array_equal(resample_to_grid(volume, 2.0, 12, 2.0), volume)


def test_mtf_table():
    """Linear between rows; row 0 up to the first step, the last row beyond the table."""
    rho = np.linspace(0, 0.45, 10)
    mtf = 1 - 0.9 * rho + 0.3 * (rho == 0)  # row 0 stands out
    pixel = 1.4
    step = 0.45 / pixel / 10  # RELION divides by the number of rows, not by one less
    k = torch.tensor([0.0, 0.99 * step, 1.5 * step, 5.25 * step, 9.0 * step, 3.0], dtype=torch.float64)
    found = mtf_of_radius(rho, mtf, pixel, k)
    expected = [1.3, 1.3, 1 - 0.9 * 1.5 * step * pixel, 1 - 0.9 * 5.25 * step * pixel, mtf[-1], mtf[-1]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_mtf_must_be_positive():
    with pytest.raises(ValueError, match="not positive"):
        mtf_of_radius(np.array([0.0, 0.25, 0.5]), np.array([1.0, 0.0, 0.1]), 1.0, torch.tensor([0.1]))
