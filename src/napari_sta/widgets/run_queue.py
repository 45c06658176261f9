"""The run queue of one viewer: jobs one after the other in a worker, or in processes of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtpy.QtCore import QEventLoop, QTimer, Signal
from qtpy.QtWidgets import QApplication
from superqt.utils import create_worker

from napari_sta.data.errors import InputError, JobError, StaError, Stopped
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Job
from napari_sta.jobs._words import words_of
from napari_sta.widgets._background import Outcome, guarded, in_background
from napari_sta.widgets._detached import Detached, Line, resume_words
from napari_sta.widgets.dock import PLUGIN
from napari_sta.widgets.of_viewer import OfViewer

logger = logging.getLogger("napari_sta")

LEAVE_WITHIN_S = 4.0
"""A job that has not stopped by then, when the viewer closes, is marked as stopped all the same."""


@dataclass(eq=False)
class Ticket:
    """One job in the queue and what became of it.

    Attributes
    ----------
    job, out, project
        What runs and where; ``out`` None takes the project's next job number.
    resumes
        It goes on with what was interrupted in ``out``.
    state
        ``queued``, ``running``, ``done``, ``failed`` or ``stopped``.
    progress, messages, warnings
        The last step, the different messages so far, and what the job warned of.
    record, error, seconds
        What came of it.
    """

    job: Job
    out: Path | None = None
    project: Path | None = None
    device: str = "auto"
    threads: int = 0
    done: Callable[[Ticket], None] | None = None
    resumes: bool = False
    state: str = "queued"
    name: str = ""
    progress: Progress | None = None
    messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    record: Mapping[str, Any] = field(default_factory=dict)
    error: StaError | None = None
    seconds: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0

    @property
    def label(self) -> str:
        """What kind of job it is: ``Reconstruct particle``."""
        return type(self.job).label or type(self.job).name()

    def note(self, progress: Progress) -> None:
        """Keep a step's message, unless it says what the last one said; called in the worker thread."""
        if progress.message and progress.message not in self.messages[-1:]:
            self.messages.append(progress.message)

    @property
    def title(self) -> str:
        """Words for people: ``Reconstruct/job027`` once it has a folder, else the job's label."""
        return self.name or self.label


class RunQueue(OfViewer):
    """The jobs of one viewer: at most one at work in it, the others waiting, some on their own.

    Parameters
    ----------
    viewer
        The napari viewer itself; once it is closed nobody is told anything.
    project
        Gives the folder of the open project, if there is one: jobs run in it.

    Attributes
    ----------
    tickets
        Every job of this session, in the order in which they run.
    started, placed, progressed, ended, changed
        Life of the tickets; placed: its folder is there.
    detached_failed
        A job that runs in a process of its own has failed (argument: the error).
    failed
        Something else that was asked for did not work (argument: the error).
    """

    started = Signal(object)
    placed = Signal(object)
    progressed = Signal(object)
    ended = Signal(object)
    changed = Signal()
    detached_failed = Signal(object)
    failed = Signal(object)

    def __init__(self, viewer: Any, project: Callable[[], Path | None]) -> None:
        super().__init__(viewer)
        self._project = project
        self.tickets: list[Ticket] = []
        self._worker: Any = None
        # Jobs in processes of their own, as long as they may fail to start.
        self._apart: list[Detached] = []

    def run(
        self,
        job: Job,
        *,
        out: Path | None = None,
        device: str = "",
        done: Callable[[Ticket], None] | None = None,
    ) -> Ticket:
        """Put a job at the end of the queue; it starts at once if nothing runs.

        Parameters
        ----------
        job
            What to run.
        out
            Where; None takes the project's next job number (without a project: a folder beside the input).
        device
            Overrides the device set in the preferences.
        done
            Called in the GUI thread when the job ended, however it ended.
        """
        preferred, threads = preferences()
        ticket = Ticket(
            job, out=out, project=self._project(), device=device or preferred, threads=threads, done=done
        )
        self.tickets.append(ticket)
        self.changed.emit()
        self._start_next()
        return ticket

    def resume(
        self, folder: str | Path, *, device: str = "", failed: Callable[[StaError], None] | None = None
    ) -> None:
        """Let an interrupted job go on in its folder, with the values it was started with.

        Parameters
        ----------
        folder
            The job's folder.
        device
            Overrides the one set in the preferences.
        failed
            Called with the error if the folder tells of no job.
        """
        from napari_sta.jobs._records import job_from_record, read_record

        folder = Path(folder)

        def known(job: Job) -> None:
            preferred, threads = preferences()
            ticket = Ticket(
                job,
                out=folder,
                project=self._project(),
                device=device or preferred,
                threads=threads,
                resumes=True,
            )
            ticket.name = f"{folder.parent.name}/{folder.name}"
            self.tickets.append(ticket)
            self.changed.emit()
            self._start_next()

        in_background(
            self,
            lambda: job_from_record(read_record(folder), folder),
            done=known,
            failed=failed or self.failed.emit,
        )

    @property
    def running(self) -> Ticket | None:
        """The ticket at work, if any."""
        return next((t for t in self.tickets if t.state == "running"), None)

    @property
    def queued(self) -> list[Ticket]:
        """Tickets that wait."""
        return [t for t in self.tickets if t.state == "queued"]

    def stop(self, ticket: Ticket) -> None:
        """Stop a running job at its next step, or take a waiting one out of the queue: it leaves no trace."""
        ticket.stop.set()
        if ticket.state == "queued":
            self.tickets.remove(ticket)
            self._end(ticket, "stopped", error=Stopped("Taken out of the queue."))

    def move_up(self, ticket: Ticket) -> None:
        """Let a waiting job go before the one ahead of it."""
        waiting = self.queued
        if ticket not in waiting or ticket is waiting[0]:
            return
        ahead = waiting[waiting.index(ticket) - 1]
        first, second = self.tickets.index(ahead), self.tickets.index(ticket)
        self.tickets[first], self.tickets[second] = ticket, ahead
        self.changed.emit()

    def stop_all(self) -> None:
        """Stop everything."""
        for ticket in [*self.queued, *filter(None, [self.running])]:
            self.stop(ticket)

    def _start_next(self) -> None:
        if self.running is not None or not self.queued:
            return
        ticket = self.queued[0]
        ticket.state = "running"
        ticket.began = time.monotonic()

        def start() -> Any:
            # Here, in the worker: choosing the folder and checking the input read files.
            from napari_sta.jobs._run import JobRun, resume
            from napari_sta.jobs._run_options import RunOptions

            if ticket.resumes and ticket.out is not None:
                run = resume(ticket.out, RunOptions(threads=ticket.threads, device=ticket.device))
            else:
                job = with_absolute_paths(ticket.job, ticket.project)
                project, out = place_for(job, ticket.project, ticket.out)
                options = RunOptions(out=out, threads=ticket.threads, device=ticket.device, project=project)
                run = JobRun(job, options)
            steps = run.steps()
            ticket.out = run.out
            ticket.name = run.name.rstrip("/")
            ticket.warnings = run.warnings
            self.placed.emit(ticket)  # from the worker's thread: Qt hands it over
            return steps

        self._worker = create_worker(
            guarded,
            start,
            ticket.stop,
            ticket.note,
            _start_thread=False,
            _ignore_errors=True,
            _connect={
                "yielded": lambda progress: self._progress(ticket, progress),
                "returned": lambda outcome: self._finished(ticket, outcome),
                "aborted": lambda: self._end(ticket, "stopped", error=Stopped("Stopped.")),
            },
        )
        self.started.emit(ticket)
        self._worker.start()

    def _progress(self, ticket: Ticket, progress: Progress) -> None:
        ticket.progress = progress
        self.progressed.emit(ticket)

    def _finished(self, ticket: Ticket, outcome: Outcome) -> None:
        if outcome.error is None:
            self._end(ticket, "done", record=outcome.record)
        else:
            state = "stopped" if isinstance(outcome.error, Stopped) else "failed"
            self._end(ticket, state, error=outcome.error)

    def _end(
        self,
        ticket: Ticket,
        state: str,
        *,
        record: Mapping[str, Any] | None = None,
        error: StaError | None = None,
    ) -> None:
        if ticket.state not in ("running", "queued"):
            return
        was_running = ticket.state == "running"
        ticket.state = state
        ticket.record = record or {}
        ticket.error = error
        ticket.seconds = time.monotonic() - ticket.began if was_running else 0.0
        if was_running:
            self._worker = None
        if self.closed:
            return  # the docks are gone
        self.ended.emit(ticket)
        if ticket.done is not None:
            ticket.done(ticket)
        self.changed.emit()
        self._start_next()

    # -- jobs in processes of their own ------------------------------------------------------------

    def detach(self, lines: Sequence[Line], folder: Path | None = None) -> Detached:
        """Hand command lines, one after the other, to a process that outlives the viewer.

        Parameters
        ----------
        lines
            What to run; see :func:`line_of`.
        folder
            A job's folder, if it is known: what the process says goes to its run.out and run.err.

        Raises
        ------
        JobError
            If it cannot be started.
        """
        apart = Detached.start(lines, folder)
        self._apart.append(apart)
        QTimer.singleShot(500, self._look_at_detached)
        return apart

    def _look_at_detached(self) -> None:
        """Tell of one that has failed; one that has found its feet tells by the files it writes."""
        for apart in list(self._apart):
            status = apart.status()
            if status is None:
                continue
            self._apart.remove(apart)
            if status != 0:
                self.detached_failed.emit(JobError(apart.last_words() or f"It ended with status {status}."))
        if self._apart and not self.closed:
            QTimer.singleShot(500, self._look_at_detached)

    def wind_up(self, within_s: float = LEAVE_WITHIN_S) -> None:
        """Stop all jobs and wait until they have left their marks, but not for ever.

        One that does not get to its next step in time is marked as stopped from here.
        """
        self.stop_all()
        ticket = self.running
        if ticket is None:
            return
        end = time.monotonic() + within_s
        # Not a loop of its own: that ends at once where the program is quitting.
        while self.running is ticket and time.monotonic() < end:
            QApplication.processEvents(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
            time.sleep(0.01)
        if self.running is ticket:
            self.abandon(ticket)

    def abandon(self, ticket: Ticket) -> None:
        """Leave the marks of a stopped job whose thread is still at work; it does so itself when it ends."""
        from napari_sta.io.files import relative_to
        from napari_sta.io.project.markers import mark
        from napari_sta.io.project.project import Project

        out = ticket.out
        ticket.state = "stopped"
        if out is None or not out.is_dir():
            return

        def leave_marks() -> None:
            try:
                mark(out, "Aborted")
                project = Project.find(out)
                if project is not None:
                    project.finish_job(f"{relative_to(out, project.root)}/", "Aborted")
            except (StaError, OSError) as error:
                logger.warning("%s could not be marked as stopped: %s", ticket.title, error)

        # Another program may hold the pipeline's lock for long: the window does not wait for it.
        thread = threading.Thread(target=leave_marks, daemon=True)
        thread.start()
        thread.join(1.0)


def with_absolute_paths(job: Job, root: Path | None) -> Job:
    """Return the job with its input files as absolute paths: napari was not started in the project folder."""
    if root is None:
        return job
    changed = {
        name: str(root / path) for name, path in job.input_files().items() if not Path(path).is_absolute()
    }
    return job.model_copy(update=changed)


def place_for(job: Job, project: Path | None, out: Path | None) -> tuple[Path | None, Path | None]:
    """Return project and output folder of a run: the open project, that of the input, or beside the input.

    Raises
    ------
    InputError
        If nothing says where to write.
    """
    if out is not None or project is not None:
        return project, out
    from napari_sta.io.files import project_root

    for path in job.input_files().values():
        root = project_root(path)
        if root is not None:
            return root, None
    for path in job.input_files().values():
        parent = Path(path).absolute().parent
        number = 1
        while (folder := parent / f"{job.name()}_{number:03d}").exists():
            number += 1
        return None, folder
    raise InputError("There is no folder to write in: open a project in the Project dock first.")


def line_of(ticket: Ticket) -> Line:
    """Return the command line that does a ticket's work, or what is left of it.

    Raises
    ------
    InputError
        If nothing says where to write.
    """
    settings: dict[str, Any] = {"threads": ticket.threads, "device": ticket.device}
    if ticket.out is not None and (ticket.out / "job.json").is_file():
        return ticket.project or ticket.out, resume_words(ticket.out, **settings)
    job = with_absolute_paths(ticket.job, ticket.project)
    project, out = place_for(job, ticket.project, ticket.out)
    return project or Path.cwd(), words_of(job, str(out or ""), **settings)


def preferences() -> tuple[str, int]:
    """Return the device and thread count set in napari's preferences (``auto``, 0 where none are)."""
    try:
        from napari.settings import get_plugin_settings

        settings = get_plugin_settings(PLUGIN)
        compute = settings.compute
        return str(compute.device), int(compute.threads)
    except (ImportError, AttributeError, KeyError, ValueError):
        return "auto", 0
