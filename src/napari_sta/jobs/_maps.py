"""Reading maps and masks that belong together: one set of rules for all jobs that take them.

What is done to a map or a mask to make it fit is said in ``said`` lists of sentences, which jobs return from
``warnings()``: so it is said before the job runs, and stands in its log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.volume import NO_PIXEL_SIZE, Volume
from napari_sta.io.mrc import LARGEST_VALUE, MrcHeader, read_header, read_volume

_SAME_PIXEL = 1e-3
_SMALLEST_BOX_PX = 8
CLAMP_ANY, CLAMP_RINGING = np.inf, 0.25
"""How far the values of a mask may leave 0...1: as the user says, or as far as rescaling takes them."""
_CURE = "state it with process_map --pixel_size_angst"


@dataclass(frozen=True)
class Grid:
    """The grid that masks and references are brought to.

    Attributes
    ----------
    box_px, pixel_size_angst
        Of the map or the particles.
    whose
        For messages.
    header_angst
        What the map's header says if another pixel size was given: a mask of the same box that says so too
        belongs to the map and follows it.
    """

    box_px: int
    pixel_size_angst: float
    whose: str = "the map"
    header_angst: float | None = None

    def is_that_of(self, volume: Volume) -> bool:
        """Whether a volume that states its pixel size lies on this grid."""
        stated = volume.stated_pixel_size_angst
        if volume.data.shape != (self.box_px,) * 3 or stated is None:
            return False
        known = (self.pixel_size_angst, self.header_angst or self.pixel_size_angst)
        return any(abs(stated / one - 1) < _SAME_PIXEL for one in known)

    def __str__(self) -> str:
        return f"{self.whose} ({self.box_px} px at {self.pixel_size_angst:.4g} Å)"


def read_map(path: str, pixel_size_angst: float | None = None, option: str = "in_3dref") -> Volume:
    """Read a cubic map with an even box and, if it is known, a pixel size.

    Parameters
    ----------
    pixel_size_angst
        Takes the place of the header's.

    Raises
    ------
    InputError
        If it is no such map, holds one value only or values that cannot be computed with.
    """
    volume = read_volume(path)
    _check_cube(path, volume.data.shape, option)
    if volume.box_px % 2:
        raise InputError(f"{path} has an odd box ({volume.box_px} px); bring it to an even one first")
    if volume.box_px < _SMALLEST_BOX_PX:
        raise InputError(
            f"{path} is a map of {volume.box_px} px a side; {_SMALLEST_BOX_PX} are needed at least"
        )
    check_values(volume)
    return volume if pixel_size_angst is None else replace(volume, stated_pixel_size_angst=pixel_size_angst)


def _check_cube(path: str, shape_zyx: tuple[int, ...], option: str) -> None:
    if len(set(shape_zyx)) != 1:
        size = " x ".join(str(n) for n in reversed(shape_zyx))
        raise InputError(f"{path} is {size} voxels; --{option} needs a cubic map")


def check_values(volume: Volume, *, constant: bool = False) -> None:
    """Refuse a map that holds one value only, or values so large or small that sums of squares fail.

    Parameters
    ----------
    constant
        One value only is allowed.

    Raises
    ------
    InputError
        With the values found.
    """
    low, high = float(volume.data.min()), float(volume.data.max())
    largest = max(-low, high)
    if low == high and not constant:
        raise InputError(f"{volume.path} holds nothing: all voxels are {low:g}; re-run the job that wrote it")
    if largest > LARGEST_VALUE or 0 < largest < 1 / LARGEST_VALUE:
        raise InputError(
            f"{volume.path} holds values from {low:.3g} to {high:.3g}, which cannot be computed with; it is damaged, "
            "or must be scaled first"
        )


def known_pixel_size(path: str, given: float | None, said: list[str] | None = None) -> float:
    """Return a map's pixel size: the one that was given, else its header's.

    Raises
    ------
    InputError
        If there is neither, with ``--pixel_size_angst`` as the cure.
    """
    header = read_header(path)
    if said is not None:
        say_order(header, said)
    if given is not None:
        _say_if_overruled(header, given, said)
        return given
    if header.pixel_size_angst is None:
        raise InputError(f"{path} {header.why_no_pixel_size}; give --pixel_size_angst")
    return header.pixel_size_angst


def pixel_size_if_needed(path: str, given: float | None, said: list[str], *, needed: bool) -> float | None:
    """As :func:`known_pixel_size`, but a size that nothing depends on may stay unknown, which is said."""
    header = read_header(path)
    if needed or given is not None or header.pixel_size_angst is not None:
        return known_pixel_size(path, given, said)
    say_order(header, said)
    said.append(f"{path} {header.why_no_pixel_size}; the result will state none; --pixel_size_angst sets it")
    return None


def say_order(header: MrcHeader, said: list[str]) -> None:
    """Say if a map is turned on reading."""
    if header.stored_axes != (0, 1, 2):
        said.append(
            f"{header.path} keeps its axes in another order (mapc, mapr, maps) and is turned to the usual one; RELION "
            "would not do that"
        )


def _say_if_overruled(header: MrcHeader, given: float, said: list[str] | None) -> None:
    if said is not None and header.why_no_pixel_size not in ("", NO_PIXEL_SIZE):
        said.append(f"{header.path} {header.why_no_pixel_size}; {given:g} Å is taken for all axes, as given")


def check_bfactor(option: str, bfactor_angst2: float | None, pixel_size_angst: float) -> None:
    """Refuse a B-factor that amplifies the finest details beyond what numbers hold.

    Raises
    ------
    InputError
        If it amplifies them more than 10^20-fold.
    """
    power = -(bfactor_angst2 or 0.0) / (16 * pixel_size_angst**2 * np.log(10))
    if power > 20:
        raise InputError(
            f"--{option} {bfactor_angst2:g} amplifies details of {2 * pixel_size_angst:.4g} Å 10^{power:.0f}-fold; take "
            "one nearer to 0"
        )


def check_lowpass(lowpass_angst: float | None, edge_angst: float) -> None:
    """Refuse a low-pass that leaves nothing of a map but its mean.

    Raises
    ------
    InputError
        If it is coarser than the box.
    """
    if lowpass_angst is not None and lowpass_angst > edge_angst:
        raise InputError(
            f"--lowpass_angst {lowpass_angst:g} is coarser than the map's box, {edge_angst:.4g} Å, so nothing would be "
            "left; take a smaller one"
        )


# ---- masks


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
        return _of_same_box(mask, grid, said)
    if not grid.is_that_of(mask):
        said.append(
            f"{path} ({mask.box_px} px at {mask.pixel_size_angst:.4g} Å) is resampled to the grid of {grid}"
        )
        _check_fit(mask, grid, said)
    return mask


def _of_same_box(volume: Volume, grid: Grid, said: list[str]) -> Volume:
    """Give a volume without pixel size that of a grid, if it has the same box."""
    path, why = volume.path, volume.why_no_pixel_size
    if why != NO_PIXEL_SIZE:
        raise InputError(f"{path} {why}; {_CURE} if that is wrong")
    if volume.box_px != grid.box_px:
        raise InputError(
            f"{path} {why}, and its box is {volume.box_px} px, not that of {grid}; {_CURE}, so that it can be "
            "brought to that"
        )
    if abs(grid.pixel_size_angst - 1) > 1e-6:
        said.append(f"{path} {why}; taken to be that of {grid}, whose box it has")
    return replace(volume, stated_pixel_size_angst=grid.pixel_size_angst)


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


# ---- references


def read_reference(
    path: str, grid: Grid, said: list[str], *, resize: bool, stated_angst: float | None = None
) -> Volume:
    """Read a reference as it is, with the pixel size that it is taken to have.

    Parameters
    ----------
    resize
        Another box or pixel size than the grid's is allowed (see :func:`on_grid`).
    stated_angst
        What its other half map states, for one that states nothing.

    Raises
    ------
    InputError
        If it is no map, does not say how large its voxels are, or must not be resized.
    """
    volume = read_map(path)
    say_order(read_header(path), said)
    if volume.stated_pixel_size_angst is None and stated_angst is not None:
        volume = replace(volume, stated_pixel_size_angst=stated_angst)
    if volume.stated_pixel_size_angst is None:
        return _of_same_box(volume, grid, said)
    if not grid.is_that_of(volume):
        has = f"{volume.box_px} px at {volume.pixel_size_angst:.4g} Å"
        if not resize:
            raise InputError(
                f"{path} has {has}, {grid.whose} {grid.box_px} px at {grid.pixel_size_angst:.4g} Å; use "
                "--resize_reference Yes, or reconstruct with the particles' box and binning"
            )
        said.append(f"{path} is resampled from {has} to {grid.box_px} px at {grid.pixel_size_angst:.4g} Å")
    return volume


def on_grid(volume: Volume, grid: Grid) -> Volume:
    """Bring a reference to a grid."""
    from napari_sta.kernels.filters import resample_to_grid

    if grid.is_that_of(volume):
        return replace(volume, stated_pixel_size_angst=grid.pixel_size_angst)
    data = resample_to_grid(volume.data, volume.pixel_size_angst, grid.box_px, grid.pixel_size_angst)
    moved = Volume(data, grid.pixel_size_angst, volume.path)
    if data.min() == data.max():
        raise InputError(
            f"{volume.path} holds nothing within the box of {grid}; check its pixel size and its centre"
        )
    return moved


# ---- half maps

_HALVES = (
    # RELION's and M's; then what EMDB, cryoSPARC and others write.
    re.compile(r"half([12])"),
    re.compile(r"half(?:[ _.-]?map)?[ _.-]?([12AB])(?![0-9A-Za-z])", re.IGNORECASE),
)
_PARTNER = {"1": "2", "2": "1", "A": "B", "B": "A", "a": "b", "b": "a"}


def half_of(path: str | Path) -> int | None:
    """Return 1 or 2 if a file is named as a half map, else None."""
    for pattern in _HALVES:
        if match := pattern.search(Path(path).name):
            return 1 if match[1] in "1Aa" else 2
    return None


def other_half(path: str, cure: str = "rename the two") -> str:
    """Return the name of the other half map: half1 and half2, half_A and half_B … exchanged in the file name.

    Raises
    ------
    InputError
        If the name has none of these, or the partner is not there.
    """
    p = Path(path)
    for pattern in _HALVES:
        if pattern.search(p.name):
            break
    else:
        raise InputError(
            f"{path}: the name of a half map must contain half1 or half2 (or half_A, half_map_1 and the like), so "
            f"that its partner can be found; {cure}"
        )

    def exchanged(match: re.Match[str]) -> str:
        whole, at = match[0], match.start(1) - match.start()
        return f"{whole[:at]}{_PARTNER[match[1]]}{whole[at + 1 :]}"

    partner = p.with_name(pattern.sub(exchanged, p.name))
    if not os.path.exists(partner):
        raise InputError(f"{partner} is missing; both half maps must be in the folder of {p.name}, or {cure}")
    return str(partner)


def agreed_pixel_size(
    paths: Sequence[str], said: list[str], option: str, *, given: float | None = None, cure: str = _CURE
) -> float | None:
    """Look at the headers of two half maps; return the pixel size that they state, or None.

    Parameters
    ----------
    given
        A pixel size that takes the place of theirs.

    Raises
    ------
    InputError
        If they are one file or no cubes, or differ in box or pixel size.
    """
    one, two = (read_header(path) for path in paths)
    for header in (one, two):
        _check_cube(header.path, header.shape_zyx, option)
    if os.path.samefile(one.path, two.path):
        raise InputError(f"{one.path} and {two.path} are the same file; two independent halves are needed")
    halves = f"{one.path} and {two.path}"
    if one.shape_zyx != two.shape_zyx:
        boxes = f"{one.shape_zyx[0]} and {two.shape_zyx[0]} px"
        raise InputError(f"{halves} differ in box size ({boxes}); take the two halves of one reconstruction")
    for header in (one, two):
        if header.why_no_pixel_size not in ("", NO_PIXEL_SIZE):
            if given is None:
                raise InputError(f"{header.path} {header.why_no_pixel_size}; {cure}")
            _say_if_overruled(header, given, said)
    a, b = one.pixel_size_angst, two.pixel_size_angst
    if a is not None and b is not None:
        if abs(a / b - 1) > _SAME_PIXEL:
            if given is None:
                raise InputError(
                    f"{halves} differ in pixel size ({a:.4g} and {b:.4g} Å); take the two halves of one "
                    f"reconstruction, or {cure}"
                )
            said.append(
                f"{halves} differ in pixel size ({a:.4g} and {b:.4g} Å); {given:g} Å is taken, as given"
            )
        return a
    if (a is None) != (b is None) and given is None:
        silent, other = (one, two) if a is None else (two, one)
        said.append(f"{silent.path} {NO_PIXEL_SIZE}; taken to be that of {other.path}, {a or b:.4g} Å")
    return a or b
