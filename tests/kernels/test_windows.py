"""Windows and the images made of them: rounding, and the compiled pass against the recipe written out."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import extraction_oracle as oracle
from laws import assert_inputs_untouched
from napari_sta.kernels.crop import cut_windows
from napari_sta.kernels.extraction import contrast_spectra, middle_images
from napari_sta.kernels.optics import Defocus, Microscope, phase_coefficients, zernike_phase
from napari_sta.kernels.windows import (
    Contrast,
    circle_factor_2d,
    round_half_away,
    subtomogram_images,
    window_corners,
)

PIXEL = 1.7
EVEN = (0.3, 40.0, -25.0, 60.0)
ODD = (1.5, -2.0, 40.0, 55.0, -30.0)


def test_halves_round_away_from_zero():
    """C's round, not the banker's rounding of numpy."""
    x = np.array([0.5, 1.5, 2.5, -0.5, -2.5, 2.4999, -2.5001, 0.0])
    assert round_half_away(x).tolist() == [1, 2, 3, -1, -3, 2, -3, 0]


@pytest.mark.parametrize(
    ("position", "window", "corner", "offset"),
    [
        pytest.param((10.4, 20.0), 8, (6, 16), (0.4, 0.0), id="rounds down"),
        pytest.param((10.5, 20.75), 8, (7, 17), (-0.5, -0.25), id="rounds up"),
        pytest.param((-2.5, 0.2), 6, (-6, -3), (0.5, 0.2), id="outside the image"),
        pytest.param((10.0, 11.0), 7, (7, 8), (0.0, 0.0), id="odd window"),
    ],
)
def test_corner_and_what_rounding_leaves(position, window, corner, offset):
    corners, left = window_corners(np.array([position]), window)
    assert tuple(corners[0]) == corner
    np.testing.assert_allclose(left[0], offset, atol=1e-12)


def test_circle_factor():
    """Raised cosine over the last 5 px: the values that the format's specification prints."""
    factor, outside = circle_factor_2d(64, 24.0)
    assert factor[32, 32 + 22] == pytest.approx(0.345492, abs=1e-6)
    assert factor[32, 32 + 19] == 1
    assert factor[32 + 24, 32] == 0
    assert outside[32 + 24, 32] == 0  # the circle itself is no background
    assert outside[32 + 24, 33] == 1


class Scene:
    """A noisy image, particles all over it and beyond its edges, and what acts on them."""

    def __init__(self, rng, window: int, size: int, ctf: bool, even: bool, odd: bool, sign: int) -> None:
        self.window, self.size, self.sign = window, size, sign
        self.pixel = PIXEL * window / size
        self.image = rng.normal(3, 1, (83, 96)).astype(np.float32)
        self.position = np.array(
            [[40.3, 50.6], [39.5, 51.5], [0.2, -3.7], [81.5, 95.2], [85.0, 3.0], [41.0, 47.0]]
        )
        n = len(self.position)
        self.optics = [
            oracle.Optics(
                300, 2.7, 0.1, rng.uniform(8e3, 3e4), rng.uniform(8e3, 3e4), rng.uniform(-90, 90),
                rng.uniform(0, 90),
            )
            for _ in range(n)
        ]  # fmt: skip
        names = ("u", "v", "angle", "phase_shift")
        defocus = Defocus(*(np.array([getattr(o, name) for o in self.optics]) for name in names))
        coefficients = phase_coefficients(Microscope(300.0, 2.7, 0.1), defocus)
        self.ky, self.kx = oracle.frequencies(size, self.pixel)
        # Not smooth at Nyquist: what happens there must be seen.
        envelope = rng.uniform(0.4, 1.3, (size, size // 2 + 1)).astype(np.float32)
        phases = [
            zernike_phase(values, self.ky[:, 0], self.kx[0], odd=is_odd) if given else None
            for values, is_odd, given in ((EVEN, False, even), (ODD, True, odd))
        ]
        self.contrast = Contrast(coefficients if ctf else None, envelope, *phases, sign)

    def made(self, crop: int, **options) -> np.ndarray:
        n = len(self.position)
        out = np.full((n + 2, crop, crop), np.nan, np.float32)
        slots = np.arange(n)[::-1] + 1
        assert_inputs_untouched(
            lambda image, position: subtomogram_images(
                image, position, self.window, self.size, self.contrast, self.pixel, out, slots, **options
            ),
            np.ascontiguousarray(self.image.T), self.position,
        )  # fmt: skip
        assert np.isnan(out[[0, -1]]).all()  # nobody else's room is written
        return out[slots]

    def wanted(self, i: int, crop: int, circle: bool) -> np.ndarray:
        cut, offset = oracle.window_of(self.image, self.position[i], self.window)
        gain = np.ones((self.size, self.size // 2 + 1))
        if self.contrast.coefficients is not None:
            even = 0.0 if self.contrast.even_phase is None else self.contrast.even_phase
            gain = oracle.ctf(self.optics[i], self.ky, self.kx, even) * self.contrast.envelope
        spectrum = oracle.contrast_spectrum(
            cut, offset, self.size, self.pixel, -self.sign * gain, self.contrast.odd_phase
        )
        whole = oracle.image_of(spectrum)
        margin = (self.size - crop) // 2
        whole = oracle.circle_cropped(whole, crop / 2) if circle else whole
        return whole[margin : margin + crop, margin : margin + crop]


# (window, box, crop): prime factors, odd margins, boxes about a multiple of 16, no crop, bin 1 to 2.3
SIZES = [
    (20, 20, 20),
    (32, 16, 12),
    (28, 18, 8),
    (22, 14, 14),
    (34, 34, 30),
    (44, 22, 10),
    (50, 38, 36),
    (64, 64, 32),
]


@pytest.mark.parametrize(("window", "size", "crop"), SIZES)
@pytest.mark.parametrize(
    ("ctf", "even", "odd", "sign", "circle"),
    [
        pytest.param(True, False, False, 1, True, id="plain"),
        pytest.param(True, True, True, -1, False, id="aberrations, dark protein, no circle"),
        pytest.param(True, False, True, 1, True, id="odd aberrations"),
        pytest.param(False, False, False, 1, True, id="no CTF"),
    ],
)
def test_images_are_the_recipe_s(rng, window, size, crop, ctf, even, odd, sign, circle):
    scene = Scene(rng, window, size, ctf, even, odd, sign)
    found = scene.made(crop, circle=circle)
    for i, image in enumerate(found):
        expected = scene.wanted(i, crop, circle)
        np.testing.assert_allclose(image, expected, atol=3e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("circle", [True, False])
def test_the_path_of_gpus_makes_the_same_images(rng, circle):
    scene = Scene(rng, 44, 22, True, True, True, 1)
    corner, offset = window_corners(scene.position, scene.window)
    windows = cut_windows(torch.from_numpy(scene.image), corner, scene.window, circle=False)
    spectra = contrast_spectra(
        torch.fft.rfft2(windows), offset / 2, scene.size, 0.7 / 2, scene.contrast, scene.pixel
    )
    expected = middle_images(spectra, 12, circle=circle).numpy()
    found = scene.made(12, circle=circle, scale=0.7)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_an_image_does_not_depend_on_its_neighbours(rng):
    """Bit for bit: work is dealt out to threads, and resumed jobs cut fewer particles at once."""
    scene = Scene(rng, 44, 22, True, True, True, 1)
    together = scene.made(12)
    for i in range(len(scene.position)):
        alone = Scene.__new__(Scene)
        alone.__dict__ |= scene.__dict__
        alone.position = scene.position[i : i + 1]
        alone.contrast = scene.contrast._replace(coefficients=scene.contrast.coefficients[i : i + 1])
        np.testing.assert_array_equal(alone.made(12)[0], together[i])
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(scene.made(12))) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, together)


def test_nothing_is_left_of_a_constant(rng):
    scene = Scene(rng, 30, 20, False, False, False, 1)
    scene.image[:] = 11.0
    assert np.abs(scene.made(12)).max() < 2e-5
    np.testing.assert_allclose(scene.made(12, circle=False), -11.0, rtol=1e-6)
