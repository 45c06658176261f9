"""Sliders that re-sharpen a map: B-factor, low-pass, FSC weighting, mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QWidget,
)

from napari_sta.widgets.result import Result

LOWEST_BFACTOR = -1500


@dataclass(frozen=True)
class Sharpening:
    """How a map is to be sharpened.

    Attributes
    ----------
    bfactor_angst2
        Negative sharpens.
    lowpass_angst
        None: at Nyquist.
    fsc_weighting, in_mask
        Whether to weight by the FSC, and to multiply by the solvent mask.
    """

    bfactor_angst2: float
    lowpass_angst: float | None
    fsc_weighting: bool
    in_mask: bool


class SharpenPanel(QWidget):
    """The sliders: they start from a result's own values (:meth:`set_result`) and give a :meth:`value`.

    Attributes
    ----------
    changed
        Another sharpening is asked for.
    lowpass_changed
        The low-pass is another, by whichever way (argument: Å, or None at Nyquist).
    """

    changed = Signal()
    lowpass_changed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._result: Result | None = None
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        self._add_bfactor(grid)
        self._add_lowpass(grid)
        for box in (self.bfactor_box, self.lowpass_box):
            box.setKeyboardTracking(False)
            box.setMinimumWidth(104)
        grid.addLayout(self._options(), 2, 0, 1, 3)
        grid.addLayout(self._buttons(), 3, 0, 1, 3)
        self.bfactor.valueChanged.connect(lambda value: self.bfactor_box.setValue(value))
        self.bfactor_box.valueChanged.connect(self._bfactor_changed)
        self.lowpass.valueChanged.connect(self._lowpass_slid)
        self.lowpass_box.valueChanged.connect(self._lowpass_changed)
        self.weighting.toggled.connect(lambda _: self.changed.emit())
        self.in_mask.toggled.connect(lambda _: self.changed.emit())

    def _add_bfactor(self, grid: QGridLayout) -> None:
        self.bfactor = QSlider(Qt.Orientation.Horizontal)
        self.bfactor.setRange(LOWEST_BFACTOR, 0)
        self.bfactor.setPageStep(50)
        self.bfactor_box = QDoubleSpinBox()
        self.bfactor_box.setRange(LOWEST_BFACTOR, 0)
        self.bfactor_box.setDecimals(0)
        self.bfactor_box.setSingleStep(10)
        self.bfactor_box.setSuffix(" Å²")
        for column, widget in enumerate((QLabel("B-factor"), self.bfactor, self.bfactor_box)):
            grid.addWidget(widget, 0, column)

    def _add_lowpass(self, grid: QGridLayout) -> None:
        # The slider runs over the Fourier shell, so that its steps are even in what can be seen.
        self.lowpass = QSlider(Qt.Orientation.Horizontal)
        self.lowpass.setRange(2, 100)
        self.lowpass_box = QDoubleSpinBox()
        self.lowpass_box.setRange(0.1, 999.0)
        self.lowpass_box.setDecimals(2)
        self.lowpass_box.setSingleStep(0.1)
        self.lowpass_box.setSuffix(" Å")
        self.lowpass_box.setSpecialValueText("off")
        for column, widget in enumerate((QLabel("Low-pass"), self.lowpass, self.lowpass_box)):
            grid.addWidget(widget, 1, column)

    def _options(self) -> QHBoxLayout:
        self.weighting = QCheckBox("FSC weighting")
        self.weighting.setChecked(True)
        self.in_mask = QCheckBox("masked")
        self.in_mask.setToolTip("Multiply the shown map by the solvent mask")
        row = QHBoxLayout()
        row.addWidget(self.weighting)
        row.addWidget(self.in_mask)
        row.addStretch(1)
        return row

    def _buttons(self) -> QHBoxLayout:
        self.original_button = QPushButton("File's values")
        self.original_button.setToolTip("Back to the map that the job wrote")
        self.save_button = QPushButton("As new job…")
        self.save_button.setToolTip("Fill the Job dock with these values; nothing runs before you press Run")
        row = QHBoxLayout()
        row.addWidget(self.original_button)
        row.addWidget(self.save_button)
        return row

    def value(self) -> Sharpening:
        """Return what the sliders ask for."""
        return Sharpening(
            self.bfactor_box.value(), self.lowpass_angst, self.weighting.isChecked(), self.in_mask.isChecked()
        )

    @property
    def lowpass_angst(self) -> float | None:
        """The low-pass that the slider asks for; None at Nyquist."""
        value = self.lowpass_box.value()
        return float(value) if value > self.lowpass_box.minimum() else None

    def set_result(self, result: Result | None) -> None:
        """Start from a result's own values; None, or one without half maps: nothing can be sharpened."""
        self._result = result
        self.setEnabled(result is not None and result.sharpener is not None)
        if result is None:
            return
        n = len(result.frequency_inv_angst) - 1
        sliders = (self.bfactor, self.bfactor_box, self.lowpass, self.lowpass_box)
        blocked = [QSignalBlocker(widget) for widget in (*sliders, self.weighting, self.in_mask)]
        b = result.bfactor_angst2 if np.isfinite(result.bfactor_angst2) else 0.0
        lowest = min(LOWEST_BFACTOR, int(1.5 * b))
        self.bfactor.setMinimum(lowest)
        self.bfactor_box.setMinimum(lowest)
        self.bfactor.setValue(round(b))
        self.bfactor_box.setValue(b)
        self.lowpass.setRange(2, max(3, n))
        self.lowpass_box.setRange(2 * result.pixel_size_angst, 999.0)
        # FSC weighting takes the place of a low-pass in RELION's Post-processing: off, at Nyquist.
        self.lowpass_box.setValue(self.lowpass_box.minimum())
        self.lowpass.setValue(self.lowpass.maximum())
        self.weighting.setChecked(True)
        self.in_mask.setChecked(False)
        self.in_mask.setEnabled(result.mask is not None)
        del blocked
        self.lowpass_changed.emit(self.lowpass_angst)

    def _shell_of(self, resolution_angst: float) -> int:
        assert self._result is not None
        frequencies = self._result.frequency_inv_angst
        return round(float(np.interp(1 / resolution_angst, frequencies, np.arange(len(frequencies)))))

    def _bfactor_changed(self, value: float) -> None:
        with QSignalBlocker(self.bfactor):
            self.bfactor.setValue(round(value))
        self.changed.emit()

    def _lowpass_slid(self, shell: int) -> None:
        if self._result is not None:
            frequency = self._result.frequency_inv_angst[
                min(shell, len(self._result.frequency_inv_angst) - 1)
            ]
            self.lowpass_box.setValue(1 / float(frequency))

    def _lowpass_changed(self, resolution: float) -> None:
        if self._result is None:
            return
        with QSignalBlocker(self.lowpass):
            self.lowpass.setValue(self._shell_of(resolution))
        self.lowpass_changed.emit(self.lowpass_angst)
        self.changed.emit()
