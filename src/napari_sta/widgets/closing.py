"""The viewer is closed while jobs run or wait: what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_sta.data.errors import StaError
from napari_sta.widgets.run_queue import LEAVE_WITHIN_S, RunQueue, Ticket, line_of


class ClosingDialog(QDialog):
    """Ask whether jobs are to be stopped or to go on without the viewer, and see it done.

    Parameters
    ----------
    queues
        Of the viewers that are about to close, those with jobs.
    parent
        The window.
    """

    def __init__(self, queues: Sequence[RunQueue], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.queues = list(queues)
        self._apart = False
        self._since = 0.0
        self._stopping: list[tuple[RunQueue, Ticket]] = []
        self._waiting: list[tuple[RunQueue, Ticket]] = []
        running = [queue.running for queue in self.queues if queue.running is not None]
        waiting = [ticket for queue in self.queues for ticket in queue.queued]

        self.setWindowTitle("Jobs are running" if running else "Jobs are waiting")
        self.question = QLabel(_question(running, waiting))
        self.question.setTextFormat(Qt.TextFormat.PlainText)
        self.question.setWordWrap(True)
        self.question.setMinimumWidth(440)
        self.stop_button = QPushButton("Stop and close" if running else "Close without them")
        self.stop_button.setToolTip("What is finished is kept; the jobs can be resumed later")
        self.detach_button = QPushButton("Keep running, close")
        self.detach_button.setToolTip("The jobs go on in a process of their own, without the viewer")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Do not close")
        self.detach_button.setDefault(True)
        self.buttons = (self.cancel_button, self.stop_button, self.detach_button)
        row = QHBoxLayout()
        row.addStretch(1)
        for button in self.buttons:
            row.addWidget(button)
        box = QVBoxLayout(self)
        box.setContentsMargins(16, 14, 16, 12)
        box.setSpacing(12)
        box.addWidget(self.question)
        box.addLayout(row)

        self._clock = QTimer(self)
        self._clock.setInterval(30)
        self._clock.timeout.connect(self._look)
        self.stop_button.clicked.connect(lambda: self._begin(apart=False))
        self.detach_button.clicked.connect(lambda: self._begin(apart=True))
        self.cancel_button.clicked.connect(self.reject)

    def decide(self) -> bool:
        """Ask, do what was chosen, and return whether the viewer may close."""
        return self.exec() == QDialog.DialogCode.Accepted

    def _begin(self, *, apart: bool) -> None:
        """Stop everything; what is to go on without the viewer goes on once it has left its checkpoint."""
        self._apart = apart
        self._since = time.monotonic()
        self._waiting = [(queue, ticket) for queue in self.queues for ticket in queue.queued]
        self._stopping = [(queue, queue.running) for queue in self.queues if queue.running is not None]
        for _, ticket in self._stopping:
            names = f"{ticket.title} is asked to stop"
            self.question.setText(f"{names}; it goes on by itself after that …" if apart else f"{names} …")
        for button in (self.stop_button, self.detach_button):
            button.setEnabled(False)
        for queue in self.queues:
            queue.stop_all()
        self._clock.start()
        self._look()

    def _look(self) -> None:
        if not self.isVisible() and not self._clock.isActive():
            return
        busy = [(queue, ticket) for queue, ticket in self._stopping if ticket.state == "running"]
        if busy and (self._apart or time.monotonic() - self._since < LEAVE_WITHIN_S):
            return
        self._clock.stop()
        for queue, ticket in busy:
            queue.abandon(ticket)
        try:
            if self._apart:
                self._hand_over()
        except StaError as error:
            self.question.setText(f"The jobs are stopped, but cannot go on by themselves: {error}")
            self.stop_button.setText("Close")
            self.stop_button.setEnabled(True)
            self._stopping.clear()
            return
        self.accept()

    def _hand_over(self) -> None:
        for queue in self.queues:
            stopped = [t for of, t in self._stopping if of is queue and t.state == "stopped"]
            lines = [line_of(t) for t in [*stopped, *(t for of, t in self._waiting if of is queue)]]
            folders = [t.out for t in stopped if t.out is not None and t.out.is_dir()]
            if lines:
                queue.detach(lines, folders[0] if folders else None)


def _question(running: Sequence[Ticket], waiting: Sequence[Ticket]) -> str:
    lines = []
    if running:
        names = " and ".join(ticket.title for ticket in running)
        lines.append(
            f"{names} {'is' if len(running) == 1 else 'are'} running. It can be stopped, and resumed later; "
            "or it can go on without the viewer, from what it has finished so far (a refinement: from its "
            "last finished iteration)."
        )
    if waiting:
        names = ", ".join(ticket.label for ticket in waiting)
        many = len(waiting) > 1
        lines.append(
            f"{len(waiting)} more {'jobs wait' if many else 'job waits'}: {names}. "
            f"{'They run' if many else 'It runs'} afterwards if the jobs keep running; otherwise "
            f"{'they are' if many else 'it is'} forgotten."
        )
    return "\n\n".join(lines)
