"""How the job at work goes: a line of words, a bar with the time left, its messages."""

from __future__ import annotations

import html
import time

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QLabel, QPlainTextEdit, QProgressBar, QVBoxLayout, QWidget

from napari_sta.jobs._words import step_words
from napari_sta.widgets.command_line import fixed_font
from napari_sta.widgets.pace import Pace
from napari_sta.widgets.run_queue import Ticket
from napari_sta.widgets.run_words import span

TICK_MS = 500


class RunWatch(QWidget):
    """Watch one ticket from its start to its end; hidden where nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self._ticket: Ticket | None = None
        self._logged = 0
        self._pace = Pace()
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.doing = QLabel()
        self.doing.setWordWrap(True)
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setFont(fixed_font())
        self.log.setMaximumBlockCount(500)
        self.log.setFixedHeight(84)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(3)
        box.addWidget(self.doing)
        box.addWidget(self.bar)
        box.addWidget(self.log)
        self.hide()
        self._clock = QTimer(self)
        self._clock.setInterval(TICK_MS)
        self._clock.timeout.connect(self._tick)

    def start(self, ticket: Ticket) -> None:
        """Watch a job that begins."""
        self._ticket = ticket
        self.log.clear()
        self._logged = 0
        self._pace = Pace()
        self.bar.setRange(0, 0)
        self.bar.setFormat("")
        self.doing.setText(f"{ticket.title}: starting")
        self.show()
        self._clock.start()

    def end(self) -> None:
        """Watch no longer."""
        self._clock.stop()
        self.hide()

    def note_progress(self) -> None:
        """Show the step that the ticket has got to."""
        ticket = self._ticket
        progress = ticket.progress if ticket is not None else None
        if ticket is None or progress is None:
            return
        self._pace.note(progress, time.monotonic())
        self.bar.setRange(0, 1000 if progress.total else 0)
        if progress.total:
            self.bar.setValue(round(1000 * min(1.0, progress.done / progress.total)))
        new = ticket.messages[self._logged :]
        if new:
            self._logged += len(new)
            self.log.appendPlainText("\n".join(new))
        self._tick()

    def _tick(self) -> None:
        ticket = self._ticket
        if ticket is None or ticket.state != "running" or ticket.stop.is_set():
            return
        elapsed = time.monotonic() - ticket.began
        progress = ticket.progress
        message = step_words(progress) if progress is not None else "starting"
        iterates = progress is not None and "iteration" in progress.data
        if progress is not None and iterates and progress.total:
            message += f": {progress.done} of {progress.total}"
        # The page of a refinement has the job's name already.
        name = "" if iterates else f"<b>{html.escape(ticket.title)}</b>: "
        self.doing.setText(name + html.escape(message[:1].upper() + message[1:] if iterates else message))
        if progress is None or not progress.total:
            self.bar.setFormat(span(elapsed))
            return
        left = ""
        remaining = self._pace.remaining_s(time.monotonic())
        if remaining is not None:
            left = f"about {span(remaining)} left" + (" in this iteration" if iterates else "")
        parts = [left if iterates else "%p %", "" if iterates else left, span(elapsed)]
        self.bar.setFormat(" · ".join(part for part in parts if part))
