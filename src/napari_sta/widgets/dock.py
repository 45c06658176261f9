"""What all docks share: the theme's colours, the name on their tab, small buttons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor, QPalette, QShowEvent
from qtpy.QtWidgets import QDockWidget, QPushButton, QSizePolicy, QWidget

from napari_sta.widgets import _napari_private
from napari_sta.widgets._warm_up import warm_up_once
from napari_sta.widgets.themes import colours_of, style_sheet

PLUGIN = "napari-sta"


class Dock(QWidget):
    """Base of our docks: names its tab, wears the theme's colours, has what the first layers need loaded.

    Parameters
    ----------
    viewer
        Its theme gives the colours, also when it changes.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        # Else napari adds room of its own below the dock, more of it for every dock.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._themed = _napari_private.plain(viewer)
        self._themed.events.theme.connect(self._wear_theme)
        self._wear_theme()
        # Once the event loop turns: the docks come first.
        QTimer.singleShot(300, warm_up_once)

    @property
    def colours(self) -> Mapping[str, str]:
        """Colours by their names (see :mod:`napari_sta.widgets.themes`)."""
        return colours_of(self._themed)

    def _wear_theme(self, event: Any = None) -> None:
        palette = self.palette()
        palette.setColor(QPalette.ColorRole.Link, QColor(self.colours["info"]))
        self.setPalette(palette)
        self.setStyleSheet(style_sheet(self.colours))
        if event is not None:
            self.recolour()

    def recolour(self) -> None:
        """Give what has its colours in its text those of the new theme."""

    def showEvent(self, event: QShowEvent) -> None:
        """Name the tab once napari has put the widget into its dock."""
        super().showEvent(event)
        QTimer.singleShot(0, lambda: name_tab(self) if isalive(self) else None)


def small_button(text: str, tip: str) -> QPushButton:
    """Make a button no wider than its sign, with a tooltip."""
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setFixedWidth(30)
    return button


def in_sight(widget: QWidget) -> bool:
    """Whether a widget can be seen: it is not on a hidden tab, nor scrolled away altogether."""
    return widget.isVisible() and not widget.visibleRegion().isEmpty()


def name_tab(widget: QWidget) -> None:
    """Shorten the tab of a dock of ours: napari adds the plugin's name, too long for four tabs."""
    dock = widget.parent()
    while dock is not None and not isinstance(dock, QDockWidget):
        dock = dock.parent()
    if dock is not None:
        title = dock.windowTitle().removesuffix(f" ({PLUGIN})").replace("&&", "&")
        dock.setWindowTitle(literal(title))


def literal(text: str) -> str:
    """Return a text for a menu, tab or button, where Qt takes a single & for an underline."""
    return text.replace("&", "&&")
