"""A viewer without napari's window: its model, layers, axes and camera are real, and nothing is drawn.

A window costs a second or two, and most of what docks do needs none.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace

from napari.components import ViewerModel
from qtpy.QtWidgets import QWidget

_windows: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class BareViewer(ViewerModel):
    """The model of a viewer, and plain widgets where docks look for window and canvas."""

    @property
    def window(self) -> SimpleNamespace:
        if self not in _windows:
            _windows[self] = window = SimpleNamespace(_qt_window=QWidget(), _qt_viewer=QWidget())
            window._qt_viewer.canvas = SimpleNamespace(native=QWidget())
        return _windows[self]

    def close(self) -> None:
        """As docks see it: the window is gone."""
        self.layers.clear()
        self.window._qt_window = None
