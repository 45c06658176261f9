"""The note of a job: what RELION and its user have written there, and a line more."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QPlainTextEdit, QVBoxLayout, QWidget

from napari_sta.data.errors import InputError
from napari_sta.widgets._background import Latest, in_background


class JobNote(QWidget):
    """``note.txt`` of one job's folder.

    Attributes
    ----------
    failed
        A line could not be added (argument: the error).
    """

    failed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._reading = Latest(self)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setFixedHeight(126)
        self.text.setPlaceholderText("note.txt of the selected job")
        self.edit = QLineEdit()
        self.edit.setPlaceholderText("add a line to the note, then press Enter")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(5)
        box.addWidget(self.text)
        box.addWidget(self.edit)
        self.edit.returnPressed.connect(self._add_line)

    def set_folder(self, folder: Path | None) -> None:
        """Show the note in a folder; None: no job is selected."""
        self._folder = folder
        self.edit.setEnabled(folder is not None)
        if folder is None:
            self.text.clear()
            return

        def read() -> str:
            try:
                return readable_note((folder / "note.txt").read_text(errors="replace"))
            except OSError:
                return ""

        self._reading.request(read, done=self.text.setPlainText)

    def _add_line(self) -> None:
        folder, text = self._folder, self.edit.text().strip()
        if folder is None or not text:
            return
        path = folder / "note.txt"

        def write() -> None:
            try:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(text + "\n")
            except OSError as error:
                raise InputError(f"{path} could not be written: {error.strerror}.") from error

        def written(_: object) -> None:
            self.edit.clear()
            self.set_folder(self._folder)

        in_background(self, write, done=written, failed=self.failed.emit)


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
