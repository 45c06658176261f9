"""Choose a job, fill its form, run, watch, stop."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
)

from napari_sta.data.errors import StaError
from napari_sta.jobs._job import Job, all_jobs
from napari_sta.layers.outputs import viewable_outputs
from napari_sta.widgets._background import Latest
from napari_sta.widgets.cards import MARKS, Card
from napari_sta.widgets.command_line import CommandLine
from napari_sta.widgets.dock import Dock, literal
from napari_sta.widgets.form import JobForm
from napari_sta.widgets.project_files import can_resume
from napari_sta.widgets.queue_list import QueueList
from napari_sta.widgets.refine_monitor import RefineMonitor
from napari_sta.widgets.run_queue import Ticket, line_of, preferences, with_absolute_paths
from napari_sta.widgets.run_watch import RunWatch
from napari_sta.widgets.run_words import failure_details, result_words, span
from napari_sta.widgets.themes import mark
from napari_sta.widgets.workbench import Workbench

if TYPE_CHECKING:
    import napari.viewer

CHECK_AFTER_MS = 300


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
        super().__init__(viewer)
        self.bench = Workbench.of(viewer)
        self.jobs = dict(jobs) if jobs is not None else all_jobs()
        self.forms: dict[str, JobForm] = {}
        self.watched: Ticket | None = None
        self._blocking = ""
        self._checks = Latest(self, CHECK_AFTER_MS)
        self._checked: list[tuple[str, str]] = []
        self.stack = PageStack()
        self.monitor: RefineMonitor | None = None
        self.command = CommandLine()
        self.watch = RunWatch()
        self.queue = QueueList(self.bench.queue)
        self.card = Card()
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(self._choice())
        box.addWidget(self._pages())
        box.addWidget(self._about())
        box.addWidget(self.stack, 1)
        box.addWidget(self._check_lines())
        box.addWidget(self.command)
        box.addLayout(self._buttons())
        box.addWidget(self.queue)
        box.addWidget(self.watch)
        box.addWidget(self.card)
        self.setMinimumWidth(360)
        self._connect()
        if self.jobs:
            self._chosen()

    def _choice(self) -> QHBoxLayout:
        self.chooser = QComboBox()
        for name, job_class in self.jobs.items():
            self.chooser.addItem(job_class.label or name, name)
            self.chooser.setItemData(
                self.chooser.count() - 1, (job_class.__doc__ or "").strip(), Qt.ItemDataRole.ToolTipRole
            )
        self.reset_button = QPushButton("Reset")
        self.reset_button.setToolTip("Put every field back to its default")
        row = QHBoxLayout()
        row.addWidget(QLabel("Job"))
        row.addWidget(self.chooser, 1)
        row.addWidget(self.reset_button)
        return row

    def _pages(self) -> QTabBar:
        self.pages = QTabBar()
        self.pages.setDrawBase(False)
        self.pages.setExpanding(False)
        self.pages.addTab("Options")
        self.pages.hide()
        return self.pages

    def _about(self) -> QLabel:
        self.about = QLabel()
        self.about.setWordWrap(True)
        mark(self.about, "quiet")
        return self.about

    def _check_lines(self) -> QLabel:
        self.checks = QLabel()
        self.checks.setWordWrap(True)
        self.checks.setTextFormat(Qt.TextFormat.RichText)
        self.checks.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        return self.checks

    def _buttons(self) -> QHBoxLayout:
        self.run_button = QPushButton("Run")
        mark(self.run_button, "go")
        self.detach_button = QPushButton("Run detached")
        self.detach_button.setToolTip(
            "Hand the same job to the command line: it goes on when napari is closed.\n"
            "Its folder appears in the Project dock."
        )
        self.stop_button = QPushButton("Stop")
        self.stop_button.setEnabled(False)
        self.stop_button.setToolTip("Stop at the next step; what is finished is kept")
        row = QHBoxLayout()
        row.addWidget(self.run_button, 2)
        row.addWidget(self.detach_button, 1)
        row.addWidget(self.stop_button, 1)
        return row

    def _connect(self) -> None:
        self.chooser.currentIndexChanged.connect(self._chosen)
        self.pages.currentChanged.connect(lambda _: self._turn_page())
        self.reset_button.clicked.connect(lambda: self.form.reset())
        self.run_button.clicked.connect(self.run)
        self.detach_button.clicked.connect(self.run_detached)
        self.stop_button.clicked.connect(self.stop)
        self.bench.fill_job.connect(self.fill)
        self.bench.project_changed.connect(self._offer_files)
        self.bench.queue.started.connect(self._started)
        self.bench.queue.progressed.connect(self._progressed)
        self.bench.queue.ended.connect(self._ended)
        self.bench.queue.changed.connect(self._name_run_button)
        self.bench.queue.detached_failed.connect(
            lambda error: self.card.tell("error", "The job that ran on its own failed", str(error))
        )
        shortcut = QShortcut(QKeySequence("Ctrl+Return"), self)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self.run)

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
        self.pages.setCurrentIndex(0)
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
        self.pages.setCurrentIndex(0)
        self.card.hide()
        self.form.reset()
        self.form.set_values(values)

    def _offer_files(self, project: Any) -> None:
        for form in self.forms.values():
            form.set_files(self.bench.files, self.bench.root)
        self._edited()

    # -- the page of a refinement -------------------------------------------------------------------

    def _watch_refinement(self, ticket: Ticket) -> None:
        """Turn to the page that shows how a refinement goes."""
        if self.monitor is None:
            self.monitor = RefineMonitor(self.bench, banner=False)
            self.stack.addWidget(self.monitor)
            self.pages.addTab("")
        self.monitor.follow(ticket)
        self.pages.setTabText(1, literal(ticket.title))
        self.pages.show()
        self.pages.setCurrentIndex(1)

    def _turn_page(self) -> None:
        options = self.monitor is None or self.pages.currentIndex() == 0
        self.stack.setCurrentWidget(self.form if options else self.monitor)
        for widget in (self.about, self.checks, self.command, self.run_button, self.detach_button):
            widget.setVisible(options)
        self.watch.log.setVisible(options)
        self.stop_button.setVisible(options or self.bench.queue.running is not None)

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
        job = self.form.job_class
        checks = (
            [("error", problem)]
            if problem
            else [*(("warning", words) for words in warnings), ("good", "Ready to run")]
        )
        self._checked = [(kind, self.card.plain(words, job)) for kind, words in checks]
        self.recolour()
        self._set_blocking(self._checked[0][1] if problem else "")

    def recolour(self) -> None:
        """Draw the marks of the checks anew."""
        self.checks.setText(
            "".join(_check_line(self.colours[kind], kind, words) for kind, words in self._checked)
        )

    def _set_blocking(self, reason: str) -> None:
        self._blocking = reason
        for button in (self.run_button, self.detach_button):
            button.setEnabled(not reason)
        self.run_button.setToolTip(reason or "Run in the background (Ctrl+Enter); the viewer stays usable")
        self._name_run_button()

    def _name_run_button(self) -> None:
        self.run_button.setText("Queue" if self.bench.queue.running is not None else "Run")

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> Ticket | None:
        """Run the job as filled in, or queue it behind the one that runs."""
        if self._blocking:
            return None
        try:
            job = self.form.value()
        except StaError as error:
            self.card.tell("error", "Not started", str(error), job=self.form.job_class)
            return None
        self.card.hide()
        return self.bench.queue.run(job)

    def run_detached(self) -> None:
        """Start the same job through the command line, outside this process."""
        try:
            job = self.form.value()
            device, threads = preferences()
            ticket = Ticket(job, project=self.bench.root, device=device, threads=threads)
            apart = self.bench.queue.detach([line_of(ticket)])
        except StaError as error:
            self.card.tell("error", "Not started", str(error), job=self.form.job_class)
            return
        self.card.tell(
            "info",
            f"{ticket.label} runs on its own (process {apart.process})",
            "It goes on when napari is closed; the Project dock shows how it does.",
        )

    def stop(self) -> None:
        """Stop the running job."""
        ticket = self.bench.queue.running
        if ticket is not None:
            self.watch.doing.setText(f"Stopping {ticket.title} …")
            self.stop_button.setEnabled(False)
            self.bench.queue.stop(ticket)

    def _started(self, ticket: Ticket) -> None:
        self.watched = ticket
        self.card.hide()
        self.watch.start(ticket)
        self.stop_button.setEnabled(True)
        if ticket.job.name() == "refine":
            self._watch_refinement(ticket)
        else:
            self.pages.setCurrentIndex(0)
        if self.monitor is not None:  # the card is this job's now
            self.monitor.announce(ticket.job.name() != "refine")
        self._turn_page()  # also where the page is the one that is open already
        self._name_run_button()

    def _progressed(self, ticket: Ticket) -> None:
        if ticket is not self.watched or ticket.progress is None:
            return
        self.watch.note_progress()
        if "iteration" in ticket.progress.data and self.pages.count() > 1:
            self.pages.setTabText(1, literal(ticket.title))

    def _ended(self, ticket: Ticket) -> None:
        if ticket is not self.watched:
            return
        self.watch.end()
        self.stop_button.setEnabled(False)
        self._name_run_button()
        self._turn_page()
        label = ticket.title
        if ticket.state == "done":
            self._succeeded(ticket)
        elif ticket.state == "stopped":
            resume = self._resume_action(ticket)
            words = "What was finished is kept."
            if resume:
                words += " Resume goes on from the last finished iteration."
            self.card.tell(
                "info", f"{label} stopped after {span(ticket.seconds)}", words,
                actions=[*resume, ("Start anew" if resume else "Run again", lambda: self._again(ticket))],
            )  # fmt: skip
        else:
            actions: list[tuple[str, Any]] = [
                *self._resume_action(ticket), ("Retry", lambda: self._again(ticket)),
            ]  # fmt: skip
            if "GPU" in str(ticket.error):
                actions.append(("Retry on the CPU", lambda: self._again(ticket, device="cpu")))
            self.card.tell(
                "error", f"{label} failed", str(ticket.error), details=failure_details(ticket),
                actions=actions, job=type(ticket.job),
            )  # fmt: skip

    def _resume_action(self, ticket: Ticket) -> list[tuple[str, Any]]:
        """Return the button that lets an interrupted refinement go on, if it can."""
        out = ticket.out
        if ticket.job.name() != "refine" or out is None or not can_resume(out):
            return []
        return [("Resume", lambda: self.bench.queue.resume(out))]

    def _again(self, ticket: Ticket, device: str = "") -> None:
        self.bench.queue.run(ticket.job, out=None, device=device)

    def _succeeded(self, ticket: Ticket) -> None:
        out = ticket.out
        actions: list[tuple[str, Any]] = []
        files = viewable_outputs(out) if out is not None else []
        name = ticket.job.name()
        unfinished = name == "refine" and not ticket.record.get("converged")
        # A job that another dock started is that dock's to show; half maps have arrived already.
        if files and files[0].suffix == ".mrc" and ticket.done is None and not unfinished:
            self.bench.shown.show(files[:1])
        if len(files) > 1 or (files and files[0].suffix != ".mrc"):
            actions.append(("Show outputs", lambda: self.bench.shown.show(files)))
        if out is not None and name == "reconstruct":
            actions.append(("Align to mask", lambda: self.bench.go_align(out / "merged.mrc")))
        if out is not None and unfinished:
            newest = sorted(out.glob("run_it*_optimiser.star"))[-1:]
            actions = [("Continue", lambda: self.bench.continue_from(newest[0]))] if newest else []
        if out is not None and name == "postprocess":
            actions.append(("Inspect", lambda: self.bench.go_inspect(out)))
        result = result_words(ticket)
        warned = [f"⚠ {self.card.plain(w, type(ticket.job))}" for w in ticket.warnings[:4]]
        words = "\n".join(([result] if result else []) + warned)
        self.card.tell("good", f"{ticket.title} finished in {span(ticket.seconds)}", words, actions=actions)


class PageStack(QStackedWidget):
    """Pages of which only the one on show claims room: the window must not grow for a hidden one."""

    def __init__(self) -> None:
        super().__init__()
        self.currentChanged.connect(lambda _: self.updateGeometry())

    def minimumSizeHint(self) -> QSize:
        """Of the page on show."""
        page = self.currentWidget()
        return page.minimumSizeHint() if page is not None else super().minimumSizeHint()


def _check_line(colour: str, kind: str, text: str) -> str:
    sign = f'<span style="color:{colour}">{MARKS[kind]}</span>'
    return f'<p style="margin:1px 0">{sign} {html.escape(text)}</p>'
