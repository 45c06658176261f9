"""Euler angles, rotation matrices and symmetry groups.

Matrices act on zyx vectors: they are RELION's xyz matrices with both axes reversed.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_TINY = 1e-6  # RELION sets smaller matrix elements of symmetry operators to zero


def euler_to_matrix_zyx(angles_deg: Float[ndarray, "*n 3"]) -> Float[ndarray, "*n 3 3"]:
    """Rotation matrices of RELION's Euler angles.

    Parameters
    ----------
    angles_deg
        rot, tilt, psi in degrees.

    Returns
    -------
    matrix
        Takes zyx directions of the reference to directions of the frame the angles live in (subtomogram,
        tomogram or image).

    Notes
    -----
    RELION's ``E = Rz(psi) · Ry(tilt) · Rz(rot)`` with *passive* elementary rotations: the transpose of the
    active intrinsic ZYZ rotation by (rot, tilt, psi).

    References
    ----------
    Heymann, Chagoyen & Belnap (2005), J. Struct. Biol. 151, 196.
    """
    rot, tilt, psi = np.moveaxis(np.deg2rad(np.asarray(angles_deg, dtype=np.float64)), -1, 0)
    cf, sf = np.cos(rot), np.sin(rot)
    ct, st = np.cos(tilt), np.sin(tilt)
    cp, sp = np.cos(psi), np.sin(psi)
    rows_zyx = [
        [ct, st * sf, st * cf],
        [sp * st, -sp * ct * sf + cp * cf, -sp * ct * cf - cp * sf],
        [-cp * st, cp * ct * sf + sp * cf, cp * ct * cf - sp * sf],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows_zyx], axis=-2)


def matrix_zyx_to_euler(matrix: Float[ndarray, "*n 3 3"]) -> Float[ndarray, "*n 3"]:
    """Euler angles (rot, tilt, psi in degrees) of rotation matrices; tilt in [0, 180].

    Notes
    -----
    Where tilt is 0 or 180 only rot ± psi is defined; rot is 0 then, as in RELION.
    """
    m = np.asarray(matrix, dtype=np.float64)[..., ::-1, ::-1]  # xyz
    sine = np.hypot(m[..., 0, 2], m[..., 1, 2])
    tilt = np.arctan2(sine, m[..., 2, 2])
    general = sine > 1e-12
    rot = np.where(general, np.arctan2(m[..., 2, 1], m[..., 2, 0]), 0.0)
    up = m[..., 2, 2] > 0
    psi_at_pole = np.where(
        up, np.arctan2(-m[..., 1, 0], m[..., 0, 0]), np.arctan2(m[..., 1, 0], -m[..., 0, 0])
    )
    psi = np.where(general, np.arctan2(m[..., 1, 2], -m[..., 0, 2]), psi_at_pole)
    return np.rad2deg(np.stack([rot, tilt, psi], axis=-1))


def rotation_about_axis_zyx(axis: str, angle_deg: float) -> Float[ndarray, "3 3"]:
    """Right-handed active rotation about the x, y or z axis, for zyx vectors.

    Raises
    ------
    ValueError
        If ``axis`` is not x, y or z.
    """
    direction = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
    if axis not in direction:
        raise ValueError(f"axis must be x, y or z, not {axis}")
    return _axis_angle_xyz(np.array(direction[axis]), angle_deg)[::-1, ::-1].copy()


def angular_distance_deg(
    a: Float[ndarray, "*n 3 3"], b: Float[ndarray, "*n 3 3"], symmetry: str = "C1"
) -> Float[ndarray, "*n"]:
    """Smallest rotation, in degrees, that takes pose ``a`` to pose ``b`` or to one of its symmetry mates."""
    operators = symmetry_operators_zyx(symmetry)
    trace = np.einsum("...ij,...ik,okj->...o", a, b, operators).max(axis=-1)
    return np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def parse_symmetry(name: str) -> tuple[str, int]:
    """Split a point group name into family and order: ``c6`` becomes ``("C", 6)``, ``I3`` ``("I", 3)``.

    Raises
    ------
    ValueError
        If the name is no point group of rotations; the message lists what is.
    """
    text = name.strip().upper()
    known = "known are C1, C2, ... , D2, D3, ..., T, O, I, I1, I2, I3, I4"
    match = re.fullmatch(r"([CDTOI])([0-9]*)", text)
    if not match:
        if re.fullmatch(r"[CDSTOI]\d*[VHD]|S\d+|CI|CS", text):
            raise ValueError(f"{name} contains mirror planes, which a protein cannot have; {known}")
        raise ValueError(f"unknown symmetry {name}; {known}")
    family, digits = match.groups()
    if len(digits) > 3 or int(digits or 0) > 360:
        raise ValueError(f"symmetry {name} is of more than 360-fold; {known}")
    order = int(digits) if digits else 0
    legal = {"C": order >= 1, "D": order >= 1, "T": not digits, "O": not digits, "I": order <= 4}
    if not legal[family] or (family == "I" and digits == "0"):
        raise ValueError(f"unknown symmetry {name}; {known}")
    return family, (2 if family == "I" and not digits else order)


def symmetry_operators_zyx(name: str) -> Float[ndarray, "n 3 3"]:
    """All rotations of a point group, identity first.

    Parameters
    ----------
    name
        C1, C2, ..., D2, ..., T, O, I (= I2), I1, I2, I3, I4; upper or lower case.

    Notes
    -----
    Axes are RELION's: Cn about z; Dn with a two-fold on x; T with a three-fold on z; O with four-folds on
    the axes; the icosahedral settings I1 to I4 differ in which axes lie on x, y and z. Elements below
    1e-6 are exact zeros.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    family, order = parse_symmetry(name)
    generators: list[tuple[int, tuple[float, float, float]]]
    z = (0.0, 0.0, 1.0)
    if family == "C":
        generators = [(order, z)]
    elif family == "D":
        generators = [(order, z), (2, (1.0, 0.0, 0.0))]
    elif family == "T":
        generators = [(3, z), (2, (0.0, np.sqrt(2 / 3), np.sqrt(1 / 3)))]
    elif family == "O":
        generators = [(3, (1.0, 1.0, 1.0)), (4, z)]
    else:
        golden = (1 + np.sqrt(5)) / 2
        if order == 2:  # two-folds on x, y and z
            generators = [(2, z), (5, (1.0, 0.0, golden)), (3, (0.0, 1.0, golden**2))]
        elif order == 1:  # I2 turned by 90 deg about y: x' = z, z' = -x
            generators = [(2, (1.0, 0.0, 0.0)), (5, (golden, 0.0, -1.0)), (3, (golden**2, 1.0, 0.0))]
        elif order == 3:  # a five-fold on z, a two-fold in the xz plane
            generators = [(2, (-1.0, 0.0, golden)), (5, z)]
        else:
            generators = [(2, (1.0, 0.0, golden)), (5, (2.0, 0.0, 1.0))]
    matrices = [_axis_angle_xyz(np.array(axis), 360.0 / n) for n, axis in generators]
    group = _close(matrices)
    group[np.abs(group) < _TINY] = 0.0
    return np.ascontiguousarray(group[:, ::-1, ::-1])


def _axis_angle_xyz(axis: ndarray, angle_deg: float) -> ndarray:
    unit = axis / np.linalg.norm(axis)
    a = np.deg2rad(angle_deg)
    cross = np.array([[0, -unit[2], unit[1]], [unit[2], 0, -unit[0]], [-unit[1], unit[0], 0]])
    rotation: ndarray = np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * (cross @ cross)
    return rotation


def _close(generators: list[ndarray]) -> ndarray:
    """Multiply generators until nothing new appears; identity first."""
    group = [np.eye(3)]
    frontier = [np.eye(3)]
    while frontier:
        fresh = []
        for element in frontier:
            for generator in generators:
                product = generator @ element
                if all(np.abs(product - known).max() > 1e-4 for known in group):
                    group.append(product)
                    fresh.append(product)
                    if len(group) > 360 and len(generators) > 1:
                        raise ValueError("the generators do not close to a point group")
        frontier = fresh
    return np.array(group)


def free_axes(symmetry: str) -> tuple[str, ...]:
    """Axes along which a map of this point group may be shifted without losing its symmetry."""
    family, order = parse_symmetry(symmetry)
    if family == "C":
        return ("x", "y", "z") if order == 1 else ("z",)
    return ("x",) if (family, order) == ("D", 1) else ()
