"""CTF on a grid against printed numbers and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.ctf import ctf_2d
from napari_sta.kernels.optics import Defocus, Microscope, phase_coefficients

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
