"""The plots of a post-processing result: FSC curves to read and to click, and the Guinier plot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal

from napari_sta.widgets.plots import Plot
from napari_sta.widgets.result import CURVES, EMPTY_SHELL, GUINIER, Result

THRESHOLD = 0.143


class FscPlot(Plot):
    """FSC curves of a result, and the corrected one of another to compare with.

    Parameters
    ----------
    viewer
        Its theme gives the colours.

    Attributes
    ----------
    pointed
        The mouse is over a shell (argument: its index).
    clicked
        At a frequency, 1/Å.
    """

    pointed = Signal(int)
    clicked = Signal(float)

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer, height=210)
        self._result: Result | None = None
        axis = self.panes[0]
        self._lines = {}
        for _, name, colour in CURVES:
            (self._lines[name],) = axis.plot([], [], lw=1.4, label=name)
            self.tint(colour, self._lines[name])
        (self._other_line,) = axis.plot([], [], "--", lw=1.2)
        self._at_cursor = axis.axvline(np.nan, lw=0.8)
        self._at_lowpass = axis.axvline(np.nan, lw=1.4)
        self.tint("strong", self._other_line)
        self.tint("grey", axis.axhline(THRESHOLD, lw=0.8, ls=":"), self._at_cursor)
        self.tint("violet", self._at_lowpass)
        self.moving(self._at_cursor, self._at_lowpass)
        axis.set_ylim(-0.08, 1.04)
        axis.set_xlim(0, 0.2)
        axis.set_xlabel("resolution, Å")
        axis.set_ylabel("FSC")
        axis.xaxis.set_major_formatter(lambda x, _: "∞" if x <= 0 else f"{1 / x:.3g}")
        self.mpl_connect("motion_notify_event", self._over)
        self.mpl_connect("button_press_event", self._click)
        self.setCursor(Qt.CursorShape.CrossCursor)

    def show_result(self, result: Result | None, other: Result | None = None, name: str = "") -> None:
        """Draw a result's curves; None: no curves and no marks.

        Parameters
        ----------
        result
            On show.
        other, name
            What it is compared with, and what that is called.
        """
        self._result = result
        if result is None:
            for line in (*self._lines.values(), self._other_line):
                line.set_data([], [])
            for line in (self._at_cursor, self._at_lowpass):
                line.set_xdata([np.nan, np.nan])
            self.draw_idle()
            return
        axis = self.panes[0]
        for curve, line in self._lines.items():
            values = result.curves.get(curve)
            line.set_data(result.frequency_inv_angst, values) if values is not None else line.set_data([], [])
        if other is not None and "corrected" in other.curves:
            self._other_line.set_data(other.frequency_inv_angst, other.curves["corrected"])
            self._other_line.set_label(name)
        else:
            self._other_line.set_data([], [])
            self._other_line.set_label("_")
        axis.set_xlim(0, float(result.frequency_inv_angst[-1]))
        self.legend(axis, loc="upper right")
        self.draw_idle()

    def mark_lowpass(self, lowpass_angst: float | None) -> None:
        """Mark the low-pass; None: there is none."""
        at = 1 / lowpass_angst if lowpass_angst else np.nan
        self._at_lowpass.set_xdata([at, at])
        self.redraw_moving()

    def _over(self, event: Any) -> None:
        if self._result is None or event.inaxes is None or event.xdata is None or event.xdata <= 0:
            return
        shell = int(np.argmin(np.abs(self._result.frequency_inv_angst - event.xdata)))
        frequency = float(self._result.frequency_inv_angst[shell])
        self._at_cursor.set_xdata([frequency, frequency])
        self.pointed.emit(shell)
        self.redraw_moving()

    def _click(self, event: Any) -> None:
        if self._result is None or event.inaxes is None or event.xdata is None or event.xdata <= 0:
            return
        self.clicked.emit(float(event.xdata))


class GuinierPlot(Plot):
    """ln amplitude against 1/d², and the straight line that gave the B-factor.

    Parameters
    ----------
    viewer
        Its theme gives the colours.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer, height=210)

    def show_result(self, result: Result | None) -> None:
        """Draw a result's curves; None: nothing."""
        axis = self.panes[0]
        self.clear(axis)
        if result is not None:
            self._draw(axis, result)
        self.restyle()

    def _draw(self, axis: Any, result: Result) -> None:
        axis.set_xlabel("1/d², 1/Å²")
        axis.set_ylabel("ln F")
        x = result.guinier.get("x")
        if x is None:
            axis.text(0.5, 0.5, "no Guinier table in this file", transform=axis.transAxes, ha="center")
            self.tint("grey", *axis.texts)
            return
        fit = result.fit
        useful = []
        for _, name, colour in GUINIER:
            values = result.guinier.get(name)
            if values is None:
                continue
            real = (values > EMPTY_SHELL) & np.isfinite(values)
            self.tint(colour, *axis.plot(x[real], values[real], lw=1.4, label=name))
            useful.append(values[real & (x >= _first_useful(x))])
        if fit is not None:
            low, high = fit.between or (0.0, float(x[-1]))
            line = np.array([low, high])
            words = f"fit: B {minus(4 * fit.slope_angst2, 0)} Å²"
            self.tint(
                "pink", *axis.plot(line, fit.intercept + fit.slope_angst2 * line, "--", lw=1.8, label=words)
            )
            if fit.between is not None:
                self.tint("grey", axis.axvspan(low, high, alpha=0.15, lw=0))
                where = f"fitted from {low**-0.5:.3g} to {high**-0.5:.3g} Å"
                axis.set_title(where)
        values = np.concatenate(useful) if useful else np.zeros(0)
        if values.size:
            bottom, top = float(values.min()), float(values.max())
            room = max(top - bottom, 0.5)
            # The curves fall to the right: the free corner for the legend is above them.
            axis.set_ylim(bottom - 0.06 * room, top + 0.55 * room)
        axis.set_xlim(0, float(x[-1]))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        self.legend(axis, loc="upper right", ncols=2)


def _first_useful(x: NDArray[np.float64]) -> float:
    """Return the 1/d² from which a Guinier plot tells something: below are box and envelope."""
    return min(float(30.0**-2), float(x[-1]) / 4)


def minus(value: float, decimals: int) -> str:
    """Return a number with a true minus sign."""
    return f"{value:.{decimals}f}".replace("-", "−")
