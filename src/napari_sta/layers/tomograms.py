"""Reconstructed tomograms as layers: particles lie in them where their tomogram set says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from napari_sta.data.errors import InputError
from napari_sta.data.tilt_series import TiltSeries
from napari_sta.layers.keywords import LayerData, common, layer_name
from napari_sta.layers.particles import MAX_TOMOGRAMS

RECONSTRUCTED = (
    "rlnTomoReconstructedTomogramDenoised",
    "rlnTomoReconstructedTomogram",
    "rlnTomoReconstructedTomogramHalf1",
)
"""Where a set names a tomogram's volume, best to look at first."""


def tomograms_of(path: Path) -> list[LayerData]:
    """Return the volumes that a tomogram set names and that are there, the first one visible.

    At most 16, one a tomogram; nothing is read until it is looked at. Empty if there is none.
    """
    from napari_sta.io.files import resolve
    from napari_sta.io.relion.tilt_series import read_tilt_series_set

    layers: list[LayerData] = []
    for series in read_tilt_series_set(path, check_images=False).values():
        for label in RECONSTRUCTED:
            try:
                file = resolve(series.text.get(label, ""), path)
            except InputError:
                continue
            layers.append(tomogram_layer(file, series, visible=not layers))
            break
        if len(layers) == MAX_TOMOGRAMS:
            break
    return layers


def tomogram_of_file(path: Path) -> LayerData | None:
    """Return a volume as the tomogram that the set of its job says it is; None if none names it."""
    from napari_sta.io.relion.tilt_series import read_tilt_series_set

    star = path.parent.parent / "tomograms.star"
    if path.parent.name != "tomograms" or not star.is_file():
        return None
    try:
        found = read_tilt_series_set(star, check_images=False)
    except InputError:
        return None  # the volume can be shown all the same
    for series in found.values():
        named = {
            os.path.basename(text)
            for label, text in series.text.items()
            if label.startswith("rlnTomoReconstructedTomogram")
        }
        if path.name in named:
            return tomogram_layer(path, series)
    return None


def tomogram_layer(path: Path, series: TiltSeries, *, visible: bool = True) -> LayerData:
    """Show a tomogram behind its particles.

    Parameters
    ----------
    path
        The volume; its sections are read when they are looked at.
    series
        Tells where the tomogram's centre is: half the unbinned size, not rounded (RELION).
        Voxel 0 is pixel 0.

    Returns
    -------
    layer
        An Image (z, y, x), in Å from the tomogram's centre.
    """
    from napari_sta.io.mrc import open_stack, read_header

    header = read_header(path)
    data: Any = open_stack(path)
    pixel = header.pixel_size_angst or _from_binning(series)
    name = layer_name(path.parent.parent / path.name if path.parent.name == "tomograms" else path)
    meta = common(name, "tomogram", str(path), pixel, tomogram=series.name)
    scale = pixel or 1.0
    sample = np.asarray(data[:: max(1, data.shape[0] // 16), ::4, ::4], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5))) if sample.size else (0.0, 1.0)
    meta |= {
        "scale": (scale,) * 3,
        "translate": tuple(-n / 2 * series.pixel_size_angst for n in series.size_zyx_px)
        if pixel
        else (0.0,) * 3,
        "colormap": "gray",
        "contrast_limits": (low, max(high, low + 1e-6)),
        "rendering": "minip",  # protein is dark
        "interpolation2d": "linear",
        "visible": visible,
    }
    return data, meta, "image"


def _from_binning(series: TiltSeries) -> float | None:
    try:
        return float(series.text["rlnTomoTomogramBinning"]) * series.pixel_size_angst
    except (KeyError, ValueError):
        return None
