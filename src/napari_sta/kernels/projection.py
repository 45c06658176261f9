"""Tilt geometry: a point in the tomogram to its position, depth and visibility in each tilt image.

Points are zyx in unbinned pixels from the tomogram corner; a projected point is (depth, v, u) with v
and u in pixels of the tilt image (the first pixel is 0). Everything is float64.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray

from napari_sta.kernels.rotations import rotation_about_axis_zyx


def translation_zyx(shift_zyx: Shaped[ndarray, "3"]) -> Float[ndarray, "4 4"]:
    """Homogeneous 4 x 4 matrix that adds a shift."""
    matrix = np.eye(4)
    matrix[:3, 3] = shift_zyx
    return matrix


def projection_matrices_zyx(
    angles_xyz_deg: Float[ndarray, "t 3"],
    shift_yx_px: Float[ndarray, "t 2"],
    tomogram_size_zyx_px: tuple[int, int, int],
    image_size_yx_px: tuple[int, int],
) -> Float[ndarray, "t 4 4"]:
    """Projection matrices of a tilt series.

    Parameters
    ----------
    angles_xyz_deg
        x tilt, y tilt and in-plane rotation of each image (``rlnTomoXTilt``, ``YTilt``, ``ZRot``).
    shift_yx_px
        Image shifts in unbinned pixels.
    tomogram_size_zyx_px, image_size_yx_px
        Sizes in unbinned pixels.

    Notes
    -----
    RELION-5: ``T(image centre + shift) · Rz · Ry · Rx · T(-tomogram centre)`` with both centres
    *truncated* to whole pixels, unlike the centre that coordinates refer to.
    """
    centre = np.array([n // 2 for n in tomogram_size_zyx_px], dtype=np.float64)
    matrices = []
    for (x_tilt, y_tilt, z_rotation), shift in zip(angles_xyz_deg, shift_yx_px, strict=True):
        rotation = np.eye(4)
        rotation[:3, :3] = (
            rotation_about_axis_zyx("z", z_rotation)
            @ rotation_about_axis_zyx("y", y_tilt)
            @ rotation_about_axis_zyx("x", x_tilt)
        )
        image_centre = np.array(
            [0.0, image_size_yx_px[0] // 2 + shift[0], image_size_yx_px[1] // 2 + shift[1]]
        )
        matrices.append(translation_zyx(image_centre) @ rotation @ translation_zyx(-centre))
    return np.array(matrices)


def particle_positions_zyx_px(
    coordinate_zyx_angst: Float[ndarray, "n 3"],
    origin_zyx_angst: Float[ndarray, "n 3"],
    subtomogram_rotation_zyx: Float[ndarray, "n 3 3"],
    pixel_size_angst: Float[ndarray, "n"],
    tomogram_centre_zyx_px: Float[ndarray, "3"],
) -> Float[ndarray, "n 3"]:
    """Positions of particles in pixels from the tomogram corner.

    Notes
    -----
    RELION: coordinate - R_subtomogram · origin; the particle's own rotation is not applied to the origin.
    """
    moved = coordinate_zyx_angst - np.einsum("nij,nj->ni", subtomogram_rotation_zyx, origin_zyx_angst)
    return moved / pixel_size_angst[:, None] + tomogram_centre_zyx_px


def project(
    points_zyx_px: Float[ndarray, "n #t 3"], matrices_zyx: Float[ndarray, "t 4 4"]
) -> Float[ndarray, "n t 3"]:
    """Project points into every tilt image.

    Parameters
    ----------
    points_zyx_px
        One position per particle (length-1 tilt axis), or one per particle and tilt (trajectories).

    Returns
    -------
    projected
        (depth, v, u) in pixels.
    """
    points = np.broadcast_to(points_zyx_px, (len(points_zyx_px), len(matrices_zyx), 3))
    return np.einsum("tij,ntj->nti", matrices_zyx[:, :3, :3], points) + matrices_zyx[:, :3, 3]


def depth_angst(
    points_zyx_px: Float[ndarray, "n 3"],
    matrices_zyx: Float[ndarray, "t 4 4"],
    tomogram_centre_zyx_px: Float[ndarray, "3"],
    pixel_size_angst: float,
) -> Float[ndarray, "n t"]:
    """Depth of points along the beam relative to the tomogram centre, in Å, per tilt.

    Notes
    -----
    RELION adds ``hand · slope · depth`` to the defocus of the image.
    """
    from_centre = points_zyx_px - tomogram_centre_zyx_px
    depth: ndarray = np.einsum("tj,nj->nt", matrices_zyx[:, 0, :3], from_centre) * pixel_size_angst
    return depth


def is_visible(
    position_yx_px: Float[ndarray, "n t 2"], image_size_yx_px: tuple[int, int], margin_px: float
) -> Bool[ndarray, "n t"]:
    """Whether projected points lie more than a margin inside the image (strictly, as RELION)."""
    height, width = image_size_yx_px
    v, u = position_yx_px[..., 0], position_yx_px[..., 1]
    inside: ndarray = (u > margin_px) & (u < width - margin_px) & (v > margin_px) & (v < height - margin_px)
    return inside


def deform(
    position_yx_px: Float[ndarray, "n 2"],
    image_size_yx_px: tuple[int, int],
    kind: str,
    grid_xy: tuple[int, int],
    coefficients: Float[ndarray, "c"],
) -> Float[ndarray, "n 2"]:
    """Move projected points by a tilt image's deformation field.

    Parameters
    ----------
    kind
        ``linear`` (3 coefficients: axx, axy, ayy about the image centre), ``spline`` (8 per grid node:
        value, slopes and twist for x, then for y) or ``Fourier`` (a real and an imaginary coefficient per
        frequency, x then y).
    grid_xy
        Nodes of the control grid.

    Raises
    ------
    ValueError
        If the kind is unknown or the number of coefficients does not fit the grid.

    Notes
    -----
    RELION's three deformation models (``rlnTomoDeformationType``).
    """
    height, width = image_size_yx_px
    v, u = position_yx_px[:, 0], position_yx_px[:, 1]
    gx, gy = grid_xy
    coefficients = np.asarray(coefficients, dtype=np.float64)
    if kind == "linear":
        _expect(coefficients, 3, kind)
        axx, axy, ayy = coefficients
        rx, ry = u - width / 2, v - height / 2
        # Not symmetric: RELION's x does not depend on ry.
        return np.stack([v + axy * rx + ayy * ry, u + axx * rx], axis=-1)
    if kind == "spline":
        _expect(coefficients, 8 * gx * gy, kind)
        dx, dy = _hermite(coefficients.reshape(2, gy, gx, 4), u * (gx - 1) / width, v * (gy - 1) / height)
        return np.stack([v + dy, u + dx], axis=-1)
    if kind == "Fourier":
        waves = []
        for j in range(gy):
            lower = j < gy // 2  # whole division: an odd grid has one more negative row
            signed, first = (j, 0) if lower else (j - gy, 1)
            waves += [(np.pi * i / width, np.pi * signed / height)
                      for i in range(max(first, int(j == 0)), gx // 2 + 1)]  # fmt: skip
        _expect(coefficients, 4 * len(waves), kind)
        per_axis = coefficients.reshape(2, len(waves), 2)
        t = np.array([[fx * uu + fy * vv for fx, fy in waves] for uu, vv in zip(u, v, strict=True)])
        move = np.einsum("nw,dw->nd", np.cos(t), per_axis[..., 0])
        move += np.einsum("nw,dw->nd", np.sin(t), per_axis[..., 1])
        return np.stack([v + move[:, 1], u + move[:, 0]], axis=-1)
    raise ValueError(f"unknown deformation type {kind}; expected linear, spline or Fourier")


def _expect(coefficients: ndarray, count: int, kind: str) -> None:
    if len(coefficients) != count:
        raise ValueError(f"a {kind} deformation needs {count} coefficients, found {len(coefficients)}")


def _hermite(nodes: ndarray, x: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
    """Bicubic Hermite interpolation; nodes are (2, gy, gx, 4) = value, d/dx, d/dy, d2/dxdy per cell."""
    _, gy, gx, _ = nodes.shape
    x, y = np.clip(x, 0, gx - 1), np.clip(y, 0, gy - 1)
    x0 = np.minimum(x.astype(int), max(gx - 2, 0))
    y0 = np.minimum(y.astype(int), max(gy - 2, 0))
    fx, fy = x - x0, y - y0

    def basis(t: ndarray) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        t2, t3 = t * t, t * t * t
        return 2 * t3 - 3 * t2 + 1, -2 * t3 + 3 * t2, t3 - 2 * t2 + t, t3 - t2

    values_x, values_y = basis(fx), basis(fy)
    out = np.zeros((2, len(x)))
    for j in (0, 1):
        for i in (0, 1):
            node = nodes[:, np.minimum(y0 + j, gy - 1), np.minimum(x0 + i, gx - 1)]  # (2, n, 4)
            out += node[..., 0] * values_x[i] * values_y[j]
            out += node[..., 1] * values_x[2 + i] * values_y[j]
            out += node[..., 2] * values_x[i] * values_y[2 + j]
            out += node[..., 3] * values_x[2 + i] * values_y[2 + j]
    return out[0], out[1]
