"""The jobs of a project as a tree: by type, with the files that can be shown."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem

from napari_sta.io.project.listing import ProjectJob
from napari_sta.widgets.project_files import ProjectView

STATUS = {
    "Succeeded": ("✔", "good"),
    "Running": ("▶", "info"),
    "Scheduled": ("…", "info"),
    "Failed": ("✖", "error"),
    "Aborted": ("■", "warning"),
    "Unknown": ("", "quiet"),
}
NAME, PATH = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1
"""Where an item keeps its job's name and its file's path."""


class ProjectTree(QTreeWidget):
    """Jobs and their files; what is selected, folded and scrolled to stays when it is filled anew."""

    def __init__(self) -> None:
        super().__init__()
        self._wanted = ""
        self.setColumnCount(2)
        self.setHeaderHidden(True)
        self.setUniformRowHeights(True)
        self.setIndentation(14)
        self.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.header().setStretchLastSection(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)

    def fill(self, view: ProjectView, colours: Mapping[str, str]) -> None:
        """Show a project as it is now.

        Parameters
        ----------
        view
            The project.
        colours
            The theme's.
        """
        current = self.currentItem()
        chosen = (self.selected_job, current.data(0, PATH) if current is not None else None)
        folded = {item.text(0) for item in self._groups() if not item.isExpanded()}
        opened = {item.data(0, NAME) for item in self.job_items() if item.isExpanded()}
        where = self.verticalScrollBar().value()
        self.clear()
        groups: dict[str, QTreeWidgetItem] = {}
        for job in view.jobs:
            folder = job.name.rstrip("/").rpartition("/")[0]
            if folder not in groups:
                groups[folder] = self._add_group(folder, expanded=folder not in folded)
            item = _job_item(job, view, colours)
            name = str(item.data(0, NAME))
            groups[folder].addChild(item)
            item.setExpanded(name in opened)
            for row in [item, *(item.child(i) for i in range(item.childCount()))]:
                if (name, row.data(0, PATH)) == chosen:
                    self.setCurrentItem(row)
        self.filter(self._wanted)
        self.verticalScrollBar().setValue(where)

    def _add_group(self, folder: str, *, expanded: bool) -> QTreeWidgetItem:
        group = QTreeWidgetItem([folder, ""])
        font = group.font(0)
        font.setBold(True)
        group.setFont(0, font)
        self.addTopLevelItem(group)
        group.setExpanded(expanded)
        return group

    def job_items(self) -> list[QTreeWidgetItem]:
        """Return the item of each job."""
        return [group.child(i) for group in self._groups() for i in range(group.childCount())]

    def _groups(self) -> list[QTreeWidgetItem]:
        return [self.topLevelItem(i) for i in range(self.topLevelItemCount())]

    def filter(self, text: str) -> None:
        """Hide the jobs in whose number, type, alias, status and files a text is not found."""
        self._wanted = text
        wanted = text.strip().lower()
        for group in self._groups():
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
        item = self.currentItem()
        return str(item.data(0, NAME) or "") if item is not None else ""

    def select(self, name: str) -> None:
        """Select a job by its name."""
        for item in self.job_items():
            if item.data(0, NAME) == name.rstrip("/"):
                self.setCurrentItem(item)
                item.setExpanded(True)


def _job_item(job: ProjectJob, view: ProjectView, colours: Mapping[str, str]) -> QTreeWidgetItem:
    name = job.name.rstrip("/")
    number = name.rpartition("/")[2]
    mark, colour = STATUS.get(job.status, STATUS["Unknown"])
    words = [number, job.alias.rstrip("/").rpartition("/")[2], view.labels.get(name, "")]
    item = QTreeWidgetItem(["  ".join(word for word in words if word), mark])
    item.setData(0, NAME, name)
    item.setForeground(1, QColor(colours[colour]))
    item.setToolTip(0, f"{name}: {job.status}")
    item.setToolTip(1, job.status)
    for path in view.outputs.get(name, []):
        child = QTreeWidgetItem([path.name, ""])
        child.setData(0, NAME, name)
        child.setData(0, PATH, str(path))
        child.setToolTip(0, str(path))
        item.addChild(child)
    return item
