"""What a post-processing job left: its numbers, curves, warnings and maps; no Qt, for a worker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume

# Key in io.postprocess, words, colour.
CURVES = (
    ("corrected", "corrected", "amber"),
    ("masked", "masked", "green"),
    ("unmasked", "unmasked", "blue"),
    ("randomised", "phase-randomised", "pink"),
)
GUINIER = (
    ("original", "no sharpening", "blue"),
    ("mtf", "MTF-corrected", "violet"),
    ("weighted", "FSC-weighted", "green"),
    ("sharpened", "sharpened", "amber"),
)
EMPTY_SHELL = -50.0
"""RELION writes -99 for the logarithm of nothing."""
IGNORED_MASK = (
    "RELION ignored the mask, because the FSC without it reaches further. Usually the mask is too tight, or "
    "off the centre."
)


@dataclass(frozen=True)
class GuinierFit:
    """A straight line through a Guinier plot; B is four times its slope.

    Attributes
    ----------
    slope_angst2, intercept
        Of ln amplitude against 1/d².
    between
        1/d² of the first and the last shell that it was fitted to; None if that cannot be told.
    """

    slope_angst2: float
    intercept: float
    between: tuple[float, float] | None


@dataclass(frozen=True)
class Result:
    """What a post-processing job left.

    Attributes
    ----------
    path
        ``postprocess.star``.
    half_map, half_map2
        As in its table; the second only where its name does not follow from the first's.
    resolution_angst, bfactor_angst2, mask_percent, mask_name
        As in its table; NaN or empty where it has none.
    curves
        Label of an FSC curve to its values, per shell.
    frequency_inv_angst
        Per shell.
    guinier
        Label to ln amplitude; ``x`` to 1/d².
    fit
        The straight line through it that gave the B-factor; None if there was none.
    warnings
        From run.err, in words.
    map, masked, mask
        What can be shown.
    sharpener
        Re-sharpens the average of the unfiltered half maps; None if they are gone.
    """

    path: Path
    resolution_angst: float
    bfactor_angst2: float
    mask_percent: float
    mask_name: str
    half_map: str
    half_map2: str
    curves: dict[str, NDArray[np.float64]]
    frequency_inv_angst: NDArray[np.float64]
    guinier: dict[str, NDArray[np.float64]]
    fit: GuinierFit | None = None
    warnings: list[str] = field(default_factory=list)
    map: Volume | None = None
    masked: Volume | None = None
    mask: Volume | None = None
    sharpener: Any = None

    @property
    def pixel_size_angst(self) -> float:
        """Of the map; from the last shell of the FSC where the map is gone."""
        if self.map is not None:
            return self.map.pixel_size_angst
        return float(0.5 / self.frequency_inv_angst[-1])


def read_result(path: str | Path, *, maps: bool = True) -> Result:
    """Read a post-processing result; in a worker.

    Parameters
    ----------
    path
        ``postprocess.star``, or the job folder that holds it.
    maps
        Whether to read the maps too.

    Raises
    ------
    InputError
        If it is no result of post-processing.
    """
    from napari_sta.io.postprocess import read_postprocess_star

    path = Path(path)
    if path.is_dir():
        path = path / "postprocess.star"
    tables = read_postprocess_star(path)
    guinier = {name: tables.log_amplitudes[key] for key, name, _ in GUINIER if key in tables.log_amplitudes}
    if guinier:
        guinier["x"] = tables.inverse_square_angst2
    fit = _fit_of(tables)
    return Result(
        path=path,
        resolution_angst=tables.number("resolution_angst"),
        bfactor_angst2=tables.number("bfactor_angst2"),
        mask_percent=tables.mask_percent,
        mask_name=str(tables.general.get("mask", "")),
        half_map=str(tables.general.get("half1", "")),
        half_map2=_second_half(path, tables.general),
        curves={name: tables.fsc[key] for key, name, _ in CURVES if key in tables.fsc},
        frequency_inv_angst=tables.frequency_inv_angst,
        guinier=guinier,
        fit=fit,
        warnings=_warnings_of(path.parent),
        **(_read_maps(path, tables.general, 0.5 / float(tables.frequency_inv_angst[-1])) if maps else {}),
    )


def _fit_of(tables: Any) -> GuinierFit | None:
    """Return the line whose slope and intercept a file gives, with the shells that lead to just this line."""
    import torch

    from napari_sta.kernels.filters import Guinier, fit_line

    slope, intercept = tables.number("slope"), tables.number("intercept")
    fitted = [tables.log_amplitudes[k] for k in ("original", "mtf", "weighted") if k in tables.log_amplitudes]
    if not fitted or not np.isfinite([slope, intercept]).all():
        return None
    x, y = tables.inverse_square_angst2, fitted[-1]
    used = np.flatnonzero((y > EMPTY_SHELL) & np.isfinite(y) & (x > 0))
    plot = Guinier(torch.from_numpy(x), torch.from_numpy(np.where(y > EMPTY_SHELL, y, -99.0)))
    # The file does not say where the fit began (nor do all job folders), but only one range gives its line.
    off = {
        int(first): abs(fit_line(plot, 1.0001 * float(x[first]) ** -0.5).slope / slope - 1)
        for first in used[:-1]
        if slope
    }
    best = min(off, key=lambda first: off[first], default=None)
    if best is None or off[best] > 5e-3:
        return GuinierFit(slope, intercept, None)
    return GuinierFit(slope, intercept, (float(x[best]), float(x[used[-1]])))


def _second_half(path: Path, general: Mapping[str, str | float]) -> str:
    """Return the second half map's name; empty if it follows from the first's."""
    from napari_sta.io.files import resolve
    from napari_sta.jobs._halves import other_half

    half1, half2 = (str(general.get(key, "")) for key in ("half1", "half2"))
    try:
        follows = Path(other_half(str(resolve(half1, path)))) == Path(resolve(half2, path))
    except InputError:
        return half2
    return "" if follows else half2


def _read_maps(path: Path, general: Mapping[str, str | float], pixel_size_angst: float) -> dict[str, Any]:
    """Read what the STAR file names; its last shell tells the pixel size of maps that do not state theirs."""
    from napari_sta.io.files import resolve
    from napari_sta.io.mrc import read_volume
    from napari_sta.kernels.filters import Sharpener

    def read(key: str, beside: str = "") -> Volume | None:
        named = str(general.get(key, ""))
        try:
            here = path.parent / beside
            if not named:
                return None
            volume = read_volume(here if beside and here.is_file() else resolve(named, path))
        except InputError:
            return None
        if volume.stated_pixel_size_angst is None and key != "mask":
            volume = replace(volume, stated_pixel_size_angst=pixel_size_angst)
        return volume

    maps: dict[str, Any] = {
        "map": read("map", "postprocess.mrc"),
        "masked": read("masked_map", "postprocess_masked.mrc"),
        "mask": read("mask"),
    }
    half1, half2 = read("half1"), read("half2")
    if half1 is not None and half2 is not None and half1.data.shape == half2.data.shape:
        pixel = maps["map"].pixel_size_angst if maps["map"] is not None else half1.pixel_size_angst
        maps["sharpener"] = Sharpener((half1.data + half2.data) / 2, pixel)
    return maps


def _warnings_of(folder: Path) -> list[str]:
    words: list[str] = []
    try:
        text = (folder / "run.err").read_text(errors="replace")
    except OSError:
        return words
    for line in text.splitlines():
        if "skip masking" in line.lower():
            words.append(IGNORED_MASK)
        elif "warning" in line.lower():
            words.append(re.sub(r"^[\d\-: ,]*\s*\+?\s*WARNING:?\s*", "", line.strip(), flags=re.IGNORECASE))
    return list(dict.fromkeys(words))
