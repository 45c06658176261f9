"""Maps that jobs take: read, checked, and brought to one grid.

What is done to a map or a mask to make it fit is said in ``said`` lists of sentences, which jobs return from
``warnings()``: so it is said before the job runs, and stands in its log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_sta.data.errors import InputError
from napari_sta.data.volume import NO_PIXEL_SIZE, Volume
from napari_sta.io.mrc import LARGEST_VALUE, MrcHeader, read_header, read_volume

SAME_PIXEL = 1e-3
_SMALLEST_BOX_PX = 8

CURE = "state it with process_map --pixel_size_angst"


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
        return any(abs(stated / one - 1) < SAME_PIXEL for one in known)

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
    check_cube(path, volume.data.shape, option)
    if volume.box_px % 2:
        raise InputError(f"{path} has an odd box ({volume.box_px} px); bring it to an even one first")
    if volume.box_px < _SMALLEST_BOX_PX:
        raise InputError(
            f"{path} is a map of {volume.box_px} px a side; {_SMALLEST_BOX_PX} are needed at least"
        )
    check_values(volume)
    return volume if pixel_size_angst is None else replace(volume, stated_pixel_size_angst=pixel_size_angst)


def check_cube(path: str, shape_zyx: tuple[int, ...], option: str) -> None:
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
        say_if_overruled(header, given, said)
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


def say_if_overruled(header: MrcHeader, given: float, said: list[str] | None) -> None:
    if said is not None and header.why_no_pixel_size not in ("", NO_PIXEL_SIZE):
        said.append(f"{header.path} {header.why_no_pixel_size}; {given:g} Å is taken for all axes, as given")


def of_same_box(volume: Volume, grid: Grid, said: list[str]) -> Volume:
    """Give a volume without pixel size that of a grid, if it has the same box."""
    path, why = volume.path, volume.why_no_pixel_size
    if why != NO_PIXEL_SIZE:
        raise InputError(f"{path} {why}; {CURE} if that is wrong")
    if volume.box_px != grid.box_px:
        raise InputError(
            f"{path} {why}, and its box is {volume.box_px} px, not that of {grid}; {CURE}, so that it can be "
            "brought to that"
        )
    if abs(grid.pixel_size_angst - 1) > 1e-6:
        said.append(f"{path} {why}; taken to be that of {grid}, whose box it has")
    return replace(volume, stated_pixel_size_angst=grid.pixel_size_angst)


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
        return of_same_box(volume, grid, said)
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
