"""What the docks of one viewer share: the project, the run queue, the layers they add, the camera's hand."""

from __future__ import annotations

import logging
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QEventLoop, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QPalette, QShowEvent
from qtpy.QtWidgets import QApplication, QDockWidget, QPushButton, QWidget
from superqt.utils import create_worker

from napari_sta.cli import words_of
from napari_sta.data.errors import InputError, JobError, StaError, Stopped
from napari_sta.data.progress import Progress
from napari_sta.jobs._job import Job
from napari_sta.layers import get_reader, is_job_folder
from napari_sta.widgets._background import Outcome, guarded, in_background
from napari_sta.widgets._detached import Detached, Line, resume_words
from napari_sta.widgets._warm_up import warm_up_once
from napari_sta.widgets.project_files import ProjectView, no_files, read_project, trace_of
from napari_sta.widgets.stage import Stage
from napari_sta.widgets.themes import colours_of, style_sheet
from napari_sta.widgets.words import in_plain_words

logger = logging.getLogger("napari_sta")

HAND = ("away", "down", "right")
"""Camera orientation that shows z, y, x data unmirrored; napari's default shows the mirror image."""

LOOK_AGAIN_MS = 2000
"""The project on the disk is looked at this often: RELION and detached jobs work there too."""
LEAVE_WITHIN_S = 4.0
"""A job that has not stopped by then, when the viewer closes, is marked as stopped all the same."""

PLUGIN = "napari-sta"
DOCKS = {
    "project": "Project",
    "job": "Job",
    "align": "Align & recentre",
    "inspect": "Inspect",
}


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


class Workbench(QObject):
    """Shared state of the docks of one viewer; get it with :meth:`of`.

    Attributes
    ----------
    project_changed
        The project was opened or read again (argument: a :class:`ProjectView`).
    started, placed, progressed, ended, queue_changed
        Life of the tickets; placed: its folder is there.
    detached_failed
        A job that runs in a process of its own has failed (argument: the error).
    failed
        Something that was asked for did not work (argument: the error).
    fill_job, align, inspect
        One dock asks another: (job name, values), (map path, mask path or ""), (path of a postprocess.star
        or of a refinement's folder).
    """

    project_changed = Signal(object)
    started = Signal(object)
    placed = Signal(object)
    detached_failed = Signal(object)
    progressed = Signal(object)
    ended = Signal(object)
    queue_changed = Signal()
    failed = Signal(object)
    fill_job = Signal(str, object)
    align = Signal(str, str)
    inspect = Signal(str)

    _of: ClassVar[dict[int, Workbench]] = {}

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = weakref.ref(viewer)
        self.view: ProjectView | None = None
        self.tickets: list[Ticket] = []
        self._worker: Any = None
        self._hand_before: Any = None
        self._bar_before = False
        self.tellers: list[QWidget] = []
        self.failed.connect(self._notify)
        viewer.layers.events.inserted.connect(self._outline)
        self.stage = Stage(self)
        viewer.layers.events.inserted.connect(self._keep_hand)
        viewer.layers.events.removed.connect(self._keep_hand)
        viewer.dims.events.ndisplay.connect(self.hide_contours_in_3d)
        self._contours_off: list[weakref.ref[Any]] = []
        # Jobs in processes of their own, as long as they may fail to start.
        self._apart: list[Detached] = []
        self._asking = False
        self.monitors: weakref.WeakSet[Any] = weakref.WeakSet()
        self._trace: Any = None
        self._looking = False
        self._clock = QTimer(self)
        self._clock.setInterval(LOOK_AGAIN_MS)
        self._clock.timeout.connect(self._look_again)

    @classmethod
    def of(cls, viewer: Any) -> Workbench:
        """Return the viewer's workbench, made at the first call."""
        plain = getattr(viewer, "__wrapped__", viewer)
        bench = cls._of.get(id(plain))
        if bench is None or bench._viewer() is not plain:
            bench = cls(plain)
            cls._of[id(plain)] = bench
            key = id(plain)
            weakref.finalize(plain, cls._of.pop, key, None)
            window = getattr(plain, "window", None)
            if window is not None:
                window._qt_window.installEventFilter(bench)
                window._qt_viewer.installEventFilter(bench)
                window._qt_window.destroyed.connect(lambda *_: cls._of.pop(key, None))
        return bench

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Read what is dropped on the canvas in a worker; look after the jobs when the window closes."""
        if event.type() == QEvent.Type.Drop:
            return self._dropped(event)
        if event.type() == QEvent.Type.Close:
            viewer = self._viewer()
            window = getattr(viewer.window, "_qt_window", None) if viewer is not None else None
            # A program that closes the viewer closes the canvas first; a user, who is asked, the window.
            if watched is not window:
                self.wind_up()
            elif not self._may_close(window):
                event.ignore()
                return True
        return False

    def _dropped(self, event: Any) -> bool:
        # With Shift or Alt the user asks for napari's own way: as a stack, or with another plugin.
        if event.modifiers() & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.AltModifier):
            return False
        urls = event.mimeData().urls()
        if not urls or not all(url.isLocalFile() and get_reader(url.toLocalFile()) for url in urls):
            return False
        for url in urls:
            path = Path(url.toLocalFile())
            if path.is_dir() and not is_job_folder(path):
                self.open_dock("project")
            self.take(path)
        event.acceptProposedAction()
        return True

    @property
    def viewer(self) -> Any:
        """The napari viewer."""
        viewer = self._viewer()
        assert viewer is not None
        return viewer

    def _notify(self, error: StaError) -> None:
        """Show an error as napari's notification where no dock is in sight that shows it as a card."""
        if not any(isalive(dock) and in_sight(dock) for dock in self.tellers):
            from napari.utils.notifications import show_error

            show_error(in_plain_words(str(error), root=self.root))

    @property
    def closed(self) -> bool:
        """Whether the viewer's window is gone: answers of workers that come later have nowhere to go."""
        viewer = self._viewer()
        return viewer is None or getattr(viewer.window, "_qt_window", None) is None

    # -- camera ------------------------------------------------------------------------------------

    def ours(self, *kinds: str) -> list[Layer]:
        """Return our layers, bottom first; only of the given kinds if any are named."""
        found = []
        for layer in self.viewer.layers:
            kind = layer.metadata.get("napari_sta", {}).get("kind")
            if kind and (not kinds or kind in kinds):
                found.append(layer)
        return found

    def _keep_hand(self, event: Any = None) -> None:
        """Show z, y, x data unmirrored, with a scale bar, as long as one of our layers is there."""
        if self._viewer() is None:
            return
        camera = self.viewer.scene.camera
        if self.ours():
            if self._hand_before is None:
                self._hand_before = tuple(str(getattr(o, "value", o)) for o in camera.orientation)
                camera.orientation = HAND
                bar = self.viewer.canvas.overlays.scale_bar
                self._bar_before, bar.visible = bar.visible, True
                if self._hand_before != HAND:
                    self.viewer.status = "3D view set to the true hand (napari's default mirrors maps)"
        elif self._hand_before is not None:
            camera.orientation = self._hand_before
            self._hand_before = None
            self.viewer.canvas.overlays.scale_bar.visible = self._bar_before
        self.hide_contours_in_3d()

    def _outline(self, event: Any) -> None:
        """Make a line of a contour, whoever has put it into the viewer."""
        layer = event.value
        if layer.metadata.get("napari_sta", {}).get("kind") == "contour":
            outline_contour(layer)
            layer.visible = True

    def hide_contours_in_3d(self, event: Any = None) -> None:
        """Contours belong to slices; in 3D they would hide the isosurface of the mask."""
        if self._viewer() is None:
            return
        # napari's own handlers come first, and would put this up as a notification.
        warnings.filterwarnings("ignore", message="Contours are not displayed during 3D")
        if self.viewer.dims.ndisplay == 3:
            for layer in self.ours("contour"):
                if layer.visible:
                    layer.visible = False
                    self._contours_off.append(weakref.ref(layer))
        else:
            for reference in self._contours_off:
                layer = reference()
                if layer is None or layer not in self.viewer.layers:
                    continue
                if not self.stage.keep_behind(layer):
                    layer.visible = True
            self._contours_off.clear()

    # -- layers ------------------------------------------------------------------------------------

    def add(self, tuples: Iterable[tuple[Any, dict[str, Any], str]]) -> list[Layer]:
        """Put layer tuples into the viewer; a file that is shown already is replaced in place."""
        added: list[Layer] = []
        if self.closed:
            return added
        for data, meta, kind in tuples:
            ours = meta.get("metadata", {}).get("napari_sta", {})
            old = self._same_file(ours)
            if old is not None and type(old).__name__.lower() == kind:
                if getattr(old.data, "shape", None) == getattr(data, "shape", None):
                    with self.stage.unmoved():
                        _replace_data(old, data, meta, kind)
                    added.append(old)
                    continue
                self.viewer.layers.remove(old)
            layer = Layer.create(data, dict(meta), kind)
            self.viewer.add_layer(layer)
            if ours.get("kind") == "map":
                self._put_below_masks(layer)
            if kind == "image":
                _note_limits(layer)
            added.append(layer)
        return added

    def _put_below_masks(self, layer: Layer) -> None:
        """Let masks and their contours be seen over a map that came after them."""
        layers = self.viewer.layers
        masks = [layers.index(one) for one in self.ours("mask", "contour")]
        if masks and min(masks) < layers.index(layer):
            layers.move(layers.index(layer), min(masks))

    def uncover(self, layer: Layer, masks: Sequence[Layer] = ()) -> None:
        """Let a map be seen over the other maps, and its masks over it."""
        layers = self.viewer.layers
        layer.visible = True
        others = [layers.index(one) for one in self.ours("map", "half") if one is not layer and one.visible]
        if others and max(others) > layers.index(layer):
            layers.move(layers.index(layer), max(others) + 1)
        for mask in masks:
            if layers.index(mask) < layers.index(layer):
                layers.move(layers.index(mask), len(layers))

    def _same_file(self, ours: Mapping[str, Any]) -> Layer | None:
        for layer in self.ours(str(ours.get("kind"))):
            other = layer.metadata["napari_sta"]
            if ours.get("run") and (ours["run"], ours["half"]) == (other.get("run"), other.get("half")):
                return layer  # the same half map, at another iteration
            same_path = ours.get("path") and other.get("path") == ours["path"]
            if same_path and other.get("tomogram") == ours.get("tomogram"):
                return layer
        return None

    def show(
        self,
        paths: Iterable[str | Path],
        *,
        done: Callable[[list[Layer]], None] | None = None,
        failed: Callable[[StaError], None] | None = None,
    ) -> None:
        """Read files or job folders in a thread and add their layers."""
        from napari_sta.layers import read_layers

        wanted = [Path(p) for p in paths]

        def read() -> list[Any]:
            return [layer for path in wanted for layer in read_layers(path)]

        def arrived(tuples: list[Any]) -> None:
            if self.closed:
                return
            first = not self.viewer.layers
            point = self.viewer.dims.point
            layers = self.add(tuples)
            for layer, (_, meta, _) in zip(layers, tuples, strict=True):
                if meta.get("visible", True):
                    self.stage.show(layer)
            particles = [layer for layer in layers if layer in self.ours("particles")]
            if particles:
                self._show_particles(particles, None if first else point)
            elif first and layers:
                self.viewer.fit_to_view() if hasattr(self.viewer, "fit_to_view") else self.viewer.reset_view()
            if done is not None:
                done(layers)

        in_background(self, read, done=arrived, failed=failed or self.failed.emit)

    def _show_particles(self, layers: list[Layer], point: tuple[float, ...] | None) -> None:
        """Show a whole cloud of particles and say what is seen; a slice would hold a few of them at most.

        Parameters
        ----------
        layers
            Their Points, a layer per tomogram.
        point
            Where the sliders were; a set of particles must not move them.
        """
        from napari.utils.notifications import show_info

        dims = self.viewer.dims
        dims.ndisplay = 3
        if point is not None and len(point) == dims.ndim:
            dims.point = point
        self.viewer.fit_to_view()
        ours = layers[0].metadata["napari_sta"]
        hidden = int(ours["n_tomograms"]) - 1
        rest = f"; those of {hidden} more tomogram{'s' * (hidden > 1)} are hidden" if hidden else ""
        show_info(
            f"{len(layers[0].data)} of {ours['n_particles']} particles are shown in 3D: tomogram "
            f"{ours['tomogram']}{rest}. Ctrl+Y goes back to slices."
        )

    # -- project -----------------------------------------------------------------------------------

    def open_project(
        self,
        path: str | Path,
        *,
        done: Callable[[ProjectView], None] | None = None,
        failed: Callable[[StaError], None] | None = None,
    ) -> None:
        """Read the project that a folder or file lies in."""

        def arrived(view: ProjectView) -> None:
            if self.closed:
                return
            self.view = view
            self._trace = None
            self._clock.start()
            self.project_changed.emit(view)
            if done is not None:
                done(view)

        in_background(self, read_project, path, done=arrived, failed=failed or self.failed.emit)

    def refresh(self) -> None:
        """Read the project again; who shows it is told only if it has changed."""
        if self.view is None:
            return
        before = self.view

        def arrived(view: ProjectView) -> None:
            if not self.closed and self.view is before and not view.equals(before):
                self.view = view
                self.project_changed.emit(view)

        in_background(self, read_project, before.root, done=arrived, failed=self.failed.emit)

    def _look_again(self) -> None:
        """Look for changes on the disk, in a worker: a disk in the network may keep it waiting."""
        view = self.view
        if self.closed or view is None:
            self._clock.stop()
            return
        if self._looking:
            return
        self._looking = True

        def arrived(trace: Any) -> None:
            self._looking = False
            before, self._trace = self._trace, trace
            if view is self.view and before is not None and before != trace:
                self.refresh()

        def failed(error: StaError) -> None:
            self._looking = False  # whoever asks for something will be told

        in_background(self, trace_of, view, done=arrived, failed=failed)

    def take(self, path: str | Path) -> None:
        """Open whatever was dropped: a project folder in the tree; a job folder or file as layers too."""
        path = Path(path)
        if path.is_dir() and not is_job_folder(path):
            self.open_project(path)
            return

        def quiet(error: StaError) -> None:
            """Say nothing: a map from anywhere need not lie in a project."""

        self.show([path])
        if self.view is None or not path.absolute().is_relative_to(self.view.root):
            self.open_project(path, failed=quiet)

    @property
    def root(self) -> Path | None:
        """The project folder, if a project is open."""
        return self.view.root if self.view is not None else None

    @property
    def files(self) -> Mapping[str, list[str]]:
        """The project's files by kind; empty lists without a project."""
        return self.view.files if self.view is not None else no_files()

    # -- queue -------------------------------------------------------------------------------------

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
            job, out=out, project=self.root, device=device or preferred, threads=threads, done=done
        )
        self.tickets.append(ticket)
        self.queue_changed.emit()
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
        from napari_sta.jobs._run import job_from_record, read_record

        folder = Path(folder)

        def known(job: Job) -> None:
            preferred, threads = preferences()
            ticket = Ticket(
                job, out=folder, project=self.root, device=device or preferred, threads=threads, resumes=True
            )
            ticket.name = f"{folder.parent.name}/{folder.name}"
            self.tickets.append(ticket)
            self.queue_changed.emit()
            self._start_next()

        in_background(
            self,
            lambda: job_from_record(read_record(folder), folder),
            done=known,
            failed=failed or self.failed.emit,
        )

    def continue_from(self, optimiser: str | Path) -> None:
        """Fill the Job dock with a refinement that goes on, in a job of its own, from an iteration."""
        from napari_sta.jobs._job import job_named

        def values() -> dict[str, Any]:
            job: Any = job_named("refine").from_text({"continue_from": str(optimiser)})
            whole, _ = job.with_continued()
            found: dict[str, Any] = whole.model_dump()
            # RELION's files give lengths in Å with few digits: 3.0000002 px.
            return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in found.items()}

        in_background(self, values, done=lambda found: self.go_job("refine", found), failed=self.failed.emit)

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
        self.queue_changed.emit()

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
            from napari_sta.jobs._run import JobRun, RunOptions, resume

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
        self.refresh()
        self.queue_changed.emit()
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

    # -- closing -----------------------------------------------------------------------------------

    def _may_close(self, window: Any) -> bool:
        """Ask what becomes of jobs that run or wait, and see to it; False: the window stays."""
        # File > Quit closes all viewers.
        others = list(self._of.values()) if getattr(window, "_quit_app", False) else []
        busy = [bench for bench in dict.fromkeys([self, *others]) if bench.running or bench.queued]
        if not busy:
            return True
        if self._asking:  # closed once more while it waits
            return False
        from napari_sta.widgets.closing import ClosingDialog

        self._asking = True
        try:
            may = ClosingDialog(busy, window).decide()
        finally:
            self._asking = False
        if not may:
            window._quit_app = False
        return may

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
        from napari_sta.io.project import Project, mark

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

    # -- docks -------------------------------------------------------------------------------------

    def open_dock(self, key: str) -> QWidget:
        """Open a dock, or bring the open one to the front; return its widget."""
        dock, widget = self.viewer.window.add_plugin_dock_widget(PLUGIN, DOCKS[key], tabify=True)
        name_tab(widget)
        dock.show()
        dock.raise_()
        return widget

    def go_inspect(self, path: str | Path) -> None:
        """Show a post-processing result or a refinement in the Inspect dock."""
        self.open_dock("inspect")
        self.stage.leave()
        self.inspect.emit(str(path))

    def go_align(self, map_path: str | Path, mask_path: str | Path = "") -> None:
        """Show a map (and a mask) in the Align & recentre dock."""
        self.open_dock("align")
        self.stage.leave()
        self.align.emit(str(map_path), str(mask_path))

    def go_job(self, name: str, values: Mapping[str, Any]) -> None:
        """Fill the Job dock."""
        self.open_dock("job")
        self.fill_job.emit(name, dict(values))


def _replace_data(layer: Any, data: Any, meta: Mapping[str, Any], kind: str) -> None:
    """Give a layer new data, and limits that suit them unless the user has chosen their own."""
    before = layer.metadata["napari_sta"].get("limits")
    layer.data = data
    layer.metadata = meta["metadata"]
    if "run" in meta["metadata"]["napari_sta"]:
        layer.name = meta["name"]
    if kind == "image":
        if before is None or tuple(layer.contrast_limits) == before[0]:
            layer.contrast_limits = meta["contrast_limits"]
        if "iso_threshold" in meta and before is not None and layer.iso_threshold == before[1]:
            layer.iso_threshold = meta["iso_threshold"]
        _note_limits(layer)


def _note_limits(layer: Any) -> None:
    """Remember the limits that were set for the user, to know later whether they are still those."""
    ours = layer.metadata["napari_sta"]
    if "run" in ours:
        ours["limits"] = (tuple(layer.contrast_limits), layer.iso_threshold)


def in_sight(widget: QWidget) -> bool:
    """Whether a widget can be seen: it is not on a hidden tab, nor scrolled away altogether."""
    return widget.isVisible() and not widget.visibleRegion().isEmpty()


def name_tab(widget: QWidget) -> None:
    """Shorten the tab of a dock of ours: napari adds the plugin's name, too long for four tabs."""
    dock = widget.parent()
    while dock is not None and not isinstance(dock, QDockWidget):
        dock = dock.parent()
    if dock is not None:
        title = dock.windowTitle().removesuffix(f" ({PLUGIN})").replace("&&", "&")
        dock.setWindowTitle(literal(title))


def literal(text: str) -> str:
    """Return a text for a menu, tab or button, where Qt takes a single & for an underline."""
    return text.replace("&", "&&")


class Dock(QWidget):
    """Base of our docks: names its tab, wears the theme's colours, has what the first layers need loaded.

    Parameters
    ----------
    viewer
        Its theme gives the colours, also when it changes.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._themed = Workbench.of(viewer).viewer
        self._themed.events.theme.connect(self._wear_theme)
        self._wear_theme()
        # Once the event loop turns: the docks come first.
        QTimer.singleShot(300, warm_up_once)

    @property
    def colours(self) -> Mapping[str, str]:
        """Colours by their names (see :mod:`napari_sta.widgets.themes`)."""
        return colours_of(self._themed)

    def _wear_theme(self, event: Any = None) -> None:
        palette = self.palette()
        palette.setColor(QPalette.ColorRole.Link, QColor(self.colours["info"]))
        self.setPalette(palette)
        self.setStyleSheet(style_sheet(self.colours))
        if event is not None:
            self.recolour()

    def recolour(self) -> None:
        """Give what has its colours in its text those of the new theme."""

    def showEvent(self, event: QShowEvent) -> None:
        """Name the tab once napari has put the widget into its dock."""
        super().showEvent(event)
        QTimer.singleShot(0, lambda: name_tab(self) if isalive(self) else None)


def small_button(text: str, tip: str) -> QPushButton:
    """Make a button no wider than its sign, with a tooltip."""
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setFixedWidth(30)
    return button


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


def outline_contour(layer: Any) -> None:
    """Show a contour layer as a line, which nobody paints on by accident."""
    layer.contour = 1
    layer.editable = False
