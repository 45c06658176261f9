"""Soft masks: from a map by threshold, or from shapes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


def grow(binary: Bool[ndarray, "d h w"], extend_px: float) -> Bool[ndarray, "d h w"]:
    """Grow (or, if negative, shrink) a binary mask by a Euclidean distance.

    Notes
    -----
    RELION: a voxel joins if a voxel of the mask is nearer than ``extend_px`` (strictly: 3 px reaches
    squared distance 8); shrinking mirrors that, and the border of the box does not erode.
    """
    from scipy.ndimage import distance_transform_edt

    if extend_px == 0 or not binary.any() or binary.all():
        return binary.copy()
    if extend_px > 0:
        square = np.rint(distance_transform_edt(~binary) ** 2)
        grown: ndarray = square < extend_px**2
        return grown
    square = np.rint(distance_transform_edt(binary) ** 2)
    shrunk: ndarray = square >= extend_px**2
    return shrunk


def soften(binary: Bool[ndarray, "d h w"], edge_px: float) -> Float[ndarray, "d h w"]:
    """Add a raised-cosine edge outside a binary mask: 1/2 + 1/2 cos(pi d / edge) at distance d < edge."""
    from scipy.ndimage import distance_transform_edt

    soft = binary.astype(np.float32)
    if edge_px > 0 and binary.any() and not binary.all():
        distance = distance_transform_edt(~binary)
        rim = ~binary & (distance < edge_px)
        soft[rim] = 0.5 + 0.5 * np.cos(np.pi * distance[rim] / edge_px)
    return soft


def soft_mask_from_map(
    volume: Float[ndarray, "d h w"], threshold: float, extend_px: float, edge_px: float
) -> Float[ndarray, "d h w"]:
    """Threshold a (low-passed) map, grow the result, soften its edge. Values in [0, 1], float32."""
    return soften(grow(volume >= threshold, extend_px), edge_px)


def _axes(size: int, centre_zyx_px: tuple[float, float, float]) -> list[ndarray]:
    return [
        (np.arange(size) - size // 2 - c).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, c in enumerate(centre_zyx_px)
    ]


def _edge(distance_outside_px: ndarray, edge_px: float) -> ndarray:
    """1 inside, raised cosine over ``edge_px`` outside."""
    if edge_px <= 0:
        return (distance_outside_px <= 0).astype(np.float32)
    t = np.clip(distance_outside_px / edge_px, 0, 1)
    return (0.5 + 0.5 * np.cos(np.pi * t)).astype(np.float32)


def shell(
    size: int,
    inner_radius_px: float,
    outer_radius_px: float,
    edge_px: float,
    centre_zyx_px: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float[ndarray, "n n n"]:
    """Spherical shell (a ball if the inner radius is 0), soft on both sides.

    Parameters
    ----------
    centre_zyx_px
        Relative to voxel size // 2.
    """
    z, y, x = _axes(size, centre_zyx_px)
    r = np.sqrt(z * z + y * y + x * x)
    mask = _edge(r - outer_radius_px, edge_px)
    if inner_radius_px > 0:
        mask = mask * _edge(inner_radius_px - r, edge_px)
    return mask


def cylinder(
    size: int,
    inner_radius_px: float,
    outer_radius_px: float,
    height_px: float,
    edge_px: float,
    centre_zyx_px: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float[ndarray, "n n n"]:
    """Cylinder (a tube if the inner radius is positive) along z, soft on every side."""
    z, y, x = _axes(size, centre_zyx_px)
    r = np.sqrt(y * y + x * x)
    mask = _edge(r - outer_radius_px, edge_px) * _edge(np.abs(z) - height_px / 2, edge_px)
    if inner_radius_px > 0:
        mask = mask * _edge(inner_radius_px - r, edge_px)
    return np.ascontiguousarray(mask, dtype=np.float32)
