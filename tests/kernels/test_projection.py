"""Tilt geometry: RELION's worked example, centres of odd sizes, deformations, visibility."""

from __future__ import annotations

import numpy as np
import pytest

from laws import assert_inputs_untouched
from napari_sta.kernels.projection import (
    deform,
    depth_angst,
    is_visible,
    particle_positions_zyx_px,
    project,
    projection_matrices_zyx,
)
from napari_sta.kernels.rotations import euler_to_matrix_zyx

PIXEL = 1.35
TOMOGRAM_ZYX, IMAGE_YX = (1200, 4000, 4000), (3710, 3838)
CENTRE_ZYX = np.array([600.0, 2000.0, 2000.0])


@pytest.fixture
def matrix():
    shift_yx = np.array([[-8.25, 12.5]]) / PIXEL
    return projection_matrices_zyx(np.array([[0.0, -30.0, 85.0]]), shift_yx, TOMOGRAM_ZYX, IMAGE_YX)


def test_projection_matrix_of_the_worked_example(matrix):
    expected_xyz = np.array(
        [
            [0.075479, -0.996195, -0.043578, 3795.837204],
            [0.862730, 0.087156, -0.498097, 247.975981],
            [0.500000, 0.000000, 0.866025, -1519.615242],
            [0, 0, 0, 1],
        ]
    )
    order = [2, 1, 0, 3]
    np.testing.assert_allclose(matrix[0], expected_xyz[order][:, order], atol=1e-6)


def test_particle_of_the_worked_example(matrix):
    position = particle_positions_zyx_px(
        np.array([[135.0, -270.0, 540.0]]),
        np.array([[8.1, -2.7, 5.4]]),
        euler_to_matrix_zyx(np.array([[30.0, 60.0, -45.0]])),
        np.array([PIXEL]),
        CENTRE_ZYX,
    )
    np.testing.assert_allclose(position[0], [694.866025, 1805.442002, 2400.164085], atol=1e-6)
    projected = project(position[:, None], matrix)
    np.testing.assert_allclose(projected[0, 0, 1:], [2129.913053, 2148.146866], atol=1e-6)
    depth = depth_angst(position, matrix, CENTRE_ZYX, PIXEL)
    assert depth[0, 0] / PIXEL == pytest.approx(282.238430, abs=1e-6)
    assert -1 * depth[0, 0] == pytest.approx(-381.0219, abs=1e-4)  # hand -1


def test_x_tilt_turns_before_y_tilt_before_z():
    """A point on the tomogram's y axis: tilted out of the plane by x, then carried by y and z."""
    matrices = projection_matrices_zyx(
        np.array([[90.0, 0.0, 0.0], [90.0, 90.0, 0.0], [90.0, 90.0, 90.0]]),
        np.zeros((3, 2)),
        (10, 20, 30),
        (40, 50),
    )
    point = np.array([[[5.0, 13.0, 15.0]]])  # 3 px from the centre along +y
    np.testing.assert_allclose(
        project(point, matrices)[0], [[3.0, 20, 25], [0.0, 20, 28.0], [0.0, 23.0, 25]], atol=1e-9
    )


def test_centres_of_odd_sizes():
    """Rotation and image centres are truncated, the centre of coordinates is not."""
    matrices = projection_matrices_zyx(np.array([[0.0, 60.0, 0.0]]), np.zeros((1, 2)), (11, 13, 15), (17, 19))
    pivot = np.array([[[5.0, 6.0, 7.0]]])
    np.testing.assert_allclose(project(pivot, matrices)[0, 0], [0.0, 8.0, 9.0], atol=1e-12)
    at_rest = particle_positions_zyx_px(
        np.zeros((1, 3)), np.zeros((1, 3)), np.eye(3)[None], np.array([2.0]), np.array([5.5, 6.5, 7.5])
    )
    np.testing.assert_allclose(at_rest, [[5.5, 6.5, 7.5]])
    # Half a pixel off the pivot in z and x, seen at 60 degrees.
    moved = [
        0.5 * np.cos(np.pi / 3) - 0.5 * np.sin(np.pi / 3),
        8.5,
        9.0 + 0.5 * np.cos(np.pi / 3) + 0.5 * np.sin(np.pi / 3),
    ]
    np.testing.assert_allclose(project(at_rest[:, None], matrices)[0, 0], moved, atol=1e-12)


def test_trajectories_project_point_by_point(rng):
    matrices = projection_matrices_zyx(
        np.array([[1.0, -40.0, 85.0], [0.0, 0.0, 85.0], [2.0, 33.0, 85.0]]),
        rng.normal(size=(3, 2)),
        (30, 40, 50),
        (61, 72),
    )
    points = rng.uniform(0, 30, (4, 3, 3))
    together = assert_inputs_untouched(project, points, matrices)
    assert together.shape == (4, 3, 3)
    for n in range(4):
        for t in range(3):
            alone = project(points[n : n + 1, t : t + 1], matrices[t : t + 1])
            np.testing.assert_allclose(together[n, t], alone[0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("v", "u", "visible"),
    [
        pytest.param(20.0, 50.0, True, id="middle"),
        pytest.param(8.0, 50.0, False, id="just on the upper margin"),
        pytest.param(8.001, 50.0, True, id="just inside it"),
        pytest.param(32.0, 50.0, False, id="on the lower margin"),
        pytest.param(31.999, 50.0, True, id="just inside the lower"),
        pytest.param(20.0, 8.0, False, id="on the left margin"),
        pytest.param(20.0, 92.0, False, id="on the right margin"),
        pytest.param(20.0, 91.99, True, id="just inside the right"),
        pytest.param(50.0, 20.0, False, id="swapped axes would be inside"),
    ],
)
def test_visibility_is_strict(v, u, visible):
    assert is_visible(np.array([[[v, u]]]), (40, 100), 8.0)[0, 0] == visible


POINTS = np.array([[3.0, 5.0], [20.0, 41.5], [37.25, 12.0], [39.9, 70.0]])
SIZE = (40, 72)


def test_linear_deformation():
    """x moves by axx rx alone and y by axy rx + ayy ry, about half the image size, unrounded."""
    moved = deform(POINTS, (41, 73), "linear", (1, 1), np.array([0.01, 0.002, -0.03]))
    rx, ry = POINTS[:, 1] - 36.5, POINTS[:, 0] - 20.5
    np.testing.assert_allclose(moved[:, 1] - POINTS[:, 1], 0.01 * rx, atol=1e-12)
    np.testing.assert_allclose(moved[:, 0] - POINTS[:, 0], 0.002 * rx - 0.03 * ry, atol=1e-12)


def test_spline_deformation_repeats_cubics():
    """Bicubic Hermite patches reproduce a product of cubics from values, slopes and twist."""
    gx, gy = 4, 3

    def f(t, a, b, c):
        return a + b * t + c * t**3

    def df(t, b, c):
        return b + 3 * c * t**2

    nodes = np.zeros((2, gy, gx, 4))
    for dim, ((a, b, c), (d, e, g)) in enumerate(
        [((0.5, 0.2, -0.03), (1.0, -0.3, 0.1)), ((-0.2, 0.1, 0.05), (0.7, 0.4, -0.2))]
    ):
        for j in range(gy):
            for i in range(gx):
                nodes[dim, j, i] = [
                    f(i, a, b, c) * f(j, d, e, g), df(i, b, c) * f(j, d, e, g),
                    f(i, a, b, c) * df(j, e, g), df(i, b, c) * df(j, e, g),
                ]  # fmt: skip
    moved = deform(POINTS, SIZE, "spline", (gx, gy), nodes.ravel())
    x, y = POINTS[:, 1] * (gx - 1) / SIZE[1], POINTS[:, 0] * (gy - 1) / SIZE[0]
    np.testing.assert_allclose(
        moved[:, 1] - POINTS[:, 1], f(x, 0.5, 0.2, -0.03) * f(y, 1.0, -0.3, 0.1), atol=1e-12
    )
    np.testing.assert_allclose(
        moved[:, 0] - POINTS[:, 0], f(x, -0.2, 0.1, 0.05) * f(y, 0.7, 0.4, -0.2), atol=1e-12
    )
    # Outside the grid the border's value holds.
    outside = deform(np.array([[-9.0, 90.0]]), SIZE, "spline", (gx, gy), nodes.ravel())
    np.testing.assert_allclose(outside[0], [-9.0 + nodes[1, 0, -1, 0], 90.0 + nodes[0, 0, -1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("grid", "waves"),
    [
        pytest.param(
            (4, 4), [(1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (1, -2), (2, -2), (1, -1), (2, -1)], id="even"
        ),
        pytest.param((3, 3), [(1, 0), (1, -2), (1, -1)], id="odd"),
        pytest.param((2, 1), [(1, -1)], id="one row"),
    ],
)
def test_fourier_deformation(grid, waves):
    """Frequencies in RELION's order: row 0 without x = 0, lower rows from x = 0, upper rows from x = 1.

    The upper rows begin at gy / 2 in whole numbers, so an odd grid has one more of them.
    """
    for index, (fx, fy) in enumerate(waves):
        coefficients = np.zeros((2, len(waves), 2))
        coefficients[0, index] = 1.5, -0.5
        coefficients[1, index] = 0.25, 2.0
        moved = deform(POINTS, SIZE, "Fourier", grid, coefficients.ravel())
        t = np.pi * (fx * POINTS[:, 1] / SIZE[1] + fy * POINTS[:, 0] / SIZE[0])
        np.testing.assert_allclose(moved[:, 1] - POINTS[:, 1], 1.5 * np.cos(t) - 0.5 * np.sin(t), atol=1e-12)
        np.testing.assert_allclose(moved[:, 0] - POINTS[:, 0], 0.25 * np.cos(t) + 2 * np.sin(t), atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "grid", "count", "words"),
    [
        pytest.param("linear", (1, 1), 4, "a linear deformation needs 3 coefficients, found 4", id="linear"),
        pytest.param(
            "spline", (2, 3), 47, "a spline deformation needs 48 coefficients, found 47", id="spline"
        ),
        pytest.param("Fourier", (4, 4), 35, "needs 36 coefficients, found 35", id="Fourier"),
        pytest.param("cubic", (2, 2), 8, "unknown deformation type cubic", id="unknown"),
    ],
)
def test_wrong_coefficients(kind, grid, count, words):
    with pytest.raises(ValueError, match=words):
        deform(POINTS, SIZE, kind, grid, np.zeros(count))
