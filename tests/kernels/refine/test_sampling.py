"""Grids of orientations and translations: RELION's counts and numbers, geometry, properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from napari_sta.kernels.refine import sampling
from napari_sta.kernels.rotations import euler_to_matrix_zyx, symmetry_operators_zyx

# The first directions RELION 5.0.1 lists for C6 at order 4 (run_it000_sampling.star), rot and tilt.
RELION_C6_ORDER_4 = [
    (28.125000, 73.042237), (25.312500, 70.528779), (28.125000, 67.975687), (22.500000, 67.975687),
    (25.312500, 65.375682), (19.687500, 65.375682), (22.500000, 62.720387), (28.125000, 62.720387),
]  # fmt: skip


@pytest.mark.parametrize(
    ("order", "step", "directions", "psis"),
    [(1, 30.0, 48, 12), (2, 15.0, 192, 24), (3, 7.5, 768, 48), (4, 3.75, 3072, 96), (5, 1.875, 12288, 192)],
)
def test_full_grid_has_relions_counts(order, step, directions, psis):
    grid = sampling.make_orientation_grid(order)
    assert (grid.step_deg, grid.n_directions, grid.n_psi) == (step, directions, psis)
    assert len(grid) == directions * psis


def test_c6_directions_are_relions():
    grid = sampling.make_orientation_grid(4, "C6")
    assert grid.n_directions == 496  # 512 and the seam, less 16 duplicates
    np.testing.assert_allclose(grid.directions_deg[:8], RELION_C6_ORDER_4, atol=1e-6)


@pytest.mark.parametrize("symmetry", ["C1", "C2", "C7", "D2", "D7", "T", "O", "I1", "I2", "I3"])
def test_asymmetric_unit_covers_every_direction_about_once(symmetry):
    everything = sampling.make_orientation_grid(3)
    grid = sampling.make_orientation_grid(3, symmetry)
    operators = symmetry_operators_zyx(symmetry)
    assert grid.n_directions == pytest.approx(everything.n_directions / len(operators), rel=0.35, abs=4)
    copies = np.einsum("oij,nj->oni", operators, sampling.directions_zyx(grid.directions_deg)).reshape(-1, 3)
    nearest = (sampling.directions_zyx(everything.directions_deg) @ copies.T).max(axis=1)
    # Every grid direction has a kept copy at most about a pixel away.
    assert np.rad2deg(np.arccos(np.clip(nearest, -1, 1))).max() < grid.step_deg


def test_no_two_kept_directions_are_copies_of_each_other():
    grid = sampling.make_orientation_grid(3, "C6")
    vectors = sampling.directions_zyx(grid.directions_deg)
    for operator in symmetry_operators_zyx("C6")[1:]:
        nearness = np.rad2deg(np.arccos(np.clip((vectors @ operator.T) @ vectors.T, -1, 1)))
        own = (vectors * (vectors @ operator.T)).sum(axis=1)
        apart = nearness[~np.eye(len(vectors), dtype=bool)]
        assert apart.min() > 0.3 * grid.step_deg
        assert own.max() < 1


def test_third_row_of_the_rotation_is_the_direction():
    angles = np.array([[10.0, 50.0, -70.0], [-120.0, 133.0, 5.0]])
    rows = euler_to_matrix_zyx(angles)[:, 0]  # zyx: first row is z
    np.testing.assert_allclose(rows, sampling.directions_zyx(angles[:, :2]), atol=1e-12)


def test_children_surround_their_parent():
    grid = sampling.make_orientation_grid(3, "C2")
    index = np.array([0, 17, len(grid) - 1])
    parents, children = grid.angles_deg(index), grid.children_deg(index)
    assert children.shape == (3, 8, 3)
    offsets = np.sort(children[..., 2] - parents[:, None, 2], axis=1)
    np.testing.assert_allclose(offsets[:, [0, -1]], [[-1.875, 1.875]] * 3)
    middle = sampling.directions_zyx(children[..., :2]).mean(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    cosine = (middle * sampling.directions_zyx(parents[:, :2])).sum(axis=1)
    assert np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).max() < 0.1 * grid.step_deg
    fine = sampling.make_orientation_grid(4, "C1").directions_deg
    for one in children[0]:
        assert np.abs(fine - one[:2]).sum(axis=1).min() < 1e-9
    assert grid.children_deg(index, 0).shape == (3, 1, 3)
    assert grid.children_deg(index, 2).shape == (3, 64, 3)


@pytest.mark.parametrize(("ratio", "count"), [(2.5, 81), (3, 123), (2, 33), (1.5, 19), (1, 7)])
def test_translation_counts(ratio, count):
    grid = sampling.translation_grid_zyx(ratio * 1.7, 1.7)
    assert len(grid) == count
    assert len(sampling.translation_grid_zyx(ratio * 1.7, 1.7, n_dim=2)) < count
    np.testing.assert_allclose(grid.mean(axis=0), 0, atol=1e-12)


def test_job016_offsets():
    # Range 3 px and step 2 px at 5.4 Å, as RELION's float32 numbers have it.
    assert len(sampling.translation_grid_zyx(16.200001, 10.800001)) == 19
    children = sampling.translation_children_zyx(10.8)
    assert len(children) == 8
    np.testing.assert_allclose(np.unique(np.abs(children)), 2.7)


def test_perturbation_follows_relions_recurrence():
    # rlnSamplingPerturbInstance of iterations 0 to 6 of one run, random draws unknown: U(0.25, 0.5).
    seen = [0.460047, -0.114710, 0.275636, -0.245250, 0.073437, 0.357297, -0.270980]
    for before, after in itertools.pairwise(seen):
        draw = ((after - before) % 1.0 - 0.25) / 0.25
        assert 0 <= draw < 1
        assert sampling.next_perturbation(before, draw) == pytest.approx(after, abs=1e-12)


def test_perturbation_turns_on_the_reference_side():
    angles = np.array([[20.0, 70.0, 110.0]])
    turned = sampling.perturbed_rotations_zyx(angles, -0.3, 3.75)[0]
    expected = euler_to_matrix_zyx(angles[0]) @ euler_to_matrix_zyx(np.full(3, -0.3 * 3.75))
    np.testing.assert_allclose(turned, expected, atol=1e-14)
    np.testing.assert_allclose(
        sampling.perturbed_rotations_zyx(angles, 0.0, 3.75)[0], euler_to_matrix_zyx(angles[0])
    )


def test_local_choice_is_the_brute_force_one():
    grid = sampling.make_orientation_grid(3, "C6")
    prior = np.array([[25.0, 88.0, 3.0], [-170.0, 20.0, -179.0]])
    width = sampling.AngularPrior(7.5, 7.5, 7.5)
    operators = symmetry_operators_zyx("C6")
    for one, choice in zip(prior, sampling.choose_near_prior(grid, prior, width), strict=True):
        weights = {}
        for i in range(len(grid)):
            rot, tilt, psi = grid.angles_deg(np.array(i))
            d = sampling.directions_zyx(np.array([rot, tilt]))
            cosine = max(float((op.T @ d) @ sampling.directions_zyx(one[:2])) for op in operators)
            distance = np.rad2deg(np.arccos(min(1.0, cosine)))
            turn = abs((psi - one[2] + 180) % 360 - 180)
            if distance < 22.5 and turn < 22.5:
                weights[i] = np.exp(-0.5 * (distance**2 + turn**2) / 7.5**2)
        assert list(choice.orientation) == sorted(weights)
        expected = np.array([weights[i] for i in choice.orientation])
        np.testing.assert_allclose(choice.prior, expected / expected.sum(), rtol=1e-9)


def test_local_choice_of_a_run():
    # 3.75 degrees, sigma 3.75: a cap of 11.25 degrees holds 29.5 pixels, and six psis lie within reach.
    grid = sampling.make_orientation_grid(4, "C6")
    rng = np.random.default_rng(0)
    prior = np.stack([rng.uniform(-180, 180, 200), rng.normal(90, 4, 200), rng.normal(0, 4, 200)], axis=1)
    choices = sampling.choose_near_prior(grid, prior, sampling.AngularPrior(3.75, 3.75, 3.75))
    assert np.mean([len(c.orientation) for c in choices]) == pytest.approx(29.5 * 6, rel=0.05)
    assert all(c.prior.sum() == pytest.approx(1) for c in choices)


def test_one_angle_priors_and_empty_reach():
    grid = sampling.make_orientation_grid(2, "C1")
    tilt_only = sampling.choose_near_prior(
        grid, np.array([[0, 90.0, 0]]), sampling.AngularPrior(tilt_deg=5.0)
    )[0]
    tilts = grid.angles_deg(tilt_only.orientation)[:, 1]
    assert np.abs(tilts - 90).max() < 15
    assert len(tilt_only.orientation) % grid.n_psi == 0
    rot_only = sampling.choose_near_prior(
        grid, np.array([[30.0, 90, 0]]), sampling.AngularPrior(rot_deg=5.0)
    )[0]
    rots = grid.angles_deg(rot_only.orientation)[:, 0]
    assert np.abs((rots - 30 + 180) % 360 - 180).max() < 15
    nothing = sampling.choose_near_prior(grid, np.array([[1.0, 77, 3]]), sampling.AngularPrior(0.1, 0.1, 0.1))
    assert len(nothing[0].orientation) == 1
    assert nothing[0].prior[0] == 1
    free = sampling.choose_near_prior(grid, np.array([[1.0, 77, 3]]), sampling.AngularPrior())[0]
    assert len(free.orientation) == len(grid)
    assert free.prior.sum() == pytest.approx(1)


@pytest.mark.parametrize("symmetry", ["C1", "C6", "D2", "D7", "T", "O", "I1"])
def test_local_searches_try_poses_near_any_mate_of_the_prior(symmetry):
    """Whatever mate of its orientation a particle comes with, some grid pose near it is tried."""
    from napari_sta.kernels.rotations import angular_distance_deg

    grid = sampling.make_orientation_grid(3, symmetry)
    rng = np.random.default_rng(0)
    true = np.stack(
        [
            rng.uniform(-180, 180, 25),
            np.rad2deg(np.arccos(rng.uniform(-1, 1, 25))),
            rng.uniform(-180, 180, 25),
        ],
        axis=1,
    )
    # Near a pole rot and psi are one angle, which a box in the three angles does not know.
    true[:, 1] = np.clip(true[:, 1], 25, 155)
    choices = sampling.choose_near_prior(grid, true, sampling.AngularPrior(7.5, 7.5, 7.5))
    for angles, choice in zip(true, choices, strict=True):
        tried = euler_to_matrix_zyx(grid.angles_deg(choice.orientation))
        distance = angular_distance_deg(
            tried, np.repeat(euler_to_matrix_zyx(angles)[None], len(tried), 0), symmetry
        )
        assert distance.min() < 7
        assert choice.prior.sum() == pytest.approx(1)
        assert len(np.unique(choice.orientation)) == len(choice.orientation)


def test_bare_psi_is_relions():
    """The same choice for Cn, whose mates have the same psi; another one for D2."""
    prior = np.array([[170.0, 50.0, 20.0], [10.0, 120.0, -70.0]])
    width = sampling.AngularPrior(7.5, 7.5, 7.5)
    grid = sampling.make_orientation_grid(3, "C3")
    for a, b in zip(
        sampling.choose_near_prior(grid, prior, width),
        sampling.choose_near_prior(grid, prior, width, bare_psi=True),
        strict=True,
    ):
        np.testing.assert_array_equal(a.orientation, b.orientation)
        np.testing.assert_allclose(a.prior, b.prior)
    grid = sampling.make_orientation_grid(3, "D2")
    ours = sampling.choose_near_prior(grid, prior[1:], width)[0]
    theirs = sampling.choose_near_prior(grid, prior[1:], width, bare_psi=True)[0]
    assert set(ours.orientation) != set(theirs.orientation)


@pytest.mark.parametrize("bare_psi", [False, True])
@pytest.mark.parametrize("angle", [0, 1, 2])
@pytest.mark.parametrize("widths", [(0.0, 12.0, 0.0), (12.0, 0.0, 0.0), (0.0, 0.0, 12.0), (12.0, 12.0, 12.0)])
def test_an_angle_without_a_prior_is_not_restrained(angle, widths, bare_psi):
    """NaN is no prior: as if there were no width."""
    grid = sampling.make_orientation_grid(1, "C2")
    prior = np.array([[20.0, 70.0, 110.0], [20.0, 70.0, 110.0]])
    prior[1, angle] = np.nan
    given, free = sampling.choose_near_prior(grid, prior, sampling.AngularPrior(*widths), bare_psi=bare_psi)
    less = [0.0 if axis == angle else width for axis, width in enumerate(widths)]
    as_if = sampling.choose_near_prior(grid, prior[:1], sampling.AngularPrior(*less), bare_psi=bare_psi)[0]
    np.testing.assert_array_equal(free.orientation, as_if.orientation)
    np.testing.assert_allclose(free.prior, as_if.prior)
    assert free.prior.sum() == pytest.approx(1)
    assert len(free.orientation) >= len(given.orientation)


@pytest.mark.parametrize(
    ("symmetry", "inside", "outside"),
    [
        pytest.param("C1", [(-180, 0), (180, 180)], [], id="C1"),
        pytest.param("C2", [(90, 10), (-90, 170)], [(91, 10), (-91, 170)], id="C2"),
        pytest.param("C6", [(30, 0), (-30, 180)], [(31, 0), (-31, 5)], id="C6"),
        pytest.param("D1", [(179, 90), (-170, 3)], [(0, 91)], id="D1"),
        pytest.param("D2", [(0, 5), (180, 90)], [(-1, 5), (90, 91)], id="D2"),
        pytest.param("D3", [(30, 0), (150, 90)], [(29, 5), (151, 5), (90, 91)], id="D3"),
    ],
)
def test_borders_of_the_asymmetric_unit(symmetry, inside, outside):
    found = sampling.asymmetric_unit(np.array(inside + outside, float), symmetry)
    assert found.tolist() == [True] * len(inside) + [False] * len(outside)


def test_widest_pixel():
    """Of order 0 the four polar pixels reach from the pole to z = 0, their centres lie at z = 2/3."""
    import healpix

    assert sampling._largest_pixel_radius(healpix, 1) == pytest.approx(np.arccos(2 / 3))
    radii = [sampling._largest_pixel_radius(healpix, 2**order) for order in range(8)]
    assert all(np.diff(radii) < 0)
    # No larger than a circle of some four times the pixel's area, no smaller than one of its own.
    areas = np.array([np.pi / 3 / 4**order for order in range(8)])
    assert (np.pi * np.square(radii) > areas).all()
    assert (np.pi * np.square(radii) < 4 * areas).all()
