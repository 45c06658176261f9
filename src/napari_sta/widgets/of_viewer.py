"""What is ours in one viewer, for as long as its window is there."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject

from napari_sta.widgets import _napari_private


class OfViewer(QObject):
    """Base of what belongs to a viewer without keeping it alive.

    Parameters
    ----------
    viewer
        The napari viewer itself, not the proxy that plugins are given.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = weakref.ref(viewer)

    @property
    def viewer(self) -> Any:
        """The napari viewer."""
        viewer = self._viewer()
        assert viewer is not None
        return viewer

    @property
    def closed(self) -> bool:
        """Whether the viewer's window is gone: answers of workers that come later have nowhere to go."""
        viewer = self._viewer()
        return viewer is None or _napari_private.window_of(viewer) is None

    def ours(self, *kinds: str) -> list[Layer]:
        """Return our layers, bottom first; only of the given kinds if any are named."""
        layers = []
        for layer in self.viewer.layers:
            kind = entries_of(layer).get("kind")
            if kind and (not kinds or kind in kinds):
                layers.append(layer)
        return layers


def entries_of(layer: Any) -> dict[str, Any]:
    """Return what a layer of ours says of itself (see ``docs/layers.md``); nothing of anybody else's."""
    entries: dict[str, Any] = layer.metadata.get("napari_sta", {})
    return entries


def path_of(layer: Any) -> str:
    """Return the file that a layer of ours was read from; empty if it does not say."""
    return str(entries_of(layer).get("path") or "")


def lies_in(path: str, folders: list[Path]) -> bool:
    """Whether a file lies in one of the folders."""
    return any(Path(path).is_relative_to(folder) for folder in folders)
