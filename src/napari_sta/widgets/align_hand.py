"""Move the offset by hand on the canvas: drag along Z, arrow keys, Ctrl+Z."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QKeyEvent

from napari_sta.widgets import _napari_private
from napari_sta.widgets.align_layers import show_xz
from napari_sta.widgets.align_offset import Offset
from napari_sta.widgets.of_viewer import OfViewer
from napari_sta.widgets.offset_box import COARSE_PX, FINE_PX, STEP_PX


class CanvasHand(OfViewer):
    """What mouse and keys do to the offset.

    Parameters
    ----------
    viewer
        The napari viewer itself.
    offset
        Is moved.

    Attributes
    ----------
    sign
        1 where the mask moves with the hand; -1 where the map does, which goes the other way.
    pixel_size_angst
        Of the map; None while there is nothing to move.
    """

    def __init__(self, viewer: Any, offset: Offset) -> None:
        super().__init__(viewer)
        self.sign = 1
        self.pixel_size_angst: float | None = None
        self._offset = offset
        self._pan_before = True
        _napari_private.canvas_of(viewer).installEventFilter(self)
        self._bind_undo(viewer)  # where no layer is selected, or one that has none of its own

    def let_drag(self, on: bool) -> None:
        """Drag the mask along Z, or the canvas again."""
        viewer = self.viewer
        callbacks = viewer.mouse_drag_callbacks
        if on:
            if viewer.dims.ndisplay != 2 or viewer.dims.ndim - 3 not in viewer.dims.displayed:
                show_xz(viewer)
            self._pan_before = viewer.scene.camera.mouse_pan
            viewer.scene.camera.mouse_pan = False
            callbacks.append(self._drag)
            viewer.status = "Drag up or down on the canvas to move the mask along Z"
        else:
            if self._drag in callbacks:
                callbacks.remove(self._drag)
            viewer.scene.camera.mouse_pan = self._pan_before

    def _drag(self, viewer: Any, event: Any) -> Generator[None]:
        axis, pixel = viewer.dims.ndim - 3, self.pixel_size_angst
        if viewer.dims.ndisplay != 2 or axis not in viewer.dims.displayed or pixel is None:
            return
        start, offset_px = float(event.position[axis]), self._offset.z_px
        self._offset.hold(True)
        yield
        while event.type == "mouse_move":
            moved = (float(event.position[axis]) - start) / pixel
            self._offset.set_z(offset_px + self.sign * moved)
            event.handled = True
            yield
        self._offset.hold(False)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Learn of keys held on the canvas, which napari does not tell: their steps are undone together."""
        if isinstance(event, QKeyEvent) and event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            if event.type() == QEvent.Type.KeyPress:
                self._offset.hold(True, burst=True)
            elif event.type() == QEvent.Type.KeyRelease and not event.isAutoRepeat():
                # After napari has seen it.
                QTimer.singleShot(0, self._release)
        return False

    def _release(self) -> None:
        self._offset.hold(False)

    def bind_keys(self, layer: Any) -> None:
        """Let the arrow keys move the offset while this layer is selected."""
        hand = weakref.ref(self)

        def stepper(steps: int, size_px: float) -> Any:
            def press(_layer: Any) -> None:
                if (own := hand()) is not None and isalive(own):
                    # Downwards on the canvas is +Z in the XZ view: the mask follows the arrow.
                    own._offset.step(own.sign * steps, size_px)

            return press

        for prefix, size_px in (("", STEP_PX), ("Shift-", COARSE_PX), ("Alt-", FINE_PX)):
            layer.bind_key(f"{prefix}Up", stepper(-1, size_px), overwrite=True)
            layer.bind_key(f"{prefix}Down", stepper(1, size_px), overwrite=True)
        self._bind_undo(layer)

    def _bind_undo(self, keys_of: Any) -> None:
        hand = weakref.ref(self)

        def back(_: Any) -> None:
            if (own := hand()) is not None and isalive(own):
                own._offset.step_back()

        keys_of.bind_key("Control-Z", back, overwrite=True)
