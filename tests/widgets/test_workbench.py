"""The docks of a viewer share a workbench; it takes what is dropped."""

from __future__ import annotations

import pytest
from qt_loop import settle
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_sta.widgets import add_docks
from napari_sta.widgets.dock import in_sight
from napari_sta.widgets.workbench import DOCKS, Workbench


def test_docks_open_tabbed_and_the_workbench_is_shared(make_napari_viewer, small_project):
    viewer = make_napari_viewer(show=False)
    bench = add_docks(viewer, [small_project.root])
    assert settle(lambda: bench.view is not None)
    assert Workbench.of(viewer) is bench
    for key in DOCKS:
        assert bench.open_dock(key).bench is bench
    other = make_napari_viewer(show=False)
    assert Workbench.of(other) is not bench


@pytest.mark.parametrize("what", ["map", "job", "star", "project"])
def test_drop_on_the_canvas_is_read_in_a_worker(make_napari_viewer, small_project, what):
    viewer = make_napari_viewer(show=False)
    bench = Workbench.of(viewer)
    path = {
        "map": small_project.map_path,
        "job": small_project.map_path.parent,
        "star": small_project.particles_path,
        "project": small_project.root,
    }[what]
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    event = QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, mime, left, none)
    # Qt delivers a drop only in the course of a real drag: hand it to the filter, as Qt would.
    assert bench.eventFilter(viewer.window._qt_viewer, event)
    assert len(viewer.layers) == 0  # nothing was read while the event was handled
    assert settle(lambda: bench.view is not None and (what == "project" or len(viewer.layers) > 0))
    assert bench.view.root == small_project.root


def test_error_behind_a_tab_is_a_notification(make_napari_viewer, small_project, tmp_path, monkeypatch):
    """The Project dock would show it as a card, but another dock lies in front."""
    from napari.utils import notifications

    told = []
    monkeypatch.setattr(notifications, "show_error", told.append)
    bench = add_docks(make_napari_viewer(show=True), [small_project.root])
    assert settle(lambda: bench.view is not None)
    project = bench.open_dock("project")
    settle(project.isVisible)
    bench.take(tmp_path / "first.mrc")
    assert settle(lambda: "first.mrc" in project.card.text)
    assert not told
    bench.open_dock("align")
    assert settle(lambda: not in_sight(project))
    bench.take(tmp_path / "second.mrc")
    assert settle(lambda: bool(told))
    assert "second.mrc" in told[0]
