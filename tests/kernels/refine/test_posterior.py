"""The two-pass search against brute force; priors, resampling, mean poses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_sta.kernels.refine.particle import ParticleImages
from napari_sta.kernels.refine.posterior import (
    Posterior,
    find_posterior,
    mean_pose,
    offset_log_prior,
    resampled,
    significant,
)
from napari_sta.kernels.rotations import euler_to_matrix_zyx, symmetry_operators_zyx
from toy_refinement import ANGST, explicit_score, make_search, random_rotations


def test_significant_weights():
    weights = np.array([[0.5, 0.3], [0.15, 0.05]])
    chosen, total = significant(weights, 0.75)
    assert total == pytest.approx(1)
    np.testing.assert_array_equal(chosen, [[True, True], [False, False]])
    np.testing.assert_array_equal(significant(weights, 0.9)[0], [[True, True], [True, False]])
    assert significant(np.array([1.0, 0.0, 0.0]), 0.999)[0].tolist() == [True, False, False]


def test_offset_prior_and_relions_units(toy):
    particle = ParticleImages(**{**toy[2].__dict__, "offset_zyx_px": np.array([1.0, 0, 0])})
    steps = np.array([[0.0, 0, 0], [-ANGST, 0, 0]])
    right = offset_log_prior(particle, steps, ANGST, 9.0)
    np.testing.assert_allclose(right, [-0.5, 0.0])
    odd = offset_log_prior(particle, steps, ANGST, 9.0, relion_units=True)
    np.testing.assert_allclose(odd, [-0.5, -0.5 * (ANGST * (1 - ANGST)) ** 2 / 9])


def test_offset_prior_is_about_its_own_centre(toy):
    particle = replace(
        toy[2], offset_zyx_px=np.array([1.0, 0.5, 0]), offset_prior_zyx_px=np.array([0.25, -0.5, 2.0])
    )
    step = np.array([[3.0, 0.0, 1.5]])
    distance = ANGST * np.array([0.75, 1.0, -2.0]) + step[0]
    assert offset_log_prior(particle, step, ANGST, 9.0)[0] == pytest.approx(-0.5 * (distance**2).sum() / 9.0)


def test_posterior_is_brute_force_over_children_of_significant_pairs(toy):
    pixels, projector, particle, rotation, shift = toy
    rng = np.random.default_rng(6)
    turn = euler_to_matrix_zyx(rng.normal(0, 2.0, (6, 3)))
    rotations = rotation @ turn
    children = rotations[:, None] @ euler_to_matrix_zyx(rng.normal(0, 1.0, (3, 3)))
    steps = (shift + rng.normal(0, 0.6, (4, 3))) * ANGST
    kids = rng.normal(0, 0.3, (2, 3)) * ANGST
    search = make_search(rotations, children, steps, kids, perturbation=0.2)
    posterior = find_posterior(projector, particle, pixels, search)

    prior = offset_log_prior(particle, steps, ANGST, 25.0)
    moved = (steps + 0.2) / ANGST
    coarse = (
        np.array([[explicit_score(projector, particle, pixels, r, s) for s in moved] for r in rotations])
        + prior
    )
    weights = np.exp(coarse - coarse.max())
    chosen, _ = significant(weights, 0.999)
    assert posterior.n_significant == chosen.sum()
    fine = {}
    for o, s in zip(*np.nonzero(chosen), strict=True):
        for c in range(3):
            for d in range(2):
                score = explicit_score(
                    projector, particle, pixels, children[o, c], moved[s] + kids[d] / ANGST
                )
                fine[o, c, s, d] = score + prior[s]
    top = max(fine.values())
    total = sum(np.exp(v - top) for v in fine.values())
    o, c, s, d = max(fine, key=lambda key: fine[key])
    assert posterior.p_max == pytest.approx(1 / total, abs=2e-3)
    np.testing.assert_allclose(posterior.rotations_zyx[posterior.best[0]], children[o, c])
    np.testing.assert_allclose(posterior.shifts_zyx_px[posterior.best[1]], moved[s] + kids[d] / ANGST)
    assert 0.999 <= posterior.weights.sum() <= 1 + 1e-9
    assert posterior.parents[posterior.best[0]] == o


def test_cross_correlation_keeps_one_pose(toy):
    pixels, projector, particle, rotation, shift = toy
    rotations = rotation @ euler_to_matrix_zyx(np.random.default_rng(0).normal(0, 5, (5, 3)))
    children = rotations[:, None] @ euler_to_matrix_zyx(np.random.default_rng(1).normal(0, 1, (2, 3)))
    search = make_search(rotations, children, shift[None] * ANGST, np.zeros((1, 3)))
    posterior = find_posterior(projector, particle, pixels, search, cross_correlation=True)
    assert posterior.weights.shape == (1, 1)
    assert posterior.p_max == 1
    assert posterior.n_significant == 1


def test_resampled_posterior_keeps_its_averages():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(60)).reshape(6, 10) * 0.999
    posterior = Posterior(
        random_rotations(6, 1), rng.normal(size=(10, 3)), weights, np.arange(6), (0, 0), 7, 0.0
    )
    assert resampled(posterior, 60, 0.5) is posterior
    total = np.zeros((6, 10))
    for k in range(200):
        one = resampled(posterior, 8, (k + 0.5) / 200)
        assert one.weights.sum() == pytest.approx(0.999)
        assert (one.weights > 0).sum() <= 8
        rows = [
            int(np.flatnonzero((posterior.rotations_zyx == r).all(axis=(1, 2)))[0]) for r in one.rotations_zyx
        ]
        columns = [
            int(np.flatnonzero((posterior.shifts_zyx_px == s).all(axis=1))[0]) for s in one.shifts_zyx_px
        ]
        total[np.ix_(rows, columns)] += one.weights / 200
    np.testing.assert_allclose(total, weights, atol=1e-3)


def test_mean_pose_is_that_of_the_peak_modulo_symmetry():
    operators = symmetry_operators_zyx("C3")
    middle = random_rotations(1, 7)[0]
    turns = euler_to_matrix_zyx(np.array([[0, 2.0, 0], [0, -2.0, 0], [0, 3.0, 0], [0, 90.0, 0]]))
    rotations = middle @ turns
    rotations[1] = rotations[1] @ operators[1]  # a mate of the same orientation
    weights = np.array([[0.4, 0.0], [0.2, 0.1], [0.1, 0.0], [0.0, 0.1]])
    posterior = Posterior(
        rotations, np.array([[0, 0, 0], [1.0, 0, 2]]), weights, np.arange(4), (0, 0), 1, 0.0
    )
    rotation, shift = mean_pose(posterior, operators, 10.0)
    expected = middle @ euler_to_matrix_zyx(np.array([0, (0.4 * 2 - 0.3 * 2 + 0.1 * 3) / 0.8, 0]))
    best = operators[0]
    np.testing.assert_allclose(rotation @ best, expected, atol=1e-3)
    np.testing.assert_allclose(shift, [0.1 / 0.8, 0, 0.2 / 0.8])
