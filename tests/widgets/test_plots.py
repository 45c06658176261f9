"""Plots wear the theme; what moves is drawn over what stays; pictures are drawn in a thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from qtpy.QtGui import QColor

from napari_sta.widgets.plots import Picture, Plot
from napari_sta.widgets.themes import colours_of


@pytest.fixture
def plot(viewer, qtbot):
    made = Plot(viewer, rows=2)
    qtbot.addWidget(made)
    made.resize(300, 200)
    return made


def test_artists_are_tinted_by_name_on_each_theme(plot, viewer):
    (line,) = plot.panes[0].plot([0, 1], [0, 1])
    plot.tint("blue", line)
    for theme in ("light", "dark"):
        viewer.theme = theme
        assert QColor(line.get_color()) == QColor(colours_of(viewer)["blue"])


def test_what_is_cleared_is_tinted_no_more(plot, viewer):
    axis = plot.panes[1]
    plot.tint("blue", *axis.plot([0, 1], [0, 1], label="x"))
    plot.legend(axis)
    plot.clear(axis)
    assert plot._tinted == []
    viewer.theme = "light"
    assert axis.get_legend() is None


def test_moving_artists_are_drawn_over_the_kept_background(plot):
    (line,) = plot.panes[0].plot([0, 1], [0.5, 0.5], lw=6)
    plot.moving(line)
    plot.draw()
    before = np.array(plot.buffer_rgba())
    line.set_ydata([0.9, 0.9])
    plot.redraw_moving()
    moved = np.array(plot.buffer_rgba())
    assert (before != moved).any()
    line.set_ydata([0.5, 0.5])
    plot.redraw_moving()
    np.testing.assert_array_equal(plot.buffer_rgba(), before)


def test_picture_is_drawn_in_a_thread_the_newest_last(viewer, qtbot, wait):
    picture = Picture(viewer)
    qtbot.addWidget(picture)
    picture.resize(160, 140)
    picture.show()
    drawn = []

    def draw(text):
        return lambda figure, colours: drawn.append((text, threading.current_thread()))

    picture.show_figure(draw("first"))
    picture.show_figure(draw("second"))
    wait(lambda: picture.idle and picture._image is not None)
    assert drawn[-1][0] == "second"
    assert all(thread is not threading.main_thread() for _, thread in drawn)
    assert (picture._image.width(), picture._image.height()) == (160, 140)
