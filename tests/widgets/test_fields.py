"""A number that may be left open, a path that can be picked or dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_sta.widgets.fields import NumberField, PathField


@pytest.mark.parametrize("value", [2.75, 1e-7, -123456.789012, 0.1 + 0.2, 1 / 3, 0.0])
def test_number_field_keeps_every_digit_it_shows(qtbot, value):
    field = NumberField()
    qtbot.addWidget(field)
    field.configure(integer=False, optional=True)
    field.set_value(value)
    assert field.value() == value
    field.lineEdit().selectAll()
    qtbot.keyClicks(field.lineEdit(), f"{value:.15g}")
    assert field.value() == pytest.approx(value, rel=1e-14)


def test_number_field_refuses_letters_and_steps_within_bounds(qtbot):
    field = NumberField()
    qtbot.addWidget(field)
    field.configure(integer=True, optional=False, gt=0)
    field.set_value(2)
    qtbot.keyClicks(field.lineEdit(), "x")
    assert field.value() == 2
    field.stepBy(-1)
    assert field.value() == 1
    field.stepBy(-1)
    assert field.value() == 1
    field.stepBy(3)
    assert field.value() == 4


def test_path_field_shows_paths_from_the_project_folder(qtbot, tmp_path):
    field = PathField()
    qtbot.addWidget(field)
    inside, outside = str(tmp_path / "Extract/job001/particles.star"), "/elsewhere/particles.star"
    field.set_choices([inside, outside], tmp_path)
    assert [field.combo.itemText(i) for i in range(2)] == ["Extract/job001/particles.star", outside]
    field.set_value(inside)
    assert field.value() == "Extract/job001/particles.star"
    field.set_choices([outside], tmp_path)  # a refresh must not lose the choice
    assert field.value() == "Extract/job001/particles.star"
    field.set_value(None)
    assert field.value() == ""


def test_file_dropped_on_a_path_field_fills_it(qtbot, tmp_path):
    field = PathField()
    qtbot.addWidget(field)
    path = tmp_path / "mask.mrc"
    path.touch()
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    field.dropEvent(QDropEvent(QPoint(3, 3), Qt.DropAction.CopyAction, mime, left, none))
    assert Path(field.value()) == path
