"""Nouns ↔ napari layer tuples; what a layer of ours looks like is written in ``docs/layers.md``.

No Qt and no napari here: a layer is a tuple (data, keywords, type), so it can be made in any thread
and by any program.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_sta.layers.keywords import LayerData
from napari_sta.layers.read import is_ours, read_all, read_layers
from napari_sta.layers.volumes import volume_from_layer


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return a reader if every path is ours, else None, fast: only a file's head is looked at."""
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths or not all(is_ours(p) for p in paths):
        return None
    return read_all


def write_map(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write an Image layer as a float32 map; the pixel size is the layer's scale."""
    from napari_sta.io.mrc import write_volume

    write_volume(path, volume_from_layer(data, meta))
    return [path]


def write_mask(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer as a mask: 1 inside any label, 0 outside."""
    from napari_sta.io.mrc import write_volume

    volume = volume_from_layer(data, meta)
    write_volume(path, replace(volume, data=(volume.data > 0).astype(np.float32)))
    return [path]


def practice_project() -> list[LayerData]:
    """Simulate a small project with a hidden offset and return its map and mask as layers.

    It is written to a new folder below the user's own temporary folder; the layers' metadata name it.
    """
    from napari_sta.phantoms.practice import make_practice_project

    project = make_practice_project(Path(tempfile.mkdtemp(prefix="napari-sta-practice-")) / "project")
    layers = read_layers(project.map_path) + read_layers(project.mask_path)
    for _, meta, _ in layers:
        meta["metadata"]["napari_sta"]["project"] = str(project.root)
    return layers
