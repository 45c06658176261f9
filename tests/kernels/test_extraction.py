"""Extraction: beads land where they should, the CTF is the formula's, and 3D data are the sum that RELION forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import extraction_oracle as oracle
from laws import assert_inputs_untouched
from napari_sta.kernels.crop import circle_crop, cut_windows
from napari_sta.kernels.extraction import contrast_spectra, images_from, middle_images, pseudo_subtomograms
from napari_sta.kernels.optics import Defocus, Microscope, phase_coefficients, zernike_phase
from napari_sta.kernels.windows import Contrast, window_corners

PIXEL = 1.7


def ones(size: int) -> np.ndarray:
    return np.ones((size, size // 2 + 1), np.float32)


def spectra_of(image, position, size, window, contrast, pixel=PIXEL):
    """From an image to transforms of particles, mean grey value kept."""
    corner, offset = window_corners(position, window)
    windows = cut_windows(torch.from_numpy(image), corner, window, circle=False)
    binning = window / size
    return contrast_spectra(
        torch.fft.rfft2(windows), offset / binning, size, 1 / binning, contrast, pixel * binning
    )


# (box, window): binning 1, 2, 1.5, and b · s = 21.7 rounded to an even window, 22
GRIDS = [
    pytest.param(20, 20, id="bin 1"),
    pytest.param(16, 32, id="bin 2"),
    pytest.param(18, 27 + 1, id="28 of 18"),
    pytest.param(20, 30, id="bin 1.5"),
    pytest.param(14, 22, id="even, not b times s"),
]
PLACES = np.array([[40.0, 51.0], [40.3, 50.6], [39.5, 51.5], [41.27, 49.74]])


@pytest.mark.parametrize(("size", "window"), GRIDS)
def test_a_bead_lands_on_the_centre_pixel(size, window):
    """A Gaussian anywhere becomes the same Gaussian on the binned grid, its top on pixel s // 2."""
    sigma = 2.2 * window / size
    y, x = np.mgrid[:90, :97]
    binning = window / size
    index = (np.arange(size) - size // 2) * binning
    expected = np.exp(-(index[:, None] ** 2 + index**2) / (2 * sigma**2))
    for place in PLACES:
        bead = np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * sigma**2)).astype(np.float32)
        spectra = spectra_of(bead, place[None], size, window, Contrast(None, ones(size), sign=-1))
        image = images_from(spectra)[0].numpy()
        np.testing.assert_allclose(image, expected, atol=6e-3)
        middle = image[size // 2 - 3 : size // 2 + 4, size // 2 - 3 : size // 2 + 4]
        np.testing.assert_allclose(middle, middle[::-1, ::-1], atol=3e-3)
        assert np.unravel_index(image.argmax(), image.shape) == (size // 2, size // 2)


@pytest.mark.parametrize(("size", "window"), GRIDS)
def test_contrast_and_mean(size, window, rng):
    image = (7 + rng.normal(size=(80, 90))).astype(np.float32)
    at = np.array([[40.2, 41.7]])
    inverted, kept = (
        images_from(spectra_of(image, at, size, window, Contrast(None, ones(size), sign=sign)))
        for sign in (1, -1)
    )
    torch.testing.assert_close(inverted, -kept)
    corner, _ = window_corners(at, window)
    cut = cut_windows(torch.from_numpy(image), corner, window, circle=False)
    assert float(kept.mean()) == pytest.approx(float(cut.mean()), rel=1e-5)


@pytest.mark.parametrize("crop", [20, 12, 8])
def test_nothing_is_left_of_a_constant(crop):
    image = np.full((60, 60), 11.0, np.float32)
    spectra = spectra_of(image, np.array([[30.4, 29.8]]), 20, 30, Contrast(None, ones(20)))
    assert float(middle_images(spectra, crop).abs().max()) < 1e-5
    bare = middle_images(spectra, crop, circle=False)
    torch.testing.assert_close(bare, torch.full((1, crop, crop), -11.0))


@pytest.fixture
def three(rng):
    """Three noisy windows of 26 px and everything that acts on them in a box of 18."""
    optics = [
        oracle.Optics(300, 2.7, 0.1, 21000, 19500, 37, 0),
        oracle.Optics(300, 2.7, 0.1, 34000, 34300, -70, 0),
        oracle.Optics(300, 2.7, 0.1, 8000, 7000, 10, 60),
    ]
    defocus = Defocus(
        *(np.array([getattr(o, name) for o in optics], float) for name in ("u", "v", "angle", "phase_shift"))
    )
    windows = rng.normal(2, 1, (3, 26, 26)).astype(np.float32)
    offsets = np.array([[0.3, -0.45], [-0.2, 0.1], [0.5, 0.0]])
    return windows, offsets, optics, phase_coefficients(Microscope(300.0, 2.7, 0.1), defocus)  # fmt: skip


SIZE, WINDOW = 18, 26
BINNED = PIXEL * WINDOW / SIZE
SMOOTH = np.exp(-np.hypot(*oracle.frequencies(SIZE, BINNED)) * 4).astype(np.float32)
EVEN = (0.3, 40.0, -25.0, 60.0)
ODD = (1.5, -2.0, 40.0, 55.0, -30.0)


def _phase(coefficients, *, odd=False):
    ky, kx = oracle.frequencies(SIZE, BINNED)
    return zernike_phase(coefficients, ky[:, 0], kx[0], odd=odd)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("with_ctf", [True, False])
def test_images_are_the_formula_s(three, sign, even, odd, with_ctf):
    """Fourier crop, shift, CTF, dose and aberrations against the plain float64 evaluation."""
    windows, offsets, optics, coefficients = three
    even_phase, odd_phase = _phase(EVEN) if even else None, _phase(ODD, odd=True) if odd else None
    contrast = Contrast(coefficients if with_ctf else None, SMOOTH, even_phase, odd_phase, sign)
    spectra = torch.fft.rfft2(torch.from_numpy(windows))
    scale = 1 / (WINDOW / SIZE)
    found = assert_inputs_untouched(
        contrast_spectra, spectra, offsets / (WINDOW / SIZE), SIZE, scale, contrast, BINNED
    )
    ky, kx = oracle.frequencies(SIZE, BINNED)
    for i, o in enumerate(optics):
        gain = oracle.ctf(o, ky, kx, 0.0 if even_phase is None else even_phase) * SMOOTH if with_ctf else 1.0
        expected = oracle.contrast_spectrum(windows[i], offsets[i], SIZE, BINNED, -sign * gain, odd_phase)
        np.testing.assert_allclose(
            images_from(found)[i].numpy(), oracle.image_of(expected), atol=2e-5 * np.abs(expected).max()
        )


def test_the_nyquist_row_is_negative(three):
    """Astigmatism off the axes tells ky = -N/2 from +N/2; the tomo programs take the negative one."""
    _, _, optics, coefficients = three
    impulse = torch.zeros((1, SIZE, SIZE))
    impulse[0, 0, 0] = 1
    found = contrast_spectra(
        torch.fft.rfft2(impulse), np.zeros((1, 2)), SIZE, float(SIZE), Contrast(coefficients[:1], ones(SIZE)), BINNED
    )  # fmt: skip
    kx = np.arange(SIZE // 2 + 1) / (SIZE * BINNED)
    for sign, same in ((-1, True), (1, False)):
        expected = -oracle.ctf(optics[0], sign / (2 * BINNED), kx)
        close = np.allclose(found[0, :, SIZE // 2].real.numpy(), expected, atol=1e-5)
        assert close == same


def test_an_odd_phase_that_is_linear_is_a_shift():
    """Coefficient c of kx moves a bead by c / (2 pi) Å towards +x."""
    size, angst = 24, 1.5
    y, x = np.mgrid[:60, :60]
    bead = np.exp(-((y - 30) ** 2 + (x - 30) ** 2) / (2 * 2.5**2)).astype(np.float32)
    ky, kx = oracle.frequencies(size, angst)
    for coefficients, move in (
        ((0.0, 2 * np.pi * angst * 3), (0, 3)),
        ((2 * np.pi * angst * -2, 0.0), (-2, 0)),
    ):
        odd = zernike_phase(coefficients, ky[:, 0], kx[0], odd=True)
        contrast = Contrast(None, ones(size), None, odd, -1)
        image = images_from(spectra_of(bead, np.array([[30.0, 30.0]]), size, size, contrast, angst))[
            0
        ].numpy()
        at = np.unravel_index(image.argmax(), image.shape)
        assert (int(at[0]), int(at[1])) == (size // 2 + move[0], size // 2 + move[1])
        assert image.max() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("size", "crop"), [(20, 20), (20, 14), (24, 12), (20, 2)])
@pytest.mark.parametrize("circle", [True, False])
def test_the_middle_is_the_middle_of_the_whole(rng, size, crop, circle):
    """Transforming only the middle back gives what the whole image, circle-cropped and cut, gives."""
    images = torch.from_numpy(rng.normal(3, 2, (5, size, size)).astype(np.float32))
    spectra = torch.fft.rfft2(images, norm="ortho").transpose(1, 2).contiguous()
    found = assert_inputs_untouched(middle_images, spectra, crop, circle=circle)
    margin = (size - crop) // 2
    middle = slice(margin, margin + crop)
    whole = circle_crop(images, crop / 2) if circle else images
    torch.testing.assert_close(found, whole[:, middle, middle], atol=1e-5, rtol=0)
    if circle:
        for one, image in zip(found.numpy(), images.numpy(), strict=True):
            expected = oracle.circle_cropped(image.astype(float), crop / 2)[middle, middle]
            np.testing.assert_allclose(one, expected, atol=1e-5)


def test_background_is_the_mean_of_everything_outside():
    """Corners of the whole box, not of its middle; the centre keeps what stands out of them."""
    size, crop = 24, 12
    index = np.arange(size) - size // 2
    r = np.hypot(*np.meshgrid(index, index, indexing="ij"))
    image = np.where(r > 6, 4.0, 9.0)
    image[0, :] = 28.0  # far outside, but it counts
    spectra = (
        torch.fft.rfft2(torch.from_numpy(image).float()[None], norm="ortho").transpose(1, 2).contiguous()
    )
    background = image[r > 6].mean()
    found = middle_images(spectra, crop)[0]
    assert float(found[crop // 2, crop // 2]) == pytest.approx(9 - background, abs=1e-5)
    assert float(found[0, 0]) == 0.0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("circle", [True, False])
def test_on_cuda(three, circle):
    windows, offsets, _, coefficients = three
    contrast = Contrast(coefficients, SMOOTH, _phase(EVEN), _phase(ODD, odd=True))
    spectra = torch.fft.rfft2(torch.from_numpy(windows))
    found = [
        middle_images(contrast_spectra(s, offsets, SIZE, 0.7, contrast, BINNED), 12, circle=circle).cpu()
        for s in (spectra, spectra.cuda())
    ]
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-4)


# --- 3D ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "crop"), [(12, 8), (10, 10)])
def test_pseudo_subtomograms_are_the_sum_written_out(rng, size, crop):
    n, t, half = 2, 3, size // 2 + 1
    images = rng.normal(size=(n, t, size, size)).astype(np.float32)
    weights = rng.uniform(0.1, 1, (n, t, size, half)).astype(np.float32)
    matrices = Rotation.random(n * t, random_state=7).as_matrix().reshape(n, t, 3, 3)
    x_end = rng.integers(0, half + 1, (n, t, size))
    x_end[0, 1] = 0  # a tilt that is not there
    zyx = np.ascontiguousarray(matrices[:, :, ::-1, ::-1])
    found = assert_inputs_untouched(
        pseudo_subtomograms, torch.from_numpy(images), weights, zyx, x_end, crop, 1.7
    )
    for i in range(n):
        data, weight, multiplicity = oracle.insert(images[i], weights[i], matrices[i], x_end[i], crop)
        np.testing.assert_allclose(found.data[i].numpy(), 1.7 * data, atol=2e-5 * np.abs(data).max())
        np.testing.assert_allclose(found.weight[i].numpy(), weight, atol=1e-5)
        np.testing.assert_allclose(found.multiplicity[i].numpy(), multiplicity, atol=1e-5)
    again = pseudo_subtomograms(torch.from_numpy(images), weights, zyx, x_end, crop, 1.7, 3)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_a_slice_without_tilt_stands_along_z(rng):
    """Untilted, uncropped: every plane of the volume is the image over sqrt(box)."""
    size = 12
    spectrum = np.fft.rfft2(rng.normal(size=(size, size)))
    ky, kx = oracle.frequencies(size, 1 / size)  # whole numbers
    spectrum[(ky**2 + kx**2) > 16] = 0
    spectrum[0, 0] = 0
    image = np.fft.irfft2(spectrum, s=(size, size))
    found = pseudo_subtomograms(
        torch.from_numpy(image[None, None]).float(), np.ones((1, 1, size, size // 2 + 1), np.float32),
        np.eye(3)[None, None], np.full((1, 1, size), size // 2 + 1), size, 1.0,
    )  # fmt: skip
    expected = np.broadcast_to(image / np.sqrt(size), (size,) * 3)
    np.testing.assert_allclose(found.data[0].numpy(), expected, atol=1e-5)
    # Weights lie in the plane z = 0 only, 1 where the slice has one sample.
    assert float(found.weight[0, 1:].abs().max()) == 0
    torch.testing.assert_close(found.weight[0, 0, 1:6, 1:6], torch.ones(5, 5))


def test_a_tilted_slice_stands_across_the_beam():
    """Tilted by 90 degrees about y the beam is along x: a bead becomes a bar along x."""
    size = 16
    index = np.arange(size) - size // 2
    bead = np.exp(-((index[:, None] - 3) ** 2 + (index - 2) ** 2) / (2 * 1.6**2))
    turn = Rotation.from_euler("y", 90, degrees=True).as_matrix()  # xyz: the volume's z is the image's x
    found = pseudo_subtomograms(
        torch.from_numpy(bead[None, None]).float(), np.ones((1, 1, size, size // 2 + 1), np.float32),
        np.ascontiguousarray(turn[::-1, ::-1])[None, None], np.full((1, 1, size), size // 2), size, 1.0,
    )  # fmt: skip
    volume = found.data[0].numpy()
    bar = volume.mean(axis=2)
    np.testing.assert_allclose(volume, np.repeat(bar[:, :, None], size, 2), atol=2e-3)
    z, y = np.unravel_index(bar.argmax(), bar.shape)
    # (R p)_x = p_z: the bead's x becomes z, its y stays y.
    assert (z - size // 2, y - size // 2) == (2, 3)
