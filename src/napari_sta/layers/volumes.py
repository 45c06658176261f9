"""Maps, masks and tilt series as layers, and volumes back from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.data.errors import InputError
from napari_sta.data.volume import Volume
from napari_sta.layers.keywords import AXES, UNITS, LayerData, common, grid, layer_name

MASK_COLOUR = "magenta"
CONTOUR_COLOUR = "#ff9be8"


def map_layer(volume: Volume, *, name: str | None = None, kind: str = "map", **more: Any) -> LayerData:
    """Show a map as an Image: grey on slices, an isosurface in 3D, RELION's origin at world 0.

    Parameters
    ----------
    volume
        The map.
    name
        Layer name; by default made from the path.
    kind
        ``map`` or ``half``.
    more
        Further entries of ``metadata["napari_sta"]``.
    """
    low, high, level = display_range(volume.data)
    pixel = volume.stated_pixel_size_angst
    meta = common(name or layer_name(volume.path), kind, volume.path, pixel, **more)
    meta |= grid(volume.data.shape, pixel)
    meta |= {
        "colormap": "gray",
        "contrast_limits": (low, high),
        "rendering": "iso",
        "iso_threshold": level,
        "interpolation2d": "linear",
    }
    return volume.data, meta, "image"


def display_range(data: NDArray[np.floating[Any]]) -> tuple[float, float, float]:
    """Return the lower and upper contrast limit and the isosurface level that suit a map.

    The level is three standard deviations above the mean: a start that shows protein, not solvent.
    """
    sample = np.asarray(data[:: max(1, data.shape[0] // 48), ::2, ::2], dtype=np.float32)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0 or float(sample.min()) == float(sample.max()):
        base = float(sample.flat[0]) if sample.size else 0.0
        return base, base + 1.0, base + 0.5
    low, high = (float(v) for v in np.percentile(sample, (50.0, 99.9)))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    level = float(sample.mean() + 3 * sample.std())
    if not low < level < high:
        level = low + 0.6 * (high - low)
    return low, high, level


def mask_layers(volume: Volume, *, name: str | None = None, **more: Any) -> list[LayerData]:
    """Show a mask as a translucent coloured Image, and its 0.5 contour as Labels for slices.

    A layer's keywords can give Labels their colour but not make them a line: the contour comes hidden,
    and the viewer's :class:`napari_sta.widgets.shown.Shown` makes it a line and shows it. Without it nothing
    covers the map.
    """
    name, pixel = name or layer_name(volume.path), volume.stated_pixel_size_angst
    body = common(name, "mask", volume.path, pixel, **more)
    body |= grid(volume.data.shape, pixel)
    body |= {
        "colormap": MASK_COLOUR,
        "blending": "additive",
        "opacity": 0.3,
        "contrast_limits": (0.0, 1.0),
        "rendering": "iso",
        "iso_threshold": 0.5,
        "interpolation2d": "linear",
    }
    edge = common(f"{name} · contour", "contour", volume.path, pixel, **more)
    edge |= grid(volume.data.shape, pixel)
    edge |= {
        "opacity": 0.9,
        "blending": "translucent_no_depth",
        "colormap": {None: "transparent", 0: "transparent", 1: CONTOUR_COLOUR},
        "visible": False,
    }
    return [(volume.data, body, "image"), ((volume.data >= 0.5).astype(np.uint8), edge, "labels")]


def tilt_layer(images: Any, pixel_size_angst: float | None, path: str, name: str) -> LayerData:
    """Show a tilt series as 2D images with a slider of their own: the number of a tilt is no length.

    Parameters
    ----------
    images
        (tilts, y, x); what a slider asks for is read, one image at a time.
    pixel_size_angst
        Along y and x; None where nobody knows.
    path, name
        File, and name of the layer.

    Returns
    -------
    layer
        An Image (tilts, 1, y, x): the first axis counts tilts, the others lie in Å about the image's centre.
    """
    meta = common(name, "tilt_series", path, pixel_size_angst)
    scale = pixel_size_angst or 1.0
    _, h, w = images.shape
    middle = np.asarray(images[images.shape[0] // 2, ::4, ::4], dtype=np.float32)
    middle = middle[np.isfinite(middle)]
    low, high = (float(v) for v in np.percentile(middle, (0.5, 99.5))) if middle.size else (0.0, 1.0)
    meta |= {
        "units": ("dimensionless", *(UNITS if pixel_size_angst else ("pixel",) * 3)),
        "scale": (1.0, *(scale,) * 3),
        "translate": (0.0, 0.0, -(h / 2) * scale, -(w / 2) * scale),
        "axis_labels": ("tilt", *AXES),
        "colormap": "gray",
        "contrast_limits": (low, max(high, low + 1e-6)),
        "interpolation2d": "linear",
    }
    return images[:, None], meta, "image"


def volume_from_layer(data: Any, meta: Mapping[str, Any]) -> Volume:
    """Return the volume an Image or Labels layer stands for; Å per voxel from its scale.

    A scale of 1 is no pixel size in a layer of which none is known, be it ours (its metadata say None) or
    anybody's: that is napari's own default.

    Raises
    ------
    InputError
        If the layer is not a volume with one pixel size.
    """
    array = np.asarray(data)
    if array.ndim != 3:
        raise InputError(f"layer {meta.get('name', '')} has {array.ndim} dimensions; a map has 3.")
    scale = np.asarray(meta.get("scale", (1.0, 1.0, 1.0)), dtype=np.float64)[-3:]
    if np.ptp(scale) > 1e-4 * scale[0]:
        raise InputError(f"layer {meta.get('name', '')} has voxels that are not cubes; a map's are.")
    ours = meta.get("metadata", {}).get("napari_sta", {})
    pixel = None if scale[0] == 1 and ours.get("pixel_size_angst") is None else float(scale[0])
    return Volume(array.astype(np.float32, copy=False), pixel, ours.get("path", ""))
