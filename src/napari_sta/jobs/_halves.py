"""Half maps that belong together: by their names, and by their pixel size."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.data.volume import NO_PIXEL_SIZE
from napari_sta.io.mrc import read_header
from napari_sta.jobs._maps import CURE, SAME_PIXEL, check_cube, say_if_overruled

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
    paths: Sequence[str], said: list[str], option: str, *, given: float | None = None, cure: str = CURE
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
        check_cube(header.path, header.shape_zyx, option)
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
            say_if_overruled(header, given, said)
    a, b = one.pixel_size_angst, two.pixel_size_angst
    if a is not None and b is not None:
        if abs(a / b - 1) > SAME_PIXEL:
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
