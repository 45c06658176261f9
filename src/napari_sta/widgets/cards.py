"""Cards: what went wrong or is worth knowing, with the way out as a button."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

COLOURS = {"error": "#e5534b", "warning": "#d9a43b", "good": "#4fae6a", "info": "#5b8fd6"}
MARKS = {"error": "✖", "warning": "⚠", "good": "✔", "info": "ℹ"}


class Card(QFrame):
    """A framed message with title, sentence, details and buttons; hidden until there is something to tell."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.kind = ""
        self.setObjectName("sta_card")
        self._title = QLabel()
        self._title.setWordWrap(True)
        self._text = QLabel()
        self._text.setWordWrap(True)
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._text.setTextFormat(Qt.TextFormat.PlainText)
        self._details = QPlainTextEdit()
        self._details.setReadOnly(True)
        self._details.setMaximumHeight(110)
        self._buttons = QHBoxLayout()
        self._buttons.setContentsMargins(0, 2, 0, 0)
        close = QToolButton()
        close.setText("×")
        close.setToolTip("Hide this message")
        close.setAutoRaise(True)
        close.clicked.connect(self.hide)
        top = QHBoxLayout()
        top.addWidget(self._title, 1)
        top.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        box = QVBoxLayout(self)
        box.setContentsMargins(10, 6, 6, 8)
        box.setSpacing(3)
        box.addLayout(top)
        box.addWidget(self._text)
        box.addWidget(self._details)
        box.addLayout(self._buttons)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.hide()

    @property
    def text(self) -> str:
        """Title and sentence as shown."""
        return f"{self._title.text()}\n{self._text.text()}".strip()

    def button(self, label: str) -> QPushButton:
        """Return the button with this label.

        Raises
        ------
        KeyError
            If the card has no such button.
        """
        for i in range(self._buttons.count()):
            widget = self._buttons.itemAt(i).widget()
            if isinstance(widget, QPushButton) and widget.text() == label:
                return widget
        raise KeyError(label)

    def tell(
        self,
        kind: str,
        title: str,
        text: str = "",
        *,
        details: str = "",
        actions: Sequence[tuple[str, Callable[[], object]]] | None = None,
    ) -> None:
        """Show a message.

        Parameters
        ----------
        kind
            ``error``, ``warning``, ``good`` or ``info``.
        title, text
            What happened; cause and cure.
        details
            Longer text (a log's end, a traceback), in a small scrolling field.
        actions
            Buttons: label and what it calls. A button hides the card.
        """
        self.kind = kind
        colour = COLOURS[kind]
        self.setStyleSheet(f"#sta_card {{ border: 1px solid {colour}; border-left: 4px solid {colour}; }}")
        self._title.setText(f"{MARKS[kind]}  {title}")
        self._title.setStyleSheet(f"font-weight: bold; color: {colour};")
        self._text.setText(text)
        self._text.setVisible(bool(text))
        self._details.setPlainText(details)
        self._details.setVisible(bool(details))
        while self._buttons.count():
            item = self._buttons.takeAt(0)
            if item.widget() is not None:
                item.widget().deleteLater()
        for label, call in actions or []:
            button = QPushButton(label)
            button.clicked.connect(lambda _checked=False, call=call: (self.hide(), call()))
            self._buttons.addWidget(button)
        if actions:
            self._buttons.addStretch(1)
        self.show()
