"""Slices weighed and gathered: closed forms, signs, and the compiled pass against the torch operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from napari_sta.kernels.crop import cut_windows
from napari_sta.kernels.ctf import ctf_2d
from napari_sta.kernels.optics import Defocus, Microscope, phase_coefficients
from napari_sta.kernels.reconstruction import new_sums
from napari_sta.kernels.slices import (
    gather_slices,
    gather_slices_on_device,
    weigh_transforms,
)
from napari_sta.kernels.windows import Contrast, add_slices, weighed_slices, window_corners

AXES = Rotation.from_euler("z", 20, degrees=True).as_matrix()
COVARIANCE = AXES @ np.diag([2.2, 1.2, 0.7]) @ AXES.T  # px², zyx; no two axes alike
OFF_CENTRE = np.array([0.9, -0.6, 0.4])


def rotations(n: int, seed: int = 1) -> np.ndarray:
    return Rotation.random(n, random_state=seed).as_matrix()


def gaussian_transform(k_zyx: np.ndarray, size: int) -> np.ndarray:
    """Transform, about the box centre, of a Gaussian that sits off the centre; k in Fourier pixels."""
    k = k_zyx / size
    return np.exp(-2 * np.pi**2 * np.einsum("...i,ij,...j", k, COVARIANCE, k) - 2j * np.pi * (k @ OFF_CENTRE))


def half_grid(size: int) -> np.ndarray:
    """(s, s, h, 3) frequencies in centred order."""
    full = np.arange(size) - size // 2
    return np.stack(np.meshgrid(full, full, np.arange(size // 2 + 1), indexing="ij"), axis=-1)


def plain_options(n: int, size: int) -> dict:
    half = size // 2 + 1
    return {
        "size": size, "scale": 1.0, "coefficients": None, "pixel_size_angst": 2.0,
        "envelope": np.ones((size, half), np.float32), "x_end": np.full(size, half),
    }  # fmt: skip


def test_a_spot_at_the_particle_gives_a_flat_transform():
    """Sign and amount of the shift: what lies at centre + offset becomes the phase origin."""
    windows = torch.zeros((2, 12, 12))
    windows[0, 6 + 2, 6 - 3] = 1.0
    windows[1, 6 - 1, 6 + 4] = 1.0
    shift = np.array([[2.0, -3.0], [-1.0, 4.0]])
    slices = weigh_transforms(torch.fft.rfft2(windows), shift, **plain_options(2, 12))
    assert slices.shape == (2, 13, 9, 3)
    data = slices[:, :12, :7]
    np.testing.assert_allclose(data[..., 0], -1.0, atol=2e-6)  # contrast is inverted
    np.testing.assert_allclose(data[..., 1], 0.0, atol=2e-6)
    assert (data[..., 2] == 1).all()


def test_binning_crops_the_transform():
    """A blurred spot off the pixel grid, binned by 2: the same blur, no phase, the scale applied."""
    index = np.arange(32) - 16
    v, u = np.meshgrid(index, index, indexing="ij")
    spot = np.exp(-((v - 3.4) ** 2 + (u + 5.2) ** 2) / (2 * 2.0**2)) / (2 * np.pi * 4)
    spectra = torch.fft.rfft2(torch.from_numpy(spot.astype(np.float32))[None])
    options = plain_options(1, 16) | {"scale": 0.25}
    slices = weigh_transforms(spectra, np.array([[3.4, -5.2]]) / 2, **options)[0, :16, :9].numpy()
    ky, kx = np.meshgrid((np.arange(16) - 8) / 32, np.arange(9) / 32, indexing="ij")
    expected = -0.25 * np.exp(-2 * np.pi**2 * 4 * (ky**2 + kx**2))
    np.testing.assert_allclose(slices[..., 0], expected, atol=2e-5)
    np.testing.assert_allclose(slices[..., 1], 0, atol=2e-5)


def optics(rng, n: int) -> np.ndarray:
    defocus = Defocus(rng.uniform(1e4, 4e4, n), rng.uniform(1e4, 4e4, n), rng.uniform(0, 180, n), np.zeros(n))
    return phase_coefficients(Microscope(300.0, 2.7, 0.1), defocus)


def test_data_carry_the_weight_once_and_the_weight_twice(rng):
    """Data: -CTF·envelope·F. Weight: (CTF·envelope)²."""
    size, half, pixel = 16, 9, 3.0
    image = torch.zeros((1, size, size))
    image[0, 8, 8] = 1.0
    coefficients = optics(rng, 1)
    envelope = rng.uniform(0.2, 1, (size, half)).astype(np.float32)
    options = plain_options(1, size) | {
        "coefficients": coefficients, "envelope": envelope, "pixel_size_angst": pixel,
    }  # fmt: skip
    slices = weigh_transforms(torch.fft.rfft2(image), np.zeros((1, 2)), **options)[0, :size, :half]
    ky = torch.from_numpy((np.arange(size) - 8) / (size * pixel))
    kx = torch.from_numpy(np.arange(half) / (size * pixel))
    g = -ctf_2d(torch.from_numpy(coefficients), ky, kx)[0].numpy() * envelope
    np.testing.assert_allclose(slices[..., 0], g, atol=1e-5)
    np.testing.assert_allclose(slices[..., 2], g**2, atol=1e-5)


def test_borders_for_interpolation(rng):
    spectra = torch.fft.rfft2(torch.from_numpy(rng.normal(size=(3, 12, 12)).astype(np.float32)))
    slices = weigh_transforms(spectra, np.zeros((3, 2)), **plain_options(3, 12))
    assert torch.equal(slices[:, 12], slices[:, 0])
    assert torch.equal(slices[:, :, 7], slices[:, :, 5])
    assert not slices[:, :, 8].any()


@pytest.mark.parametrize(
    ("source", "size", "with_ctf", "with_even"),
    [
        pytest.param(16, 16, True, False, id="CTF"),
        pytest.param(16, 16, False, False, id="no CTF"),
        pytest.param(24, 16, True, True, id="binned, with aberration"),
        pytest.param(30, 14, True, False, id="binned by 15/7"),
        pytest.param(34, 34, True, True, id="prime factor 17"),
    ],
)
def test_the_compiled_pass_agrees(rng, source, size, with_ctf, with_even):
    """From a tilt image to slices: in one pass as the program does on CPUs, and step by step as on GPUs."""
    n, half, pixel = 5, size // 2 + 1, 2.5
    image = rng.normal(4, 1, (50, 61)).astype(np.float32)
    position = np.array([[25.3, 30.6], [0.4, 60.2], [49.5, -1.5], [20.0, 20.0], [31.7, 28.1]])
    coefficients = optics(rng, n) if with_ctf else None
    # Without CTF the weight is 1 whatever the envelope.
    envelope = rng.uniform(0.1, 1, (size, half)).astype(np.float32)
    x_end = rng.integers(0, half + 1, size)
    even = rng.normal(size=(size, half)) * 3 if with_even else None
    odd = rng.normal(size=(size, half)) if with_even else None
    corner, offset = window_corners(position, source)
    windows = cut_windows(torch.from_numpy(image), corner, source)
    binning = source / size
    plain = weigh_transforms(
        torch.fft.rfft2(windows), offset / binning, size, 1 / (source * binning), coefficients, pixel, envelope,
        x_end, even, odd,
    ).numpy()  # fmt: skip
    contrast = Contrast(coefficients, envelope, even, odd)
    fast = np.full_like(plain, np.nan)
    arguments = np.ascontiguousarray(image.T), position, source, size, contrast, pixel, x_end
    weighed_slices(*arguments, fast)
    np.testing.assert_allclose(fast, plain, atol=1.2e-5 * np.abs(plain).max())
    for row, end in enumerate(x_end):
        assert not fast[:, row, end:half].any()
        assert end == 0 or fast[:, row, :end, 2].any()
    one = np.empty_like(fast[:1])
    alone = Contrast(None if coefficients is None else coefficients[3:4], envelope, even, odd)
    weighed_slices(arguments[0], position[3:4], source, size, alone, pixel, x_end, one)
    np.testing.assert_array_equal(one[0], fast[3])


def test_odd_aberrations_turn_the_data_back(rng):
    """Data are multiplied by exp(-i phase), weights stay."""
    spectra = torch.fft.rfft2(torch.from_numpy(rng.normal(size=(2, 8, 8)).astype(np.float32)))
    phase = rng.normal(size=(8, 5))
    plain = weigh_transforms(spectra, np.zeros((2, 2)), **plain_options(2, 8))[:, :8, :5].numpy()
    turned = weigh_transforms(spectra, np.zeros((2, 2)), **plain_options(2, 8), odd_phase=phase)
    turned = turned[:, :8, :5].numpy()
    expected = (plain[..., 0] + 1j * plain[..., 1]) * np.exp(-1j * phase)
    np.testing.assert_allclose(turned[..., 0] + 1j * turned[..., 1], expected, atol=1e-5)
    np.testing.assert_array_equal(turned[..., 2], plain[..., 2])


# --- gathering ----------------------------------------------------------------------------------------


def padded(spectrum: np.ndarray) -> torch.Tensor:
    """(n, s, h) complex in centred order, as gather_slices wants it, weight 1."""
    n, size, half = spectrum.shape
    out = torch.zeros((n, size + 1, half + 2, 3))
    out[:, :size, :half, 0] = torch.from_numpy(spectrum.real)
    out[:, :size, :half, 1] = torch.from_numpy(spectrum.imag)
    out[:, :size, :half, 2] = 1
    out[:, :size, half] = out[:, :size, half - 2]
    out[:, size] = out[:, 0]
    return out


@pytest.mark.parametrize(
    ("size", "radius", "ratio"),
    [
        pytest.param(8, 5.0, 1.0, id="box 8 to the corner of the axes"),
        pytest.param(16, 9.0, 1.0, id="box 16, one beyond Nyquist"),
        pytest.param(22, 6.3, 1.0, id="box 22, inner radius"),
        pytest.param(16, 9.0, 0.93, id="finer pixels"),
        pytest.param(16, 9.0, 1.08, id="coarser pixels"),
        pytest.param(16, 9.0, 0.2, id="five times finer: many voxels of a column lie in the slice"),
        pytest.param(50, 26.0, 1.0, id="several bricks, the last ones smaller"),
    ],
)
def test_gathering_agrees_with_its_twin(rng, size, radius, ratio):
    n, half = 9, size // 2 + 1
    slices = torch.from_numpy(rng.normal(size=(n, size + 1, half + 2, 3)).astype(np.float32))
    matrices = rotations(n) * ratio
    matrices[0] = np.eye(3) * ratio
    matrices[1] = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]) * ratio
    fast, plain = torch.zeros((2, size, size, half, 4))
    gather_slices(slices, matrices, radius, fast)
    gather_slices_on_device(slices, matrices, radius, plain)
    torch.testing.assert_close(fast[..., :3], plain[..., :3], atol=2e-4, rtol=0)
    assert fast[..., 2].any()
    threaded = torch.zeros_like(fast)
    gather_slices(slices, matrices, radius, threaded, threads=3)
    assert torch.equal(fast[..., :3], threaded[..., :3])
    k = half_grid(size)
    beyond = (k**2).sum(axis=-1) > radius**2
    assert not fast[torch.from_numpy(beyond)][..., :3].any()


def test_each_slice_has_its_own_radius(rng):
    """Images of different doses go in together and end where each must."""
    size, half = 16, 9
    slices = rng.normal(size=(3, size + 1, half + 2, 3)).astype(np.float32)
    radii = np.array([8.0, 3.0, 6.0])
    together = new_sums(size)
    add_slices(slices, rotations(3), radii, together, threads=2)
    apart = np.zeros_like(together)
    for i in range(3):
        before = apart.copy()
        add_slices(slices[i : i + 1], rotations(3)[i : i + 1], radii[i : i + 1], apart)
        changed = (apart != before)[..., :3].any(axis=-1)
        assert (half_grid(size) ** 2).sum(axis=-1)[changed].max() <= radii[i] ** 2
    np.testing.assert_array_equal(together[..., :3], apart[..., :3])


@pytest.mark.parametrize("shape", [(8, 8, 4, 4), (10, 10, 6, 4)])
def test_slices_of_another_size_are_refused(shape):
    slices = np.zeros((1, 9, 7, 3), np.float32)
    with pytest.raises(ValueError, match="do not fit into a volume"):
        add_slices(slices, np.eye(3)[None], np.ones(1), np.zeros(shape, np.float32))


def test_one_slice_fills_one_plane(rng):
    """Unturned: the z = 0 plane receives the slice itself and its neighbours nothing."""
    size, half = 12, 7
    spectrum = rng.normal(size=(1, size, half)) + 1j * rng.normal(size=(1, size, half))
    volume = torch.zeros((size, size, half, 4))
    gather_slices(padded(spectrum), np.eye(3)[None], 5.0, volume)
    v, u = np.meshgrid(np.arange(size) - 6, np.arange(half), indexing="ij")
    inside = v**2 + u**2 <= 25
    np.testing.assert_allclose(volume[6, ..., 0].numpy(), np.where(inside, spectrum[0].real, 0), atol=1e-6)
    np.testing.assert_allclose(volume[6, ..., 1].numpy(), np.where(inside, spectrum[0].imag, 0), atol=1e-6)
    np.testing.assert_array_equal(volume[6, ..., 2].numpy(), inside)
    volume[6] = 0
    assert not volume[..., :3].any()


def test_weight_falls_off_with_depth():
    """Tilted about y: a voxel at depth d gets 1 - |d|."""
    size, half = 16, 9
    t = np.deg2rad(25)
    matrix = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])  # zyx
    volume = torch.zeros((size, size, half, 4))
    gather_slices(padded(np.ones((1, size, half), complex)), matrix[None], 7.0, volume)
    k = half_grid(size)
    depth = k @ matrix[0]
    expected = np.where((k**2).sum(axis=-1) <= 49, np.clip(1 - np.abs(depth), 0, None), 0)
    np.testing.assert_allclose(volume[..., 2].numpy(), expected, atol=1e-5)


def test_gathered_slices_rebuild_a_gaussian():
    """Exact slices at many poses: data / weight is the volume, phases and handedness included."""
    size, half = 24, 13
    matrices = rotations(400, seed=5)
    v, u = np.meshgrid(np.arange(size) - size // 2, np.arange(half), indexing="ij")
    plane = np.stack([np.zeros_like(v), v, u], axis=-1)
    spectrum = gaussian_transform(np.einsum("vuj,nji->nvui", plane, matrices), size)
    volume = torch.zeros((size, size, half, 4))
    gather_slices(padded(spectrum), matrices, 10.0, volume)
    v = volume.numpy()
    touched = v[..., 2] > 0.5
    assert touched.mean() > 0.25
    rebuilt = (v[..., 0] + 1j * v[..., 1])[touched] / v[..., 2][touched]
    assert np.abs(rebuilt - gaussian_transform(half_grid(size), size)[touched]).max() < 0.05


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_weighing_and_gathering_on_cuda(rng):
    n, size, half = 6, 16, 9
    spectra = torch.fft.rfft2(torch.from_numpy(rng.normal(size=(n, 16, 16)).astype(np.float32)))
    options = plain_options(n, size) | {"coefficients": optics(rng, n)}
    shift = rng.uniform(-0.5, 0.5, (n, 2))
    on_cpu = weigh_transforms(spectra, shift, **options)
    on_gpu = weigh_transforms(spectra.cuda(), shift, **options)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=2e-5, rtol=1e-4)
    volumes = []
    for slices in (on_cpu, on_gpu):
        volume = torch.zeros((size, size, half, 4), device=slices.device)
        gather_slices(slices, rotations(n), 9.0, volume)
        volumes.append(volume.cpu()[..., :3])
    torch.testing.assert_close(volumes[1], volumes[0], atol=2e-4, rtol=0)
