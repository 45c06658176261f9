"""What all docks share."""

from __future__ import annotations

import pytest
from qtpy.QtWidgets import QDockWidget, QWidget

from napari_sta.widgets import add_docks
from napari_sta.widgets.dock import Dock, in_sight, literal, name_tab, small_button
from napari_sta.widgets.workbench import DOCKS


def test_tab_is_named_without_the_plugin(qtbot):
    tab, inside = QDockWidget("Align && recentre (napari-sta)"), QWidget()
    qtbot.addWidget(tab)
    tab.setWidget(inside)
    name_tab(inside)
    assert tab.windowTitle() == "Align && recentre"
    name_tab(inside)
    assert tab.windowTitle() == "Align && recentre"
    name_tab(QWidget())  # in no dock: nothing to name


@pytest.mark.parametrize(("text", "shown"), [("a & b", "a && b"), ("plain", "plain")])
def test_an_ampersand_is_no_underline(text, shown):
    assert literal(text) == shown


def test_a_dock_follows_the_theme(viewer, qtbot):
    class Counting(Dock):
        recoloured = 0

        def recolour(self) -> None:
            self.recoloured += 1

    viewer.theme = "dark"
    dock = Counting(viewer)
    qtbot.addWidget(dock)
    before, sheet = dict(dock.colours), dock.styleSheet()
    assert dock.recoloured == 0
    viewer.theme = "light"
    assert dock.recoloured == 1
    assert dock.colours["background"] != before["background"]
    assert dock.styleSheet() != sheet


def test_what_is_hidden_is_not_in_sight(qtbot):
    widget = small_button("…", "Choose a file")
    qtbot.addWidget(widget)
    assert not in_sight(widget)
    widget.show()
    assert in_sight(widget)
    assert widget.toolTip() == "Choose a file"


def test_docks_fill_their_place(make_napari_viewer):
    """napari adds a stretch below docks that do not want the room, a larger one for every dock."""
    bench = add_docks(make_napari_viewer(show=False))
    for key in DOCKS:
        layout = bench.open_dock(key).layout()
        items = [layout.itemAt(i) for i in range(layout.count())]
        assert all(item.spacerItem() is None for item in items), key
