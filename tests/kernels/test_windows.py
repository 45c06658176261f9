"""Windows and the images made of them: rounding, and the compiled pass against the recipe written out."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import extraction_oracle as oracle
from laws import assert_inputs_untouched
from napari_sta.kernels.compiled.fft import factors_of, transform_rows
from napari_sta.kernels.compiled.float16 import round_to_half, sum_up
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


# --- the compiled transforms -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 26, 34, 60, 77, 96, 121, 192, 250])
@pytest.mark.parametrize(("width", "step"), [(16, 1), (48, 2)])
def test_transform_of_rows(rng, n, width, step):
    """The discrete Fourier transform by its matrix, for all kinds of factors, and back."""
    factors = factors_of(n)
    assert np.prod(factors) == n
    turns = -2 * np.pi * np.arange(n * step) / (n * step)
    tables = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)
    rows = rng.normal(size=(2, n, width)).astype(np.float32)
    matrix = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    expected = matrix @ (rows[0] + 1j * rows[1])
    room = [np.full(n * width, np.nan, np.float32) for _ in range(2)]
    re, im, *others = transform_rows(
        *(part.ravel().copy() for part in rows), *room, width, factors, *tables, n
    )
    found = (re + 1j * im).reshape(n, width)
    np.testing.assert_allclose(found, expected, atol=4e-7 * np.abs(expected).max())
    im, re, *_ = transform_rows(im, re, *others, width, factors, *tables, n)
    np.testing.assert_allclose(re.reshape(n, width) / n, rows[0], atol=2e-6)
    np.testing.assert_allclose(im.reshape(n, width) / n, rows[1], atol=2e-6)


@pytest.mark.parametrize("n_half_turns", [1, 1e3, 4e5])
@pytest.mark.parametrize("end", [1, 33, 49])
@pytest.mark.parametrize("with_extra", [True, False])
def test_contrast_is_the_sine_of_any_phase(rng, n_half_turns, end, with_extra):
    """From within the first turn to far beyond what any defocus gives, for every column below the end."""
    from napari_sta.kernels.compiled.windows import _contrast_row

    half, row = 49, 2
    ky, kx = np.array([0.0, 0.1, -0.17]), np.zeros(64)
    kx[:half] = np.linspace(0, 0.19, half)
    phase = rng.normal(size=5) * n_half_turns * np.array([10, 10, 10, 100, 1])
    envelope = rng.uniform(0.5, 1, (3, half)).astype(np.float32)
    extra = rng.normal(size=(3, half) if with_extra else (0, 0)).astype(np.float32)
    k2 = ky[row] ** 2 + kx[:half] ** 2
    expected = phase[0] * ky[row] ** 2 + (phase[1] * ky[row] + phase[2] * kx[:half]) * kx[:half]
    expected += phase[3] * k2**2 + phase[4]
    assert abs(expected).max() < 2**20
    expected = np.sin(np.pi * (expected + (extra[row] if with_extra else 0))) * envelope[row]
    terms = (phase[2] + phase[3] * kx**2) * kx**2
    g = np.full(64, np.nan, np.float32)
    _contrast_row(g, end, row, ky, kx, phase, terms, np.zeros(64), envelope, extra)
    np.testing.assert_allclose(g[:end], expected[:end], atol=5e-6)  # the polynomial's own error
    assert not g[end:].any()


# --- images ------------------------------------------------------------------------------------------------


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


# --- float16 -----------------------------------------------------------------------------------------------


def test_every_half_number_and_every_tie(rng):
    """All float16 values, the middles between them, and their neighbours, as numpy rounds them."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    numbers = np.sort(every[np.isfinite(every)].astype(np.float32))
    middles = ((numbers[:-1].astype(np.float64) + numbers[1:]) / 2).astype(np.float32)
    values = np.concatenate(
        [numbers, middles, *(np.nextafter(middles, np.float32(s)) for s in (np.inf, -np.inf))]
    )
    rng.shuffle(values)
    halves = np.zeros(len(values), np.uint16)
    low, high, total, square = round_to_half(values, halves)
    expected = values.astype(np.float16)
    np.testing.assert_array_equal(halves, expected.view(np.uint16))
    wide = expected.astype(np.float64)
    assert (low, high) == (wide.min(), wide.max())
    assert total == pytest.approx(wide.sum(), abs=1e-9 * np.abs(wide).sum())
    assert square == pytest.approx((wide**2).sum(), rel=1e-9)


@pytest.mark.parametrize("n", [1, 15, 4096, 4097, 10_000])
def test_statistics_of_any_length(rng, n):
    values = rng.normal(-7, 1e-3, n).astype(np.float32)
    for found, stored in (
        (round_to_half(values, np.zeros(n, np.uint16)), values.astype(np.float16)), (sum_up(values), values),
    ):  # fmt: skip
        low, high, total, square = found
        wide = stored.astype(np.float64)
        assert (low, high) == (wide.min(), wide.max())
        assert total == pytest.approx(wide.sum(), rel=1e-12)
        assert square == pytest.approx((wide**2).sum(), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_sums(rng, bad):
    values = rng.normal(size=9000).astype(np.float32)
    values[8000] = bad
    assert not np.isfinite(sum_up(values)).all()
    values[100] = -bad
    assert not np.isfinite(sum_up(values)).all()
