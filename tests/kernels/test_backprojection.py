"""Back-projection: points come out where they were, filters against closed forms, both implementations alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laws import assert_inputs_untouched
from napari_sta.kernels import backprojection as bp
from napari_sta.kernels.ctf import ctf_2d
from napari_sta.kernels.optics import Defocus, Microscope, dose_weight, phase_coefficients
from napari_sta.kernels.projection import project, projection_matrices_zyx

SIZE_ZYX, IMAGE_YX, PIXEL = (70, 91, 84), (90, 97), 4.0
TILTS = np.arange(-60, 61, 6.0)


def matrices() -> np.ndarray:
    """A tilt series with everything that an alignment can hold."""
    rng = np.random.default_rng(1)
    angles = np.stack([np.full(len(TILTS), 3.0), TILTS, np.full(len(TILTS), 84.0)], axis=1)
    return projection_matrices_zyx(angles, rng.uniform(-3, 3, (len(TILTS), 2)), SIZE_ZYX, IMAGE_YX)


def points_in_images(points: np.ndarray, to_image: np.ndarray, width_px: float = 2.0) -> torch.Tensor:
    v, u = np.arange(IMAGE_YX[0])[:, None], np.arange(IMAGE_YX[1])[None, :]
    images = np.zeros((len(to_image), *IMAGE_YX))
    for tilt, places in enumerate(project(points[:, None], to_image).transpose(1, 0, 2)):
        for _, y, x in places:
            images[tilt] += np.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * width_px**2))
    return torch.from_numpy(images).float()


def weighting(to_image: np.ndarray, **changes) -> bp.Weighting:
    values = {"rotations_zyx": to_image[:, :3, :3], "thickness_angst": SIZE_ZYX[0] * PIXEL}
    return bp.Weighting(**(values | changes))


def tomogram(images: torch.Tensor, to_image: np.ndarray, binning: float) -> np.ndarray:
    size = bp.binned_size(IMAGE_YX, binning)
    step = np.array(IMAGE_YX) / np.array(size)
    weights = bp.filters(weighting(to_image), size, (PIXEL * step[0], PIXEL * step[1]))
    filtered = torch.stack(
        [
            torch.fft.irfft2(bp.binned(image, size) * w, s=size)
            for image, w in zip(images, weights, strict=True)
        ]
    )
    volume = torch.zeros([int(n / binning) for n in SIZE_ZYX])
    bp.back_project(filtered, bp.voxel_matrices(to_image, binning, step), volume, 0, volume.shape[0])
    return volume.numpy()


@pytest.mark.parametrize("binning", [1.0, 1.7])
def test_a_point_comes_out_where_it_was(binning):
    points = np.array([[35.0, 45.0, 42.0], [20.0, 60.0, 30.0], [51.0, 25.0, 55.0]])
    to_image = matrices()
    volume = tomogram(points_in_images(points, to_image), to_image, binning)
    for point in points:
        middle = np.round(point / binning).astype(int)
        near = tuple(slice(m - 3, m + 4) for m in middle)
        density = volume[near].clip(0.3 * volume[near].max()) - 0.3 * volume[near].max()
        index = np.indices(density.shape).reshape(3, -1)
        centroid = (index * density.ravel()).sum(axis=1) / density.sum() + middle - 3
        np.testing.assert_allclose(centroid * binning, point, atol=0.2)


def test_every_voxel_counts_the_views_that_show_it():
    to_image = matrices()
    to_pixels = bp.voxel_matrices(to_image, 1.0, np.ones(2))
    volume = torch.zeros(SIZE_ZYX)
    images = torch.ones((len(TILTS), *IMAGE_YX))
    assert_inputs_untouched(lambda i, m: bp.back_project(i, m, volume, 0, 5), images, to_pixels)
    bp.back_project(images, to_pixels, volume, 5, SIZE_ZYX[0])
    voxels = np.stack(np.indices(SIZE_ZYX), axis=-1).reshape(-1, 1, 3).astype(float)
    places = project(voxels, to_image)[..., 1:]
    seen = ((places >= 0) & (places < np.array(IMAGE_YX) - 1.001)).all(axis=-1).sum(axis=1)
    np.testing.assert_allclose(volume.numpy().ravel(), seen, atol=1e-3)
    assert 0 < seen.min() < seen.max() == len(TILTS) or seen.min() == 0


def test_both_implementations_agree():
    to_image = matrices()
    images = torch.from_numpy(np.random.default_rng(2).normal(size=(len(TILTS), *IMAGE_YX))).float()
    to_pixels = bp.voxel_matrices(to_image, 1.3, np.array([1.0, 1.0]))
    ours, theirs = torch.zeros((20, 50, 60)), torch.zeros((20, 50, 60))
    bp.back_project(images, to_pixels, ours, 0, 20)
    bp._back_project_by_torch(images, to_pixels, theirs, 0, 20)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-3)


@pytest.mark.parametrize("step", [0.0, 1e-13, 0.37, -0.37, 1e6])
@pytest.mark.parametrize("start", [-1e9, -3.0, 0.0, 7.2, 1e9])
def test_no_voxel_reads_beside_an_image(start, step):
    from napari_sta.kernels.compiled.backprojection import _inside

    first, end = _inside(start, step, 8.0, 30)
    inside = [x for x in range(30) if 0 <= start + step * x < 8.0]
    assert list(range(first, end)) == inside


def test_one_view_is_divided_by_what_is_left_of_it():
    rotation = np.eye(3)[None]
    [weights] = bp.filters(weighting(rotation, rotations_zyx=rotation, snr=4.0), (8, 8), (PIXEL, PIXEL))
    np.testing.assert_allclose(weights.numpy(), 1 / (1 + 1 / 4), rtol=1e-6)
    doses = np.array([30.0])
    settings = weighting(rotation, rotations_zyx=rotation, dose_e_per_angst2=doses, snr=1e9)
    [weights] = bp.filters(settings, (8, 8), (PIXEL, PIXEL))
    k = np.hypot(np.fft.fftfreq(8, PIXEL)[:, None], np.fft.rfftfreq(8, PIXEL))
    np.testing.assert_allclose(weights.numpy(), 1 / dose_weight(k, 30.0), rtol=2e-3)


def test_equal_views_share_and_crossed_ones_do_not():
    turned = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    settings = weighting(np.eye(3)[None], rotations_zyx=np.stack([np.eye(3), np.eye(3), turned]), snr=1e9)
    first, _, crossed = bp.filters(settings, (8, 8), (PIXEL, PIXEL))
    # The planes meet on the y axis only, farther apart than the inverse thickness everywhere else.
    np.testing.assert_allclose(first[:, 1:].numpy(), 1 / 2, rtol=1e-6)
    np.testing.assert_allclose(crossed[:, 1:].numpy(), 1, rtol=1e-6)
    np.testing.assert_allclose(first[:, 0].numpy(), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("keep", [True, False])
def test_the_ctf_is_undone_with_its_sign(keep):
    ctf = phase_coefficients(
        Microscope(300.0, 2.7, 0.1), Defocus(*(np.array([v]) for v in (3e4, 3e4, 0.0, 0.0)))
    )
    settings = weighting(
        np.eye(3)[None], rotations_zyx=np.eye(3)[None], ctf=ctf, keep_first_peak=keep, snr=2.0
    )
    [weights] = bp.filters(settings, (64, 64), (PIXEL, PIXEL))
    ky, kx = torch.from_numpy(np.fft.fftfreq(64, PIXEL)), torch.from_numpy(np.fft.rfftfreq(64, PIXEL))
    c = ctf_2d(torch.from_numpy(ctf), ky, kx)[0].numpy()
    first = (torch.hypot(ky[:, None], kx[None, :]) < bp._first_peak(ctf[0])).numpy()
    assert 0 < first.sum() < first.size / 4
    expected = np.where(first & keep, 1 / 1.5, c / (c * c + 0.5))
    np.testing.assert_allclose(weights.numpy(), expected, atol=5e-3)


def test_binning_keeps_pixel_0_and_grey_values():
    y, x = np.indices(IMAGE_YX)
    image = 3 + np.cos(2 * np.pi * 4 * x / IMAGE_YX[1]) + np.sin(2 * np.pi * 3 * y / IMAGE_YX[0])
    size = bp.binned_size(IMAGE_YX, 2.0)
    assert size == (44, 48)
    made = torch.fft.irfft2(bp.binned(torch.from_numpy(image), size), s=size).numpy()
    y, x = np.indices(size)
    np.testing.assert_allclose(
        made, 3 + np.cos(2 * np.pi * 4 * x / size[1]) + np.sin(2 * np.pi * 3 * y / size[0]), atol=1e-9
    )
    assert bp.binned_size((101, 7), 1.0) == (100, 6)


def test_an_image_fades_to_its_mean():
    image = torch.full((60, 80), 7.0)
    image[30, 40] = 8
    result = bp.faded(image)
    assert result[0].abs().max() < 1e-3
    assert result[30, 40] == pytest.approx(1 - 1 / 4800, rel=1e-4)
