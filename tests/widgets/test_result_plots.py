"""What is under the mouse is read, what is clicked is told."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_sta.widgets.result import read_result
from napari_sta.widgets.result_plots import FscPlot, GuinierPlot, minus


@pytest.fixture
def result(processed):
    return read_result(processed / "PostProcess/job004", maps=False)


@pytest.fixture
def plot(viewer, qtbot):
    made = FscPlot(viewer)
    qtbot.addWidget(made)
    return made


def test_curves_are_those_of_the_results(plot, result, processed):
    other = read_result(processed / "PostProcess/job005", maps=False)
    plot.show_result(result, other, "job005")
    for name, values in result.curves.items():
        np.testing.assert_array_equal(plot._lines[name].get_ydata(), values)
    np.testing.assert_array_equal(plot._other_line.get_ydata(), other.curves["corrected"])
    assert plot._other_line.get_label() == "job005"
    plot.show_result(None)
    assert not any(len(line.get_xdata()) for line in (*plot._lines.values(), plot._other_line))


def test_mouse_reads_shells_and_clicks_frequencies(plot, result):
    pointed, clicked = [], []
    plot.pointed.connect(pointed.append)
    plot.clicked.connect(clicked.append)
    mouse = SimpleNamespace(inaxes=plot.panes[0], xdata=0.051)
    plot._over(mouse)
    plot._click(mouse)
    assert (pointed, clicked) == ([], [])  # nothing is shown yet
    plot.show_result(result)
    plot._over(mouse)
    plot._click(mouse)
    assert pointed == [int(np.argmin(np.abs(result.frequency_inv_angst - 0.051)))]
    assert clicked == [0.051]
    mouse.xdata = -0.01
    plot._click(mouse)
    assert len(clicked) == 1
    plot.mark_lowpass(20.0)
    assert plot._at_lowpass.get_xdata()[0] == 0.05
    plot.mark_lowpass(None)
    assert np.isnan(plot._at_lowpass.get_xdata()[0])


def test_guinier_plot_is_emptied(viewer, qtbot, result):
    plot = GuinierPlot(viewer)
    qtbot.addWidget(plot)
    plot.show_result(result)
    assert plot.panes[0].lines
    plot.show_result(None)
    assert not plot.panes[0].lines


def test_minus_is_a_minus():
    assert minus(-99.6, 0) == "−100"
    assert minus(2.25, 1) == "2.2"
