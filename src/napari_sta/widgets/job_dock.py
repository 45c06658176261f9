"""Choose a job, fill its form, run, watch, stop."""

from __future__ import annotations

import html
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QProcess, Qt, QTimer
from qtpy.QtGui import QFont, QFontDatabase, QGuiApplication, QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from napari_sta.data.errors import StaError
from napari_sta.jobs._job import Job, all_jobs
from napari_sta.layers import viewable_outputs
from napari_sta.widgets._background import Latest
from napari_sta.widgets.cards import COLOURS, MARKS, Card
from napari_sta.widgets.form import JobForm
from napari_sta.widgets.workbench import Dock, Ticket, Workbench, with_absolute_paths

if TYPE_CHECKING:
    import napari.viewer

CHECK_AFTER_MS = 300


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


class JobDock(Dock):
    """The *Job* dock.

    Parameters
    ----------
    viewer
        The napari viewer; jobs' results become its layers.
    jobs
        Jobs to offer; by default every job there is.
    """

    def __init__(self, viewer: napari.viewer.Viewer, jobs: Mapping[str, type[Job]] | None = None) -> None:
        super().__init__()
        self.bench = Workbench.of(viewer)
        self.jobs = dict(jobs) if jobs is not None else all_jobs()
        self.forms: dict[str, JobForm] = {}
        self.watched: Ticket | None = None
        self._blocking = ""
        self._logged = 0
        self._checks = Latest(self, CHECK_AFTER_MS)

        self.chooser = QComboBox()
        for name, job_class in self.jobs.items():
            self.chooser.addItem(job_class.label or name, name)
            self.chooser.setItemData(
                self.chooser.count() - 1, (job_class.__doc__ or "").strip(), Qt.ItemDataRole.ToolTipRole
            )
        self.reset_button = QPushButton("Reset")
        self.reset_button.setToolTip("Put every field back to its default")
        top = QHBoxLayout()
        top.addWidget(QLabel("Job"))
        top.addWidget(self.chooser, 1)
        top.addWidget(self.reset_button)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.about.setStyleSheet("color: #9aa3ad;")
        self.stack = QStackedWidget()

        self.checks = QLabel()
        self.checks.setWordWrap(True)
        self.checks.setTextFormat(Qt.TextFormat.RichText)
        self.checks.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.command = CommandLine()

        self.run_button = QPushButton("Run")
        self.run_button.setObjectName("sta_run")
        self.run_button.setStyleSheet("#sta_run:enabled { font-weight: bold; background: #2f6f4f; }")
        self.detach_button = QPushButton("Run detached")
        self.detach_button.setToolTip(
            "Hand the same job to the command line: it goes on when napari is closed.\n"
            "Its folder appears in the Project dock."
        )
        self.stop_button = QPushButton("Stop")
        self.stop_button.setEnabled(False)
        self.stop_button.setToolTip("Stop at the next step; what is finished is kept")
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.detach_button, 1)
        buttons.addWidget(self.stop_button, 1)

        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.doing = QLabel()
        self.doing.setWordWrap(True)
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setFont(fixed_font())
        self.log.setMaximumBlockCount(500)
        self.log.setFixedHeight(84)
        self.watch = QWidget()
        watch = QVBoxLayout(self.watch)
        watch.setContentsMargins(0, 0, 0, 0)
        watch.setSpacing(3)
        watch.addWidget(self.doing)
        watch.addWidget(self.bar)
        watch.addWidget(self.log)
        self.watch.hide()
        self.queue = QLabel()
        self.queue.setWordWrap(True)
        self.queue.hide()
        self.card = Card()

        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(top)
        box.addWidget(self.about)
        box.addWidget(self.stack, 1)
        box.addWidget(self.checks)
        box.addWidget(self.command)
        box.addLayout(buttons)
        box.addWidget(self.queue)
        box.addWidget(self.watch)
        box.addWidget(self.card)
        self.setMinimumWidth(360)

        self._clock = QTimer(self)
        self._clock.setInterval(500)
        self._clock.timeout.connect(self._tick)

        self.chooser.currentIndexChanged.connect(self._chosen)
        self.reset_button.clicked.connect(lambda: self.form.reset())
        self.run_button.clicked.connect(self.run)
        self.detach_button.clicked.connect(self.run_detached)
        self.stop_button.clicked.connect(self.stop)
        self.bench.fill_job.connect(self.fill)
        self.bench.project_changed.connect(self._offer_files)
        self.bench.started.connect(self._started)
        self.bench.progressed.connect(self._progressed)
        self.bench.ended.connect(self._ended)
        self.bench.queue_changed.connect(self._show_queue)
        shortcut = QShortcut(QKeySequence("Ctrl+Return"), self)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self.run)
        if self.jobs:
            self._chosen()

    # -- the form ----------------------------------------------------------------------------------

    @property
    def form(self) -> JobForm:
        """The form on show; made at its first use, so that many jobs cost nothing at start."""
        name = self.chooser.currentData()
        if name not in self.forms:
            form = JobForm(self.jobs[name])
            form.changed.connect(self._edited)
            self.forms[name] = form
            self.stack.addWidget(form)
            form.set_files(self.bench.files, self.bench.root)
        return self.forms[name]

    def _chosen(self) -> None:
        self.card.hide()  # it is about another job
        form = self.form
        self.stack.setCurrentWidget(form)
        self.about.setText((form.job_class.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "))
        self._edited()

    def fill(self, name: str, values: Mapping[str, Any]) -> None:
        """Choose a job and fill some of its fields; the others go back to their defaults."""
        index = self.chooser.findData(name)
        if index < 0:
            self.card.tell("error", "Unknown job", f"There is no job named {name} here.")
            return
        self.chooser.setCurrentIndex(index)
        self.form.reset()
        self.form.set_values(values)

    def _offer_files(self, project: Any) -> None:
        for form in self.forms.values():
            form.set_files(self.bench.files, self.bench.root)
        self._edited()

    # -- pre-flight --------------------------------------------------------------------------------

    def _edited(self) -> None:
        try:
            job = self.form.value()
        except StaError as error:
            self._checks.cancel()
            self.command.set("", None)
            self._show_checks(str(error), [])
            return
        self.command.set(job.command_line(), None)
        self._set_blocking("checking the input …")
        root = self.bench.root

        def look() -> tuple[str, list[str], str | None]:
            with_paths = with_absolute_paths(job, root)
            relion = job.relion_command(f"{job.folder}/jobNNN/")
            try:
                with_paths.check()
                return "", with_paths.warnings(), relion
            except StaError as error:
                return str(error), [], relion

        def answered(result: tuple[str, list[str], str | None]) -> None:
            problem, warnings, relion = result
            self.command.set(job.command_line(), relion)
            self._show_checks(problem, warnings)

        self._checks.request(look, done=answered, failed=lambda error: self._show_checks(str(error), []))

    def _show_checks(self, problem: str, warnings: list[str]) -> None:
        lines = []
        if problem:
            lines.append(_check_line("error", self._plain(problem)))
        else:
            lines += [_check_line("warning", w) for w in warnings]
            lines.append(_check_line("good", "Ready to run"))
        self.checks.setText("".join(lines))
        self._set_blocking(problem)

    def _plain(self, sentence: str) -> str:
        """Say a field by its label: people look at the form, not at a command line."""
        for name, row in self.form.rows.items():
            sentence = sentence.replace(
                f"--{name} ({row.info.title}) must be given", f"{row.info.title} must be given"
            )
            sentence = re.sub(rf"--{name}\b", f"“{row.info.title}”", sentence)
        return sentence

    def _set_blocking(self, reason: str) -> None:
        self._blocking = reason
        for button in (self.run_button, self.detach_button):
            button.setEnabled(not reason)
        self.run_button.setToolTip(reason or "Run in the background (Ctrl+Enter); the viewer stays usable")
        self._name_run_button()

    def _name_run_button(self) -> None:
        self.run_button.setText("Queue" if self.bench.running is not None else "Run")

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> Ticket | None:
        """Run the job as filled in, or queue it behind the one that runs."""
        if self._blocking:
            return None
        try:
            job = self.form.value()
        except StaError as error:
            self.card.tell("error", "Not started", str(error))
            return None
        self.card.hide()
        return self.bench.run(job)

    def run_detached(self) -> None:
        """Start the same job through the command line, outside this process."""
        try:
            job = self.form.value()
        except StaError as error:
            self.card.tell("error", "Not started", str(error))
            return
        words = [job.name()]
        for key, value in job.as_text(only_given=True).items():
            words += [f"--{key}", value]
        code = "import sys; from napari_sta.cli import main; sys.exit(main())"
        folder = str(self.bench.root or Path.cwd())
        started, pid = QProcess.startDetached(sys.executable, ["-c", code, *words], folder)
        if started:
            self.card.tell(
                "info",
                f"{job.label or job.name()} runs on its own (process {pid})",
                "It goes on when napari is closed. Press ⟳ in the Project dock to see how it does.",
            )
            QTimer.singleShot(2500, self.bench.refresh)
        else:
            self.card.tell("error", "Not started", f"{sys.executable} could not be started in {folder}.")

    def stop(self) -> None:
        """Stop the running job."""
        ticket = self.bench.running
        if ticket is not None:
            self.doing.setText(f"Stopping {ticket.title} …")
            self.stop_button.setEnabled(False)
            self.bench.stop(ticket)

    def _started(self, ticket: Ticket) -> None:
        self.watched = ticket
        self.card.hide()
        self.log.clear()
        self._logged = 0
        self.bar.setRange(0, 0)
        self.bar.setFormat("")
        self.doing.setText(f"{ticket.title}: starting")
        self.watch.show()
        self.stop_button.setEnabled(True)
        self._clock.start()
        self._show_queue()

    def _progressed(self, ticket: Ticket) -> None:
        progress = ticket.progress
        if ticket is not self.watched or progress is None:
            return
        self.bar.setRange(0, 1000 if progress.total else 0)
        if progress.total:
            self.bar.setValue(round(1000 * min(1.0, progress.done / progress.total)))
        new = ticket.messages[self._logged :]
        if new:
            self._logged += len(new)
            self.log.appendPlainText("\n".join(new))
        self._tick()

    def _tick(self) -> None:
        ticket = self.watched
        if ticket is None or ticket.state != "running" or ticket.stop.is_set():
            return
        elapsed = time.monotonic() - ticket.began
        progress = ticket.progress
        left = ""
        if progress is not None and progress.total and progress.done and elapsed > 2:
            left = f", about {_span(elapsed * (progress.total - progress.done) / progress.done)} left"
        message = progress.message if progress is not None else "starting"
        self.doing.setText(f"<b>{html.escape(ticket.title)}</b>: {html.escape(message)}")
        known = progress is not None and progress.total
        self.bar.setFormat(f"%p % · {_span(elapsed)}{left}" if known else _span(elapsed))

    def _ended(self, ticket: Ticket) -> None:
        if ticket is not self.watched:
            return
        self._clock.stop()
        self.watch.hide()
        self.stop_button.setEnabled(False)
        self._name_run_button()
        label = ticket.title
        if ticket.state == "done":
            self._succeeded(ticket)
        elif ticket.state == "stopped":
            self.card.tell(
                "info", f"{label} stopped after {_span(ticket.seconds)}", "What was finished is kept.",
                actions=[("Run again", lambda: self._again(ticket))],
            )  # fmt: skip
        else:
            actions: list[tuple[str, Any]] = [("Retry", lambda: self._again(ticket))]
            if "GPU" in str(ticket.error):
                actions.append(("Retry on the CPU", lambda: self._again(ticket, device="cpu")))
            self.card.tell(
                "error", f"{label} failed", str(ticket.error), details=_details(ticket), actions=actions
            )

    def _again(self, ticket: Ticket, device: str = "") -> None:
        self.bench.run(ticket.job, out=None, device=device)

    def _succeeded(self, ticket: Ticket) -> None:
        out = ticket.out
        actions: list[tuple[str, Any]] = []
        files = viewable_outputs(out) if out is not None else []
        # A job that another dock started is that dock's to show.
        if files and files[0].suffix == ".mrc" and ticket.done is None:
            self.bench.show(files[:1])
        if len(files) > 1 or (files and files[0].suffix != ".mrc"):
            actions.append(("Show outputs", lambda: self.bench.show(files)))
        name = ticket.job.name()
        if out is not None and name == "reconstruct":
            actions.append(("Align to mask", lambda: self.bench.go_align(out / "merged.mrc")))
        if out is not None and name == "postprocess":
            actions.append(("Inspect", lambda: self.bench.go_inspect(out)))
        result = _result_words(ticket)
        words = "\n".join(([result] if result else []) + [f"⚠ {w}" for w in ticket.warnings[:4]])
        self.card.tell("good", f"{ticket.title} finished in {_span(ticket.seconds)}", words, actions=actions)

    def _show_queue(self) -> None:
        waiting = self.bench.queued
        self.queue.setVisible(bool(waiting))
        names = " → ".join(type(t.job).label or t.job.name() for t in waiting)
        self.queue.setText(f"Waiting: {names}")
        self._name_run_button()


def _check_line(kind: str, text: str) -> str:
    mark = f'<span style="color:{COLOURS[kind]}">{MARKS[kind]}</span>'
    return f'<p style="margin:1px 0">{mark} {html.escape(text)}</p>'


def _details(ticket: Ticket) -> str:
    import traceback

    lines = list(ticket.messages[-8:])
    if ticket.error is not None and ticket.error.__cause__ is not None:
        lines += traceback.format_exception(ticket.error.__cause__)[-6:]
    return "\n".join(line.rstrip() for line in lines)


UNITS = {"_angst": "Å", "_angst2": "Å²", "_px": "px", "_deg": "°"}


def _result_words(ticket: Ticket) -> str:
    """Say the result in a line: the job's own summary, else the plain numbers of its record."""
    record = ticket.record
    if isinstance(record.get("summary"), str):
        return str(record["summary"])
    words = []
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or key == "seconds":
            continue
        suffix = next((s for s in sorted(UNITS, key=len, reverse=True) if key.endswith(s)), "")
        label = key.removesuffix(suffix).removeprefix("n_").replace("_", " ")
        words.append(f"{label} {value:.5g} {UNITS.get(suffix, '')}".strip())
    return " · ".join(words[:6])


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
