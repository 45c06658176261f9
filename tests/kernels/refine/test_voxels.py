"""Lists of voxels in parts, and their shells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sta.kernels.refine.scores import score_poses
from napari_sta.kernels.refine.voxels import half_space_shells, make_voxel_list, voxels_per_shell
from toy_refinement import RADIUS, SHELLS, SIZE, joined, random_rotations, toy_volume


@pytest.mark.parametrize(("size", "radius", "part"), [(16, 5, 37), (16, 8, 4096), (20, 7, 100)])
def test_list_holds_each_friedel_pair_once(size, radius, part):
    pixels = make_voxel_list(size, radius, part=part)
    listed = set(zip(pixels.w.tolist(), pixels.v.tolist(), pixels.u.tolist(), strict=True))
    assert len(listed) == pixels.count
    k = range(-radius, radius + 1)
    ball = {(w, v, u) for w in k for v in k for u in k if w * w + v * v + u * u <= radius * radius}

    def folded(p):
        return tuple(-size // 2 + (a + size // 2) % size for a in p)  # -size / 2 is size / 2

    pairs = {frozenset((folded(p), folded(tuple(-a for a in p)))) for p in ball}
    assert {frozenset((folded(p), folded(tuple(-a for a in p)))) for p in listed} == pairs
    assert len(pairs) == len(listed)
    # The parts are the list, cut and filled up with frequency 0.
    assert len({len(one) for one in pixels.parts}) == 1
    assert len(pixels) <= part
    for name in ("w", "v", "u", "shell"):
        whole = np.concatenate([getattr(one, name) for one in pixels.parts])
        np.testing.assert_array_equal(whole[: pixels.count], getattr(pixels, name))
        assert not whole[pixels.count :].any()
    for one in pixels.parts:
        assert one.row_n.sum() <= len(one)
        for w, v, u, n, start in zip(one.row_w, one.row_v, one.row_u, one.row_n, one.row_start, strict=True):
            row = slice(start, start + n)
            np.testing.assert_array_equal(one.u[row], np.arange(u, u + n))
            assert (one.v[row] == v).all()
            assert (one.w[row] == w).all()


def test_shells_count_what_the_list_holds():
    pixels = make_voxel_list(SIZE, SIZE // 2)
    count = voxels_per_shell(SIZE)
    np.testing.assert_array_equal(np.bincount(pixels.shell, minlength=SHELLS)[: SHELLS - 1], count[:-1])
    assert count[0] == 1
    assert count[1] == 9  # 26 neighbours less 8 corners at sqrt(3), half of them


def test_list_of_a_larger_box_counts_the_shells_of_the_reference():
    # Edge of the reference 2/3 of the volume's: its shell k is the volume's k · 3/2.
    pixels = make_voxel_list(24, 6, 2 / 3)
    radius = np.sqrt(pixels.w**2 + pixels.v**2 + pixels.u**2)
    assert radius.max() == pytest.approx(9)
    np.testing.assert_array_equal(pixels.shell, np.floor(radius * 2 / 3 + 0.5))


def test_smaller_list_is_found_in_the_larger():
    whole = make_voxel_list(SIZE, RADIUS, part=150)
    small = make_voxel_list(SIZE, 4, part=70)
    place = whole.places_of(small)
    assert (place.ravel()[small.count :] == -1).all()
    for name in ("w", "v", "u"):
        np.testing.assert_array_equal(
            getattr(whole, name)[place.ravel()[: small.count]], getattr(small, name)
        )
    projector, particle = toy_volume(whole, random_rotations(1, 5)[0], np.zeros(3))
    part = particle.at_pixels(place)
    inside = np.hypot(np.hypot(whole.w, whole.v), whole.u) <= 4
    np.testing.assert_array_equal(joined(part.masked, small), joined(particle.masked, whole)[inside])
    assert part.model.shape == place.shape
    assert not part.model.ravel()[small.count :].any()
    assert len(part.matrices_zyx) == len(small.parts)
    assert score_poses(projector, part, small, random_rotations(2, 1), np.zeros((1, 3))).shape == (2, 1)


def test_mates_and_sectors_by_hand():
    radius = 4
    pixels = make_voxel_list(SIZE, radius, part=60)
    window = {
        (w, v, u)
        for w in range(1 - radius, radius + 1)
        for v in range(1 - radius, radius + 1)
        for u in range(radius + 1)
    }
    for part in pixels.parts:
        real = int(part.row_n.sum())
        for i in range(real):
            k = (int(part.w[i]), int(part.v[i]), int(part.u[i]))
            mate = tuple(-a for a in k)
            twice = mate != k and mate in window and k in window
            assert part.friedel_mates[i] == (2 if twice else 1), k
            turn = np.arctan2(k[0], k[1]) / (2 * np.pi) + 0.5
            assert part.sector[i] == min(int(turn * 16), 15)
    assert {int(s) for part in pixels.parts for s in part.sector} == set(range(16))


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_shells_of_the_half_space_by_hand(ratio):
    size, none = 8, 6
    shells = half_space_shells(size, ratio, none)
    for z, y, u in np.ndindex(size, size, size // 2 + 1):
        w, v = (a if a <= size // 2 else a - size for a in (z, y))
        mate = u == 0 and (v < 0 or (v == 0 and w < 0))
        nearest = int(np.floor(np.sqrt(w * w + v * v + u * u) * ratio + 0.5))
        assert shells[z, y, u] == (none if mate else min(nearest, none))
    np.testing.assert_array_equal(half_space_shells(size), half_space_shells(size, 1.0, size // 2 + 1))
    assert voxels_per_shell(size).sum() == (half_space_shells(size) <= size // 2).sum()
    assert voxels_per_shell(size)[0] == 1


def test_values_are_picked_where_they_lie(rng):
    pixels = make_voxel_list(12, 4, part=40)
    grid = torch.from_numpy(rng.normal(size=(12, 12, 7)) + 1j * rng.normal(size=(12, 12, 7)))
    picked, taken = pixels.pick(grid.real), pixels.take(grid)
    n = len(pixels)
    assert picked.shape == (len(pixels.parts), n)
    assert taken.shape == (len(pixels.parts), 2 * n)
    assert picked.dtype == taken.dtype == np.float32
    for i in (0, n - 1, n, pixels.count - 1):
        value = complex(grid[pixels.w[i] % 12, pixels.v[i] % 12, pixels.u[i]])
        assert picked.ravel()[i] == pytest.approx(value.real)
        assert taken[i // n, n + i % n] == pytest.approx(value.imag)
    assert not picked.ravel()[pixels.count :].any()
    assert len(pixels.parts) * n > pixels.count


def test_list_of_another_edge():
    """Voxels within the reference's radius over the ratio; shells are the reference's."""
    pixels = make_voxel_list(16, 6, 1.3)
    k = np.sqrt(pixels.w**2 + pixels.v**2 + pixels.u**2)
    assert k.max() <= 6 / 1.3
    assert pixels.radius == 4
    np.testing.assert_array_equal(pixels.shell, np.floor(k * 1.3 + 0.5))
    inside = make_voxel_list(16, 5)
    j = np.sqrt(inside.w**2 + inside.v**2 + inside.u**2)
    small = (np.abs(inside.w) <= 4) & (np.abs(inside.v) <= 4) & (inside.u <= 4)
    assert pixels.count == ((j <= 6 / 1.3) & small).sum()
    assert make_voxel_list(8, 20).radius == 4
