"""Where the evidence passes the limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.kernels.refine import accuracy
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.projector import slice_axes
from napari_sta.kernels.refine.voxels import make_voxel_list
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from toy_refinement import PADDING, RADIUS, SIZE, blob_map, ramp, toy_particle, toy_volume, turned
from twins import gather_reference, shift_images_reference


def test_accuracy_is_where_the_evidence_passes_the_limit():
    pixels = make_pixel_list(SIZE, RADIUS)
    angles = np.array([30.0, 60.0, -20.0])
    projector, particle = toy_particle(
        blob_map(), pixels, euler_to_matrix_zyx(angles), np.zeros(3), n_tilts=1
    )
    found = accuracy.expected_accuracy(projector, particle, pixels, angles, np.random.default_rng(3))
    generator = np.random.default_rng(3)
    angle_axis, offset_axis = generator.integers(0, 3, 1)[0], generator.integers(0, 3, 1)[0]

    def evidence(error_deg=0.0, error_px=0.0):
        turned = angles.copy()
        turned[angle_axis] += error_deg
        shift = np.zeros(3)
        shift[2 - offset_axis] = error_px  # axes are x, y, z
        rows = []
        for a, s in ((angles, np.zeros(3)), (turned, shift)):
            row, _ = gather_reference(
                projector, slice_axes(euler_to_matrix_zyx(a)[None], PADDING), pixels, np.zeros(len(pixels))
            )
            rows.append(shift_images_reference(row[0].numpy(), s[None, 1:], pixels)[0].numpy())
        weight = np.tile(particle.model[0] ** 2 / (2 * particle.sigma2[pixels.shell]) * (pixels.shell > 0), 2)
        return float((weight * (rows[0] - rows[1]) ** 2).sum())

    steps = [(0.2, 0.05), (1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0), (20, 2.0), (30, 5.0)]
    step = next(s for limit, s in steps if found.angle_deg <= limit + 1e-9)
    assert evidence(error_deg=found.angle_deg) > 4.60517
    assert evidence(error_deg=found.angle_deg - step) <= 4.60517
    if offset_axis == 2:  # along the beam of the only image: never noticed
        assert found.offset_px == pytest.approx(10)
    else:
        step = next(
            s for limit, s in [(1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0)] if found.offset_px <= limit + 1e-9
        )
        assert evidence(error_px=found.offset_px) > 4.60517
        assert evidence(error_px=found.offset_px - step) <= 4.60517


def test_accuracy_is_where_the_evidence_passes_the_limit_of_volumes():
    pixels = make_voxel_list(SIZE, RADIUS, part=250)
    angles = np.array([30.0, 60.0, -20.0])
    projector, particle = toy_volume(pixels, euler_to_matrix_zyx(angles), np.zeros(3))
    found = accuracy.expected_accuracy(projector, particle, pixels, angles, np.random.default_rng(3))
    generator = np.random.default_rng(3)
    angle_axis, offset_axis = generator.integers(0, 3, 1)[0], generator.integers(0, 3, 1)[0]
    slices = particle.multiplicity.ravel()[: pixels.count]
    ctf2 = particle.model.ravel()[: pixels.count].astype(float)
    weight = ctf2**2 / (2 * particle.sigma2[pixels.shell] * np.where(slices > 0.1, slices, 1))
    weight = weight * (pixels.shell > 0)

    def evidence(error_deg=0.0, error_px=0.0):
        other, shift = angles.copy(), np.zeros(3)
        other[angle_axis] += error_deg
        shift[2 - offset_axis] = error_px
        v = turned(projector, euler_to_matrix_zyx(angles), pixels)
        moved = turned(projector, euler_to_matrix_zyx(other), pixels) * ramp(shift, pixels)
        return (weight * np.abs(v - moved) ** 2).sum()

    steps = [(0.2, 0.05), (1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0), (20, 2.0), (30, 5.0)]
    step = next(s for limit, s in steps if found.angle_deg <= limit + 1e-9)
    assert evidence(error_deg=found.angle_deg) > 4.60517
    assert evidence(error_deg=found.angle_deg - step) <= 4.60517
    steps = [(1, 0.1), (2, 0.2), (5, 0.5), (10, 1.0)]
    step = next(s for limit, s in steps if found.offset_px <= limit + 1e-9)
    assert evidence(error_px=found.offset_px) > 4.60517
    assert evidence(error_px=found.offset_px - step) <= 4.60517


def test_errors_are_tried_in_steps_that_widen():
    steps = accuracy._error_steps((0.2, 0.05), (1.0, 0.1), (3.0, 0.9))
    np.testing.assert_allclose(
        steps, [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.9, 2.8, 3.7]
    )


def test_which_error_is_the_first_to_be_noticed():
    asked = []

    def evidence(errors):
        asked.append(len(errors))
        return np.where(errors < 13, -np.log(0.01), 5.0)  # just the limit is not beyond it

    assert accuracy._first_above(evidence, np.arange(1.0, 30.0), block=4) == 13
    assert asked == [4, 4, 4, 4]  # no more than are needed
    assert accuracy._first_above(lambda e: e * 0, np.arange(1.0, 30.0)) == 29


@pytest.mark.parametrize("seed", range(4))
def test_accuracy_of_several_images(seed):
    """Each image is disturbed about an axis of its own; the limits that are tried, up to the last."""
    pixels = make_pixel_list(SIZE, RADIUS)
    angles = np.array([30.0, 60.0, -20.0])
    projector, particle = toy_particle(
        blob_map(), pixels, euler_to_matrix_zyx(angles), np.zeros(3), n_tilts=3, scale=1.4
    )
    # So much noise that only large errors are seen.
    particle = replace(particle, sigma2=particle.sigma2 * 10.0 ** (1 + seed))
    found = accuracy.expected_accuracy(projector, particle, pixels, angles, np.random.default_rng(seed))
    generator = np.random.default_rng(seed)
    angle_axis, offset_axis = generator.integers(0, 3, 3), generator.integers(0, 3, 3)
    n = len(pixels)

    def evidence(error_deg=0.0, error_px=0.0):
        total = 0.0
        for t, q in enumerate(particle.matrices_zyx):
            other, shift = angles.copy(), np.zeros(3)
            other[angle_axis[t]] += error_deg
            shift[2 - offset_axis[t]] = error_px
            rows = []
            for a, s in ((angles, np.zeros(3)), (other, shift)):
                axes = slice_axes((q @ euler_to_matrix_zyx(a))[None], PADDING)
                row, _ = gather_reference(projector, axes, pixels, np.zeros(n))
                rows.append(shift_images_reference(row[0].numpy(), (q @ s)[None, 1:], pixels)[0].numpy())
            weight = particle.model[t] ** 2 / (2 * particle.sigma2[pixels.shell]) * (pixels.shell > 0)
            total += float((np.tile(weight, 2) * (rows[0] - rows[1]) ** 2).sum())
        return total

    tried_deg = accuracy._error_steps(
        (0.2, 0.05), (1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (20.0, 2.0), (30.0, 5.0)
    )
    tried_px = accuracy._error_steps((1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0))
    assert found.angle_deg == next((e for e in tried_deg if evidence(error_deg=e) > 4.60517), tried_deg[-1])
    assert found.offset_px == next((e for e in tried_px if evidence(error_px=e) > 4.60517), tried_px[-1])
