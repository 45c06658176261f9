"""Plots that keep up with a drag, and pictures that are drawn in a thread while a job works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Signal
from qtpy.QtGui import QImage, QPainter, QWheelEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_sta.widgets._background import Latest
from napari_sta.widgets.themes import colours_of


def dress(axis: Axes, colours: Mapping[str, str]) -> None:
    """Give a pane the theme's colours, and small letters."""
    axis.set_facecolor(colours["background"])
    axis.tick_params(colors=colours["text"], labelsize=7.5, length=3, pad=2)
    for side, spine in axis.spines.items():
        spine.set_color(colours["line"])
        spine.set_visible(side in ("left", "bottom"))
    axis.xaxis.label.set_color(colours["text"])
    axis.yaxis.label.set_color(colours["text"])
    axis.title.set_color(colours["text"])
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_fontsize(8)
    axis.title.set_fontsize(8.5)
    axis.grid(True, color=colours["line"], alpha=0.35, linewidth=0.5)


def add_legend(axis: Axes, colours: Mapping[str, str], **where: Any) -> None:
    """Draw a legend in the theme's colours, of the lines as they are now."""
    style: dict[str, Any] = {
        "fontsize": 7, "handlelength": 1.4, "borderaxespad": 0.2, "labelspacing": 0.25,
        "facecolor": colours["background"], "edgecolor": "none", "framealpha": 0.75,
    }  # fmt: skip
    legend = axis.legend(**(style | where))
    for text in legend.get_texts():
        text.set_color(colours["text"])
    legend.set_in_layout(False)


class Picture(QWidget):
    """A figure that is drawn in a thread and shown as an image.

    A figure takes a tenth of a second of Python to draw, and several times that while a job's threads want
    the interpreter too: too long for the GUI thread.

    Parameters
    ----------
    viewer
        Its theme gives the colours, also when it changes.
    height
        Preferred height in pixels.
    """

    drawn = Signal()

    def __init__(self, viewer: Any, *, height: int = 160) -> None:
        super().__init__()
        self._viewer = viewer
        self._height = height
        self._draw: Callable[[Figure, Mapping[str, str]], None] | None = None
        self._image: QImage | None = None
        self._drawing = Latest(self, 0)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(round(0.75 * height))
        viewer.events.theme.connect(self._redraw)

    def sizeHint(self) -> QSize:
        """Prefer the given height."""
        return QSize(340, self._height)

    @property
    def idle(self) -> bool:
        """Whether what is shown is what was asked for last."""
        return self._drawing.idle

    def show_figure(self, draw: Callable[[Figure, Mapping[str, str]], None]) -> None:
        """Show what a function draws on an empty figure, given the theme's colours; it runs in a thread."""
        self._draw = draw
        self._redraw()

    def resizeEvent(self, event: Any) -> None:
        """Draw anew at the new size; until that is done the old image is stretched."""
        super().resizeEvent(event)
        self._redraw()

    def paintEvent(self, event: Any) -> None:
        """Show the last image."""
        if self._image is not None:
            painter = QPainter(self)
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.drawImage(self.rect(), self._image)

    def _redraw(self, event: object = None) -> None:
        if self._draw is None or self.width() < 20 or self.height() < 20:
            return
        scale = self.devicePixelRatioF()
        size = (round(self.width() * scale), round(self.height() * scale))
        self._drawing.request(
            _render, self._draw, size, 100 * scale, colours_of(self._viewer), done=self._arrived
        )

    def _arrived(self, pixels: NDArray[np.uint8]) -> None:
        height, width, _ = pixels.shape
        self._image = QImage(pixels.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888).copy()
        self.update()
        self.drawn.emit()


def _render(
    draw: Callable[[Figure, Mapping[str, str]], None],
    size: tuple[int, int],
    dpi: float,
    colours: Mapping[str, str],
) -> NDArray[np.uint8]:
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi, facecolor=colours["background"])
    canvas = FigureCanvasAgg(figure)
    draw(figure, colours)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


class Plot(FigureCanvasQTAgg):
    """A figure in the viewer's colours with a layer of moving artists.

    Parameters
    ----------
    viewer
        Its theme gives the colours, also when it changes.
    rows
        Stacked panes.
    columns
        Panes side by side.
    height
        Preferred height in pixels.
    """

    def __init__(self, viewer: Any, rows: int = 1, columns: int = 1, *, height: int = 160) -> None:
        engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.06, wspace=0.08)
        super().__init__(Figure(layout=engine))
        self._height = height
        self._viewer = viewer
        self._moving: list[Artist] = []
        self._background: Any = None
        self._tinted: list[tuple[Any, str]] = []
        self._legends: dict[Axes, dict[str, Any]] = {}
        axes = self.figure.subplots(rows, columns, squeeze=False)
        self.panes: list[Axes] = [axis for row in axes for axis in row]
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(round(0.75 * height))
        self.mpl_connect("draw_event", self._drawn)
        viewer.events.theme.connect(self.restyle)
        self.restyle()

    def sizeHint(self) -> QSize:
        """Prefer the given height."""
        return QSize(340, self._height)

    def minimumSizeHint(self) -> QSize:
        """Stay readable."""
        return QSize(260, round(0.75 * self._height))

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Leave the wheel to the dock: a plot has nothing to scroll."""
        event.ignore()

    def draw_idle(self) -> None:
        """Draw soon; a plot on a hidden tab is drawn when it is shown."""
        if self.isVisible():
            super().draw_idle()
        else:
            self._draw_pending = True  # what paintEvent looks at

    def restyle(self, event: object = None) -> None:
        """Take the theme's colours."""
        colours = colours_of(self._viewer)
        self.figure.set_facecolor(colours["background"])
        for axis in self.panes:
            dress(axis, colours)
        for artist, name in self._tinted:
            artist.set_color(colours[name])
        for axis, where in self._legends.items():
            add_legend(axis, colours, **where)
        self.draw_idle()

    def tint(self, name: str, *artists: Any) -> None:
        """Give artists a colour by its name in :mod:`napari_sta.widgets.themes`: on each theme its shade."""
        colours = colours_of(self._viewer)
        for artist in artists:
            artist.set_color(colours[name])
            self._tinted.append((artist, name))

    def legend(self, axis: Axes, **where: Any) -> None:
        """Draw a legend in the theme's colours."""
        self._legends[axis] = where
        add_legend(axis, colours_of(self._viewer), **where)

    def clear(self, axis: Axes) -> None:
        """Take everything out of a pane."""
        axis.clear()
        self._legends.pop(axis, None)
        self._tinted = [(artist, name) for artist, name in self._tinted if artist.axes is not None]

    def moving(self, *artists: Artist) -> None:
        """Declare artists that :meth:`redraw_moving` draws; the rest stays as last drawn."""
        for artist in artists:
            artist.set_animated(True)
            self._moving.append(artist)

    def redraw_moving(self) -> None:
        """Draw the moving artists over the kept background: a few milliseconds."""
        if self._background is None:
            self.draw_idle()
            return
        self.restore_region(self._background)
        self._draw_moving()
        # Not blit(): it repaints at once, and with it the whole window and its OpenGL canvas.
        self.update()

    def _drawn(self, event: object) -> None:
        self._background = self.copy_from_bbox(self.figure.bbox)
        self._draw_moving()

    def _draw_moving(self) -> None:
        for artist in self._moving:
            if artist.axes is not None:
                artist.axes.draw_artist(artist)
