"""The command line is whole on the clipboard, however little room it has."""

from __future__ import annotations

from qtpy.QtGui import QGuiApplication

from napari_sta.widgets.command_line import CommandLine


def test_both_command_lines_can_be_copied(qtbot):
    line = CommandLine()
    qtbot.addWidget(line)
    ours, relions = "napari-sta extract " + "--x y " * 50, "relion_tomo_subtomo --o Extract/job001/"
    line.set(ours, relions)
    assert line.text() == ours
    line._copy.click()
    assert QGuiApplication.clipboard().text() == ours
    line._copy_relion.click()
    assert QGuiApplication.clipboard().text() == relions
    line.set(ours, None)
    assert not line._copy_relion.isEnabled()
    line.set("", None)
    assert line.text() == ""
