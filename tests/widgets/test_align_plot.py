"""The curves are those of the pair; dragging them gives the offset under the mouse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_sta.widgets.align_pair import read_pair
from napari_sta.widgets.align_plot import OffsetPlot


@pytest.fixture(scope="module")
def pair(small_project):
    paths = {"map": str(small_project.map_path), "mask": str(small_project.mask_path)}
    return read_pair(paths, {"map": None, "mask": None}, None).pair


@pytest.fixture
def plot(viewer, qtbot, pair):
    made = OffsetPlot(viewer)
    qtbot.addWidget(made)
    made.show_pair(pair, 1.5)
    return made


def test_mask_and_cursor_follow_the_offset(plot, pair):
    n = len(pair.curve.profile_mask)
    for offset_px in (1.5, -2.0):
        plot.move_to(offset_px)
        np.testing.assert_allclose(plot._mask_line.get_xdata(), np.arange(n) - n // 2 + offset_px)
        assert list(plot._cursor.get_xdata()) == [offset_px, offset_px]
        assert plot._here.get_ydata()[0] == pytest.approx(pair.score_at(offset_px))
    np.testing.assert_array_equal(plot._score_line.get_xdata(), pair.curve.offset_px)


@pytest.mark.parametrize(("pane", "expected"), [(0, [2.5]), (1, [3.0, 4.0])])
def test_a_profile_is_dragged_along_and_the_score_jumps_there(plot, pane, expected):
    """The score's axis is the offset itself; a profile is taken where it was grabbed."""
    told, held = [], []
    plot.dragged.connect(told.append)
    plot.held.connect(held.append)
    mouse = SimpleNamespace(inaxes=plot.panes[pane], xdata=3.0)
    plot._press(mouse)
    mouse.xdata = 4.0
    plot._drag(mouse)
    plot._release(mouse)
    plot._drag(mouse)
    assert told == expected
    assert held == [True, False]


def test_nothing_compared_is_nothing_drawn(plot):
    plot.show_pair(None, 0.0)
    for line in (plot._map_line, plot._mask_line, plot._score_line, plot._peaks):
        assert len(line.get_xdata()) == 0
    told = []
    plot.dragged.connect(told.append)
    plot._press(SimpleNamespace(inaxes=plot.panes[1], xdata=3.0))
    plot.move_to(2.0)
    assert told == []
