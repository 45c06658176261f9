"""Optics against printed numbers: wavelength, CTF phase, dose, aberrations, envelope of a tilt image."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.kernels.optics import (
    Defocus,
    Microscope,
    dose_weight,
    phase_coefficients,
    tilt_envelope,
    wavelength_angst,
    zernike_phase,
)


def test_wavelength():
    assert wavelength_angst(300.0) == pytest.approx(0.0196876, abs=5e-8)
    assert wavelength_angst(200.0) == pytest.approx(0.0250793, abs=5e-7)


def test_the_phase_itself():
    one = Defocus(*(np.array([x]) for x in (25_000.0, 24_000.0, 40.0, 0.0)))
    yy, yx, xx, quartic, constant = phase_coefficients(Microscope(300.0, 2.7, 0.1), one)[0]
    assert xx * 0.02**2 + quartic * 0.02**4 + constant == pytest.approx(-0.708398, abs=1e-6)
    square = 0.05**2 + 0.03**2
    gamma = yy * 0.03**2 + yx * 0.03 * 0.05 + xx * 0.05**2 + quartic * square**2 + constant
    assert gamma == pytest.approx(-5.348528, abs=1e-6)


@pytest.mark.parametrize(
    ("dose", "k", "weight"),
    [
        (30.0, 0.05, 0.678915),
        (30.0, 0.1, 0.346128),
        (30.0, 0.2, 0.0953463),
        (3.0, 0.1, 0.899340),
        (77.0, 0.0, 1.0),
        (0.0, 0.3, 1.0),
    ],
)
def test_dose_weights(dose, k, weight):
    """Values printed in the format's specification; frequency 0 keeps everything."""
    assert float(dose_weight(np.array([k]), dose)[0]) == pytest.approx(weight, abs=1e-6)


def test_bfactor_per_dose_takes_the_place_of_the_exposure_model():
    k = np.array([0.0, 0.05, 0.2])
    np.testing.assert_allclose(dose_weight(k, 30.0, 4.0), np.exp(-4 * 30 * k**2 / 4))


# Index to polynomial of x, y (unnormalised), worked out by hand.
EVEN = {
    0: lambda x, y: np.ones_like(x),
    1: lambda x, y: 2 * x * y,
    2: lambda x, y: 2 * (x * x + y * y) - 1,
    3: lambda x, y: x * x - y * y,
    4: lambda x, y: 4 * x * y * (x * x - y * y),
    6: lambda x, y: 6 * (x * x + y * y) ** 2 - 6 * (x * x + y * y) + 1,
    8: lambda x, y: x**4 - 6 * x * x * y * y + y**4,
}
ODD = {
    0: lambda x, y: y,
    1: lambda x, y: x,
    2: lambda x, y: 3 * x * x * y - y**3,
    3: lambda x, y: (3 * (x * x + y * y) - 2) * y,
    4: lambda x, y: (3 * (x * x + y * y) - 2) * x,
    5: lambda x, y: x**3 - 3 * x * y * y,
}


@pytest.mark.parametrize(
    ("odd", "index", "polynomial"),
    [*((False, i, p) for i, p in EVEN.items()), *((True, i, p) for i, p in ODD.items())],
)
def test_zernike_polynomials(odd, index, polynomial):
    ky, kx = np.linspace(-0.4, 0.3, 4), np.linspace(0, 0.5, 3)
    y, x = np.meshgrid(ky, kx, indexing="ij")
    coefficients = [0.0] * index + [1.7]
    phase = zernike_phase(coefficients, ky, kx, odd=odd)
    np.testing.assert_allclose(phase, 1.7 * polynomial(x, y), atol=1e-12)


@pytest.mark.parametrize(("dose", "end"), [(30.0, 97), (60.0, 51), (120.0, 28)])
def test_dose_ends_the_rows(dose, end):
    """RELION's x range of row 0 for N = 192 at 1.35 Å, printed in the format's specification."""
    envelope, x_end = tilt_envelope(192, 1.35, dose, 0.7, 0.0)
    assert x_end[96] == end
    assert envelope.shape == (192, 97)
    # Every row ends at the circle or where 1 % is reached, whichever comes first.
    weight = dose_weight(np.arange(0, 97) / (192 * 1.35), dose)
    limit = min(np.flatnonzero(weight > 0.01)[-1], 96)
    for row in (0, 40, 110, 191):
        y = row - 96
        inside = np.arange(97) ** 2 + y * y <= min(96**2, limit**2 + 2 * limit)
        last = np.flatnonzero(inside)
        assert abs(x_end[row] - (last[-1] + 1 if len(last) else 0)) <= 1


def test_envelope_is_scale_bfactor_and_dose():
    envelope, _ = tilt_envelope(24, 3.0, 12.0, 0.6, 55.0)
    k = np.hypot(5, 7) / 72
    expected = 0.6 * np.exp(-55 * k * k / 4) * dose_weight(np.array([k]), 12.0)[0]
    assert envelope[12 - 5, 7] == pytest.approx(expected, rel=1e-5)
    assert envelope[12, 0] == pytest.approx(0.6)
    by_factor, _ = tilt_envelope(24, 3.0, 12.0, 1.0, 0.0, 4.0)
    assert by_factor[12 - 5, 7] == pytest.approx(np.exp(-4 * 12 * k * k / 4), rel=1e-5)


def test_nothing_is_left_of_a_burnt_image():
    _, x_end = tilt_envelope(16, 2.0, 50_000.0, 1.0, 0.0, 1.0)
    assert x_end[8] == 1  # only frequency 0
    assert x_end[3] == 0
