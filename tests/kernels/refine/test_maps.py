"""Half maps, their FSC and what limits them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_sta.kernels.fsc import fourier_shell_correlation, masked_fsc
from napari_sta.kernels.refine import maps
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.images import soft_disc
from napari_sta.kernels.refine.on_cpu import gather
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.posterior import at_pose
from napari_sta.kernels.refine.projector import (
    interpolation_falloff,
    make_projector,
    padded_radius,
    radius_grid,
    slice_axes,
)
from napari_sta.kernels.refine.voxels import make_voxel_list
from napari_sta.kernels.rotations import symmetry_operators_zyx
from toy_refinement import (
    ANGST,
    PADDING,
    RADIUS,
    SHELLS,
    SIZE,
    blob_map,
    planar,
    random_rotations,
    toy_volume,
    turned,
)
from twins import complete_sums_reference


def test_map_comes_back_from_its_turned_transforms():
    """Insert noiseless volumes at their poses, reconstruct: the map of all orientations."""
    pixels = make_voxel_list(SIZE, SIZE // 2, part=500)
    volume = blob_map() * soft_disc(SIZE, 5.0, 2.0, n_dim=3)
    rotations = random_rotations(40, 3)
    sums = sums_of.new_sums(SIZE // 2, PADDING, 1, 1, SHELLS, 1)
    for rotation in rotations:
        projector, particle = toy_volume(pixels, rotation, np.zeros(3), noise=0.0)
        projector = make_projector(volume, SIZE // 2, PADDING, n_dim=3)
        x = turned(projector, rotation, pixels) * particle.model.ravel()[: pixels.count]
        particle = replace(particle, unmasked=planar(x, pixels), sigma2=np.ones(SHELLS))
        sums_of.add_particle(
            sums, at_pose(rotation), projector, particle, pixels, 0, 0, ANGST, statistics=False
        )
    full = maps.complete_sums(sums.volume, np.eye(3)[None], padded_radius(SIZE // 2, PADDING))
    found = maps.reconstruct(full, SIZE, SIZE // 2, PADDING, n_dim=3)
    inside = soft_disc(SIZE, 6.0, 1.0, n_dim=3) > 0.5
    assert float((found - volume)[inside].abs().max()) < 0.05 * float(volume.max())
    ratio = float((found * volume)[inside].sum() / (volume**2)[inside].sum())
    assert ratio == pytest.approx(1, abs=0.02)


def test_map_comes_back_from_its_own_slices():
    volume, radius = blob_map(), SIZE // 2
    pixels = make_pixel_list(SIZE, radius)
    projector = make_projector(volume, radius, PADDING)
    rotations = random_rotations(600, 21)
    n = len(pixels)
    sums = sums_of.new_sums(radius, PADDING, 1, 1, SIZE // 2 + 1)
    rows, norm = np.zeros((600, 2 * n), np.float32), np.zeros(600)
    axes = slice_axes(rotations, PADDING)
    gather(projector, axes, pixels, np.zeros(n, np.float32), rows, norm)
    from napari_sta.kernels.compiled.slices import scatter_rows

    scatter_rows(
        rows, np.ones(n, np.float32), np.ones(600, np.float32), axes, pixels.kv, pixels.ku, sums.volume
    )
    full = maps.complete_sums(sums.volume, np.eye(3)[None], padded_radius(radius, PADDING))
    back = maps.reconstruct(full, SIZE, radius, PADDING)
    k = torch.arange(SIZE) - SIZE // 2
    inside = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2) < 36
    # What remains is a constant of 0.01: trilinear weights blur the peak at frequency 0.
    assert float((back - volume)[inside].norm() / volume[inside].norm()) < 0.05
    # A strong prior pulls the map to zero, a weak one leaves it.
    weak = maps.reconstruct(full, SIZE, radius, PADDING, np.full(9, 1e6))
    np.testing.assert_allclose(weak.numpy(), back.numpy(), atol=1e-4)
    strong = maps.reconstruct(full, SIZE, radius, PADDING, np.full(9, 1e-9), first_shell=0)
    assert float(strong.norm()) < 0.01 * float(back.norm())


@pytest.mark.parametrize("symmetry", ["C1", "C6", "D2"])
def test_complete_sums_fast_equals_reference(symmetry):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(15, 15, 8, 4)).astype(np.float32)
    operators = symmetry_operators_zyx(symmetry)
    fast = maps.complete_sums(volume, operators, 6, threads=2)
    slow = complete_sums_reference(volume, operators, 6).numpy()
    np.testing.assert_allclose(fast[..., :3], slow[..., :3], atol=1e-9)
    plane = fast[:, :, 0]
    flipped = plane[::-1, ::-1]
    np.testing.assert_allclose(plane[..., 2], flipped[..., 2], atol=1e-9)


def test_symmetric_sums_of_a_symmetric_volume_are_multiples():
    k = np.arange(-7, 8)
    r2 = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(8)[None, None, :] ** 2).astype(float)
    volume = np.zeros((15, 15, 8, 4), np.float32)
    volume[..., 2] = np.where(k[None, :, None] ** 2 >= 0, r2, 0)
    volume[:, :, 0, 2] /= 2  # mates are added
    volume[7, 7, 0, 2] = 0
    full = maps.complete_sums(volume, symmetry_operators_zyx("C4"), 6)
    inside = r2 <= 36
    np.testing.assert_allclose(full[inside][:, 2], 4 * r2[inside], atol=1e-5)


def test_joining_shares_low_resolution_only():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(15, 15, 8, 4)), rng.normal(size=(15, 15, 8, 4))
    a0, b0 = a.copy(), b.copy()
    maps.join_low_resolution(a, b, 2, 2.0)
    inside = radius_grid(7, 8).numpy() <= 16
    np.testing.assert_allclose(a[inside], (a0[inside] + b0[inside]) / 2)
    np.testing.assert_array_equal(a[inside], b[inside])
    np.testing.assert_array_equal(a[~inside], a0[~inside])
    np.testing.assert_array_equal(b[~inside], b0[~inside])
    assert maps.joining_radius(48, 5.4, 40.0, 13.6) == 7
    assert maps.joining_radius(48, 5.4, 40.0, 60.0) == 5


def test_signal_prior_is_relions():
    # Shells of run_it001_half1_model.star: FSC, sigma2 -> SSNR, tau2.
    fsc = np.array([1.0, 0.998560, 0.954668])
    prior = maps.signal_prior(fsc, np.array([1.386981e-08, 2.073985e-07, 7.364832e-08]))
    np.testing.assert_allclose(prior.ssnr, [999.0, 693.205430, 21.0585], rtol=5e-4)
    np.testing.assert_allclose(prior.tau2, [1.385594e-05, 1.437698e-04, 1.550922e-06], rtol=5e-4)
    whole = maps.signal_prior(np.array([0.143]), np.ones(1), whole=True)
    assert whole.ssnr[0] == pytest.approx(1.0, rel=1e-2)


def test_current_resolution():
    ssnr = np.array([999, 50, 20, 9, 7, 6, 3, 1.0, 0.9, 0.4, 0.1])
    assert maps.current_resolution_shell(ssnr) == 7
    assert maps.current_resolution_shell(np.array([9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])) == 5
    late = np.array([999, 50, 20, 9, 7, 6, 0.5, 0.5, 2, 2, 2, 0.1])
    assert maps.current_resolution_shell(late) == 10


def test_fsc_of_sums_is_that_of_the_averages():
    """Sums without a mask: the same map twice gives 1, independent ones give 0, half noise gives its SNR."""
    rng = np.random.default_rng(3)
    half = padded_radius(RADIUS, PADDING) + 1
    shape = (2 * half + 1, 2 * half + 1, half + 1)

    def noise():
        out = np.zeros((*shape, 4))
        out[..., 0], out[..., 1] = rng.normal(size=(2, *shape))
        out[..., 2] = 1
        return out

    common, a, b = noise(), noise(), noise()
    a[..., :2] += common[..., :2]
    b[..., :2] += common[..., :2]
    shells = SIZE // 2 + 1
    np.testing.assert_allclose(maps.average_fsc(a, a, RADIUS, PADDING, shells)[: RADIUS + 1], 1)
    curve = maps.average_fsc(a, b, RADIUS, PADDING, shells)
    assert curve[3 : RADIUS + 1].mean() == pytest.approx(0.5, abs=0.08)
    assert not curve[RADIUS + 1 :].any()
    doubled = a.copy()
    doubled[..., :3] *= 2  # more data, the same average
    np.testing.assert_allclose(maps.average_fsc(doubled, b, RADIUS, PADDING, shells), curve)


def test_lowpass_ends_one_shell_either_side():
    size, shell = 16, 4.3
    impulse = torch.zeros((size,) * 3, dtype=torch.float64)
    impulse[0, 0, 0] = 1
    spectrum = torch.fft.rfftn(maps.lowpass_to_shell(impulse, shell)).real
    assert spectrum[0, 0, 3] == pytest.approx(1)
    assert spectrum[0, 0, 4] == pytest.approx(0.5 + 0.5 * np.cos(np.pi * (4 - 3.3) / 2))
    assert spectrum[0, 0, 6] == pytest.approx(0, abs=1e-12)


def test_completeness_counts_voxels_with_data():
    half = padded_radius(RADIUS, PADDING) + 1
    volume = np.zeros((2 * half + 1, 2 * half + 1, half + 1, 4))
    volume[..., 2] = 1
    volume[half + 1 :, ..., 2] = 0  # half of all voxels (but for the middle plane)
    share = maps.fourier_completeness(volume, RADIUS, PADDING, SIZE // 2 + 1)
    assert share[RADIUS - 1] == pytest.approx(0.5, abs=0.06)
    assert share[RADIUS + 1] == 0


def grid_of(radius):
    """Squared radius on the grid of sums, and the sums' half."""
    half = padded_radius(radius, PADDING) + 1
    k = np.arange(-half, half + 1)
    return half, k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(half + 1) ** 2


def test_noise_of_a_map_by_hand(rng):
    """Shell by shell, voxels strictly within the padded radius: 1 / (padding³ · mean weight), 0 without weight."""
    _, square = grid_of(RADIUS)
    volume = np.zeros((*square.shape, 4))
    volume[..., 2] = rng.uniform(0, 2, square.shape)
    shell = np.floor(np.sqrt(square) / PADDING + 0.5).astype(int)
    volume[shell == 4, 2] = 0
    found = maps.map_noise(volume, RADIUS, PADDING, SHELLS)
    for k in range(SHELLS):
        here = volume[(shell == k) & (square < padded_radius(RADIUS, PADDING) ** 2), 2]
        expected = 1 / (PADDING**3 * here.mean()) if len(here) and here.mean() > 0 else 0
        assert found[k] == pytest.approx(expected)
    assert found[4] == 0
    assert found[RADIUS] > 0
    assert not found[RADIUS + 1 :].any()


def test_completeness_by_hand(rng):
    _, square = grid_of(RADIUS)
    volume = np.zeros((*square.shape, 4))
    volume[..., 2] = rng.choice([0.0, 0.5e-3, 2e-3, 1.0, 1.0, 1.0], square.shape)
    shell = np.floor(np.sqrt(square) / PADDING + 0.5).astype(int)
    found = maps.fourier_completeness(volume, RADIUS, PADDING, SHELLS)
    for k in range(SHELLS):
        here = volume[(shell == k) & (square < padded_radius(RADIUS, PADDING) ** 2), 2]
        expected = (here > 1e-3 * here.mean()).mean() if len(here) else 0
        assert found[k] == pytest.approx(expected)


@pytest.mark.parametrize("padding", [2.0, 1.5])
def test_fsc_of_sums_by_hand(rng, padding):
    """Data and weights at the nearest voxel of the unpadded grid, divided there; shells of that grid."""
    radius, shells = 4, 6
    half = padded_radius(radius, padding) + 1
    k, x = np.arange(-half, half + 1), np.arange(half + 1)
    halves = rng.normal(size=(2, len(k), len(k), len(x), 4))
    halves[..., 2] = rng.uniform(0.1, 1, halves.shape[:-1])
    halves[1, ..., :2] += halves[0, ..., :2]
    halves[:, half + 2, half + 1, 3] = 0
    sums = [{}, {}]
    for place in np.ndindex(len(k), len(k), len(x)):
        at = np.array([k[place[0]], k[place[1]], x[place[2]]])
        if (at**2).sum() > padded_radius(radius, padding) ** 2:
            continue
        near = tuple((np.sign(at) * np.floor(np.abs(at) / padding + 0.5)).astype(int))
        for volume, of_half in zip(halves, sums, strict=True):
            of_half[near] = of_half.get(near, 0) + volume[place][:3]
    total = np.zeros((3, shells))
    for near in sums[0]:
        r2 = sum(a * a for a in near)
        if r2 <= radius * radius:
            a, b = (complex(*s[near][:2]) / s[near][2] for s in sums)
            total[:, int(np.sqrt(r2) + 0.5)] += (a * b.conjugate()).real, abs(a) ** 2, abs(b) ** 2
    expected = np.where(total[1] > 0, total[0] / np.sqrt(np.maximum(total[1] * total[2], 1e-300)), 0)
    expected[0] = 1
    np.testing.assert_allclose(maps.average_fsc(*halves, radius, padding, shells), expected, atol=1e-12)


def smooth_sums(radius):
    """Sums that say a broad Gaussian, weight 3 wherever there are data; and the Gaussian."""
    k = torch.arange(SIZE, dtype=torch.float64) - SIZE // 2
    volume = torch.exp(
        -((k - 0.7)[:, None, None] ** 2 + (k + 0.4)[None, :, None] ** 2 + k[None, None, :] ** 2) / 4.5
    )
    projector = make_projector(volume, radius, PADDING)
    values = projector.values.reshape(projector.depth, projector.depth, projector.width, 2)
    sums = np.zeros((*values.shape[:3], 4))
    sums[..., :2] = 3.0 * values
    sums[..., 2] = 3.0
    return sums, volume


def test_reconstruction_undoes_projection():
    """Padding, scale, place and fall-off: a smooth map comes back voxel by voxel; volumes have another scale."""
    sums, volume = smooth_sums(SIZE // 2)
    found = maps.reconstruct(sums, SIZE, SIZE // 2, PADDING)
    k = np.arange(SIZE) - SIZE // 2
    inside = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2) < 49
    # Slices read, and slices spread, fade the map: both are undone, and nothing was read or spread here.
    expected = (volume / interpolation_falloff(SIZE, PADDING) ** 2).numpy()
    np.testing.assert_allclose(found.numpy()[inside], expected[inside], atol=4e-3)
    assert found.shape == (SIZE,) * 3
    as_volume = maps.reconstruct(sums / [SIZE, SIZE, 1, 1], SIZE, SIZE // 2, PADDING, n_dim=3)
    np.testing.assert_allclose(as_volume.numpy(), found.numpy(), atol=1e-9)


def test_the_prior_divides_by_what_noise_adds():
    """The same signal power in all shells scales the map; the first shells are left alone."""
    sums, _ = smooth_sums(SIZE // 2 - 1)
    radius, tau2, fudge = SIZE // 2 - 1, 0.02, 1.7
    plain = maps.reconstruct(sums, SIZE, radius, PADDING).numpy()
    found = maps.reconstruct(
        sums, SIZE, radius, PADDING, np.full(SHELLS, tau2), tau2_fudge=fudge, first_shell=0
    )
    share = 3.0 / (3.0 + 1 / (PADDING**3 * fudge * tau2))
    np.testing.assert_allclose(found.numpy(), share * plain, atol=1e-5)
    spared = maps.reconstruct(
        sums, SIZE, radius, PADDING, np.full(SHELLS, tau2), tau2_fudge=fudge, first_shell=2
    )
    sparse = maps.lowpass_to_shell(torch.from_numpy(spared.numpy() - found.numpy()), 3.5)
    assert float(sparse.abs().max()) > 0.05  # frequency 0 and shell 1 keep their strength
    dead = maps.reconstruct(sums, SIZE, radius, PADDING, np.zeros(SHELLS), first_shell=0)
    np.testing.assert_allclose(
        dead.numpy(), plain / 1001, atol=2e-5
    )  # no signal: a thousand times the weight


def test_a_hole_in_the_weights_divides_by_a_thousandth_of_its_ring():
    sums, _ = smooth_sums(SIZE // 2)
    half = (sums.shape[0] - 1) // 2
    place = half + 3, half - 1, 4  # radius sqrt(26), ring 2
    whole = maps.reconstruct(sums, SIZE, SIZE // 2, PADDING)
    sums[place][2] = 0
    with_hole = maps.reconstruct(sums, SIZE, SIZE // 2, PADDING)
    _, square = grid_of(SIZE // 2)
    ring = np.floor(np.sqrt(square) / PADDING).astype(int) == 2
    divisor = sums[ring, 2].mean() / 1000
    sums[place][:2] *= 3.0 / divisor
    sums[place][2] = 3.0
    filled = maps.reconstruct(sums, SIZE, SIZE // 2, PADDING)
    assert float((whole - filled).abs().max()) > 1e-3
    np.testing.assert_allclose(with_hole.numpy(), filled.numpy(), atol=1e-4 * float(filled.abs().max()))


@pytest.mark.parametrize("shell", [3.0, 4.3])
def test_lowpass_by_hand(shell):
    size = 12
    impulse = torch.zeros((size,) * 3, dtype=torch.float64)
    impulse[0, 0, 0] = 1
    found = torch.fft.rfftn(maps.lowpass_to_shell(impulse, shell)).real.numpy()
    k = np.fft.fftfreq(size, 1 / size)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(size // 2 + 1) ** 2)
    t = np.clip((radius - (shell - 1)) / 2, 0, 1)
    np.testing.assert_allclose(found, 0.5 + 0.5 * np.cos(np.pi * t), atol=1e-12)


def test_resolution_to_which_two_start_maps_agree(rng):
    size, edge = 20, 100.0
    a, b = (torch.from_numpy(rng.normal(size=(size,) * 3)) for _ in range(2))
    assert maps.resolution_of(None, edge) == 20.0
    assert maps.resolution_of([a, a], edge) == 10.0  # Nyquist: the last of 11 shells
    assert maps.resolution_of([a, b], edge) == 20.0  # never less than shell 5
    common = maps.lowpass_to_shell(a, 7.0) * 30
    curve = fourier_shell_correlation(common + a, common + b)
    shell = int(np.flatnonzero(curve.numpy()[1:] < 0.5)[0])  # the last one above
    assert 6 <= shell <= 8
    assert maps.resolution_of([common + a, common + b], edge) == pytest.approx(edge / shell)


def test_solvent_corrected_curves(rng):
    """As the masked FSC, but 0 where the mask explains more than there is, and beyond the data."""
    size = 24
    signal = maps.lowpass_to_shell(torch.from_numpy(rng.normal(size=(size,) * 3)), 6.0) * 20
    a, b = (signal + torch.from_numpy(rng.normal(size=(size,) * 3)) for _ in range(2))
    mask = soft_disc(size, 6.0, 3.0, n_dim=3)
    found = maps.solvent_corrected_fsc(a, b, mask, 20, seed=3)
    curves = masked_fsc(a, b, mask, 0.8, seed=3)
    expected = curves.corrected.numpy().copy()
    expected[0], expected[11:] = 1, 0
    tail = slice(curves.randomised_from + 2, None)
    worse = (curves.randomised > curves.masked).numpy()[tail]
    expected[tail][worse] = 0
    np.testing.assert_allclose(found, expected)
    same = maps.solvent_corrected_fsc(a, a, mask, 16)
    np.testing.assert_allclose(same, np.arange(13) <= 8)


def test_limits_of_the_signal_prior():
    fsc, sigma2 = np.array([-0.5, 0.0005, 0.5, 0.9999]), np.array([1.0, 2, 3, 4])
    prior = maps.signal_prior(fsc, sigma2, 1.5)
    expected = 1.5 * np.array([0.001 / 0.999, 0.001 / 0.999, 1.0, 999.0])
    np.testing.assert_allclose(prior.ssnr, expected)
    np.testing.assert_allclose(prior.tau2, expected * sigma2)
    whole = maps.signal_prior(np.array([0.5]), np.ones(1), whole=True)
    half_way = np.sqrt(1 / 1.5)
    assert whole.ssnr[0] == pytest.approx(half_way / (1 - half_way))
