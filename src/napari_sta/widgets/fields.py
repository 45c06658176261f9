"""Single fields of a form: a number that may be left open, and a path that can be picked or dropped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from magicgui.widgets.bases import ValueWidget
from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QPaintEvent, QValidator
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
    QWidget,
)

from napari_sta.widgets._napari_private import FieldBackend

FILTERS = {
    "particles": "Particles (*.star)",
    "tomograms": "Tomograms (*.star)",
    "trajectories": "Trajectories (*.star)",
    "optimisation_set": "Optimisation set (*.star)",
    "star": "STAR files (*.star)",
    "map": "Maps (*.mrc *.map)",
    "mask": "Masks (*.mrc *.map)",
}


class PathCombo(QComboBox):
    """A list of paths in little room: a long one keeps its job's number and its end."""

    def __init__(self, characters: int = 10) -> None:
        super().__init__()
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(characters)
        self.view().setTextElideMode(Qt.TextElideMode.ElideMiddle)

    def elided(self) -> str:
        """Return the choice as it is drawn."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        part = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, part, self).width() - 8
        metrics, middle = self.fontMetrics(), Qt.TextElideMode.ElideMiddle
        text = self.currentText()
        folder, _, rest = text.partition("/")
        # A job's number tells more than its type: Rec…/job025/merged.mrc
        if metrics.horizontalAdvance(text) > room and rest.startswith("job") and "/" in rest:
            for keep in range(len(folder) - 1, 2, -1):
                if metrics.horizontalAdvance(f"{folder[:keep]}…/{rest}") <= room:
                    return f"{folder[:keep]}…/{rest}"
            job, _, name = rest.partition("/")
            front = f"{folder[:3]}…/{job}/"
            left = room - metrics.horizontalAdvance(front)
            if left > metrics.horizontalAdvance("x….star"):
                return front + str(metrics.elidedText(name, middle, left))
        return str(metrics.elidedText(text, middle, room))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw as Qt does, with the text cut to the room there is."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        option.currentText = self.elided()
        painter = QStylePainter(self)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def event(self, event: QEvent) -> bool:
        """Tell the whole path when the mouse rests on it."""
        if event.type() == QEvent.Type.ToolTip and self.elided() != self.currentText():
            QToolTip.showText(event.globalPos(), self.currentText(), self)
            return True
        return bool(super().event(event))


class WheelGuard(QObject):
    """Keep the mouse wheel for scrolling the form: a field takes it only after a click into it."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Refuse wheel events for a widget without focus."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return False


class NumberField(QAbstractSpinBox):
    """A number typed or stepped; empty stands for "not given" where that is allowed.

    Unlike a spin box with fixed decimals it keeps every digit, so a form gives back the exact value.
    """

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.integer = False
        self.optional = False
        self.low = -math.inf
        self.high = math.inf
        self.open_low = self.open_high = False
        self._value: float | int | None = None
        self.setKeyboardTracking(True)
        self.setMinimumWidth(76)
        self.lineEdit().textEdited.connect(self._typed)
        self.editingFinished.connect(self._tidy)

    def configure(
        self,
        *,
        integer: bool,
        optional: bool,
        placeholder: str = "",
        gt: float | None = None,
        ge: float | None = None,
        lt: float | None = None,
        le: float | None = None,
    ) -> None:
        """Set what is legal: whole numbers only, empty allowed, bounds (``gt``/``lt`` exclude the bound)."""
        self.integer, self.optional = integer, optional
        lows = [x for x in (gt, ge) if x is not None]
        highs = [x for x in (lt, le) if x is not None]
        self.low = max(lows, default=-math.inf)
        self.high = min(highs, default=math.inf)
        self.open_low = gt is not None and self.low == gt
        self.open_high = lt is not None and self.high == lt
        self.lineEdit().setPlaceholderText(placeholder)

    def value(self) -> float | int | None:
        """Return the number, or None if the field is empty."""
        return self._value

    def set_value(self, value: float | int | None) -> None:
        """Show a number; None empties the field."""
        same = value == self._value and type(value) is type(self._value)
        self._value = value
        self.lineEdit().setText(self._text(value))
        if not same:
            self.changed.emit(value)

    def _text(self, value: float | int | None) -> str:
        if value is None:
            return ""
        return str(int(value)) if self.integer else f"{value:.15g}"

    def _parse(self, text: str) -> float | int | None:
        text = text.strip().replace(",", ".")
        if not text:
            return None
        return int(text) if self.integer else float(text)

    def validate(self, text: str, position: int) -> object:
        """Accept numbers, and what may become one while typing."""
        stripped = text.strip().replace(",", ".")
        if stripped in ("", "-", "+", ".", "-."):
            return QValidator.State.Intermediate, text, position
        try:
            self._parse(text)
        except ValueError:
            typing = not self.integer and stripped[-1:].lower() in ("e", "-", "+")
            state = QValidator.State.Intermediate if typing else QValidator.State.Invalid
            return state, text, position
        return QValidator.State.Acceptable, text, position

    def _typed(self, text: str) -> None:
        try:
            value = self._parse(text)
        except ValueError:
            return
        if value != self._value:
            self._value = value
            self.changed.emit(value)

    def _tidy(self) -> None:
        self.lineEdit().setText(self._text(self._value))

    def stepBy(self, steps: int) -> None:
        """Step by 1, or by a tenth of the leading digit's unit for small fractions."""
        value = self._value if self._value is not None else (0 if math.isinf(self.low) else self.low)
        step: float = 1
        if not self.integer and value and abs(value) < 1:
            step = 10.0 ** (math.floor(math.log10(abs(value))))
        new = value + steps * step
        new = min(max(new, self.low), self.high)
        if (self.open_low and new <= self.low) or (self.open_high and new >= self.high):
            return
        self.set_value(int(new) if self.integer else float(f"{new:.12g}"))

    def stepEnabled(self) -> QAbstractSpinBox.StepEnabledFlag:
        """Allow both directions; :meth:`stepBy` stays within bounds."""
        flags = QAbstractSpinBox.StepEnabledFlag
        return flags.StepUpEnabled | flags.StepDownEnabled


class PathField(QWidget):
    """A path: choose among the project's files, browse, type, or drop a file on it.

    Paths inside the project folder are shown relative to it, as RELION writes them.
    """

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.kind = "star"
        self.root: Path | None = None
        self.combo = QComboBox()
        self.combo.setEditable(True)
        self.combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.combo.setMinimumContentsLength(8)
        # The event filter lets a drop replace the text instead of being inserted into it.
        self.combo.lineEdit().setAcceptDrops(False)
        self.combo.setAcceptDrops(False)
        self.browse = QPushButton("…")
        self.browse.setFixedWidth(28)
        self.browse.setToolTip("Choose a file")
        self.browse.clicked.connect(self._browse)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(2)
        row.addWidget(self.combo, 1)
        row.addWidget(self.browse)
        self.setAcceptDrops(True)
        self._last = ""
        self.combo.currentTextChanged.connect(self._text_changed)

    def value(self) -> str:
        """Return the path as shown, empty if none."""
        return str(self.combo.currentText()).strip()

    def set_value(self, path: object) -> None:
        """Show a path; None or empty clears the field."""
        text = self._shown(str(path)) if path else ""
        index = self.combo.findText(text)
        if index >= 0:
            self.combo.setCurrentIndex(index)
        else:
            self.combo.setEditText(text)
        self.combo.lineEdit().setCursorPosition(len(text))  # the end of a long path tells more

    def set_choices(self, paths: list[str], root: Path | None) -> None:
        """Offer the project's files of this kind, newest first; the value stays."""
        self.root = root
        value = self.value()
        blocked = self.combo.blockSignals(True)
        self.combo.clear()
        self.combo.addItems([self._shown(p) for p in paths])
        self.combo.setEditText(value)
        self.combo.blockSignals(blocked)

    def _shown(self, path: str) -> str:
        if self.root is not None and Path(path).is_absolute():
            try:
                return str(Path(path).relative_to(self.root))
            except ValueError:
                return path
        return path

    def _text_changed(self, text: str) -> None:
        self.combo.setToolTip(text)
        if text.strip() != self._last:
            self._last = text.strip()
            self.changed.emit(self._last)

    def _browse(self) -> None:
        start = str(self.root or "")
        path, _ = QFileDialog.getOpenFileName(
            self, "Choose a file", start, FILTERS.get(self.kind, "All files (*)") + ";;All files (*)"
        )
        if path:
            self.set_value(path)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take one local file."""
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Fill the field with the dropped file."""
        self.set_value(event.mimeData().urls()[0].toLocalFile())
        event.acceptProposedAction()


class _NumberBackend(FieldBackend):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(NumberField, **kwargs)


class _PathBackend(FieldBackend):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(PathField, **kwargs)


class NumberEdit(ValueWidget):
    """:class:`NumberField` as a magicgui widget."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget_type=_NumberBackend, **kwargs)


class PathEdit(ValueWidget):
    """:class:`PathField` as a magicgui widget."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget_type=_PathBackend, **kwargs)
