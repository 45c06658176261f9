"""Keywords that every layer of ours has: name, units, axes, what it says of itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LayerData = tuple[Any, dict[str, Any], str]

UNITS = ("angstrom", "angstrom", "angstrom")
AXES = ("z", "y", "x")
NO_PIXEL_SIZE = "pixel size unknown"
"""Ends the name of a layer whose file states none; its scale is 1."""
_ITERATION_FILE = re.compile(r"run_it(\d{3,})_(.+)\.(?:mrc|star)")


def common(name: str, kind: str, path: str, pixel_size_angst: float | None, **more: Any) -> dict[str, Any]:
    """Return the keywords of a layer (see ``docs/layers.md``).

    Parameters
    ----------
    name, kind, path
        Of the layer; what it is; the file it was read from.
    pixel_size_angst
        None where nobody knows.
    more
        Further entries of ``metadata["napari_sta"]``.
    """
    return {
        "name": name if pixel_size_angst is not None else f"{name} · {NO_PIXEL_SIZE}",
        "units": UNITS if pixel_size_angst is not None else ("pixel",) * 3,
        "axis_labels": AXES,
        "metadata": {
            "napari_sta": {"kind": kind, "path": path, "pixel_size_angst": pixel_size_angst, **more}
        },
    }


def grid(shape: Sequence[int], pixel_size_angst: float | None) -> dict[str, Any]:
    """Return scale and translation of a volume: RELION's origin, voxel N // 2, is world 0."""
    scale = pixel_size_angst or 1.0
    return {
        "scale": (scale,) * 3,
        "translate": tuple(-(n // 2) * scale for n in shape),
    }


def layer_name(path: str | Path) -> str:
    """Return a short name: ``Reconstruct/job025 · merged`` for a job's file, else the bare file name."""
    path = Path(path)
    folder = path.parent
    stem = path.stem
    if match := _ITERATION_FILE.fullmatch(path.name):
        # run_it003_half1_class001: an iteration of a refinement, of the only class there is.
        stem = f"it{match.group(1)} {match.group(2).replace('_class001', '').replace('_', ' ')}"
    if folder.name.startswith("job") and folder.name[3:].isdigit():
        return f"{folder.parent.name}/{folder.name} · {stem}"
    return stem


def iteration_of(path: str | Path) -> int | None:
    """Return the iteration that a refinement's file belongs to; None for any other file."""
    match = _ITERATION_FILE.fullmatch(Path(path).name)
    return int(match.group(1)) if match else None
