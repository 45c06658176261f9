"""The jobs that wait for the one that runs."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_sta.widgets.dock import small_button
from napari_sta.widgets.run_queue import RunQueue, Ticket


class QueueList(QScrollArea):
    """The jobs that wait, to be put forward or taken out; it scrolls where they are many."""

    ROWS_SEEN = 3

    def __init__(self, queue: RunQueue) -> None:
        super().__init__()
        self._queue = queue
        inside = QWidget()
        self._box = QVBoxLayout(inside)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._box.setSpacing(1)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        queue.changed.connect(self._fill)
        queue.started.connect(self._fill)
        self._fill()

    @property
    def rows(self) -> list[QWidget]:
        """A row for each waiting job: its name, a button to put it forward, one to take it out."""
        return [self._box.itemAt(i).widget() for i in range(self._box.count())]

    def _fill(self, *_: Any) -> None:
        for row in self.rows:
            self._box.removeWidget(row)
            row.hide()
            row.deleteLater()  # a button of it may just be calling
        for number, ticket in enumerate(self._queue.queued):
            self._box.addWidget(self._row(number, ticket))
        if rows := self.rows:
            seen = min(len(rows), self.ROWS_SEEN)
            self.setFixedHeight(seen * (rows[0].sizeHint().height() + self._box.spacing()))
        self.setVisible(bool(rows))

    def _row(self, number: int, ticket: Ticket) -> QWidget:
        row = QWidget()
        line = QHBoxLayout(row)
        line.setContentsMargins(0, 0, 0, 0)
        name = QLabel(f"Waiting: {ticket.title}" if number == 0 else f"then: {ticket.title}")
        name.setTextFormat(Qt.TextFormat.PlainText)
        earlier = small_button("↑", "Run it before the one above")
        earlier.setEnabled(number > 0)
        earlier.clicked.connect(lambda: self._queue.move_up(ticket))
        away = small_button("×", "Take it out of the queue")
        away.clicked.connect(lambda: self._queue.stop(ticket))
        line.addWidget(name, 1)
        line.addWidget(earlier)
        line.addWidget(away)
        return row
