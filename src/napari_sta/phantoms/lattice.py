"""Where particles sit: patches of a hexagonal lattice on a sphere."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from napari_sta.phantoms.density import Array


def sphere_lattice(radius_angst: float, spacing_angst: float) -> tuple[Array, Rotation]:
    """Cover a sphere with six coherent patches of a hexagonal lattice.

    Parameters
    ----------
    radius_angst, spacing_angst
        Of the sphere, and between neighbouring lattice points.

    Returns
    -------
    position_xyz_angst
        (n, 3) from the sphere's centre.
    rotation
        Takes reference to sphere directions: z points outwards, x along a lattice line.
    """
    reach = int(np.ceil(np.pi * radius_angst / spacing_angst / 2)) + 1
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    flat = spacing_angst * np.stack([(i + j / 2).ravel(), (j * np.sqrt(0.75)).ravel()], axis=1)
    arc = np.hypot(flat[:, 0], flat[:, 1])
    order = np.argsort(arc, kind="stable")
    flat, arc = flat[order], arc[order]
    keep = arc < radius_angst * np.arccos(1 / np.sqrt(3))  # up to the corner of a cube's face
    flat, arc = flat[keep], arc[keep]
    # A lattice vector is wrapped onto the sphere along the great circle that starts in its direction.
    axis = np.stack([-flat[:, 1], flat[:, 0], np.zeros(len(flat))], axis=1)
    axis /= np.maximum(arc, 1e-9)[:, None]
    wrap = Rotation.from_rotvec(axis * (arc / radius_angst)[:, None])
    faces = Rotation.from_euler("YX", [[0, 0], [90, 0], [180, 0], [270, 0], [0, 90], [0, -90]], degrees=True)
    normals = faces.apply([0.0, 0.0, 1.0])

    kept_points: list[Array] = []
    kept_rotations: list[Array] = []
    for face_index, face in enumerate(faces):
        rotation = face * wrap
        direction = rotation.apply([0.0, 0.0, 1.0])
        mine = (direction @ normals.T).argmax(axis=1) == face_index
        for point, quaternion in zip(radius_angst * direction[mine], rotation[mine].as_quat(), strict=True):
            # Seams between patches leave gaps, as in the real lattice, never overlaps.
            if kept_points and np.linalg.norm(np.array(kept_points) - point, axis=1).min() < (
                0.85 * spacing_angst
            ):
                continue
            kept_points.append(point)
            kept_rotations.append(quaternion)
    return np.array(kept_points), Rotation.from_quat(np.array(kept_rotations))
