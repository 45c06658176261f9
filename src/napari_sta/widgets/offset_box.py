"""A signed number in pixels that keys step finely or coarsely, and that says when a key is held."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QFocusEvent, QKeyEvent, QKeySequence, QMouseEvent
from qtpy.QtWidgets import QApplication, QDoubleSpinBox, QWidget

STEP_PX, FINE_PX, COARSE_PX = 0.25, 0.05, 1.0


def step_for_modifiers() -> float:
    """Return the step that the keys held down ask for: Shift 1 px, Alt 0.05 px, else 0.25 px."""
    held = QApplication.keyboardModifiers()
    if held & Qt.KeyboardModifier.ShiftModifier:
        return COARSE_PX
    if held & Qt.KeyboardModifier.AltModifier:
        return FINE_PX
    return STEP_PX


class OffsetBox(QDoubleSpinBox):
    """The offset as a signed number; Up and Down step by 0.25, with Shift by 1, with Alt by 0.05.

    Attributes
    ----------
    held
        A key or a mouse button that steps the number went down (True) or up (False).
    undone
        Ctrl+Z, but for digits being typed: those are the text's own to undo.
    """

    held = Signal(bool)
    undone = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setDecimals(2)
        self.setRange(-500.0, 500.0)
        self.setSingleStep(STEP_PX)
        self.setKeyboardTracking(False)
        self.setAlignment(Qt.AlignmentFlag.AlignRight)

    def textFromValue(self, value: float) -> str:
        """Show the sign always."""
        return f"{value:+.2f}" if round(value, 2) else "0.00"

    def stepBy(self, steps: int) -> None:
        """Step by what the held keys ask for."""
        direction = 1 if steps > 0 else -1
        self.setValue(self.value() + direction * step_for_modifiers())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Let Alt+Up and Shift+Up step too, which a spin box ignores; undo steps."""
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self.held.emit(True)
            self.stepBy(1 if event.key() == Qt.Key.Key_Up else -1)
            event.accept()
            return
        if event.matches(QKeySequence.StandardKey.Undo) and not self.lineEdit().isUndoAvailable():
            self.undone.emit()
            event.accept()
            return
        super().keyPressEvent(event)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        """End what a held key did."""
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down) and not event.isAutoRepeat():
            self.held.emit(False)
        super().keyReleaseEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take what a held arrow button does as one change."""
        self.held.emit(True)
        super().mousePressEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End it."""
        super().mouseReleaseEvent(event)
        self.held.emit(False)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Miss no release."""
        super().focusOutEvent(event)
        self.held.emit(False)
