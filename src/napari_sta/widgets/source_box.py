"""Choose a map or a mask: from the viewer's layers, the project, or any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_sta.widgets.dock import small_button
from napari_sta.widgets.fields import NumberField, PathCombo
from napari_sta.widgets.of_viewer import lies_in, path_of
from napari_sta.widgets.workbench import Workbench


class SourceBox(QWidget):
    """A map or a mask: from the viewer's layers, the project, or any file.

    A file whose header states no pixel size is asked for it in a field below.
    """

    changed = Signal()

    def __init__(self, bench: Workbench, what: str) -> None:
        super().__init__()
        self.bench = bench
        self.what = what
        self.kinds = ("mask",) if what == "mask" else ("map", "half")
        self._extra: list[str] = []
        self._given: dict[str, float] = {}
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(3)
        box.addLayout(self._choice())
        box.addWidget(self._question())
        self.refresh()
        self.combo.currentIndexChanged.connect(self._chosen)
        self.pixel_size.editingFinished.connect(self._pixel_size_typed)
        self.setAcceptDrops(True)

    def _choice(self) -> QHBoxLayout:
        self.combo = PathCombo()
        browse = small_button("…", "Choose a file")
        browse.clicked.connect(self._browse)
        row = QHBoxLayout()
        row.setSpacing(2)
        row.addWidget(self.combo, 1)
        row.addWidget(browse)
        return row

    def _question(self) -> QWidget:
        self.pixel_size = NumberField()
        self.pixel_size.configure(integer=False, optional=True, placeholder="Å", gt=0)
        self.ask = QWidget()
        row = QHBoxLayout(self.ask)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Pixel size (Å)"))
        row.addWidget(self.pixel_size)
        row.addStretch(1)
        self.ask.hide()
        return self.ask

    def refresh(self, *_: object) -> None:
        """List what there is now; the choice stays."""
        chosen = self.value()
        with QSignalBlocker(self.combo):
            self.combo.clear()
            self.combo.addItem(f"choose a {self.what} …", "")
            listed = set()
            layers = [path_of(layer) for layer in reversed(self.bench.ours(*self.kinds))]
            for path in [*self._extra, *layers, *self.bench.files[self.what], chosen]:
                if path and path not in listed:
                    listed.add(path)
                    self.combo.addItem(self._shown(path), path)
                    self.combo.setItemData(self.combo.count() - 1, path, Qt.ItemDataRole.ToolTipRole)
            self._select(chosen)

    def _shown(self, path: str) -> str:
        root = self.bench.root
        if root is not None and Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
        return str(Path(*Path(path).parts[-3:]))

    def _select(self, path: str) -> None:
        self.combo.setCurrentIndex(max(0, self.combo.findData(path)))

    def value(self) -> str:
        """Return the chosen file, or empty."""
        return str(self.combo.currentData() or "")

    def set_value(self, path: str, *, quiet: bool = False) -> None:
        """Choose a file, listed or not."""
        if self.combo.findData(path) < 0 and path:
            self._extra.insert(0, path)
            self.refresh()
        before = self.value()
        with QSignalBlocker(self.combo):
            self._select(path)
        self._show_pixel_size()
        if self.value() != before and not quiet:
            self.changed.emit()

    def forget(self, folders: list[Path]) -> None:
        """Offer nothing that lay in these folders any more."""
        self._extra = [p for p in self._extra if not lies_in(p, folders)]
        if lies_in(self.value(), folders):
            with QSignalBlocker(self.combo):
                self.combo.setCurrentIndex(0)

    @property
    def given_angst(self) -> float | None:
        """The pixel size given for the chosen file, whose header states none."""
        return self._given.get(self.value())

    def ask_pixel_size(self) -> None:
        """Show the field for it."""
        self.ask.show()
        self.pixel_size.setFocus()

    def _show_pixel_size(self) -> None:
        given = self.given_angst
        with QSignalBlocker(self.pixel_size):
            self.pixel_size.set_value(given)
        self.ask.setVisible(given is not None)

    def _chosen(self) -> None:
        self._show_pixel_size()
        self.changed.emit()

    def _pixel_size_typed(self) -> None:
        value = self.pixel_size.value()
        if not self.ask.isVisibleTo(self) or value == self.given_angst or not self.value():
            return
        if value is not None and value > 0:
            self._given[self.value()] = float(value)
        else:
            self._given.pop(self.value(), None)
        self.changed.emit()

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, f"Choose a {self.what}", str(self.bench.root or ""), "Maps (*.mrc *.map);;All files (*)"
        )
        if path:
            self.set_value(path)

    def dragEnterEvent(self, event: Any) -> None:
        """Take one local file."""
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Choose the dropped file."""
        self.set_value(event.mimeData().urls()[0].toLocalFile())
        event.acceptProposedAction()
