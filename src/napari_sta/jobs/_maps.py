"""Reading maps and masks that belong together: shared by the jobs that take them."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.io.mrc import read_volume


def read_map(path: str, pixel_size_angst: float | None = None, option: str = "in_3dref") -> Volume:
    """Read a cubic map with an even box and a pixel size.

    Raises
    ------
    InputError
        If it has none of these, or cannot be read.
    """
    volume = read_volume(path)
    if len(set(volume.data.shape)) != 1:
        d, h, w = volume.data.shape
        raise InputError(f"{path} is {w} x {h} x {d} voxels; --{option} needs a cubic map")
    if volume.box_px % 2:
        raise InputError(f"{path} has an odd box ({volume.box_px} px); bring it to an even one first")
    if pixel_size_angst is not None:
        volume = replace(volume, pixel_size_angst=pixel_size_angst)
    if volume.pixel_size_angst <= 0:
        raise InputError(f"{path} has no pixel size in its header; give --pixel_size_angst")
    return volume


def read_mask(path: str, reference: Volume, log: logging.Logger, *, clamp: bool = False) -> Volume:
    """Read a mask and bring it to a map's grid, saying so.

    Parameters
    ----------
    clamp
        Clip values to 0...1 instead of refusing others.

    Raises
    ------
    InputError
        If values lie outside 0...1 and ``clamp`` is not set, or the mask is empty.
    """
    mask = read_volume(path)
    low, high = float(mask.data.min()), float(mask.data.max())
    if (low < -1e-6 or high > 1 + 1e-6) and not clamp:
        raise InputError(
            f"{path}: a mask's values must lie between 0 and 1, these run from {low:.3g} to {high:.3g} (rescaling "
            "does that); use --clamp_mask Yes to cut them off"
        )
    data = np.clip(mask.data, 0, 1)
    if high <= 0:
        raise InputError(f"{path} is empty: all voxels are 0; make the mask again with a lower threshold")
    same_box = data.shape == reference.data.shape
    pixel = mask.pixel_size_angst
    if same_box and (pixel <= 0 or abs(pixel - 1) < 1e-6) and abs(reference.pixel_size_angst - 1) > 1e-3:
        log.warning(
            "%s states no pixel size; taken to be the map's, %.4g Å", path, reference.pixel_size_angst
        )
        pixel = reference.pixel_size_angst
    if pixel <= 0:
        raise InputError(f"{path} has no pixel size in its header, and its box differs from the map's")
    if not same_box or abs(pixel / reference.pixel_size_angst - 1) > 1e-3:
        from napari_sta.kernels.filters import resample_to_grid

        log.warning(
            "%s (%d px at %.4g Å) is resampled to the grid of the map (%d px at %.4g Å)",
            path, data.shape[0], pixel, reference.box_px, reference.pixel_size_angst,
        )  # fmt: skip
        data = resample_to_grid(data, pixel, reference.box_px, reference.pixel_size_angst)
        if data.max() <= 0:
            raise InputError(f"{path} does not overlap the map's box; check its pixel size and centre")
    return Volume(data, reference.pixel_size_angst, path)


def other_half(path: str) -> str:
    """Return the name of the other half map: half1 and half2 exchanged in the file name.

    Raises
    ------
    InputError
        If the name has neither, or the partner is not there.
    """
    p = Path(path)
    if not re.search("half[12]", p.name):
        raise InputError(
            f"{path}: the name of a half map must contain half1 or half2, so that its partner can be found"
        )
    partner = p.with_name(re.sub("half([12])", lambda m: f"half{3 - int(m[1])}", p.name))
    if not partner.exists():
        raise InputError(f"{partner} is missing; both half maps must be in the folder of {p.name}")
    return str(partner)
