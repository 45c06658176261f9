"""The plot of an offset: density of map and mask along Z, and the score; both can be dragged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal

from napari_sta.widgets.align_pair import RANGE_PX, Pair
from napari_sta.widgets.plots import Plot


class OffsetPlot(Plot):
    """Profiles above, score below; the mask's profile and a cursor follow the offset.

    Parameters
    ----------
    viewer
        Its theme gives the colours.

    Attributes
    ----------
    held
        The mouse went down on a curve (True) or up (False).
    dragged
        To this offset, map pixels along +Z.
    """

    held = Signal(bool)
    dragged = Signal(float)

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer, rows=2, height=200)
        self._pair: Pair | None = None
        self._offset_px = 0.0
        self._grabbed: tuple[float, float] | None = None
        profile, score = self.panes
        (self._map_line,) = profile.plot([], [], lw=1.4, label="map")
        (self._mask_line,) = profile.plot([], [], lw=1.4, label="mask")
        (self._score_line,) = score.plot([], [], lw=1.4)
        (self._peaks,) = score.plot([], [], "o", ms=4)
        self._cursor = score.axvline(0.0, lw=1.2)
        (self._here,) = score.plot([0], [np.nan], "o", ms=5)
        self.tint("blue", self._map_line)
        self.tint("pink", self._mask_line, self._cursor, self._here)
        self.tint("amber", self._score_line)
        self.tint("green", self._peaks)
        profile.set_yticks([])
        profile.set_ylabel("density")
        score.set_ylabel("score")
        score.set_xlabel("Z offset, px")
        profile.set_xlabel("Z from the centre, px")
        score.set_xlim(-RANGE_PX, RANGE_PX)
        profile.set_ylim(-0.05, 1.12)
        self.legend(profile, loc="upper right", ncols=2)
        self.moving(self._mask_line, self._cursor, self._here)
        self.mpl_connect("button_press_event", self._press)
        self.mpl_connect("motion_notify_event", self._drag)
        self.setCursor(Qt.CursorShape.SizeHorCursor)
        self.restyle()

    def _press(self, event: Any) -> None:
        if event.inaxes is None or event.xdata is None or self._pair is None:
            return
        self.held.emit(True)
        if event.inaxes is self.panes[1]:
            self._grabbed = (0.0, 0.0)
            self.dragged.emit(float(event.xdata))
        else:
            self._grabbed = (float(event.xdata), self._offset_px)

    def _drag(self, event: Any) -> None:
        if self._grabbed is None or event.inaxes is None or event.xdata is None:
            return
        start, offset_px = self._grabbed
        self.dragged.emit(offset_px + float(event.xdata) - start)

    def _release(self, event: Any) -> None:
        self._grabbed = None
        self.held.emit(False)

    def show_pair(self, pair: Pair | None, offset_px: float) -> None:
        """Draw the curves of a pair at an offset; None: nothing is compared."""
        self._pair = pair
        profile, score = self.panes
        if pair is None:
            for line in (self._map_line, self._mask_line, self._score_line, self._peaks, self._here):
                line.set_data([], [])
            self._cursor.set_xdata([np.nan, np.nan])
            self.draw_idle()
            return
        curve = pair.curve
        n = len(curve.profile_map)
        self._z = np.arange(n) - n // 2
        self._map_line.set_data(self._z, _unit(np.asarray(curve.profile_map)))
        self._mask_profile = _unit(np.asarray(curve.profile_mask))
        # Half a box on either side at most, and room for the mask to move.
        reach = min(n / 2, max(1.2 * RANGE_PX, 1.15 * _extent(self._mask_profile)))
        profile.set_xlim(-reach, reach)
        self._score_line.set_data(curve.offset_px, curve.score)
        peaks = np.array(pair.maxima(), dtype=float).reshape(-1, 2)
        self._peaks.set_data(peaks[:, 0], peaks[:, 1])
        low, high = float(np.min(curve.score)), float(np.max(curve.score))
        room = 0.12 * max(high - low, 1e-6)
        score.set_ylim(low - room, high + room)
        score.set_xlim(float(curve.offset_px[0]), float(curve.offset_px[-1]))
        self._move(offset_px)
        self.draw_idle()

    def move_to(self, offset_px: float) -> None:
        """Let mask and cursor follow the offset: a few milliseconds."""
        if self._pair is not None:
            self._move(offset_px)
            self.redraw_moving()

    def _move(self, offset_px: float) -> None:
        assert self._pair is not None
        self._offset_px = offset_px
        self._mask_line.set_data(self._z + offset_px, self._mask_profile)
        self._cursor.set_xdata([offset_px, offset_px])
        self._here.set_data([offset_px], [self._pair.score_at(offset_px)])


def _unit(values: NDArray[Any]) -> NDArray[np.float64]:
    """Scale to 0..1 for drawing."""
    values = np.asarray(values, dtype=np.float64)
    span = float(values.max() - values.min())
    return (values - values.min()) / span if span else np.zeros_like(values)


def _extent(profile: NDArray[np.float64]) -> float:
    """Return how far from the centre a profile reaches, in planes."""
    where = np.flatnonzero(profile > 0.02)
    n = len(profile)
    return float(np.abs(where - n // 2).max()) if len(where) else n / 2
