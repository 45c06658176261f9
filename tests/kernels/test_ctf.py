"""CTF, dose and aberrations against printed numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.ctf import (
    Defocus,
    Microscope,
    ctf_2d,
    dose_weight,
    phase_coefficients,
    wavelength_angst,
    zernike_phase,
)

KRIOS = Microscope(300.0, 2.7, 0.1)


def defocus(u, v, angle=0.0, phase=0.0):
    return Defocus(*(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (u, v, angle, phase)))


def ctf_at(coefficients, kx, ky, **options):
    return ctf_2d(
        torch.from_numpy(coefficients),
        torch.tensor([ky], dtype=torch.float64),
        torch.tensor([kx], dtype=torch.float64),
        **options,
    )[..., 0, 0]


def test_wavelength():
    assert wavelength_angst(300.0) == pytest.approx(0.0196876, abs=5e-8)
    assert wavelength_angst(200.0) == pytest.approx(0.0250793, abs=5e-7)


@pytest.mark.parametrize(
    ("kx", "ky", "value"),
    [
        pytest.param(0.02, 0.0, 0.650618, id="along x"),
        pytest.param(0.0, 0.02, 0.647350, id="along y"),
        pytest.param(0.05, 0.03, -0.804395, id="aside"),
        pytest.param(0.0, 0.0, 0.1, id="zero frequency: +Q0"),
    ],
)
def test_relions_values(kx, ky, value):
    """300 kV, Cs 2.7 mm, Q0 0.1, U 25000, V 24000, angle 40 deg: printed in the format's specification."""
    coefficients = phase_coefficients(KRIOS, defocus(25_000, 24_000, 40))
    assert float(ctf_at(coefficients, kx, ky)[0]) == pytest.approx(value, abs=1e-6)


def test_the_phase_itself():
    yy, yx, xx, quartic, constant = phase_coefficients(KRIOS, defocus(25_000, 24_000, 40))[0]
    assert xx * 0.02**2 + quartic * 0.02**4 + constant == pytest.approx(-0.708398, abs=1e-6)
    square = 0.05**2 + 0.03**2
    gamma = yy * 0.03**2 + yx * 0.03 * 0.05 + xx * 0.05**2 + quartic * square**2 + constant
    assert gamma == pytest.approx(-5.348528, abs=1e-6)


def test_astigmatism_follows_its_angle():
    """Defocus is U in the direction of the angle, from +x towards +y, and V across it."""
    coefficients = phase_coefficients(KRIOS, defocus(30_000, 20_000, 30))
    for turn, value in ((0.0, 30_000), (90.0, 20_000)):
        a = np.deg2rad(30 + turn)
        round_one = phase_coefficients(KRIOS, defocus(value, value))
        along = ctf_at(coefficients, 0.03 * np.cos(a), 0.03 * np.sin(a))
        torch.testing.assert_close(along, ctf_at(round_one, 0.03, 0.0))


def test_phase_plate_turns_the_zero_frequency():
    coefficients = phase_coefficients(KRIOS, defocus(1e4, 1e4, 0, 90))
    assert float(ctf_at(coefficients, 0.0, 0.0)[0]) == pytest.approx(np.sqrt(1 - 0.1**2))


def test_underfocus_is_positive():
    """Contrast of a weak phase object starts with +Q0 and grows with underfocus, inverts with overfocus."""
    under = phase_coefficients(KRIOS, defocus([20_000, -20_000], [20_000, -20_000]))
    first, second = ctf_at(under, 0.015, 0.0)
    assert first > 0.3
    assert second < -0.1


def test_batches_and_grids():
    coefficients = phase_coefficients(KRIOS, defocus([1e4, 2e4, 3e4], [1e4, 2e4, 2.5e4], 20.0))
    ky, kx = torch.linspace(-0.1, 0.1, 5, dtype=torch.float64), torch.linspace(0, 0.1, 4, dtype=torch.float64)
    grid = ctf_2d(torch.from_numpy(coefficients).reshape(3, 1, 5), ky, kx)
    assert grid.shape == (3, 1, 5, 4)
    alone = ctf_at(coefficients[2:], float(kx[3]), float(ky[1]))
    torch.testing.assert_close(grid[2, 0, 1, 3], alone[0])


def test_even_aberration_adds_to_the_phase():
    coefficients = phase_coefficients(KRIOS, defocus(25_000, 24_000, 40))
    extra = torch.tensor([[0.3]], dtype=torch.float64)
    gamma = -0.708398 + 0.3
    value = float(ctf_at(coefficients, 0.02, 0.0, phase_offset=extra)[0])
    assert value == pytest.approx(-np.sin(gamma), abs=1e-6)


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
