"""Cards: what went wrong or is worth knowing, with the way out as a button."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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

from napari_sta.widgets.themes import mark
from napari_sta.widgets.words import in_plain_words

if TYPE_CHECKING:
    from napari_sta.jobs._job import Job

MARKS = {"error": "✖", "warning": "⚠", "good": "✔", "info": "ℹ"}


class Card(QFrame):
    """A framed message with title, sentence, details and buttons; hidden until there is something to tell."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.kind = ""
        self.setObjectName("sta_card")
        self._title = QLabel()
        self._title.setWordWrap(True)
        self._title.setStyleSheet("font-weight: bold;")
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

    def plain(self, text: str, job: type[Job] | None = None) -> str:
        """Say a message in the form's words, with files named from the project that the dock shows."""
        above: Any = self.parent()
        while above is not None and not hasattr(above, "bench"):
            above = above.parent()
        return in_plain_words(text, job, above.bench.root if above is not None else None)

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
        job: type[Job] | None = None,
    ) -> None:
        """Show a message.

        Parameters
        ----------
        kind
            ``error``, ``warning``, ``good`` or ``info``.
        title, text
            What happened; cause and cure. Errors and warnings are said in the form's words.
        details
            Longer text (a log's end, a traceback), in a small scrolling field.
        actions
            Buttons: label and what it calls. A button hides the card.
        job
            The job that the message is about.
        """
        self.kind = kind
        if kind in ("error", "warning"):
            text = self.plain(text, job)
        for widget in (self, self._title):
            mark(widget, kind)
        self._title.setText(f"{MARKS[kind]}  {title}")
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
