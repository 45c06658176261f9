"""What particles add up to, against explicit loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.kernels.refine import noise as noise_of
from napari_sta.kernels.refine import sums as sums_of
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.posterior import Posterior
from napari_sta.kernels.refine.projector import slice_axes
from napari_sta.kernels.rotations import euler_to_matrix_zyx
from toy_refinement import (
    ANGST,
    PADDING,
    RADIUS,
    SHELLS,
    SIZE,
    blob_map,
    joined,
    ramp,
    random_rotations,
    toy_particle,
    turned,
)
from twins import gather_reference


@pytest.mark.parametrize("premultiplied", [True, False])
def test_sums_are_the_explicit_loops(premultiplied):
    pixels = make_pixel_list(SIZE, RADIUS)
    rotation, shift = random_rotations(1, 5)[0], np.array([0.4, -0.7, 1.2])
    projector, particle = toy_particle(
        blob_map(), pixels, rotation, shift, premultiplied=premultiplied, scale=1.3
    )
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 3, (3, 3)))
    shifts = shift + np.random.default_rng(1).normal(0, 0.5, (2, 3))
    weights = np.array([[0.5, 0.2], [0.0, 0.1], [0.15, 0.0]])
    posterior = Posterior(rotations, shifts, weights, np.zeros(3, dtype=int), (0, 0), 1, 0.0)
    n_shells, n = SIZE // 2 + 1, len(pixels)
    sums = sums_of.new_sums(RADIUS, PADDING, 1, 1, n_shells, 2)
    sums_of.add_particle(sums, posterior, projector, particle, pixels, 0, 0, ANGST)

    residual, cross, norm = np.zeros(n_shells), np.zeros(n_shells), np.zeros(n_shells)
    total_data, total_weight = 0j, 0.0
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        for o in range(3):
            rows, _ = gather_reference(
                projector, slice_axes((q @ rotations[o])[None], PADDING), pixels, np.zeros(n)
            )
            mv = particle.model[t] * (rows[0, :n].numpy() + 1j * rows[0, n:].numpy())
            for s in range(2):
                d = (q @ shifts[s])[1:]
                ramp = np.exp(-2j * np.pi * (pixels.v * d[0] + pixels.u * d[1]) / SIZE)
                x = (particle.masked[t, :n] + 1j * particle.masked[t, n:]) * ramp
                raw = (particle.unmasked[t, :n] + 1j * particle.unmasked[t, n:]) * ramp
                w = weights[o, s]
                np.add.at(residual, pixels.shell, w * np.abs(1.3 * mv - x) ** 2)
                np.add.at(cross, pixels.shell, w * (np.conj(mv) * x).real)
                np.add.at(norm, pixels.shell, w * np.abs(mv) ** 2)
                inverse = 1 / particle.sigma2[pixels.shell]
                # Trilinear weights sum to 1, so plain sums over the volume tell all but the placing.
                total_weight += (
                    w * inverse * (1.3 * particle.model[t] if premultiplied else 1.69 * particle.ctf[t] ** 2)
                ).sum()
                x3 = pixels.v * (q @ rotations[o])[1, 2] + pixels.u * (q @ rotations[o])[2, 2]
                data = w * inverse * (1 if premultiplied else 1.3 * particle.ctf[t]) * raw
                total_data += np.where(x3.astype(np.float32) >= 0, data, np.conj(data)).sum()
    np.testing.assert_allclose(sums.residual[0], residual, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(sums.cross[0].sum(axis=0), cross, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(sums.norm[0].sum(axis=0), norm, rtol=2e-4, atol=1e-6)
    assert sums.volume[..., 2].sum() == pytest.approx(total_weight, rel=1e-4)
    data = sums.volume[..., 0].sum() + 1j * sums.volume[..., 1].sum()
    assert data.real == pytest.approx(total_data.real, rel=1e-3)
    assert data.imag == pytest.approx(total_data.imag, rel=1e-3, abs=1e-3 * abs(total_data))
    assert sums.n_images[0] == pytest.approx(0.95 * 2)
    assert sums.weight == pytest.approx(0.95)
    offset2 = (weights.sum(axis=0) * ((ANGST * shifts) ** 2).sum(axis=1)).sum()
    assert sums.offset2_angst2 == pytest.approx(offset2)


def test_row_ends_and_pooling(toy):
    pixels, projector, particle, rotation, shift = toy
    posterior = Posterior(
        rotation[None], shift[None], np.ones((1, 1)), np.zeros(1, dtype=int), (0, 0), 1, 0.0
    )
    whole, cut = (sums_of.new_sums(RADIUS, PADDING, 1, 1, SIZE // 2 + 1, 2) for _ in range(2))
    sums_of.add_particle(whole, posterior, projector, particle, pixels, 0, 0, ANGST)
    sums_of.add_particle(
        cut, posterior, projector, particle, pixels, 0, 0, ANGST, per_image=False, drop_row_ends=True
    )
    assert cut.volume[..., 2].sum() < whole.volume[..., 2].sum()
    np.testing.assert_allclose(cut.residual * 2, whole.residual)
    np.testing.assert_allclose(noise_of.update_noise(cut, SIZE), noise_of.update_noise(whole, SIZE))


def test_residuals_by_tilt_are_the_explicit_ones(toy):
    pixels, projector, particle, rotation, shift = toy
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 3, (2, 3)))
    weights = np.array([[0.6], [0.3]])
    posterior = Posterior(rotations, shift[None], weights, np.zeros(2, dtype=int), (0, 0), 1, 0.0)
    n, shells = len(pixels), SIZE // 2 + 1
    sums = sums_of.new_sums(RADIUS, PADDING, 1, 2, shells, 5)
    tilts = np.array([3, 1])
    sums_of.add_particle(
        sums, posterior, projector, replace(particle, tilts=tilts), pixels, 0, 1, ANGST, average=False
    )
    assert not sums.volume.any()
    assert not sums.tilt_residual[0].any()
    np.testing.assert_allclose(sums.tilt_weight[1], [0, 0.9, 0, 0.9, 0])
    for t in range(particle.n_tilts):
        q = particle.matrices_zyx[t]
        d = (q @ shift)[1:]
        x = particle.masked[t, :n] + 1j * particle.masked[t, n:]
        x = x * np.exp(-2j * np.pi * (pixels.v * d[0] + pixels.u * d[1]) / SIZE)
        by_hand = np.zeros(shells)
        for o in range(2):
            rows, _ = gather_reference(
                projector, slice_axes((q @ rotations[o])[None], PADDING), pixels, np.zeros(n)
            )
            v = rows[0, :n].numpy() + 1j * rows[0, n:].numpy()
            difference = np.abs(1.2 * particle.model[t] * v - x) ** 2
            by_hand += weights[o, 0] * np.bincount(pixels.shell, difference, shells)
        np.testing.assert_allclose(sums.tilt_residual[1, tilts[t]], by_hand, rtol=2e-4, atol=1e-6)


def test_sums_are_the_explicit_loops_of_volumes(solid):
    pixels, projector, particle, rotation, shift = solid
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 3, (3, 3)))
    shifts = shift + np.random.default_rng(1).normal(0, 0.5, (2, 3))
    weights = np.array([[0.5, 0.2], [0.0, 0.1], [0.15, 0.0]])
    posterior = Posterior(rotations, shifts, weights, np.zeros(3, dtype=int), (0, 0), 1, 0.0)
    sums = sums_of.new_sums(RADIUS, PADDING, 1, 2, SHELLS, 1)
    sums_of.add_particle(
        sums, posterior, projector, particle, pixels, 0, 1, ANGST,
        drop_row_ends=True,
    )  # fmt: skip

    residual, cross, norm = np.zeros(SHELLS), np.zeros(SHELLS), np.zeros(SHELLS)
    total_data, total_weight = 0j, 0.0
    ctf2 = particle.model.ravel()[: pixels.count].astype(float)
    raw = joined(particle.unmasked, pixels)
    inverse = 1 / particle.sigma2[pixels.shell]  # without multiplicity
    for o in range(3):
        mv = ctf2 * turned(projector, rotations[o], pixels)
        x3 = np.stack([pixels.w, pixels.v, pixels.u], axis=1) @ rotations[o][:, 2]
        for s in range(2):
            w = weights[o, s]
            x = joined(particle.masked, pixels) * ramp(shifts[s], pixels)
            np.add.at(residual, pixels.shell, w * np.abs(1.2 * mv - x) ** 2)
            np.add.at(cross, pixels.shell, w * (np.conj(mv) * x).real)
            np.add.at(norm, pixels.shell, w * np.abs(mv) ** 2)
            total_weight += (w * inverse * 1.2 * ctf2).sum()
            data = w * inverse * raw * ramp(shifts[s], pixels)
            total_data += np.where(x3.astype(np.float32) >= 0, data, np.conj(data)).sum()
    np.testing.assert_allclose(sums.residual[0], residual, rtol=2e-4, atol=1e-9)
    assert not sums.cross[0].any()
    np.testing.assert_allclose(sums.cross[1, 0], cross, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(sums.norm[1, 0], norm, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(sums.tilt_residual[1, 0], residual, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(sums.tilt_weight, [[0], [0.95]])
    assert sums.volume[..., 2].sum() == pytest.approx(total_weight, rel=1e-4)
    data = sums.volume[..., 0].sum() + 1j * sums.volume[..., 1].sum()
    assert data.real == pytest.approx(total_data.real, rel=1e-3)
    assert data.imag == pytest.approx(total_data.imag, rel=1e-3, abs=1e-3 * abs(total_data))
    assert sums.n_images[0] == pytest.approx(0.95)
    np.testing.assert_allclose(sums.multiplicity[0], 0.95 * particle.multiplicity_per_shell)
    noise = noise_of.update_noise(sums, SIZE)
    good = slice(1, RADIUS)
    np.testing.assert_allclose(
        noise[0, good], (residual / (2 * 0.95 * particle.multiplicity_per_shell))[good], rtol=1e-3
    )
