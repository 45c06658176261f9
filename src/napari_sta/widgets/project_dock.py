"""The pipeline, its outputs, and how to look at them."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QPoint, Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices, QDragEnterEvent, QDropEvent, QGuiApplication, QPalette
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_sta.data.errors import StaError
from napari_sta.jobs._job import all_jobs
from napari_sta.widgets._background import in_background
from napari_sta.widgets.cards import Card
from napari_sta.widgets.dock import Dock, literal, small_button
from napari_sta.widgets.job_note import JobNote
from napari_sta.widgets.project_files import ProjectView, commands_of, next_values
from napari_sta.widgets.project_tree import NAME, PATH, STATUS, ProjectTree
from napari_sta.widgets.workbench import Workbench

if TYPE_CHECKING:
    import napari.viewer


class ProjectDock(Dock):
    """The *Project* dock.

    Parameters
    ----------
    viewer
        The napari viewer; a double click adds its layers.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.bench = Workbench.of(viewer)
        self.tree = ProjectTree()
        self.pages = QStackedWidget()
        self.pages.addWidget(self._welcome())
        self.pages.addWidget(self.tree)
        self.note = JobNote()
        self.card = Card()
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(self._top())
        box.addWidget(self._filter_line())
        box.addWidget(self.pages, 1)
        box.addLayout(self._buttons())
        box.addWidget(self._details())
        box.addWidget(self.note)
        box.addWidget(self.card)
        self.setMinimumWidth(340)
        self.setAcceptDrops(True)
        self._connect()
        self._fill(self.bench.view)

    def _top(self) -> QHBoxLayout:
        self.where = QLabel()
        self.where.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.open_button = QPushButton("Open…")
        self.open_button.setToolTip("Choose the folder that RELION was started in")
        self.again_button = small_button("⟳", "Read the project again")
        row = QHBoxLayout()
        row.addWidget(self.where, 1)
        row.addWidget(self.open_button)
        row.addWidget(self.again_button)
        return row

    def _filter_line(self) -> QLineEdit:
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("filter: a job number, type, alias or file")
        self.filter.setClearButtonEnabled(True)
        return self.filter

    def _welcome(self) -> QWidget:
        welcome = QWidget()
        lines = QVBoxLayout(welcome)
        lines.addStretch(1)
        hint = QLabel(
            "<b>No project is open.</b><br><br>Open the folder that RELION was started in, or drop a project "
            "folder, a job folder, a .star or an .mrc file here.<br><br>No data at hand? The practice "
            "project takes a few seconds to simulate: a small HIV-like capsid with a hidden Z offset to find."
        )
        hint.setWordWrap(True)
        hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        lines.addWidget(hint)
        self.practice_button = QPushButton("Make a practice project")
        self.practice_button.clicked.connect(self.make_practice)
        lines.addWidget(self.practice_button, 0, Qt.AlignmentFlag.AlignHCenter)
        lines.addStretch(2)
        return welcome

    def _buttons(self) -> QHBoxLayout:
        self.next_button = QPushButton("Next")
        self.next_button.setToolTip("Jobs that can use what the selected job made; fills the Job dock")
        self.next_menu = QMenu(self.next_button)
        self.next_menu.aboutToShow.connect(self._fill_next)
        self.next_button.setMenu(self.next_menu)
        self.show_button = QPushButton("Show layers")
        self.copy_button = QPushButton("Copy command")
        self.copy_button.setToolTip("Copy the command line noted in the job's note.txt")
        row = QHBoxLayout()
        for button in (self.next_button, self.show_button, self.copy_button):
            row.addWidget(button)
        return row

    def _details(self) -> QLabel:
        self.details = QLabel()
        self.details.setWordWrap(True)
        self.details.setTextFormat(Qt.TextFormat.RichText)
        return self.details

    def _connect(self) -> None:
        self.open_button.clicked.connect(self._choose)
        self.again_button.clicked.connect(self.bench.refresh)
        self.filter.textChanged.connect(self.tree.filter)
        self.tree.itemDoubleClicked.connect(lambda item, _column: self._show(item))
        self.tree.currentItemChanged.connect(lambda *_: self._selected())
        self.tree.customContextMenuRequested.connect(self._menu)
        self.details.linkActivated.connect(lambda _: self._resume())
        self.show_button.clicked.connect(lambda: self._show(self.tree.currentItem()))
        self.copy_button.clicked.connect(self.copy_command)
        self.note.failed.connect(self.tell)
        self.bench.project_changed.connect(self._fill)
        self.bench.failed.connect(self.tell)
        self.bench.tellers.append(self)
        self.bench.queue.placed.connect(lambda _: self.bench.refresh())

    # -- opening -----------------------------------------------------------------------------------

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open a RELION project", str(self.bench.root or ""))
        if folder:
            self.open(folder)

    def open(self, path: str | Path) -> None:
        """Open the project that a folder or file lies in."""
        self.card.hide()
        self.bench.open_project(path)

    def make_practice(self) -> None:
        """Simulate the practice project in a thread, open it, and overlay its map and mask."""
        import tempfile

        self.practice_button.setEnabled(False)
        self.practice_button.setText("Simulating …")

        def make() -> Any:
            from napari_sta.phantoms.practice import make_practice_project

            return make_practice_project(Path(tempfile.mkdtemp(prefix="napari-sta-practice-")) / "project")

        def made(practice: Any) -> None:
            self._practice_idle()
            self.card.tell(
                "info",
                "Practice project ready",
                "Its map sits off its mask by a hidden Z offset. Find it, then look it up.",
                actions=[
                    ("Show the answer", lambda: self._answer(practice.hidden_offset_px)),
                ],
            )
            self.bench.open_project(
                practice.root, done=lambda _: self.bench.go_align(practice.map_path, practice.mask_path)
            )

        def failed(error: StaError) -> None:
            self._practice_idle()
            self.tell(error)

        in_background(self, make, done=made, failed=failed)

    def _practice_idle(self) -> None:
        self.practice_button.setEnabled(True)
        self.practice_button.setText("Make a practice project")

    def _answer(self, offset_px: float) -> None:
        self.card.tell("good", f"The hidden offset is {offset_px:+.2f} px along Z")

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take local files and folders."""
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Open what was dropped."""
        for url in event.mimeData().urls():
            if url.isLocalFile():
                self.bench.take(url.toLocalFile())
        event.acceptProposedAction()

    def tell(self, error: StaError) -> None:
        """Show an error as a card."""
        self.card.tell("error", "That did not work", str(error))

    def recolour(self) -> None:
        """Draw the marks anew."""
        self._fill(self.bench.view)
        self._selected()

    # -- the tree ----------------------------------------------------------------------------------

    def _fill(self, view: ProjectView | None) -> None:
        self.pages.setCurrentIndex(1 if view is not None else 0)
        for widget in (
            self.again_button, self.filter, self.next_button, self.show_button, self.copy_button,
            self.note, self.details,
        ):  # fmt: skip
            widget.setVisible(view is not None)
        if view is None:
            self.where.setText("No project")
            return
        self.where.setToolTip(str(view.root))
        self._elide()
        self.tree.fill(view, self.colours)
        if self.tree.currentItem() is None:
            self._selected()

    def _elide(self) -> None:
        if self.bench.root is not None:
            width = max(60, self.where.width() - 4)
            name = self.where.fontMetrics().elidedText(
                self.bench.root.name, Qt.TextElideMode.ElideMiddle, width
            )
            self.where.setText(f"<b>{html.escape(name)}</b>")

    def changeEvent(self, event: QEvent) -> None:
        """Write the details in the colours of a new theme."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange and hasattr(self, "details"):
            QTimer.singleShot(0, lambda: self._selected() if isalive(self) else None)

    def resizeEvent(self, event: Any) -> None:
        """Cut the project's name to the new width."""
        super().resizeEvent(event)
        QTimer.singleShot(0, self._elide)

    @property
    def selected_job(self) -> str:
        """Name of the selected job (``Extract/job024``), or empty."""
        return self.tree.selected_job

    def select(self, name: str) -> None:
        """Select a job by its name."""
        self.tree.select(name)

    def _selected(self) -> None:
        name, view = self.selected_job, self.bench.view
        for button in (self.next_button, self.show_button, self.copy_button):
            button.setEnabled(bool(name))
        if not name or view is None:
            self.details.setText("")
            self.note.set_folder(None)
            return
        job = next((j for j in view.jobs if j.name.rstrip("/") == name), None)
        status = job.status if job is not None else "Unknown"
        inputs = ", ".join(job.inputs) if job is not None else ""
        colour = self.colours[STATUS.get(status, STATUS["Unknown"])[1]]
        text = f"<b>{html.escape(name)}</b>"
        if status != "Unknown":
            text += f" · <span style='color:{colour}'>{status}</span>"
        if inputs:
            text += f"<br>from {html.escape(inputs)}"
        if name in view.interrupted:
            # The text's own colour, underlined: Qt's blue for links cannot be read on a dark theme.
            colour = self.details.palette().color(QPalette.ColorRole.WindowText).name()
            text += (
                "<br>It was interrupted and can go on where it was: "
                f"<a href='resume' style='color:{colour}'><b>Resume</b></a>"
            )
        self.details.setText(text)
        self.note.set_folder(view.folder(name))

    # -- acting on a job ---------------------------------------------------------------------------

    def _show(self, item: QTreeWidgetItem | None) -> None:
        view = self.bench.view
        if item is None or view is None or not item.data(0, NAME):
            return
        path = item.data(0, PATH)
        name = str(item.data(0, NAME))
        outputs = view.by_job.get(name, {})
        if not path and (outputs.get("postprocess") or outputs.get("refinement")):
            self.bench.go_inspect(view.folder(name))
            return
        self.bench.shown.show([path or view.folder(name)])

    def _resume(self) -> None:
        view = self.bench.view
        if view is not None and self.selected_job in view.interrupted:
            self.bench.open_dock("job")
            self.bench.queue.resume(view.folder(self.selected_job))

    def _fill_next(self) -> None:
        self.next_menu.clear()
        view = self.bench.view
        if view is None:
            return
        outputs = view.by_job.get(self.selected_job, {})
        refined = outputs.get("refinement", [])
        if refined:
            self.next_menu.addAction("Inspect …", lambda: self.bench.go_inspect(refined[0]))
            if self.selected_job in view.interrupted:
                self.next_menu.addAction("Resume", self._resume)
            elif outputs.get("optimiser") and not outputs.get("map", [""])[0].endswith("run_class001.mrc"):
                newest = outputs["optimiser"][-1]
                self.next_menu.addAction("Continue …", lambda: self.bench.continue_from(newest))
        maps = [m for m in outputs.get("map", []) if "half" not in Path(m).stem]
        if maps:
            self.next_menu.addAction(literal("Align & recentre …"), lambda: self.bench.go_align(maps[0]))
        if outputs.get("postprocess"):
            self.next_menu.addAction("Inspect …", lambda: self.bench.go_inspect(outputs["postprocess"][0]))
        self.next_menu.addSeparator()
        for name, job_class in all_jobs().items():
            values = next_values(job_class, outputs, view.files)
            if values is not None:
                self.next_menu.addAction(
                    literal(job_class.label or name), lambda n=name, v=values: self.bench.go_job(n, v)
                )
        if not self.next_menu.actions():
            self.next_menu.addAction("Nothing to go on from here").setEnabled(False)

    def copy_command(self) -> None:
        """Put the job's last command line on the clipboard."""
        view = self.bench.view
        if view is None or not self.selected_job:
            return
        commands = commands_of(view.folder(self.selected_job))
        if commands:
            QGuiApplication.clipboard().setText(commands[-1])
            self.card.tell("info", "Command copied", commands[-1])
        else:
            self.card.tell("warning", "No command", f"{self.selected_job} has no command in its note.txt.")

    def _menu(self, where: QPoint) -> None:
        item = self.tree.itemAt(where)
        view = self.bench.view
        if item is None or view is None or not item.data(0, NAME):
            return
        self.tree.setCurrentItem(item)
        folder = view.folder(self.selected_job)
        menu = QMenu(self)
        menu.addAction("Show layers", lambda: self._show(item))
        following = menu.addMenu("Next")
        self._fill_next()
        following.addActions(self.next_menu.actions())
        menu.addAction("Copy command", self.copy_command)
        menu.addAction("Open folder", lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder))))
        menu.addSeparator()
        menu.addAction("Move to Trash", self.trash)
        menu.exec(self.tree.viewport().mapToGlobal(where))

    def trash(self) -> None:
        """Move the selected job to the project's Trash; the card that follows can bring it back."""
        view, name = self.bench.view, self.selected_job
        if view is None or not name:
            return

        def done(folder: Path) -> None:
            self.bench.refresh()
            self.card.tell(
                "info",
                f"{name} is in the Trash",
                actions=[("Undo", lambda: self._restore(name, folder))],
            )

        in_background(self, view.project.trash_job, name, done=done, failed=self.tell)

    def _restore(self, name: str, folder: Path) -> None:
        view = self.bench.view
        if view is None:
            return

        def done(_: object) -> None:
            self.bench.refresh()
            self.card.tell("good", f"{name} is back")

        in_background(self, view.project.restore_job, folder, done=done, failed=self.tell)
