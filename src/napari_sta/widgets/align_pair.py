"""A map and a mask to be compared: read, brought to one grid, scored along Z; no Qt, for a worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.layers.keywords import LayerData
from napari_sta.layers.outputs import is_job_folder
from napari_sta.layers.volumes import map_layer, mask_layers
from napari_sta.widgets.project_files import ProjectView, settings_of

RANGE_PX = 20.0
"""Offsets are scored this far to either side."""


@dataclass(frozen=True)
class Pair:
    """A map and a mask, read and scored.

    Attributes
    ----------
    map, mask
        As read, each on its own grid.
    curve
        Score against offset along Z, with candidates, from :func:`napari_sta.kernels.alignment.score_curve`.
    notes
        What was done to bring the mask to the map's grid.
    """

    map: Volume
    mask: Volume
    curve: Any
    notes: str

    def score_at(self, offset_px: float) -> float:
        """Return the score at an offset, NaN outside the curve."""
        curve = self.curve
        return float(np.interp(offset_px, curve.offset_px, curve.score, left=np.nan, right=np.nan))

    def maxima(self) -> list[tuple[float, float]]:
        """Return offset and score of the maxima inside the range, best first; its ends are none."""
        reach = float(np.max(np.abs(self.curve.offset_px)))
        best = self.curve.candidates
        return [(float(c.offset_px), float(c.score)) for c in best if abs(c.offset_px) < reach]


@dataclass(frozen=True)
class Reading:
    """What a worker brings of a chosen map and mask.

    Attributes
    ----------
    layers
        ``map`` and ``mask`` to their layer tuples.
    pair
        The two, scored; None without a mask.
    settings
        How the map was made, in our field names; empty if nobody knows.
    """

    layers: dict[str, list[LayerData]]
    pair: Pair | None
    settings: dict[str, str]


class NoPixelSizeError(InputError):
    """The header of the map or the mask states no pixel size.

    Attributes
    ----------
    unknown
        ``map``, ``mask`` or both.
    """

    def __init__(self, unknown: list[str], paths: list[str]) -> None:
        self.unknown = unknown
        words = f"the header of {paths[0]} states" if len(paths) == 1 else "the headers of map and mask state"
        super().__init__(f"{words} no pixel size; give it below the {' and the '.join(unknown)}.")


def read_pair(
    paths: Mapping[str, str], given_angst: Mapping[str, float | None], view: ProjectView | None
) -> Reading:
    """Read a map and a mask, and score the two along Z.

    Parameters
    ----------
    paths
        Of ``map`` and ``mask``; without the mask (empty) nothing is scored.
    given_angst
        Pixel sizes that the user gave, where a header states none.
    view
        The open project, which may know how the map was made.

    Raises
    ------
    InputError
        If one cannot be read, or the two cannot be compared.
    NoPixelSizeError
        If nobody has said how large a pixel is.
    """
    from napari_sta.io.mrc import read_volume

    volumes = {what: read_volume(path) for what, path in paths.items() if path}
    sizes = {what: given_angst[what] or _pixel_size_of(volume) for what, volume in volumes.items()}
    unknown = [what for what, size in sizes.items() if size is None]
    if unknown:
        raise NoPixelSizeError(unknown, [volumes[what].path for what in unknown])
    for what, size in sizes.items():
        if size is not None:
            volumes[what] = Volume(volumes[what].data, size, volumes[what].path)
    # The box it was chosen in says what a file is, not its name or values.
    layers = {"map": [map_layer(volumes["map"])], "mask": []}
    if "mask" in volumes:
        layers["mask"] = mask_layers(volumes["mask"])
    pair = _score(volumes["map"], volumes["mask"]) if "mask" in volumes else None
    return Reading(layers, pair, made_with(view, paths["map"]))


def _pixel_size_of(volume: Volume) -> float | None:
    """Return the pixel size that a file states; None if it states none."""
    try:
        size = volume.pixel_size_angst
    except InputError:
        return None
    return size if size and math.isfinite(size) and size > 0 else None


def _score(density: Volume, mask: Volume) -> Pair:
    """Bring the mask to the map's grid and score the two along Z."""
    from napari_sta.kernels.alignment import score_curve
    from napari_sta.kernels.filters import resample_to_grid

    if len(set(density.data.shape)) != 1:
        raise InputError("The map is not cubic; recentring needs a cubic map.")
    notes = ""
    ratio = mask.pixel_size_angst / density.pixel_size_angst
    if mask.data.shape != density.data.shape or abs(ratio - 1) > 1e-3:
        notes = (
            f"The mask is {mask.box_px} px at {mask.pixel_size_angst:.4g} Å, the map {density.box_px} px at "
            f"{density.pixel_size_angst:.4g} Å: overlaid in Å; the mask was resampled for the score."
        )
    on_grid = resample_to_grid(mask.data, mask.pixel_size_angst, density.box_px, density.pixel_size_angst)
    reach = min(RANGE_PX, density.box_px / 2 - 1)
    try:
        curve = score_curve(density.data, on_grid, "z", reach, pixel_size_angst=density.pixel_size_angst)
    except ValueError as error:
        raise InputError(f"{mask.path or 'The mask'} cannot be scored: {error}.") from error
    return Pair(density, mask, curve, notes)


def made_with(view: ProjectView | None, map_path: str) -> dict[str, str]:
    """Return how the map was made, its input set by a path from the project folder."""
    if view is None:
        return {}
    folder = Path(map_path).absolute().parent
    if not is_job_folder(folder) or not folder.is_relative_to(view.root):
        return {}
    name = str(folder.relative_to(view.root))
    settings = settings_of(folder)
    if not any(key in settings for key in ("in_optimisation_set", "in_parts")):
        job = next((j for j in view.jobs if j.name.rstrip("/") == name), None)
        for path in job.inputs if job is not None else ():
            if "optimisation_set" in Path(path).name:
                settings["in_optimisation_set"] = path
            elif path.endswith("particles.star"):
                settings["in_parts"] = path
    return settings


def confidence_words(curve: Any) -> str:
    """Say how much the best offset of a score curve is to be trusted."""
    if curve.at_end:
        return (
            f"No offset found: the score still rises at {curve.candidates[0].offset_px:+.2f} px, the end of "
            "the range. Do map and mask belong together?"
        )
    if not curve.candidates:
        return "No offset stands out within the range."
    from napari_sta.kernels.alignment import trust

    confidence = float(curve.confidence)
    word = trust(confidence)
    word += "" if word == "clear" else ": compare by eye"
    best = f"{curve.candidates[0].offset_px:+.2f} ± {curve.uncertainty_px:.2f} px"
    return f"Best {best}; confidence {confidence:.2f} ({word})"
