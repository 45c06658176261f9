"""The curves of a refinement's iterations: FSC, resolution, angles, Pmax; no Qt, for a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from napari_sta.widgets.plots import add_legend, dress
from napari_sta.widgets.refine_history import Iteration
from napari_sta.widgets.themes import on_theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = 0.143


def draw_curves(
    figure: Figure, colours: Mapping[str, str], iterations: Sequence[Iteration], chosen: int
) -> None:
    """Draw FSC, resolution, angles and Pmax of a refinement's iterations; no Qt, for a thread.

    Parameters
    ----------
    figure
        Empty.
    colours
        The theme's.
    iterations
        At least it.
    chosen
        Number of the one that stands out.
    """
    background = colours["background"]
    colours = on_theme(background, background, colours["text"], colours["line"])
    panes = figure.subplots(2, 2)
    # Margins in hundredths of an inch, whatever the size: a layout engine takes several times as long.
    width, height = (100 * float(edge) for edge in figure.get_size_inches())
    left, right, top, bottom, between_columns, between_rows = 32, 8, 20, 32, 40, 54
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height,
        wspace=2 * between_columns / max(width - left - right - between_columns, 20),
        hspace=2 * between_rows / max(height - top - bottom - between_rows, 20),
    )  # fmt: skip
    fsc, resolution, angles, p_max = panes.ravel()
    fsc.set_title("FSC of the half maps")
    fsc.set_ylim(-0.08, 1.04)
    fsc.axhline(THRESHOLD, color=colours["grey"], lw=0.8, ls=":")
    fsc.xaxis.set_major_formatter(lambda x, _: "∞" if x <= 0 else f"{1 / x:.3g}")
    fsc.xaxis.set_major_locator(MaxNLocator(5))
    fsc.set_xlabel("Å", labelpad=0)
    for it in iterations:
        now = it.number == chosen
        fsc.plot(
            it.frequency_inv_angst, it.fsc, color=colours["amber"] if now else colours["grey"],
            lw=1.7 if now else 0.9, zorder=3 if now else 2,
        )  # fmt: skip
    fsc.set_xlim(0, max(float(it.frequency_inv_angst[-1]) for it in iterations))

    numbers = [it.number for it in iterations]
    curves = (
        (resolution, "", colours["amber"], [it.resolution_angst for it in iterations]),
        (p_max, "", colours["green"], [it.p_max for it in iterations]),
        (angles, "change", colours["pink"], [it.changes_deg for it in iterations]),
        (angles, "accuracy", colours["blue"], [it.accuracy_deg for it in iterations]),
    )
    steps = [it.sampling_deg for it in iterations]
    angles.plot(numbers, steps, color=colours["violet"], lw=1.2, drawstyle="steps-mid", label="step")
    for axis, label, colour, values in curves:
        known = [float("nan") if value is None else value for value in values]
        axis.plot(numbers, known, color=colour, marker="o", ms=3, lw=1.3, label=label)
    for axis, title in ((resolution, "resolution, Å"), (angles, "angles, °"), (p_max, "Pmax")):
        axis.set_title(title)
        axis.axvline(chosen, color=colours["grey"], lw=0.8, zorder=1)
        axis.set_xlim(0.6, max(*numbers, 3) + 0.4)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    p_max.set_ylim(0, 1.04)
    resolution.set_ylim(0, 1.1 * max(it.resolution_angst for it in iterations))
    # Room for the legend above the curves.
    angles.set_ylim(0, 1.35 * max([*steps, *[it.changes_deg or 0 for it in iterations]]))
    for axis in (angles, p_max):
        axis.set_xlabel("iteration", labelpad=0)
    for axis in panes.ravel():
        dress(axis, colours)
    narrow = {"handlelength": 0.7, "columnspacing": 0.5, "handletextpad": 0.2, "fontsize": 6.5}
    add_legend(angles, colours, loc="upper center", ncols=3, **narrow)
