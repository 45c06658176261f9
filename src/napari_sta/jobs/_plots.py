"""Figures that jobs leave beside their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sta.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FSC_STYLE = {
    "corrected": ("corrected", "black", 2.0),
    "unmasked": ("unmasked", "tab:green", 1.0),
    "masked": ("masked", "tab:blue", 1.0),
    "randomised": ("phase-randomised", "tab:red", 1.0),
}
_GUINIER_STYLE = {
    "original": ("original", "tab:green"),
    "mtf": ("MTF-corrected", "tab:cyan"),
    "weighted": ("FSC-weighted", "tab:blue"),
    "sharpened": ("sharpened", "tab:red"),
}


def plot_postprocess(
    out: Path,
    edge_angst: float,
    fsc: Mapping[str, NDArray[np.float64]],
    inverse_square_angst2: NDArray[np.float64],
    log_amplitudes: Mapping[str, NDArray[np.float64]],
    resolution_angst: float,
    bfactor_angst2: float,
    fit: tuple[float, float, float] | None,
) -> None:
    """Write ``postprocess_fsc.png``, ``postprocess_guinier.png`` and both on one page, ``logfile.pdf``.

    Parameters
    ----------
    edge_angst
        Box size · pixel size.
    fit
        Slope, intercept and lowest resolution (Å) of the Guinier fit.
    """
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    def draw_fsc(axis) -> None:  # type: ignore[no-untyped-def]
        k = np.arange(len(next(iter(fsc.values())))) / edge_angst
        for key, (name, colour, width) in _FSC_STYLE.items():
            if key in fsc:
                axis.plot(k, fsc[key], color=colour, lw=width, label=name)
        axis.axhline(0.143, color="grey", lw=0.8, ls="--")
        axis.axhline(0, color="grey", lw=0.5)
        ticks = [t for t in axis.get_xticks() if 0 < t <= k[-1]]
        axis.set_xticks(ticks, [f"{1 / t:.1f}" for t in ticks])
        axis.set_xlim(0, k[-1])
        axis.set_ylim(-0.1, 1.05)
        axis.set_xlabel("resolution (Å)")
        axis.set_ylabel("Fourier shell correlation")
        axis.set_title(f"{resolution_angst:.2f} Å at FSC 0.143")
        axis.legend(frameon=False)

    def draw_guinier(axis) -> None:  # type: ignore[no-untyped-def]
        for key, (name, colour) in _GUINIER_STYLE.items():
            if key in log_amplitudes:
                seen = log_amplitudes[key] > -99
                axis.plot(inverse_square_angst2[seen], log_amplitudes[key][seen], color=colour, label=name)
        if fit is not None:
            slope, intercept, lowest = fit
            x = np.array([lowest**-2, inverse_square_angst2[-1]])
            axis.plot(x, intercept + slope * x, color="black", ls="--", label="fit")
        axis.set_xlabel("1 / resolution² (1/Å²)")
        axis.set_ylabel("ln mean amplitude")
        axis.set_title(f"B-factor {bfactor_angst2:.0f} Å²")
        axis.legend(frameon=False)

    for name, draw in (("postprocess_fsc.png", draw_fsc), ("postprocess_guinier.png", draw_guinier)):
        figure = Figure(figsize=(6, 4), layout="constrained")
        draw(figure.subplots())
        _save(figure, out / name, dpi=150)
    figure = Figure(figsize=(8.3, 9.5), layout="constrained")
    FigureCanvasPdf(figure)
    upper, lower = figure.subplots(2, 1)
    draw_fsc(upper)
    draw_guinier(lower)
    _save(figure, out / "logfile.pdf")


def _save(figure: Figure, path: Path, **how: Any) -> None:
    """Write a figure; made in memory first, because matplotlib hides from us that a disk is full."""
    made = BytesIO()
    figure.savefig(made, format=path.suffix[1:], **how)
    with replacing(path) as temporary:
        temporary.write_bytes(made.getvalue())
