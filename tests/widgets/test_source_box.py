"""A map or a mask is chosen, dropped, and named in little room."""

from __future__ import annotations

from pathlib import Path

import pytest
from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_sta.layers.read import read_layers
from napari_sta.widgets.source_box import SourceBox


@pytest.fixture
def box(bench, qtbot, project, wait):
    bench.open_project(project)
    wait(lambda: bench.view is not None)
    made = SourceBox(bench, "map")
    qtbot.addWidget(made)
    return made


def listed(box) -> list[str]:
    return [box.combo.itemData(i) for i in range(1, box.combo.count())]


def test_value_is_what_was_set_and_changed_is_told_once(box, project):
    told = []
    box.changed.connect(lambda: told.append(box.value()))
    path = str(project / "Reconstruct/job003/half1.mrc")
    box.set_value(path)
    box.set_value(path)
    assert told == [path]
    assert box.value() == path
    box.set_value("", quiet=True)
    assert box.value() == ""
    assert told == [path]


def test_layers_come_first_then_the_projects_files(box, bench, project):
    half = str(project / "Reconstruct/job003/half2.mrc")
    bench.shown.add(read_layers(half))
    box.refresh()
    assert listed(box)[0] == half
    assert listed(box).count(half) == 1
    assert set(bench.files["map"]) <= set(listed(box))
    box.set_value("/elsewhere/map.mrc")
    assert listed(box)[0] == "/elsewhere/map.mrc"
    box.forget([Path("/elsewhere")])
    box.refresh()
    assert "/elsewhere/map.mrc" not in listed(box)
    assert box.value() == ""


def test_a_pixel_size_is_asked_for_and_kept_per_file(box):
    box.set_value("/elsewhere/silent.mrc")
    assert not box.ask.isVisibleTo(box)
    box.ask_pixel_size()
    box.pixel_size.set_value(4.5)
    box.pixel_size.editingFinished.emit()
    assert box.given_angst == 4.5
    box.set_value("/elsewhere/other.mrc")
    assert box.given_angst is None
    assert not box.ask.isVisibleTo(box)
    box.set_value("/elsewhere/silent.mrc")
    assert box.given_angst == 4.5
    assert box.ask.isVisibleTo(box)


def test_long_names_are_cut_in_the_middle(box, project):
    combo = box.combo
    box.set_value(str(project / "Reconstruct/job003/merged.mrc"), quiet=True)
    combo.resize(combo.fontMetrics().horizontalAdvance(combo.currentText()), combo.height())
    shown = combo.elided()
    assert shown.startswith("Rec")
    assert shown.endswith("…/job003/merged.mrc")
    combo.resize(100, combo.height())
    assert "…" in combo.elided()
    assert combo.elided().endswith("rc")
    combo.resize(500, combo.height())
    assert combo.elided() == "Reconstruct/job003/merged.mrc"


def test_dropped_file_is_chosen(box, project):
    path = project / "masks/mask_fsc.mrc"
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    box.dropEvent(QDropEvent(QPoint(3, 3), Qt.DropAction.CopyAction, mime, left, none))
    assert Path(box.value()) == path
