"""Euler angles, matrices and point groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from laws import assert_group, assert_inverse
from napari_sta.kernels.rotations import (
    angular_distance_deg,
    euler_to_matrix_zyx,
    free_axes,
    matrix_zyx_to_euler,
    parse_symmetry,
    rotation_about_axis_zyx,
    symmetry_operators_zyx,
)


def xyz(matrix_zyx):
    return np.asarray(matrix_zyx)[..., ::-1, ::-1]


def test_the_worked_example_of_the_format():
    """Printed numbers of RELION's matrices: subtomogram, particle and both together."""
    subtomogram = euler_to_matrix_zyx(np.array([30.0, 60.0, -45.0]))
    particle = euler_to_matrix_zyx(np.array([10.0, 20.0, 30.0]))
    expected = [
        [0.659740, -0.435596, -0.612372],
        [-0.047367, 0.789149, -0.612372],
        [0.75, 0.433013, 0.5],
    ]
    np.testing.assert_allclose(xyz(subtomogram), expected, atol=1e-6)
    np.testing.assert_allclose(xyz(particle)[2], [0.336824, 0.059391, 0.939693], atol=1e-6)
    both = subtomogram @ particle
    expected = [
        [0.532255, 0.045753, -0.845347],
        [-0.723932, 0.542268, -0.426459],
        [0.438893, 0.838959, 0.321747],
    ]
    np.testing.assert_allclose(xyz(both), expected, atol=1e-6)
    np.testing.assert_allclose(matrix_zyx_to_euler(both), [62.384123, 71.231376, -26.769967], atol=1e-6)


def test_matrices_are_the_transpose_of_active_zyz(rng):
    angles = rng.uniform(-180, 180, (5, 7, 3))
    ours = euler_to_matrix_zyx(angles)
    assert ours.shape == (5, 7, 3, 3)
    theirs = Rotation.from_euler("ZYZ", angles.reshape(-1, 3), degrees=True).inv().as_matrix()
    np.testing.assert_allclose(xyz(ours).reshape(-1, 3, 3), theirs, atol=1e-12)


@pytest.mark.parametrize(
    "angles",
    [
        pytest.param([[12.0, 34.0, 56.0], [-170.0, 91.0, 3.0], [179.0, 179.0, -179.0]], id="anywhere"),
        pytest.param([[0.0, 0.0, 0.0], [0.0, 0.0, 71.0], [0.0, 0.0, -120.0]], id="pole, tilt 0"),
        pytest.param([[0.0, 180.0, 0.0], [0.0, 180.0, 33.0], [0.0, 180.0, -150.0]], id="pole, tilt 180"),
    ],
)
def test_angles_come_back(angles):
    assert_inverse(euler_to_matrix_zyx, matrix_zyx_to_euler, np.array(angles), rtol=1e-9)


def test_any_rotation_comes_back_from_its_angles(rng):
    matrices = Rotation.random(200, random_state=4).as_matrix()
    angles = matrix_zyx_to_euler(matrices)
    assert (angles[:, 1] >= 0).all()
    assert (angles[:, 1] <= 180).all()
    np.testing.assert_allclose(euler_to_matrix_zyx(angles), matrices, atol=1e-12)
    # Only rot + psi is defined at tilt 0; all of it goes to psi.
    at_pole = matrix_zyx_to_euler(euler_to_matrix_zyx(np.array([[25.0, 0.0, 15.0], [25.0, 180.0, 15.0]])))
    np.testing.assert_allclose(at_pole, [[0, 0, 40.0], [0, 180.0, -10.0]], atol=1e-9)


@pytest.mark.parametrize(
    ("axis", "moves", "to"),
    [
        pytest.param("z", (0, 0, 1), (0, 1, 0), id="about z: x to y"),
        pytest.param("x", (0, 1, 0), (1, 0, 0), id="about x: y to z"),
        pytest.param("y", (1, 0, 0), (0, 0, 1), id="about y: z to x"),
    ],
)
def test_elementary_rotations_are_right_handed(axis, moves, to):
    np.testing.assert_allclose(rotation_about_axis_zyx(axis, 90.0) @ np.array(moves), to, atol=1e-12)


def test_unknown_axis():
    with pytest.raises(ValueError, match="axis must be x, y or z, not w"):
        rotation_about_axis_zyx("w", 10.0)


SIZES = {
    "C1": 1, "C2": 2, "C6": 6, "C7": 7, "D1": 2, "D2": 4, "D3": 6, "T": 12, "O": 24,
    "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60,
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_point_groups(name, size):
    group = symmetry_operators_zyx(name)
    assert len(group) == size
    assert_group(group)
    np.testing.assert_array_equal(group[0], np.eye(3))
    tiny = (group != 0) & (np.abs(group) < 1e-6)
    assert not tiny.any(), "rounding errors stand where zeros should"
    np.testing.assert_array_equal(group, symmetry_operators_zyx(name.lower()))


GOLDEN = {  # RELION's generators (fold, axis xyz), as its specification prints them
    "C6": [(6, (0, 0, 1))],
    "D3": [(3, (0, 0, 1)), (2, (1, 0, 0))],
    "T": [(3, (0, 0, 1)), (2, (0, 0.816496, 0.577350))],
    "O": [(3, (1, 1, 1)), (4, (0, 0, 1))],
    "I": [(2, (0, 0, 1)), (5, (0.525731114, 0, 0.850650807)), (3, (0, 0.356822076, 0.934172364))],
    "I2": [(2, (0, 0, 1)), (5, (0.525731114, 0, 0.850650807)), (3, (0, 0.356822076, 0.934172364))],
    "I1": [(2, (1, 0, 0)), (5, (0.850650807, 0, -0.525731114)), (3, (0.934172364, 0.356822077, 0))],
    "I3": [
        (2, (-0.525731114, 0, 0.850650807)), (5, (0, 0, 1)), (3, (-0.491123478, 0.356822076, 0.794654475)),
    ],
    "I4": [
        (2, (0.525731114, 0, 0.850650807)), (5, (0.894427193, 0, 0.447213591)),
        (3, (0.491123478, 0.356822076, 0.794654475)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "generators"), GOLDEN.items())
def test_groups_hold_relions_generators(name, generators):
    group = xyz(symmetry_operators_zyx(name))
    for fold, axis in generators:
        unit = np.array(axis, dtype=float) / np.linalg.norm(axis)
        turn = Rotation.from_rotvec(2 * np.pi / fold * unit).as_matrix()
        nearest = np.abs(group - turn).max(axis=(1, 2)).min()
        assert nearest < 2e-6, f"{fold}-fold about {axis}"


def test_the_icosahedral_settings_differ():
    settings = [symmetry_operators_zyx(f"I{i}") for i in (1, 2, 3, 4)]
    for i, one in enumerate(settings):
        for other in settings[i + 1 :]:
            nearest = np.abs(one[:, None] - other[None]).max(axis=(2, 3)).min(axis=1)
            assert nearest.max() > 0.1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("C0", "unknown symmetry C0; known are", id="no fold"),
        pytest.param("D", "unknown symmetry D; known are", id="order missing"),
        pytest.param("T2", "unknown symmetry T2", id="T has no order"),
        pytest.param("I0", "unknown symmetry I0", id="I0"),
        pytest.param("I5", "unknown symmetry I5", id="I5"),
        pytest.param("helix", "unknown symmetry helix", id="a word"),
        pytest.param("", "unknown symmetry", id="nothing"),
        pytest.param("C6v", "C6v contains mirror planes", id="C6v"),
        pytest.param("S4", "mirror planes", id="S4"),
        pytest.param("Oh", "mirror planes", id="Oh"),
        pytest.param("Cs", "mirror planes", id="Cs"),
    ],
)
def test_unknown_groups(name, words):
    with pytest.raises(ValueError, match=words):
        symmetry_operators_zyx(name)


def test_names():
    assert parse_symmetry(" c6 ") == ("C", 6)
    assert parse_symmetry("I3") == ("I", 3)
    assert parse_symmetry("i") == ("I", 2)
    assert parse_symmetry("D12") == ("D", 12)


@pytest.mark.parametrize(
    ("name", "axes"),
    [("C1", ("x", "y", "z")), ("C6", ("z",)), ("D1", ("x",)), ("D2", ()), ("T", ()), ("O", ()), ("I2", ())],
)
def test_free_axes(name, axes):
    """An axis is free if every operator leaves it where it is."""
    assert free_axes(name) == axes
    fixed = [
        a for a, unit in zip("zyx", np.eye(3), strict=True)
        if np.allclose(symmetry_operators_zyx(name) @ unit, unit)
    ]  # fmt: skip
    assert tuple(sorted(fixed)) == axes


def test_angular_distance():
    pose = euler_to_matrix_zyx(np.array([[10.0, 50.0, -20.0], [95.0, 120.0, 60.0]]))
    turned = pose @ rotation_about_axis_zyx("x", 7.0)
    np.testing.assert_allclose(angular_distance_deg(pose, turned), 7.0, atol=1e-9)
    mates = pose @ symmetry_operators_zyx("C6")[4]
    np.testing.assert_allclose(angular_distance_deg(pose, mates, "C6"), 0.0, atol=1e-5)
    np.testing.assert_allclose(
        angular_distance_deg(pose, mates @ rotation_about_axis_zyx("z", 4.0), "C6"), 4.0, atol=1e-6
    )
    # 60 deg steps: 50 deg about z is 10 deg from the next mate, and 50 without symmetry.
    spun = pose @ rotation_about_axis_zyx("z", 50.0)
    np.testing.assert_allclose(angular_distance_deg(pose, spun, "C6"), 10.0, atol=1e-6)
    np.testing.assert_allclose(angular_distance_deg(pose, spun), 50.0, atol=1e-6)
