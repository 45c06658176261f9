"""The equivalent command line of a form or a run, and the font for it."""

from __future__ import annotations

import html
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QFont, QFontDatabase, QGuiApplication
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QWidget


def fixed_font() -> QFont:
    """Return the system's fixed-width font, a little smaller than the text."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    font.setPointSizeF(max(7.5, font.pointSizeF() - 1))
    return font


class CommandLine(QWidget):
    """The equivalent command line: always visible, cut in the middle, copied whole."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ours = ""
        self._relion: str | None = None
        self._label = QLabel()
        self._label.setFont(fixed_font())
        self._label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._copy = QPushButton("Copy")
        self._copy.setToolTip("Copy the napari-sta command line")
        self._copy.clicked.connect(self.copy)
        self._copy_relion = QPushButton("RELION")
        self._copy_relion.clicked.connect(self.copy_relion)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        row.addWidget(self._label, 1)
        row.addWidget(self._copy)
        row.addWidget(self._copy_relion)
        self.set("", None)

    def set(self, ours: str, relion: str | None) -> None:
        """Show a command line; ``relion`` is RELION's equivalent or None."""
        self._ours, self._relion = ours, relion
        tip = f"<qt><b>napari-sta</b><br>{html.escape(ours)}"
        if relion:
            tip += f"<br><br><b>RELION</b><br>{html.escape(relion)}"
        self._label.setToolTip(tip + "</qt>")
        self._copy.setEnabled(bool(ours))
        self._copy_relion.setEnabled(bool(relion))
        self._copy_relion.setToolTip(
            "Copy RELION's command line for the same" if relion else "RELION has no command for this"
        )
        self._elide()

    def text(self) -> str:
        """Return the whole command line."""
        return self._ours

    def copy(self) -> None:
        """Put our command line on the clipboard."""
        QGuiApplication.clipboard().setText(self._ours)

    def copy_relion(self) -> None:
        """Put RELION's command line on the clipboard."""
        QGuiApplication.clipboard().setText(self._relion or "")

    def resizeEvent(self, event: Any) -> None:
        """Cut the text to the new width."""
        super().resizeEvent(event)
        self._elide()

    def _elide(self) -> None:
        width = max(40, self._label.width() - 4)
        self._label.setText(
            self._label.fontMetrics().elidedText(self._ours, Qt.TextElideMode.ElideMiddle, width)
        )
