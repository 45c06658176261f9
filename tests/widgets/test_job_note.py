"""A note is read without RELION's marks, and a line is added."""

from __future__ import annotations

import pytest

from napari_sta.widgets.job_note import JobNote, readable_note


@pytest.fixture
def note(qtbot):
    made = JobNote()
    qtbot.addWidget(made)
    return made


def test_marks_of_relion_are_left_out():
    text = " ++++ Executing new job on Mon\n ++++ with the following command(s): \n\nrelion_x --o a\n ++++ \n"
    assert readable_note(text) == "Mon\nrelion_x --o a"


def test_a_line_is_added_and_shown(note, tmp_path, wait):
    (tmp_path / "note.txt").write_text("picked by hand\n")
    note.set_folder(tmp_path)
    wait(lambda: note.text.toPlainText() == "picked by hand")
    note.edit.setText("  the good ones ")
    note.edit.returnPressed.emit()
    wait(lambda: "the good ones" in note.text.toPlainText())
    assert (tmp_path / "note.txt").read_text() == "picked by hand\nthe good ones\n"
    assert note.edit.text() == ""


def test_what_cannot_be_written_is_told_and_kept(note, tmp_path, wait):
    errors = []
    note.failed.connect(errors.append)
    note.set_folder(tmp_path / "gone")
    note.edit.setText("lost?")
    note.edit.returnPressed.emit()
    wait(lambda: bool(errors))
    assert "note.txt could not be written" in str(errors[0])
    assert note.edit.text() == "lost?"


def test_no_job_is_no_note(note, tmp_path, wait):
    (tmp_path / "note.txt").write_text("old")
    note.set_folder(tmp_path)
    wait(lambda: note.text.toPlainText() == "old")
    note.set_folder(None)
    assert note.text.toPlainText() == ""
    assert not note.edit.isEnabled()
