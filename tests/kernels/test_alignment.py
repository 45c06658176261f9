"""Offsets planted in maps of a lattice with a membrane: sign, size, candidates, confidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.alignment import score_curve
from napari_sta.kernels.filters import lowpass
from napari_sta.kernels.masks import soft_mask_from_map
from napari_sta.phantoms.density import density_map, hexamer

SIZE, PIXEL = 64, 3.0


def shifted(volume: np.ndarray, shift_px: float, axis: int) -> np.ndarray:
    """Move a map towards +axis by any fraction of a pixel, in Fourier space."""
    spectrum = np.fft.fft(volume, axis=axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    k = np.fft.fftfreq(volume.shape[axis]).reshape(shape)
    return np.fft.ifft(spectrum * np.exp(-2j * np.pi * k * shift_px), axis=axis).real.astype(np.float32)


def bump(z_px: float, thickness_px: float, size: int = SIZE) -> np.ndarray:
    z = np.arange(size) - size // 2
    return np.exp(-((z - z_px) ** 2) / (2 * thickness_px**2))[:, None, None] * np.ones((1, size, size))


def hexamers(neighbours: bool) -> np.ndarray:
    """A C6 hexamer, centred, alone or among its six neighbours; density is positive."""
    blobs = hexamer()
    copies = [np.zeros(3)]
    if neighbours:
        copies += [86 * np.array([0, np.sin(a), np.cos(a)]) for a in np.deg2rad(60 * np.arange(6) + 19)]
    centres = np.concatenate([blobs.centre_zyx_angst + copy for copy in copies])
    lattice = blobs._replace(centre_zyx_angst=centres, mass=np.tile(blobs.mass, len(copies)), sigma_angst=3.0)
    return density_map(lattice, SIZE, PIXEL).data


def mask_of(density: np.ndarray) -> np.ndarray:
    """What a user makes of a centred map: low-pass, threshold, growth, soft edge, a column."""
    low = lowpass(torch.from_numpy(density), PIXEL, 18.0).numpy()
    made = soft_mask_from_map(low, float(0.25 * low.max()), 2.0, 5.0)
    index = np.arange(SIZE) - SIZE // 2
    r = np.hypot(*np.meshgrid(index, index, indexing="ij")) * PIXEL
    return (made * (r < 85)).astype(np.float32)


@pytest.fixture(scope="module")
def capsid() -> np.ndarray:
    return hexamers(neighbours=True)


@pytest.fixture(scope="module")
def mask(capsid) -> np.ndarray:
    return mask_of(capsid)


@pytest.fixture(scope="module")
def alone() -> tuple[np.ndarray, np.ndarray]:
    one = hexamers(neighbours=False)
    return one, mask_of(one)


@pytest.fixture(scope="module")
def scene(capsid) -> np.ndarray:
    """Capsid under two leaflets, 70 and 105 Å above its centre, with noise."""
    rng = np.random.default_rng(1)
    membrane = 0.6 * capsid.max() * (bump(70 / PIXEL, 3) + bump(105 / PIXEL, 3)) / 2
    noise = rng.normal(size=capsid.shape) * 0.3 * capsid.std()
    index = np.arange(SIZE) - SIZE // 2
    r = np.sqrt(index[:, None, None] ** 2 + index[:, None] ** 2 + index**2)
    taper = np.clip((SIZE / 2 - r) / 4, 0, 1)
    return ((capsid + membrane + noise) * taper).astype(np.float32)


@pytest.mark.parametrize("offset", [2.75, -2.75, 0.0, 0.4, -5.35])
def test_planted_offset_of_a_particle(alone, offset):
    density, its_mask = alone
    curve = score_curve(shifted(density, offset, 0), its_mask, "z", 12.0, pixel_size_angst=PIXEL)
    assert curve.candidates[0].offset_px == pytest.approx(offset, abs=0.1)
    assert curve.confidence > 0.8


@pytest.mark.parametrize("offset", [2.75, -5.35])
def test_planted_offset_of_a_lattice(capsid, mask, offset):
    """Neighbours that the mask's column cuts through, and the rim of the box."""
    curve = score_curve(shifted(capsid, offset, 0), mask, "z", 12.0, pixel_size_angst=PIXEL)
    assert curve.candidates[0].offset_px == pytest.approx(offset, abs=0.12)
    assert curve.confidence > 0.8


@pytest.mark.parametrize("offset", [2.75, -3.6])
def test_membrane_and_noise_do_not_pull(scene, mask, offset):
    curve = score_curve(shifted(scene, offset, 0), mask, "z", 12.0, pixel_size_angst=PIXEL)
    assert curve.candidates[0].offset_px == pytest.approx(offset, abs=0.12)
    assert curve.confidence > 0.5
    assert curve.uncertainty_px < 1


@pytest.mark.parametrize(("axis", "place"), [("x", 2), ("y", 1)])
def test_other_axes(alone, axis, place):
    """The same scene turned so that the particle's own axis lies along x or y."""
    turned, turned_mask = (np.ascontiguousarray(np.moveaxis(one, 0, place)) for one in alone)
    curve = score_curve(shifted(turned, 1.85, place), turned_mask, axis, 10.0, pixel_size_angst=PIXEL)
    assert curve.candidates[0].offset_px == pytest.approx(1.85, abs=0.1)


def test_moving_the_mask_moves_the_other_way(alone):
    density, its_mask = alone
    curve = score_curve(density, shifted(its_mask, 2.0, 0).clip(0, 1), "z", 10.0, pixel_size_angst=PIXEL)
    assert curve.candidates[0].offset_px == pytest.approx(-2.0, abs=0.15)


def test_the_curve(capsid, mask):
    curve = score_curve(shifted(capsid, 1.3, 0), mask, "z", 8.0, 0.05, PIXEL)
    assert len(curve.offset_px) == len(curve.score) == 321
    assert curve.offset_px[[0, 160, -1]].tolist() == pytest.approx([-8, 0, 8])
    assert np.abs(curve.score).max() <= 1
    best = curve.candidates[0]
    assert best.score == pytest.approx(curve.score.max(), abs=1e-4)
    assert abs(best.offset_px - curve.offset_px[curve.score.argmax()]) <= 0.05
    assert [c.score for c in curve.candidates] == sorted((c.score for c in curve.candidates), reverse=True)


def test_profiles_across_the_axis(capsid, mask):
    curve = score_curve(shifted(capsid, 6.0, 0), mask, "z", 10.0, pixel_size_angst=PIXEL)
    z = np.arange(SIZE)
    of_map, of_mask = curve.profile_map.clip(0), curve.profile_mask
    middle = (z * of_mask).sum() / of_mask.sum()
    assert (z * of_map).sum() / of_map.sum() - middle == pytest.approx(6.0, abs=1.0)


def test_two_layers_give_two_candidates():
    """A layer and its equal 9 px above: both are offered, the runner-up no worse than noise allows."""
    two = (bump(0, 2) + 0.97 * bump(9, 2)).astype(np.float32)
    index = np.arange(SIZE) - SIZE // 2
    column = np.hypot(*np.meshgrid(index, index, indexing="ij")) < 18
    layer_mask = (np.abs(index) <= 3)[:, None, None] * column[None]
    curve = score_curve(two, layer_mask.astype(np.float32), "z", 15.0, pixel_size_angst=PIXEL)
    found = sorted(c.offset_px for c in curve.candidates[:2])
    assert found == pytest.approx([0.0, 9.0], abs=0.8)
    one = score_curve(
        bump(0, 2).astype(np.float32), layer_mask.astype(np.float32), "z", 15.0, pixel_size_angst=PIXEL
    )
    assert curve.confidence < one.confidence


def test_noise_gives_no_confidence(mask):
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(SIZE,) * 3).astype(np.float32)
    assert score_curve(noise, mask, "z", 12.0, pixel_size_angst=PIXEL).confidence < 0.3


def test_an_offset_beyond_the_range_is_not_believed(capsid, mask):
    curve = score_curve(shifted(capsid, 9.0, 0), mask, "z", 4.0, pixel_size_angst=PIXEL)
    assert curve.candidates[0].offset_px > 3.5
    assert curve.confidence < 0.5


@pytest.mark.parametrize("size", [48, 90])
def test_any_box(size):
    """Boxes smaller and larger than the working one; the answer is in the map's own pixels."""
    z, y, x = np.meshgrid(*[np.arange(size) - size // 2] * 3, indexing="ij")
    width = size / 12
    ellipsoid = np.exp(-((z / width) ** 2 + (y / (2 * width)) ** 2 + (x / (2 * width)) ** 2)).astype(
        np.float32
    )
    made = soft_mask_from_map(ellipsoid, 0.3, 1.0, 3.0)
    curve = score_curve(shifted(ellipsoid, -1.65, 0), made, "z", 8.0, pixel_size_angst=4.0)
    assert curve.candidates[0].offset_px == pytest.approx(-1.65, abs=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"axis": "w"}, "axis must be x, y or z, not w", id="axis"),
        pytest.param({"range_px": 40.0}, r"between 0 and half the box \(32 px\)", id="range"),
        pytest.param({"mask": np.zeros((SIZE,) * 3, np.float32)}, "the mask is empty", id="empty mask"),
        pytest.param(
            {"mask": np.ones((SIZE,) * 3, np.float32)}, "the mask fills the whole box", id="full mask"
        ),
        pytest.param({"map": -1}, "no positive density", id="inverted map"),
    ],
)
def test_what_cannot_be_scored(capsid, mask, options, words):
    density = -np.abs(capsid) - 1 if options.get("map") else capsid
    with pytest.raises(ValueError, match=words):
        score_curve(
            density, options.get("mask", mask), options.get("axis", "z"), options.get("range_px", 12.0)
        )


def test_candidates_stay_inside_the_range(alone, mask):
    """Flat maxima far from the best one were once thrown out of the box by the parabola."""
    density, its_mask = alone
    for range_px in (10.0, 20.0, 30.0):
        for one in (its_mask, mask):
            curve = score_curve(density, one, "z", range_px, pixel_size_angst=PIXEL)
            assert all(abs(c.offset_px) <= range_px for c in curve.candidates)


def test_an_end_of_the_range_is_no_maximum(alone):
    density, its_mask = alone
    curve = score_curve(shifted(density, 6.0, 0), its_mask, "z", 2.0, pixel_size_angst=PIXEL)
    assert curve.at_end
    assert curve.confidence == 0
