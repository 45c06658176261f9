"""Masks that jobs take: brought to the grid of the map, with a sentence for each thing that was done to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_header, read_volume
from napari_sta.jobs._maps import Grid, of_same_box, say_order

CLAMP_ANY, CLAMP_RINGING = np.inf, 0.25
"""How far the values of a mask may leave 0...1: as the user says, or as far as rescaling takes them."""


def read_mask(path: str, grid: Grid, clamp: float = 0.0) -> Volume:
    """Read a mask and bring it to a grid.

    Parameters
    ----------
    clamp
        Values that leave 0...1 by no more than this are cut off, others refused.

    Raises
    ------
    InputError
        If it is no cube, is empty, has values too far from 0...1, has another box and no pixel size, or does
        not fit the grid.
    """
    mask = _looked_at(path, grid, clamp, [])
    if grid.is_that_of(mask):
        return replace(mask, stated_pixel_size_angst=grid.pixel_size_angst)
    from napari_sta.kernels.filters import resample_to_grid

    data = resample_to_grid(mask.data, mask.pixel_size_angst, grid.box_px, grid.pixel_size_angst)
    return Volume(data, grid.pixel_size_angst, path)


def mask_warnings(path: str, grid: Grid, clamp: float = 0.0) -> list[str]:
    """Say what :func:`read_mask` does to a mask to make it fit."""
    said: list[str] = []
    _looked_at(path, grid, clamp, said)
    return said


def _looked_at(path: str, grid: Grid, clamp: float, said: list[str]) -> Volume:
    """Read a mask as it is, but for its values and its pixel size."""
    mask = read_volume(path)
    say_order(read_header(path), said)
    d, h, w = mask.data.shape
    if len({d, h, w}) != 1:
        raise InputError(
            f"{path} is {w} x {h} x {d} voxels; a mask is a cube, as the map is: make one from the map"
        )
    low, high = float(mask.data.min()), float(mask.data.max())
    if max(-low, high - 1) > max(clamp, 1e-6):
        cure = "use --clamp_mask Yes to cut them off"
        if clamp:
            cure = "is it a mask? process_map --clamp_low 0 --clamp_high 1 cuts them off"
        raise InputError(
            f"{path}: a mask's values must lie between 0 and 1, these run from {low:.3g} to {high:.3g} (rescaling "
            f"leads to a little of that); {cure}"
        )
    if max(-low, high - 1) > 1e-6:
        said.append(f"{path}: values from {low:.3g} to {high:.3g} are cut off to 0…1")
    if high <= 0:
        raise InputError(f"{path} is empty: all voxels are 0; make the mask again with a lower threshold")
    mask = replace(mask, data=np.clip(mask.data, 0, 1))
    if mask.stated_pixel_size_angst is None:
        return of_same_box(mask, grid, said)
    if not grid.is_that_of(mask):
        said.append(
            f"{path} ({mask.box_px} px at {mask.pixel_size_angst:.4g} Å) is resampled to the grid of {grid}"
        )
        _check_fit(mask, grid, said)
    return mask


def _check_fit(mask: Volume, grid: Grid, said: list[str]) -> None:
    """Refuse a mask of another grid that would be cut off where it is not 0."""
    data, path = mask.data, mask.path
    edge, room = mask.box_px * mask.pixel_size_angst, grid.box_px * grid.pixel_size_angst
    if edge < 0.99 * room:
        rim = max(float(data.take(i, axis).max()) for axis in range(3) for i in (0, -1))
        if rim > 0.01:
            raise InputError(
                f"{path} reaches the edge of its own box ({edge:.4g} Å), which is smaller than that of {grid.whose} "
                f"({room:.4g} Å), so it would be cut off there; make it again on the grid of {grid.whose}"
            )
    place = (np.arange(mask.box_px) - mask.box_px // 2) * mask.pixel_size_angst
    slack = (grid.pixel_size_angst + mask.pixel_size_angst) / 2
    first = -(grid.box_px // 2) * grid.pixel_size_angst - slack
    last = (grid.box_px - 1 - grid.box_px // 2) * grid.pixel_size_angst + slack
    within = slice(int((place < first).sum()), mask.box_px - int((place > last).sum()))
    total = float(data.sum(dtype=np.float64))
    lost = 1 - float(data[within, within, within].sum(dtype=np.float64)) / total
    if lost > 0.5:
        raise InputError(
            f"{path} does not fit {grid}: {100 * lost:.0f} % of it lies outside that box; check its pixel size and "
            "centre, or make it again on that grid"
        )
    if lost > 1e-3:
        said.append(f"{100 * lost:.1f} % of {path} lies outside the box of {grid.whose} and is cut off")
