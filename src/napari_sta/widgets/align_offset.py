"""The offset between map and mask: its steps, what counts as one step, and the way back."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_sta.widgets.offset_box import STEP_PX

LARGEST_PX = 500.0
SETTLE_MS = 150
BURST_S = 0.4
"""Steps by keys that follow on one another faster than this are undone together."""


class Offset(QObject):
    """How far the map's density lies from the mask, in map pixels, with its history.

    Attributes
    ----------
    zyx_px
        Positive z is +Z.
    moved
        Along Z, perhaps in the course of a drag.
    moved_sideways
        Along X or Y, by a number.
    went_back
        A step back has set X and Y (argument: them, as y and x); Z follows with ``moved``.
    settled
        It has not moved for a moment.
    """

    moved = Signal()
    moved_sideways = Signal()
    went_back = Signal(object)
    settled = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.zyx_px = np.zeros(3)
        self._history: list[tuple[float, ...]] = []  # what Ctrl+Z goes back to
        self._gesture, self._noted = False, False  # a drag or a held key; whether it is in the history
        self._changed_at = -math.inf
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self.settled)

    @property
    def z_px(self) -> float:
        """Along Z alone."""
        return float(self.zyx_px[0])

    @property
    def is_settled(self) -> bool:
        """Whether it has not moved for a moment."""
        return not self._settle.isActive()

    def set_z(self, offset_px: float, *, note: bool = True) -> None:
        """Move along Z.

        Parameters
        ----------
        offset_px
            Rounded to 0.01 px, which is what is applied.
        note
            Whether a step back comes here again.
        """
        offset_px = round(float(np.clip(offset_px, -LARGEST_PX, LARGEST_PX)), 2) + 0.0
        if note and offset_px != self.z_px:
            self._note()
        self.zyx_px[0] = offset_px
        self.moved.emit()
        self._begin_to_settle()

    def step(self, steps: float, size_px: float = STEP_PX) -> None:
        """Move by some steps; positive is +Z."""
        self.set_z(self.z_px + steps * size_px)

    def set_axis(self, axis: int, offset_px: float) -> None:
        """Move along Y (axis 1) or X (axis 2)."""
        self._note()
        self.zyx_px[axis] = round(offset_px, 2)
        self.moved_sideways.emit()
        self._begin_to_settle()

    def step_back(self) -> None:
        """Go back to the offset before the last change."""
        if self._history:
            z, *yx = self._history.pop()
            self._noted = False
            self.set_sideways(yx)
            self.set_z(z, note=False)

    def set_sideways(self, yx_px: Sequence[float]) -> None:
        """Take these Y and X without moving anything yet."""
        self.zyx_px[1:] = yx_px
        self.went_back.emit(tuple(yx_px))

    def forget(self) -> None:
        """Forget the way back: another map or mask is compared."""
        self._history.clear()

    def be_settled(self) -> None:
        """Settle without a signal: whoever calls sees to it."""
        self._settle.stop()

    def hold(self, down: bool, *, burst: bool = False) -> None:
        """Take all changes between down and up as one step back, however slow they are.

        Parameters
        ----------
        down
            Whether a drag, or a held key, begins or ends.
        burst
            Together with those just before, if they follow closely: keys.
        """
        if down and not self._gesture:
            self._noted = burst and self._noted and time.monotonic() - self._changed_at < BURST_S
        self._gesture = down

    def _note(self) -> None:
        if not (self._noted and (self._gesture or self._settle.isActive())):
            self._history.append(tuple(float(v) for v in self.zyx_px))
            self._noted = True

    def _begin_to_settle(self) -> None:
        self._settle.start()
        self._changed_at = time.monotonic()
