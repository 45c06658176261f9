"""What the docks of one viewer share: the project, the run queue, the canvas; how they ask each other."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QWidget

from napari_sta.data.errors import StaError
from napari_sta.layers import get_reader
from napari_sta.layers.outputs import is_job_folder
from napari_sta.widgets import _napari_private
from napari_sta.widgets._background import in_background
from napari_sta.widgets.closing import ClosingDialog
from napari_sta.widgets.dock import PLUGIN, in_sight, name_tab
from napari_sta.widgets.of_viewer import OfViewer
from napari_sta.widgets.project_files import ProjectView, no_files, read_project, trace_of
from napari_sta.widgets.run_queue import RunQueue
from napari_sta.widgets.shown import Shown
from napari_sta.widgets.words import in_plain_words

LOOK_AGAIN_MS = 2000
"""The project on the disk is looked at this often: RELION and detached jobs work there too."""
DOCKS = {
    "project": "Project",
    "job": "Job",
    "align": "Align & recentre",
    "inspect": "Inspect",
}


class Workbench(OfViewer):
    """Shared state of the docks of one viewer; get it with :meth:`of`.

    Attributes
    ----------
    view
        The open project, as last read.
    queue, shown, stage
        Its jobs; what is on the canvas; who has the canvas for themselves.
    tellers
        Docks that show an error as a card.
    monitors
        Of refinements: each knows which half maps the others show.
    project_changed
        The project was opened or read again (argument: a :class:`ProjectView`).
    failed
        Something that was asked for did not work (argument: the error).
    fill_job, align, inspect
        One dock asks another: (job name, values), (map path, mask path or ""), (path of a postprocess.star
        or of a refinement's folder).
    """

    project_changed = Signal(object)
    failed = Signal(object)
    fill_job = Signal(str, object)
    align = Signal(str, str)
    inspect = Signal(str)

    _of: ClassVar[dict[int, Workbench]] = {}

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self.view: ProjectView | None = None
        self.tellers: list[QWidget] = []
        self.monitors: weakref.WeakSet[Any] = weakref.WeakSet()
        self.shown = Shown(viewer)
        self.stage = self.shown.stage
        self.queue = RunQueue(viewer, lambda: self.root)
        self.failed.connect(self._notify)
        self.shown.failed.connect(self.failed)
        self.queue.failed.connect(self.failed)
        self.queue.ended.connect(self.refresh)
        self._asking = False
        self._trace: Any = None
        self._looking = False
        self._clock = QTimer(self)
        self._clock.setInterval(LOOK_AGAIN_MS)
        self._clock.timeout.connect(self._look_again)

    @classmethod
    def of(cls, viewer: Any) -> Workbench:
        """Return the viewer's workbench, made at the first call."""
        plain = _napari_private.plain(viewer)
        bench = cls._of.get(id(plain))
        if bench is None or bench._viewer() is not plain:
            bench = cls(plain)
            cls._of[id(plain)] = bench
            key = id(plain)
            weakref.finalize(plain, cls._of.pop, key, None)
            window = _napari_private.window_of(plain)
            if window is not None:
                window.installEventFilter(bench)
                _napari_private.drop_target_of(plain).installEventFilter(bench)
                window.destroyed.connect(lambda *_: cls._of.pop(key, None))
        return bench

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Read what is dropped on the canvas in a worker; look after the jobs when the window closes."""
        if event.type() == QEvent.Type.Drop:
            return self._dropped(event)
        if event.type() == QEvent.Type.Close:
            viewer = self._viewer()
            window = _napari_private.window_of(viewer) if viewer is not None else None
            # A program that closes the viewer closes the canvas first; a user, who is asked, the window.
            if watched is not window:
                self.queue.wind_up()
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

    def _notify(self, error: StaError) -> None:
        """Show an error as napari's notification where no dock is in sight that shows it as a card."""
        if not any(isalive(dock) and in_sight(dock) for dock in self.tellers):
            from napari.utils.notifications import show_error

            show_error(in_plain_words(str(error), root=self.root))

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

        self.shown.show([path])
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

    def continue_from(self, optimiser: str | Path) -> None:
        """Fill the Job dock with a refinement that goes on, in a job of its own, from an iteration."""
        from napari_sta.jobs._job import job_named

        def values() -> dict[str, Any]:
            job: Any = job_named("refine").from_text({"continue_from": str(optimiser)})
            whole, _ = job.with_continued()
            options: dict[str, Any] = whole.model_dump()
            # RELION's files give lengths in Å with few digits: 3.0000002 px.
            return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in options.items()}

        in_background(
            self, values, done=lambda options: self.go_job("refine", options), failed=self.failed.emit
        )

    # -- closing -----------------------------------------------------------------------------------

    def _may_close(self, window: Any) -> bool:
        """Ask what becomes of jobs that run or wait, and see to it; False: the window stays."""
        # File > Quit closes all viewers.
        others = list(self._of.values()) if _napari_private.quits(window) else []
        queues = [bench.queue for bench in dict.fromkeys([self, *others])]
        busy = [queue for queue in queues if queue.running or queue.queued]
        if not busy:
            return True
        if self._asking:  # closed once more while it waits
            return False
        self._asking = True
        try:
            may = ClosingDialog(busy, window).decide()
        finally:
            self._asking = False
        if not may:
            _napari_private.quit_no_more(window)
        return may

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
