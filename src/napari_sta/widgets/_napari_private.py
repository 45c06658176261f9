"""All that we reach for in napari and magicgui behind their public faces, and why.

A new release may change any of it: ``tests/widgets/test_napari_private.py`` has a test for each, and one
that nothing of the kind is used anywhere else.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from magicgui.backends._qtpy.widgets import QBaseValueWidget
from qtpy.QtWidgets import QMainWindow, QWidget


def plain(viewer: Any) -> Any:
    """Return the viewer itself where a plugin was given napari's proxy of it.

    ``PublicOnlyProxy.__wrapped__``: the proxy is made anew for each dock and hides what starts with an
    underscore, so it can tell neither whether two docks have the same viewer nor anything of the below.
    """
    return getattr(viewer, "__wrapped__", viewer)


def open_viewers(viewer: Any) -> list[Any]:
    """Return every viewer that is open in this process.

    ``Viewer._instances``: a reader is not told for which viewer it reads, and ``napari.current_viewer`` names
    only one of them.
    """
    return list(getattr(type(plain(viewer)), "_instances", []))


def window_of(viewer: Any) -> QMainWindow | None:
    """Return a viewer's Qt window; None once it is closed, or if the viewer never had one.

    ``Window._qt_window``: napari has no signal for a window that is about to close, when one could still ask
    what becomes of jobs, and no public way to learn that it is closed.
    """
    return getattr(getattr(viewer, "window", None), "_qt_window", None)


def drop_target_of(viewer: Any) -> QWidget:
    """Return the widget that takes what is dropped on the canvas.

    ``Window._qt_viewer``: napari reads a dropped file in the GUI thread, which a map from a slow disk stops;
    an event filter is the only way to come before it.
    """
    target: QWidget = viewer.window._qt_viewer
    return target


def canvas_of(viewer: Any) -> QWidget:
    """Return the Qt widget of the canvas, which has the keyboard's focus after a click into it.

    ``QtViewer.canvas.native``: key bindings are not told whether a key repeats itself because it is held, nor
    when it is let go.
    """
    canvas: QWidget = viewer.window._qt_viewer.canvas.native
    return canvas


def quits(window: QMainWindow) -> bool:
    """Whether a window is closed because the program is to quit, with all other windows.

    ``_QtMainWindow._quit_app``: set by *File > Quit* before the window gets its close event.
    """
    return bool(getattr(window, "_quit_app", False))


def quit_no_more(window: QMainWindow) -> None:
    """Forget that the program was to quit: the user wants to stay.

    ``_QtMainWindow._quit_app``: napari would otherwise quit when the window is closed later.
    """
    window._quit_app = False


def no_slicing(layer: Any) -> AbstractContextManager[Any]:
    """Return a context in which a layer that changes is not sliced anew.

    ``Layer._block_refresh``: a translation within the displayed plane leaves the slice as it is, but napari
    slices at each, and uploads the whole map in 3D: too slow for a drag.
    """
    context: AbstractContextManager[Any] = layer._block_refresh()
    return context


def no_extent(viewer: Any, layer: Any) -> AbstractContextManager[Any]:
    """Return a context in which the viewer does not measure all layers anew when this one is translated.

    ``ViewerModel._on_layers_change``: it is connected to every layer's ``translate``, and sets the sliders'
    ranges, which a drag may leave alone until it has ended.
    """
    context: AbstractContextManager[Any] = layer.events.translate.blocker(viewer._on_layers_change)
    return context


def slice_once(layer: Any, dims: Any) -> None:
    """Slice a layer that is in no viewer.

    ``Layer._slice_dims``: what a viewer does to its layers; done beforehand, it compiles what the first layer
    on the canvas would have to wait for.
    """
    layer._slice_dims(dims)


class FieldBackend(QBaseValueWidget):
    """Base of magicgui backends for a Qt widget with ``value``, ``set_value`` and ``changed``.

    ``magicgui.backends._qtpy.widgets.QBaseValueWidget``: magicgui has no public base for Qt widgets of one's
    own that are values in a form.

    Parameters
    ----------
    field
        Class of the Qt widget.
    **kwargs
        From magicgui.
    """

    def __init__(self, field: type[QWidget], **kwargs: Any) -> None:
        super().__init__(field, "value", "set_value", "changed", **kwargs)
