"""The pipeline, its outputs, and how to look at them."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QPoint, Qt, QTimer, QUrl
from qtpy.QtGui import QColor, QDesktopServices, QDragEnterEvent, QDropEvent, QGuiApplication, QPalette
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QMenu,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_sta.data.errors import InputError, StaError
from napari_sta.jobs._job import all_jobs
from napari_sta.widgets._background import Latest, in_background
from napari_sta.widgets.cards import Card
from napari_sta.widgets.project_files import ProjectView, commands_of, next_values
from napari_sta.widgets.workbench import Dock, Workbench, literal, small_button

if TYPE_CHECKING:
    import napari.viewer

STATUS = {
    "Succeeded": ("✔", "good"),
    "Running": ("▶", "info"),
    "Scheduled": ("…", "info"),
    "Failed": ("✖", "error"),
    "Aborted": ("■", "warning"),
    "Unknown": ("", "quiet"),
}
NAME, PATH = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1


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
        self._notes = Latest(self)

        self.where = QLabel()
        self.where.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.open_button = QPushButton("Open…")
        self.open_button.setToolTip("Choose the folder that RELION was started in")
        self.again_button = small_button("⟳", "Read the project again")
        top = QHBoxLayout()
        top.addWidget(self.where, 1)
        top.addWidget(self.open_button)
        top.addWidget(self.again_button)

        self.filter = QLineEdit()
        self.filter.setPlaceholderText("filter: a job number, type, alias or file")
        self.filter.setClearButtonEnabled(True)

        self.tree = QTreeWidget()
        self.tree.setColumnCount(2)
        self.tree.setHeaderHidden(True)
        self.tree.setUniformRowHeights(True)
        self.tree.setIndentation(14)
        self.tree.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.tree.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.tree.header().setStretchLastSection(False)
        self.tree.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.tree.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)

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
        self.pages = QStackedWidget()
        self.pages.addWidget(welcome)
        self.pages.addWidget(self.tree)

        self.next_button = QPushButton("Next")
        self.next_button.setToolTip("Jobs that can use what the selected job made; fills the Job dock")
        self.next_menu = QMenu(self.next_button)
        self.next_menu.aboutToShow.connect(self._fill_next)
        self.next_button.setMenu(self.next_menu)
        self.show_button = QPushButton("Show layers")
        self.copy_button = QPushButton("Copy command")
        self.copy_button.setToolTip("Copy the command line noted in the job's note.txt")
        buttons = QHBoxLayout()
        for button in (self.next_button, self.show_button, self.copy_button):
            buttons.addWidget(button)

        self.details = QLabel()
        self.details.setWordWrap(True)
        self.details.setTextFormat(Qt.TextFormat.RichText)
        self.note = QPlainTextEdit()
        self.note.setReadOnly(True)
        self.note.setFixedHeight(126)
        self.note.setPlaceholderText("note.txt of the selected job")
        self.note_edit = QLineEdit()
        self.note_edit.setPlaceholderText("add a line to the note, then press Enter")
        self.card = Card()

        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(top)
        box.addWidget(self.filter)
        box.addWidget(self.pages, 1)
        box.addLayout(buttons)
        box.addWidget(self.details)
        box.addWidget(self.note)
        box.addWidget(self.note_edit)
        box.addWidget(self.card)
        self.setMinimumWidth(340)
        self.setAcceptDrops(True)

        self.open_button.clicked.connect(self._choose)
        self.again_button.clicked.connect(self.bench.refresh)
        self.filter.textChanged.connect(self._filter)
        self.tree.itemDoubleClicked.connect(lambda item, _column: self._show(item))
        self.tree.currentItemChanged.connect(lambda *_: self._selected())
        self.tree.customContextMenuRequested.connect(self._menu)
        self.details.linkActivated.connect(lambda _: self._resume())
        self.show_button.clicked.connect(lambda: self._show(self.tree.currentItem()))
        self.copy_button.clicked.connect(self.copy_command)
        self.note_edit.returnPressed.connect(self._add_note)
        self.bench.project_changed.connect(self._fill)
        self.bench.failed.connect(self.tell)
        self.bench.tellers.append(self)
        self.bench.placed.connect(lambda _: self.bench.refresh())
        self._fill(self.bench.view)

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
            self.note, self.note_edit, self.details,
        ):  # fmt: skip
            widget.setVisible(view is not None)
        if view is None:
            self.where.setText("No project")
            return
        self.where.setToolTip(str(view.root))
        self._elide()
        current = self.tree.currentItem()
        chosen = (self.selected_job, current.data(0, PATH) if current is not None else None)
        folded = {item.text(0) for item in self._top_items() if not item.isExpanded()}
        opened = {item.data(0, NAME) for item in self._job_items() if item.isExpanded()}
        where = self.tree.verticalScrollBar().value()
        self.tree.clear()
        groups: dict[str, QTreeWidgetItem] = {}
        for job in view.jobs:
            name = job.name.rstrip("/")
            folder, _, number = name.rpartition("/")
            if folder not in groups:
                group = QTreeWidgetItem([folder, ""])
                font = group.font(0)
                font.setBold(True)
                group.setFont(0, font)
                self.tree.addTopLevelItem(group)
                group.setExpanded(folder not in folded)
                groups[folder] = group
            mark, colour = STATUS.get(job.status, STATUS["Unknown"])
            words = [number, job.alias.rstrip("/").rpartition("/")[2], view.labels.get(name, "")]
            item = QTreeWidgetItem(["  ".join(word for word in words if word), mark])
            item.setData(0, NAME, name)
            item.setForeground(1, QColor(self.colours[colour]))
            item.setToolTip(0, f"{name}: {job.status}")
            item.setToolTip(1, job.status)
            for path in view.outputs.get(name, []):
                child = QTreeWidgetItem([path.name, ""])
                child.setData(0, NAME, name)
                child.setData(0, PATH, str(path))
                child.setToolTip(0, str(path))
                item.addChild(child)
            groups[folder].addChild(item)
            item.setExpanded(name in opened)
            for one in [item, *(item.child(i) for i in range(item.childCount()))]:
                if (name, one.data(0, PATH)) == chosen:
                    self.tree.setCurrentItem(one)
        self._filter(self.filter.text())
        self.tree.verticalScrollBar().setValue(where)
        if self.tree.currentItem() is None:
            self._selected()

    def _job_items(self) -> list[QTreeWidgetItem]:
        return [group.child(i) for group in self._top_items() for i in range(group.childCount())]

    def _top_items(self) -> list[QTreeWidgetItem]:
        return [self.tree.topLevelItem(i) for i in range(self.tree.topLevelItemCount())]

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

    def _filter(self, text: str) -> None:
        wanted = text.strip().lower()
        for group in self._top_items():
            any_shown = False
            for i in range(group.childCount()):
                job = group.child(i)
                words = [group.text(0), job.text(0), job.toolTip(0)]
                words += [job.child(k).text(0) for k in range(job.childCount())]
                shown = wanted in " ".join(words).lower()
                job.setHidden(not shown)
                any_shown = any_shown or shown
            group.setHidden(not any_shown)

    @property
    def selected_job(self) -> str:
        """Name of the selected job (``Extract/job024``), or empty."""
        item = self.tree.currentItem()
        return str(item.data(0, NAME) or "") if item is not None else ""

    def select(self, name: str) -> None:
        """Select a job by its name."""
        for item in self._job_items():
            if item.data(0, NAME) == name.rstrip("/"):
                self.tree.setCurrentItem(item)
                item.setExpanded(True)

    def _selected(self) -> None:
        name, view = self.selected_job, self.bench.view
        for button in (self.next_button, self.show_button, self.copy_button, self.note_edit):
            button.setEnabled(bool(name))
        if not name or view is None:
            self.details.setText("")
            self.note.clear()
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
        folder = view.folder(name)

        def read() -> str:
            try:
                return readable_note((folder / "note.txt").read_text(errors="replace"))
            except OSError:
                return ""

        self._notes.request(read, done=self.note.setPlainText)

    # -- acting on a job ---------------------------------------------------------------------------

    def _show(self, item: QTreeWidgetItem | None) -> None:
        view = self.bench.view
        if item is None or view is None or not item.data(0, NAME):
            return
        path = item.data(0, PATH)
        name = str(item.data(0, NAME))
        made = view.by_job.get(name, {})
        if not path and (made.get("postprocess") or made.get("refinement")):
            self.bench.go_inspect(view.folder(name))
            return
        self.bench.show([path or view.folder(name)])

    def _resume(self) -> None:
        view = self.bench.view
        if view is not None and self.selected_job in view.interrupted:
            self.bench.open_dock("job")
            self.bench.resume(view.folder(self.selected_job))

    def _fill_next(self) -> None:
        self.next_menu.clear()
        view = self.bench.view
        if view is None:
            return
        made = view.by_job.get(self.selected_job, {})
        refined = made.get("refinement", [])
        if refined:
            self.next_menu.addAction("Inspect …", lambda: self.bench.go_inspect(refined[0]))
            if self.selected_job in view.interrupted:
                self.next_menu.addAction("Resume", self._resume)
            elif made.get("optimiser") and not made.get("map", [""])[0].endswith("run_class001.mrc"):
                newest = made["optimiser"][-1]
                self.next_menu.addAction("Continue …", lambda: self.bench.continue_from(newest))
        maps = [m for m in made.get("map", []) if "half" not in Path(m).stem]
        if maps:
            self.next_menu.addAction(literal("Align & recentre …"), lambda: self.bench.go_align(maps[0]))
        if made.get("postprocess"):
            self.next_menu.addAction("Inspect …", lambda: self.bench.go_inspect(made["postprocess"][0]))
        self.next_menu.addSeparator()
        for name, job_class in all_jobs().items():
            values = next_values(job_class, made, view.files)
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

    def _add_note(self) -> None:
        view, text = self.bench.view, self.note_edit.text().strip()
        if view is None or not self.selected_job or not text:
            return
        path = view.folder(self.selected_job) / "note.txt"

        def write() -> None:
            try:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(text + "\n")
            except OSError as error:
                raise InputError(f"{path} could not be written: {error.strerror}.") from error

        def written(_: object) -> None:
            self.note_edit.clear()
            self._selected()

        in_background(self, write, done=written, failed=self.tell)

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


def readable_note(text: str) -> str:
    """Return a note.txt without the marks that RELION sets around commands; the dates of runs stay."""
    lines = []
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("++++ Executing new job on "):
            lines.append(words.removeprefix("++++ Executing new job on "))
        elif words and not words.startswith("++++"):
            lines.append(words)
    return "\n".join(lines)
