"""What the tomograms of a set are called, for the message when another name is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import TiltSeries


def series_of(name: str, tilt_series: Mapping[str, TiltSeries], path: str | Path) -> TiltSeries:
    """Return the tilt series of a tomogram; refuse a name that the set does not have."""
    try:
        return tilt_series[name]
    except KeyError:
        raise InputError(
            f"{path} has particles of tomogram {name}, which the tomogram set does not have; "
            + names_there_are([name], list(tilt_series))
        ) from None


def names_there_are(wanted: Sequence[str], known: Sequence[str]) -> str:
    """Say what the tomograms of a set are called, and which of them was probably meant."""
    said = f"its tomograms are {', '.join(known[:5])}{'…' if len(known) > 5 else ''}"
    for name in wanted:
        # TS_01_Vol, TS_01.tomostar and rec_TS_01.mrc are all TS_01.
        alike = [one for one in known if one and name and (one in name or name in one)]
        alike = sorted(alike, key=len, reverse=True) or get_close_matches(name, known, 1, 0.8)
        if alike:
            return f"{said} (is {name} the same as {alike[0]}? then call both by one name)"
    return said
