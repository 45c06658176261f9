"""The curves are those of the iterations."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from napari_sta.widgets.refine_curves import draw_curves
from napari_sta.widgets.refine_history import Iteration


def test_curves_are_of_the_iterations():
    def one(number: int, resolution: float) -> Iteration:
        fsc = np.linspace(1, 0, 13) ** number
        return Iteration(
            number, resolution, 0.5 + 0.1 * number, 1.875, 2.0, 24, fsc, 96.0, accuracy_deg=1.0 * number or None,
            changes_deg=5.0 / number, is_last=False,
        )  # fmt: skip

    iterations = (one(1, 30.0), one(2, 20.0), one(3, 16.0))
    figure = Figure(figsize=(3.6, 2.9))
    draw_curves(figure, {"background": "#000000", "text": "#ffffff", "line": "#888888"}, iterations, 2)
    fsc, resolution, angles, p_max = figure.axes
    curves = {tuple(line.get_ydata()): line for line in fsc.lines[1:]}
    assert len(curves) == 3
    chosen = curves[tuple(iterations[1].fsc)]
    assert [line.get_color() == chosen.get_color() for line in curves.values()] == [False, True, False]
    np.testing.assert_allclose(chosen.get_xdata(), np.arange(13) / 96.0)
    np.testing.assert_array_equal(resolution.lines[0].get_xydata(), [[1, 30], [2, 20], [3, 16]])
    named = {line.get_label(): list(line.get_ydata()) for line in angles.lines}
    assert named["step"] == [1.875] * 3
    assert named["change"] == [5.0, 2.5, 5.0 / 3]
    assert named["accuracy"] == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(p_max.lines[0].get_ydata(), [0.6, 0.7, 0.8])
    assert [list(axis.lines[-1].get_xdata()) for axis in (resolution, angles, p_max)] == [[2, 2]] * 3
    # Nothing is cut off at the top.
    assert angles.get_ylim()[1] > 5
    assert resolution.get_ylim()[1] > 30
