"""Envelopes, symmetry, division and taper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import ndimage

from laws import assert_inputs_untouched
from napari_sta.kernels import fourier, reconstruction
from napari_sta.kernels.reconstruction import new_sums
from napari_sta.kernels.rotations import symmetry_operators_zyx


class Made(NamedTuple):
    data: torch.Tensor
    map: torch.Tensor


def reconstruct_map(sums: torch.Tensor, wiener_snr: float = 0.0) -> Made:
    """The kernels in turn, between tensors."""
    data = reconstruction.real_space_data(sums.numpy())
    found = reconstruction.divided_by_weight(data, sums.numpy(), wiener_snr)
    return Made(torch.from_numpy(data), torch.from_numpy(found))


def symmetrise(sums: torch.Tensor, operators: np.ndarray, threads: int = 1) -> torch.Tensor:
    """The kernel, between tensors."""
    return torch.from_numpy(reconstruction.symmetrise(sums.numpy(), operators, threads))


def turned_and_averaged(sums: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Symmetrise by the book: read the volume at every turned voxel, clamped at Nyquist, with scipy."""
    size, half = sums.shape[0], sums.shape[0] // 2
    k = np.stack(
        np.meshgrid(np.arange(size) - half, np.arange(size) - half, np.arange(half + 1), indexing="ij")
    ).reshape(3, -1)
    total = np.zeros((3, k.shape[1]))
    for operator in operators:
        at = operator @ k
        mates = at[2] <= 0
        if np.allclose(operator, np.eye(3)):
            mates[:] = False
        at = np.where(mates, -at, at) + np.array([[half], [half], [0]])
        at = at.clip(0, np.array([[size - 1], [size - 1], [half]]))
        for c in range(3):
            value = ndimage.map_coordinates(sums[..., c].astype(float), at, order=1, mode="nearest")
            total[c] += np.where(mates, -value, value) if c == 1 else value
    return (total / len(operators)).T.reshape(size, size, half + 1, 3)


def centred_distance(size: int) -> np.ndarray:
    index = np.arange(size) - size // 2
    return np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)


def accumulator_of(volume: torch.Tensor, weight: torch.Tensor | float = 1.0) -> torch.Tensor:
    """What insertion leaves for a density: centred half transform and weights."""
    size = volume.shape[0]
    spectrum = torch.fft.rfftn(volume.double(), norm="ortho") * fourier.checkerboard((size,) * 3)
    spectrum = torch.fft.fftshift(spectrum, dim=(0, 1))
    out = torch.from_numpy(new_sums(size))
    out[..., 0], out[..., 1], out[..., 2] = spectrum.real, spectrum.imag, weight
    return out


def density_of(volume: torch.Tensor) -> torch.Tensor:
    size = volume.shape[0]
    spectrum = torch.fft.ifftshift(torch.complex(volume[..., 0], volume[..., 1]), dim=(0, 1))
    return torch.fft.irfftn(spectrum * fourier.checkerboard((size,) * 3), s=(size,) * 3, norm="ortho")


def smooth_density(rng, size: int, radius: float) -> torch.Tensor:
    """Random density without components at or beyond a radius in Fourier space."""
    noise = torch.from_numpy(rng.normal(size=(size,) * 3))
    spectrum = torch.fft.rfftn(noise)
    spectrum[fourier.radius_px((size,) * 3) >= radius] = 0
    return torch.fft.irfftn(spectrum, s=(size,) * 3)


@pytest.mark.parametrize("name", ["C2", "C3", "C6", "D2", "D3", "T", "O", "I1"])
def test_symmetry_agrees_with_its_twin(rng, name):
    volume = torch.from_numpy(rng.normal(size=(10, 10, 6, 4)).astype(np.float32))
    operators = symmetry_operators_zyx(name)
    fast = assert_inputs_untouched(symmetrise, volume, operators)
    np.testing.assert_allclose(fast[..., :3], turned_and_averaged(volume.numpy(), operators), atol=2e-5)
    assert torch.equal(fast, symmetrise(volume, operators, 3))
    room = rng.normal(size=volume.shape).astype(np.float32)
    again = reconstruction.symmetrise(volume.numpy(), operators, out=room)
    assert again is room
    np.testing.assert_array_equal(again, fast)


def test_no_symmetry_copies_nothing(rng):
    sums = rng.normal(size=(6, 6, 4, 4)).astype(np.float32)
    assert reconstruction.symmetrise(sums, symmetry_operators_zyx("C1")) is sums


@pytest.mark.parametrize(
    ("name", "turns"),
    [
        pytest.param("C2", [(2, (1, 2))], id="C2 about z"),
        pytest.param("C4", [(1, (1, 2)), (2, (1, 2)), (3, (1, 2))], id="C4 about z"),
        pytest.param("D2", [(2, (1, 2)), (2, (0, 1)), (2, (0, 2))], id="D2"),
    ],
)
def test_symmetry_is_the_mean_of_turned_densities(rng, name, turns):
    """Quarter and half turns about voxel n / 2 are exact in real space."""
    density = smooth_density(rng, 12, 5.0)
    found = density_of(symmetrise(accumulator_of(density), symmetry_operators_zyx(name)))
    total = density.clone()
    for count, axes in turns:
        turned = torch.rot90(density, count, axes)
        # rot90 turns about the middle between voxels; bring voxel n / 2 back onto itself.
        shift = {1: [1, 0], 2: [1, 1], 3: [0, 1]}[count]
        total += torch.roll(turned, shift, axes)
    torch.testing.assert_close(found.double(), total / (1 + len(turns)), atol=2e-6, rtol=0)


def test_a_symmetric_volume_stays():
    """Six blobs on a ring: turning and averaging changes only what interpolation smears."""
    size = 24
    index = np.arange(size) - size // 2
    z, y, x = np.meshgrid(index, index, index, indexing="ij")
    volume = np.zeros((size,) * 3)
    for i in range(6):
        a = np.deg2rad(60 * i + 11)
        volume += np.exp(-((x - 6 * np.cos(a)) ** 2 + (y - 6 * np.sin(a)) ** 2 + (z - 2) ** 2) / (2 * 1.5**2))
    before = torch.from_numpy(volume)
    after = density_of(symmetrise(accumulator_of(before), symmetry_operators_zyx("C6"))).double()
    assert float(torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]) > 0.99
    other = density_of(symmetrise(accumulator_of(before), symmetry_operators_zyx("C5"))).double()
    assert float(torch.corrcoef(torch.stack([before.flatten(), other.flatten()]))[0, 1]) < 0.95


def test_weights_are_divided_out(rng):
    """A density seen with uneven weights comes back, but for the gridding correction."""
    size = 16
    wanted = smooth_density(rng, size, 5.0)
    sinc = np.sinc(centred_distance(size) / size) ** 2
    seen = wanted * torch.from_numpy(sinc)  # insertion spreads, which multiplies by sinc²
    result = reconstruct_map(accumulator_of(seen))
    low = fourier.radius_px((size,) * 3) < 7
    found, expected = torch.fft.rfftn(result.map.double()), torch.fft.rfftn(wanted)
    torch.testing.assert_close(found[low], expected[low], atol=1e-4, rtol=0)
    torch.testing.assert_close(result.data.double(), wanted, atol=1e-5, rtol=0)


def test_division_by_the_weight_of_each_frequency(rng):
    size = 12
    density = smooth_density(rng, size, 5.5)
    weight = 1 + fourier.radius_px((size,) * 3)
    spectrum = torch.fft.rfftn(density) * weight
    # The numerator is given after its gridding correction here, so that division alone is seen.
    numerator = torch.fft.irfftn(spectrum, s=(size,) * 3) * torch.from_numpy(
        np.sinc(centred_distance(size) / size) ** 2
    )
    volume = accumulator_of(numerator, torch.fft.fftshift(weight, dim=(0, 1)).float())
    torch.testing.assert_close(reconstruct_map(volume).map.double(), density, atol=2e-6, rtol=0)
    snr = 0.2
    found = torch.fft.rfftn(reconstruct_map(volume, snr).map.double())
    expected = torch.fft.rfftn(density) * weight / (weight + 5)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("offset", "sinc_squared"), [(8, 0.810569), (-16, 0.405285), (0, 1.0)])
def test_gridding_correction(offset, sinc_squared):
    """Radial sinc²(r / box), printed values at a quarter and a half of the box."""
    volume = torch.zeros((32, 32, 32))
    volume[16, 16 + offset, 16] = 1.0
    data = reconstruct_map(accumulator_of(volume)).data
    assert float(data[16, 16 + offset, 16]) == pytest.approx(1 / sinc_squared, rel=1e-5)


def test_weak_weights_are_held_up_by_their_shell(rng):
    """No frequency is divided by less than a thousandth of the mean weight at its radius."""
    size = 16
    weight = torch.full((size, size, size // 2 + 1), 8.0)
    weight[8, 8, 5] = 1e-6  # frequency (0, 0, 5)
    volume = accumulator_of(torch.zeros((size,) * 3), weight)
    volume[8, 8, 5, 0] = 1.0
    spectrum = torch.fft.rfftn(reconstruct_map(volume).map, norm="ortho")
    in_shell = float(spectrum[0, 0, 5].abs())
    plain = accumulator_of(torch.zeros((size,) * 3), torch.full_like(weight, 8.0))
    plain[8, 8, 5, 0] = 1.0
    with_full_weight = float(torch.fft.rfftn(reconstruct_map(plain).map, norm="ortho")[0, 0, 5].abs())
    # 8 against 0.008 (the shell's mean is a little below 8, one of its members being 0).
    assert in_shell / with_full_weight == pytest.approx(1000, rel=0.02)


def test_nothing_at_or_beyond_nyquist(rng):
    density = torch.from_numpy(rng.normal(size=(12, 12, 12)))
    spectrum = torch.fft.rfftn(reconstruct_map(accumulator_of(density)).map.double())
    radius = fourier.radius_px((12, 12, 12))
    assert float(spectrum[radius >= 6].abs().max()) < 1e-4
    assert float(spectrum[(radius < 6) & (radius >= 5)].abs().min()) > 1e-3
    # A Wiener constant keeps the corners, as RELION does.
    wiener = torch.fft.rfftn(reconstruct_map(accumulator_of(density), 10.0).map.double())
    assert float(wiener[radius >= 6].abs().max()) > 1


@pytest.mark.parametrize("size", [6, 8, 34])
def test_full_weights(rng, size):
    """The weights of a real volume's power are those of its whole transform."""
    volume = rng.normal(size=(size,) * 3)
    half, full = np.abs(np.fft.rfftn(volume)) ** 2, np.abs(np.fft.fftn(volume)) ** 2
    sums = new_sums(size)
    sums[..., 2] = np.fft.fftshift(half, axes=(0, 1))
    found = reconstruction.full_weight(sums, threads=2)
    np.testing.assert_allclose(found, np.fft.fftshift(full), rtol=1e-5)


@pytest.mark.parametrize("snr", [0.0, 2.0])
def test_sums_stay_and_threads_change_no_bit(rng, snr):
    sums = rng.normal(size=(22, 22, 12, 4)).astype(np.float32)
    sums[..., 2] **= 2
    before = sums.copy()
    data = reconstruction.real_space_data(sums)
    kept = data.copy()
    found = reconstruction.divided_by_weight(data, sums, snr)
    np.testing.assert_array_equal(sums, before)
    np.testing.assert_array_equal(data, kept)
    np.testing.assert_array_equal(reconstruction.real_space_data(sums, 3), data)
    np.testing.assert_array_equal(reconstruction.divided_by_weight(data, sums, snr, 3), found)
    np.testing.assert_array_equal(reconstruction.full_weight(sums, 3), reconstruction.full_weight(sums))


def test_taper_profile():
    """Raised cosine over the last 10 voxels; c(43.5) = 0.421783 in a box of 96."""
    size = 96
    volume = np.broadcast_to(np.arange(size, dtype=np.float32)[:, None, None] - 48, (size,) * 3)
    tapered = volume.copy()
    reconstruction.taper(tapered, 10.0)  # the weighted mean is 0
    with np.errstate(invalid="ignore"):
        c = tapered / volume
    low, high = c[48 - 42, 48 + 8, 48 - 8], c[48 + 41, 48 + 14, 48 + 4]  # r² = 1892 and 1893
    part = (43.5 - np.sqrt(1892)) / (np.sqrt(1893) - np.sqrt(1892))
    assert low + part * (high - low) == pytest.approx(0.421783, abs=2e-6)
    assert c[48 + 38, 48, 48] == pytest.approx(1)
    assert c[48 + 43, 48, 48] == pytest.approx(0.5)
    assert c[0, 48, 48] == 0


def test_taper_takes_the_mean_away(rng):
    volume = rng.normal(3, 1, (20, 20, 20)).astype(np.float32)
    threaded = volume.copy()
    reconstruction.taper(volume, 4.0)
    assert abs(volume.sum(dtype=np.float64)) < 1e-3
    reconstruction.taper(threaded, 4.0, threads=3)
    np.testing.assert_array_equal(threaded, volume)
    flat = np.full((20, 20, 20), 5.0, np.float32)
    reconstruction.taper(flat, 4.0)
    assert np.abs(flat).max() < 1e-5


@pytest.mark.parametrize(("size", "first"), [(4, 3), (6, 2), (10, 0)])
def test_the_middle_is_a_copy(rng, size, first):
    volume = rng.normal(size=(10, 10, 10)).astype(np.float32)
    middle = reconstruction.crop_centre(volume, size)
    assert middle.shape == (size,) * 3
    assert middle[size // 2, size // 2, size // 2] == volume[5, 5, 5]
    assert middle[0, 0, 0] == volume[first, first, first]
    middle[:] = 0
    assert volume[5, 5, 5] != 0


def test_radial_mean_splits_linearly():
    """Every weight 0 but one, at radius sqrt(2): 0.586 of it counts at 1 and 0.414 at 2."""
    size = 8
    sums = new_sums(size)
    sums[5, 4, 1, 2] = 7.0
    k = np.arange(size) - 4
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(5) ** 2)
    expected = np.zeros(5)
    for at, share in ((1, 2 - np.sqrt(2)), (2, np.sqrt(2) - 1)):
        expected[at] = 7 * share / np.clip(1 - np.abs(radius - at), 0, None).sum()
    for threads in (1, 3):
        np.testing.assert_allclose(reconstruction._radial_mean_weight(sums, threads), expected, rtol=1e-12)
