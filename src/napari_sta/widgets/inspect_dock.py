"""Look at a result: a post-processed map, to re-sharpen it live, or the iterations of a refinement."""

from __future__ import annotations

import html
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QStackedWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_sta.data.errors import InputError, StaError
from napari_sta.data.volume import Volume
from napari_sta.jobs._job import job_named
from napari_sta.layers import display_range, layer_name, map_layer, mask_layers
from napari_sta.widgets._background import Latest
from napari_sta.widgets.cards import Card
from napari_sta.widgets.dock import Dock, small_button
from napari_sta.widgets.fields import PathCombo
from napari_sta.widgets.plots import Plot
from napari_sta.widgets.project_files import ProjectView
from napari_sta.widgets.refine_history import is_refinement
from napari_sta.widgets.refine_monitor import RefineMonitor
from napari_sta.widgets.themes import mark
from napari_sta.widgets.workbench import Workbench

if TYPE_CHECKING:
    import napari.viewer

LOWEST_BFACTOR = -1500
THRESHOLD = 0.143
# Key in io.postprocess, words, colour.
CURVES = (
    ("corrected", "corrected", "amber"),
    ("masked", "masked", "green"),
    ("unmasked", "unmasked", "blue"),
    ("randomised", "phase-randomised", "pink"),
)
GUINIER = (
    ("original", "no sharpening", "blue"),
    ("mtf", "MTF-corrected", "violet"),
    ("weighted", "FSC-weighted", "green"),
    ("sharpened", "sharpened", "amber"),
)
EMPTY_SHELL = -50.0
"""RELION writes -99 for the logarithm of nothing."""
HINT = "Move over the FSC to read it; click to low-pass the map there."
IGNORED_MASK = (
    "RELION ignored the mask, because the FSC without it reaches further. Usually the mask is too tight, or "
    "off the centre."
)


@dataclass(frozen=True)
class GuinierFit:
    """A straight line through a Guinier plot; B is four times its slope.

    Attributes
    ----------
    slope_angst2, intercept
        Of ln amplitude against 1/d².
    between
        1/d² of the first and the last shell that it was fitted to; None if that cannot be told.
    """

    slope_angst2: float
    intercept: float
    between: tuple[float, float] | None


@dataclass(frozen=True)
class Result:
    """What a post-processing job left.

    Attributes
    ----------
    path
        ``postprocess.star``.
    half_map, half_map2
        As in its table; the second only where its name does not follow from the first's.
    resolution_angst, bfactor_angst2, mask_percent, mask_name
        As in its table; NaN or empty where it has none.
    curves
        Label of an FSC curve to its values, per shell.
    frequency_inv_angst
        Per shell.
    guinier
        Label to ln amplitude; ``x`` to 1/d².
    fit
        The straight line through it that gave the B-factor; None if there was none.
    warnings
        From run.err, in words.
    map, masked, mask
        What can be shown.
    sharpener
        Re-sharpens the average of the unfiltered half maps; None if they are gone.
    """

    path: Path
    resolution_angst: float
    bfactor_angst2: float
    mask_percent: float
    mask_name: str
    half_map: str
    half_map2: str
    curves: dict[str, NDArray[np.float64]]
    frequency_inv_angst: NDArray[np.float64]
    guinier: dict[str, NDArray[np.float64]]
    fit: GuinierFit | None = None
    warnings: list[str] = field(default_factory=list)
    map: Volume | None = None
    masked: Volume | None = None
    mask: Volume | None = None
    sharpener: Any = None

    @property
    def pixel_size_angst(self) -> float:
        """Of the map; from the last shell of the FSC where the map is gone."""
        if self.map is not None:
            return self.map.pixel_size_angst
        return float(0.5 / self.frequency_inv_angst[-1])


def read_result(path: str | Path, *, maps: bool = True) -> Result:
    """Read a post-processing result; in a worker.

    Parameters
    ----------
    path
        ``postprocess.star``, or the job folder that holds it.
    maps
        Whether to read the maps too.

    Raises
    ------
    InputError
        If it is no result of post-processing.
    """
    from napari_sta.io.postprocess import read_postprocess_star

    path = Path(path)
    if path.is_dir():
        path = path / "postprocess.star"
    tables = read_postprocess_star(path)
    guinier = {name: tables.log_amplitudes[key] for key, name, _ in GUINIER if key in tables.log_amplitudes}
    if guinier:
        guinier["x"] = tables.inverse_square_angst2
    fit = _fit_of(tables)
    return Result(
        path=path,
        resolution_angst=tables.number("resolution_angst"),
        bfactor_angst2=tables.number("bfactor_angst2"),
        mask_percent=tables.mask_percent,
        mask_name=str(tables.general.get("mask", "")),
        half_map=str(tables.general.get("half1", "")),
        half_map2=_second_half(path, tables.general),
        curves={name: tables.fsc[key] for key, name, _ in CURVES if key in tables.fsc},
        frequency_inv_angst=tables.frequency_inv_angst,
        guinier=guinier,
        fit=fit,
        warnings=_warnings_of(path.parent),
        **(_read_maps(path, tables.general, 0.5 / float(tables.frequency_inv_angst[-1])) if maps else {}),
    )


def _fit_of(tables: Any) -> GuinierFit | None:
    """Return the line whose slope and intercept a file gives, with the shells that lead to just this line."""
    import torch

    from napari_sta.kernels.filters import Guinier, fit_line

    slope, intercept = tables.number("slope"), tables.number("intercept")
    fitted = [tables.log_amplitudes[k] for k in ("original", "mtf", "weighted") if k in tables.log_amplitudes]
    if not fitted or not np.isfinite([slope, intercept]).all():
        return None
    x, y = tables.inverse_square_angst2, fitted[-1]
    used = np.flatnonzero((y > EMPTY_SHELL) & np.isfinite(y) & (x > 0))
    plot = Guinier(torch.from_numpy(x), torch.from_numpy(np.where(y > EMPTY_SHELL, y, -99.0)))
    # The file does not say where the fit began (nor do all job folders), but only one range gives its line.
    off = {
        int(first): abs(fit_line(plot, 1.0001 * float(x[first]) ** -0.5).slope / slope - 1)
        for first in used[:-1]
        if slope
    }
    best = min(off, key=lambda first: off[first], default=None)
    if best is None or off[best] > 5e-3:
        return GuinierFit(slope, intercept, None)
    return GuinierFit(slope, intercept, (float(x[best]), float(x[used[-1]])))


def _second_half(path: Path, general: Mapping[str, str | float]) -> str:
    """Return the second half map's name; empty if it follows from the first's."""
    from napari_sta.io.files import resolve
    from napari_sta.jobs._maps import other_half

    one, two = (str(general.get(key, "")) for key in ("half1", "half2"))
    try:
        return "" if Path(other_half(str(resolve(one, path)))) == Path(resolve(two, path)) else two
    except InputError:
        return two


def _read_maps(path: Path, general: Mapping[str, str | float], pixel_size_angst: float) -> dict[str, Any]:
    """Read what the STAR file names; its last shell tells the pixel size of maps that do not state theirs."""
    from napari_sta.io.files import resolve
    from napari_sta.io.mrc import read_volume
    from napari_sta.kernels.filters import Sharpener

    def read(key: str, beside: str = "") -> Volume | None:
        named = str(general.get(key, ""))
        try:
            here = path.parent / beside
            if not named:
                return None
            volume = read_volume(here if beside and here.is_file() else resolve(named, path))
        except InputError:
            return None
        if volume.stated_pixel_size_angst is None and key != "mask":
            volume = replace(volume, stated_pixel_size_angst=pixel_size_angst)
        return volume

    found: dict[str, Any] = {
        "map": read("map", "postprocess.mrc"),
        "masked": read("masked_map", "postprocess_masked.mrc"),
        "mask": read("mask"),
    }
    half1, half2 = read("half1"), read("half2")
    if half1 is not None and half2 is not None and half1.data.shape == half2.data.shape:
        pixel = found["map"].pixel_size_angst if found["map"] is not None else half1.pixel_size_angst
        found["sharpener"] = Sharpener((half1.data + half2.data) / 2, pixel)
    return found


def _warnings_of(folder: Path) -> list[str]:
    words: list[str] = []
    try:
        text = (folder / "run.err").read_text(errors="replace")
    except OSError:
        return words
    for line in text.splitlines():
        if "skip masking" in line.lower():
            words.append(IGNORED_MASK)
        elif "warning" in line.lower():
            words.append(re.sub(r"^[\d\-: ,]*\s*\+?\s*WARNING:?\s*", "", line.strip(), flags=re.IGNORECASE))
    return list(dict.fromkeys(words))


class InspectDock(Dock):
    """The *Inspect* dock.

    Parameters
    ----------
    viewer
        The napari viewer that shows the maps.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.bench = Workbench.of(viewer)
        self.result: Result | None = None
        self.other: Result | None = None
        self._layer: weakref.ref[Any] | None = None
        self._other_layer: weakref.ref[Any] | None = None
        self._reading = Latest(self, 30)
        self._comparing = Latest(self, 30)
        self._sharpening = Latest(self, 0)

        self.chooser = PathCombo(12)
        browse = small_button("…", "Choose a postprocess.star, or an _optimiser.star of a refinement")
        browse.clicked.connect(self._browse)
        self.compare = PathCombo(8)
        self.blink_button = QPushButton("Blink")
        self.blink_button.setToolTip("Swap the two maps (B)")
        self.blink_button.setEnabled(False)
        grid = QGridLayout()
        grid.addWidget(QLabel("Result"), 0, 0)
        grid.addWidget(self.chooser, 0, 1)
        grid.addWidget(browse, 0, 2)
        self.compare_label = QLabel("Compare")
        grid.addWidget(self.compare_label, 1, 0)
        grid.addWidget(self.compare, 1, 1)
        grid.addWidget(self.blink_button, 1, 2)
        grid.setColumnStretch(1, 1)

        self.headline = QLabel()
        self.headline.setWordWrap(True)
        self.headline.setTextFormat(Qt.TextFormat.RichText)
        self.headline.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.warning = Card()

        self.fsc = Plot(self.bench.viewer, height=210)
        self.guinier = Plot(self.bench.viewer, height=210)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.fsc, "FSC")
        self.tabs.addTab(self.guinier, "Guinier")
        self.readout = QLabel(HINT)
        self.readout.setWordWrap(True)
        mark(self.readout, "quiet")

        self.bfactor = QSlider(Qt.Orientation.Horizontal)
        self.bfactor.setRange(LOWEST_BFACTOR, 0)
        self.bfactor.setPageStep(50)
        self.bfactor_box = QDoubleSpinBox()
        self.bfactor_box.setRange(LOWEST_BFACTOR, 0)
        self.bfactor_box.setDecimals(0)
        self.bfactor_box.setSingleStep(10)
        self.bfactor_box.setSuffix(" Å²")
        # The slider runs over the Fourier shell, so that its steps are even in what can be seen.
        self.lowpass = QSlider(Qt.Orientation.Horizontal)
        self.lowpass.setRange(2, 100)
        self.lowpass_box = QDoubleSpinBox()
        self.lowpass_box.setRange(0.1, 999.0)
        self.lowpass_box.setDecimals(2)
        self.lowpass_box.setSingleStep(0.1)
        self.lowpass_box.setSuffix(" Å")
        self.lowpass_box.setSpecialValueText("off")
        for box in (self.bfactor_box, self.lowpass_box):
            box.setKeyboardTracking(False)
            box.setMinimumWidth(104)
        self.weighting = QCheckBox("FSC weighting")
        self.weighting.setChecked(True)
        self.in_mask = QCheckBox("masked")
        self.in_mask.setToolTip("Multiply the shown map by the solvent mask")
        self.original_button = QPushButton("File's values")
        self.original_button.setToolTip("Back to the map that the job wrote")
        self.save_button = QPushButton("As new job…")
        self.save_button.setToolTip("Fill the Job dock with these values; nothing runs before you press Run")
        self.controls = QWidget()
        sliders = QGridLayout(self.controls)
        sliders.setContentsMargins(0, 0, 0, 0)
        sliders.addWidget(QLabel("B-factor"), 0, 0)
        sliders.addWidget(self.bfactor, 0, 1)
        sliders.addWidget(self.bfactor_box, 0, 2)
        sliders.addWidget(QLabel("Low-pass"), 1, 0)
        sliders.addWidget(self.lowpass, 1, 1)
        sliders.addWidget(self.lowpass_box, 1, 2)
        options = QHBoxLayout()
        options.addWidget(self.weighting)
        options.addWidget(self.in_mask)
        options.addStretch(1)
        sliders.addLayout(options, 2, 0, 1, 3)
        buttons = QHBoxLayout()
        buttons.addWidget(self.original_button)
        buttons.addWidget(self.save_button)
        sliders.addLayout(buttons, 3, 0, 1, 3)
        self.card = Card()

        sharpening = QWidget()
        page = QVBoxLayout(sharpening)
        page.setContentsMargins(0, 0, 0, 0)
        page.setSpacing(5)
        page.addWidget(self.headline)
        page.addWidget(self.warning)
        page.addWidget(self.tabs, 1)
        page.addWidget(self.readout)
        page.addWidget(self.controls)
        self.monitor = RefineMonitor(self.bench)
        self.pages = QStackedWidget()
        self.pages.addWidget(sharpening)
        self.pages.addWidget(self.monitor)
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(grid)
        box.addWidget(self.pages, 1)
        box.addWidget(self.card)
        self.setMinimumWidth(360)
        self.setAcceptDrops(True)
        self._make_plots()

        self.chooser.currentIndexChanged.connect(lambda _: self._chosen())
        self.compare.currentIndexChanged.connect(lambda _: self._compare_chosen())
        self.blink_button.clicked.connect(self.blink)
        self.bfactor.valueChanged.connect(lambda value: self.bfactor_box.setValue(value))
        self.bfactor_box.valueChanged.connect(self._bfactor_changed)
        self.lowpass.valueChanged.connect(self._lowpass_slid)
        self.lowpass_box.valueChanged.connect(self._lowpass_changed)
        self.weighting.toggled.connect(lambda _: self._sharpen())
        self.in_mask.toggled.connect(lambda _: self._sharpen())
        self.original_button.clicked.connect(self.restore)
        self.save_button.clicked.connect(self.as_new_job)
        self.bench.inspect.connect(self.load)
        self.bench.project_changed.connect(self._project_changed)
        key = QShortcut(QKeySequence("B"), self)
        key.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        key.activated.connect(self.blink)
        self._project_changed(self.bench.view)
        self._show_result()

    # -- choosing ----------------------------------------------------------------------------------

    def _project_changed(self, view: ProjectView | None) -> None:
        for combo, first in ((self.chooser, "choose a result …"), (self.compare, "nothing")):
            chosen = combo.currentData()
            with QSignalBlocker(combo):
                combo.clear()
                combo.addItem(first, "")
                listed = list(self.bench.files["postprocess"])
                if combo is self.chooser:
                    listed += self.bench.files["refinement"]
                for path in listed:
                    combo.addItem(self._shown(path), path)
                if chosen and combo.findData(chosen) < 0:
                    combo.addItem(self._shown(chosen), chosen)
                combo.setCurrentIndex(max(0, combo.findData(chosen)))

    def _shown(self, path: str) -> str:
        parts = Path(path).parts
        if Path(path).is_dir():
            return "/".join(parts[-2:])
        name = "/".join(parts[-3:-1]) if Path(path).name == "postprocess.star" else "/".join(parts[-3:])
        return name

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Choose a result", str(self.bench.root or ""), "postprocess.star, _optimiser.star (*.star)"
        )
        if path:
            self.load(path)

    def load(self, path: str) -> None:
        """Show a job: its folder, its postprocess.star, or a file of a refinement."""
        star = Path(path)
        if star.is_dir() and not is_refinement(star):
            star = star / "postprocess.star"
        elif star.name != "postprocess.star" and is_refinement(star.parent):
            star = star.parent
        with QSignalBlocker(self.chooser):
            if self.chooser.findData(str(star)) < 0:
                self.chooser.addItem(self._shown(str(star)), str(star))
            self.chooser.setCurrentIndex(self.chooser.findData(str(star)))
        self._chosen()

    def dragEnterEvent(self, event: Any) -> None:
        """Take a job folder, a postprocess.star or a file of a refinement."""
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Show what was dropped."""
        self.load(event.mimeData().urls()[0].toLocalFile())
        event.acceptProposedAction()

    def _chosen(self) -> None:
        path = str(self.chooser.currentData() or "")
        # Nothing of what was shown before stands under another result's name, however this one ends.
        self._reading.cancel()
        self._clear()
        self.card.hide()
        if not path:
            self._show_result()
            return
        refines = Path(path).is_dir()
        self.pages.setCurrentIndex(int(refines))
        for widget in (self.compare_label, self.compare, self.blink_button):
            widget.setVisible(not refines)
        if refines:
            self.monitor.load(path)
            return
        self.headline.setText(f"Reading {html.escape(self._shown(path))} …")
        self._reading.request(lambda: read_result(path), done=self._arrived, failed=self._not_read)

    def _clear(self) -> None:
        """Show no result: neither numbers nor curves, and no map to sharpen."""
        self.result = None
        self._layer = None
        self._sharpening.cancel()
        self.controls.setEnabled(False)
        self.tabs.setEnabled(False)
        self.headline.setText("")
        self.warning.hide()
        self.readout.setText(HINT)
        for line in (*self._fsc_lines.values(), self._other_line):
            line.set_data([], [])
        for line in (self._at_cursor, self._at_lowpass):
            line.set_xdata([np.nan, np.nan])
        self.fsc.draw_idle()
        self.guinier.clear(self.guinier.panes[0])
        self.guinier.restyle()

    def _not_read(self, error: StaError) -> None:
        self._clear()
        self._show_result()
        self.card.tell("error", "The result cannot be shown", str(error))

    def _arrived(self, result: Result) -> None:
        if self.bench.closed:
            return
        self.result = result
        first = not self.bench.viewer.layers
        name = layer_name(result.path)
        tuples: list[Any] = []
        if result.mask is not None:
            tuples += mask_layers(result.mask, name=f"{name} · mask")
            tuples[0][1]["visible"] = False  # the contour says enough over a map that is already masked
        if result.map is not None:
            tuples.insert(0, map_layer(result.map, name=name))
        self.bench.stage.leave()  # the half maps of a refinement may have it
        layers = self.bench.shown.add(tuples)
        self._layer = weakref.ref(layers[0]) if result.map is not None else None
        if self._layer is not None:
            self.bench.shown.uncover(layers[0], layers[1:])
            self.bench.viewer.layers.selection.active = layers[0]
        if first and layers:
            self.bench.viewer.fit_to_view()
            # The middle of the box, not its first slice.
            for axis in self.bench.viewer.dims.not_displayed:
                self.bench.viewer.dims.set_point(axis, 0.0)
        self._show_result()

    # -- showing -----------------------------------------------------------------------------------

    def _make_plots(self) -> None:
        axis = self.fsc.panes[0]
        self._fsc_lines = {}
        for _, name, colour in CURVES:
            (self._fsc_lines[name],) = axis.plot([], [], lw=1.4, label=name)
            self.fsc.tint(colour, self._fsc_lines[name])
        (self._other_line,) = axis.plot([], [], "--", lw=1.2)
        self._at_cursor = axis.axvline(np.nan, lw=0.8)
        self._at_lowpass = axis.axvline(np.nan, lw=1.4)
        self.fsc.tint("strong", self._other_line)
        self.fsc.tint("grey", axis.axhline(THRESHOLD, lw=0.8, ls=":"), self._at_cursor)
        self.fsc.tint("violet", self._at_lowpass)
        self.fsc.moving(self._at_cursor, self._at_lowpass)
        axis.set_ylim(-0.08, 1.04)
        axis.set_xlim(0, 0.2)
        axis.set_xlabel("resolution, Å")
        axis.set_ylabel("FSC")
        axis.xaxis.set_major_formatter(lambda x, _: "∞" if x <= 0 else f"{1 / x:.3g}")
        self.fsc.mpl_connect("motion_notify_event", self._over_fsc)
        self.fsc.mpl_connect("button_press_event", self._clicked_fsc)
        self.fsc.setCursor(Qt.CursorShape.CrossCursor)

    def _show_result(self) -> None:
        result = self.result
        self.controls.setEnabled(result is not None and result.sharpener is not None)
        self.tabs.setEnabled(result is not None)
        if result is None:
            self.headline.setText("Choose a Post-processing or 3D auto-refine job, or drop its folder here.")
            return
        self._show_comparison()
        if result.warnings:
            actions = []
            if IGNORED_MASK in result.warnings:
                actions = [("Check mask alignment", self._check_mask)]
            words = "\n".join(result.warnings[:3])
            self.warning.tell(
                "warning", "The job warned", words, actions=actions, job=job_named("postprocess")
            )
        else:
            self.warning.hide()
        self._draw_guinier()
        self._reset_sliders()

    def _show_comparison(self) -> None:
        """Say the numbers, and draw the FSC, of the result and of the one it is compared with."""
        result = self.result
        assert result is not None
        parts = [f"<b style='font-size:14pt'>{result.resolution_angst:.2f} Å</b> at FSC 0.143"]
        if np.isfinite(result.bfactor_angst2):
            parts.append(f"B {_minus(result.bfactor_angst2, 0)} Å²")
        if np.isfinite(result.mask_percent):
            parts.append(f"mask {result.mask_percent:.1f} % of box")
        pixel = result.pixel_size_angst
        parts += [f"{pixel:.4g} Å/px", f"Nyquist {2 * pixel:.4g} Å"]
        if self.other is not None:
            better = self.other.resolution_angst - result.resolution_angst
            by = "neither better nor worse than"
            if better:
                by = f"{abs(better):.2f} Å {'better' if better > 0 else 'worse'} than"
            parts.append(
                f"<br>{by} {html.escape(self._shown(str(self.other.path)))} "
                f"({self.other.resolution_angst:.2f} Å)"
            )
        self.headline.setText(" · ".join(parts).replace(" · <br>", "<br>"))
        self._draw_fsc()

    def _check_mask(self) -> None:
        if self.result is not None and self.result.map is not None and self.result.mask is not None:
            self.bench.go_align(self.result.map.path, self.result.mask.path)

    def _draw_fsc(self) -> None:
        result = self.result
        assert result is not None
        axis = self.fsc.panes[0]
        for name, line in self._fsc_lines.items():
            values = result.curves.get(name)
            line.set_data(result.frequency_inv_angst, values) if values is not None else line.set_data([], [])
        if self.other is not None and "corrected" in self.other.curves:
            self._other_line.set_data(self.other.frequency_inv_angst, self.other.curves["corrected"])
            self._other_line.set_label(self._shown(str(self.other.path)))
        else:
            self._other_line.set_data([], [])
            self._other_line.set_label("_")
        axis.set_xlim(0, float(result.frequency_inv_angst[-1]))
        self.fsc.legend(axis, loc="upper right")
        self.fsc.draw_idle()

    def _draw_guinier(self) -> None:
        result = self.result
        assert result is not None
        plot, axis = self.guinier, self.guinier.panes[0]
        plot.clear(axis)
        axis.set_xlabel("1/d², 1/Å²")
        axis.set_ylabel("ln F")
        x = result.guinier.get("x")
        if x is None:
            axis.text(0.5, 0.5, "no Guinier table in this file", transform=axis.transAxes, ha="center")
            plot.tint("grey", *axis.texts)
            plot.restyle()
            return
        fit = result.fit
        useful = []
        for _, name, colour in GUINIER:
            values = result.guinier.get(name)
            if values is None:
                continue
            real = (values > EMPTY_SHELL) & np.isfinite(values)
            plot.tint(colour, *axis.plot(x[real], values[real], lw=1.4, label=name))
            useful.append(values[real & (x >= _first_useful(x))])
        if fit is not None:
            low, high = fit.between or (0.0, float(x[-1]))
            line = np.array([low, high])
            words = f"fit: B {_minus(4 * fit.slope_angst2, 0)} Å²"
            plot.tint(
                "pink", *axis.plot(line, fit.intercept + fit.slope_angst2 * line, "--", lw=1.8, label=words)
            )
            if fit.between is not None:
                plot.tint("grey", axis.axvspan(low, high, alpha=0.15, lw=0))
                where = f"fitted from {low**-0.5:.3g} to {high**-0.5:.3g} Å"
                axis.set_title(where)
        values = np.concatenate(useful) if useful else np.zeros(0)
        if values.size:
            bottom, top = float(values.min()), float(values.max())
            room = max(top - bottom, 0.5)
            # The curves fall to the right: the free corner for the legend is above them.
            axis.set_ylim(bottom - 0.06 * room, top + 0.55 * room)
        axis.set_xlim(0, float(x[-1]))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        plot.legend(axis, loc="upper right", ncols=2)
        plot.restyle()

    def _over_fsc(self, event: Any) -> None:
        result = self.result
        if result is None or event.inaxes is None or event.xdata is None or event.xdata <= 0:
            return
        shell = int(np.argmin(np.abs(result.frequency_inv_angst - event.xdata)))
        frequency = float(result.frequency_inv_angst[shell])
        self._at_cursor.set_xdata([frequency, frequency])
        values = [f"{name} {curve[shell]:.3f}" for name, curve in result.curves.items()]
        self.readout.setText(f"<b>{1 / max(frequency, 1e-6):.2f} Å</b>: " + " · ".join(values))
        self.fsc.redraw_moving()

    def _clicked_fsc(self, event: Any) -> None:
        if self.result is None or event.inaxes is None or event.xdata is None or event.xdata <= 0:
            return
        self.lowpass_box.setValue(1 / float(event.xdata))

    # -- sharpening --------------------------------------------------------------------------------

    def _reset_sliders(self) -> None:
        result = self.result
        if result is None:
            return
        n = len(result.frequency_inv_angst) - 1
        sliders = (self.bfactor, self.bfactor_box, self.lowpass, self.lowpass_box)
        blocked = [QSignalBlocker(widget) for widget in (*sliders, self.weighting, self.in_mask)]
        b = result.bfactor_angst2 if np.isfinite(result.bfactor_angst2) else 0.0
        lowest = min(LOWEST_BFACTOR, int(1.5 * b))
        self.bfactor.setMinimum(lowest)
        self.bfactor_box.setMinimum(lowest)
        self.bfactor.setValue(round(b))
        self.bfactor_box.setValue(b)
        self.lowpass.setRange(2, max(3, n))
        self.lowpass_box.setRange(2 * result.pixel_size_angst, 999.0)
        # FSC weighting takes the place of a low-pass in RELION's Post-processing: off, at Nyquist.
        self.lowpass_box.setValue(self.lowpass_box.minimum())
        self.lowpass.setValue(self.lowpass.maximum())
        self.weighting.setChecked(True)
        self.in_mask.setChecked(False)
        self.in_mask.setEnabled(result.mask is not None)
        del blocked
        self._mark_lowpass()

    def _shell_of(self, resolution_angst: float) -> int:
        assert self.result is not None
        return round(float(np.interp(1 / resolution_angst, self.result.frequency_inv_angst,
                                     np.arange(len(self.result.frequency_inv_angst)))))  # fmt: skip

    def _bfactor_changed(self, value: float) -> None:
        with QSignalBlocker(self.bfactor):
            self.bfactor.setValue(round(value))
        self._sharpen()

    def _lowpass_slid(self, shell: int) -> None:
        if self.result is not None:
            frequency = self.result.frequency_inv_angst[min(shell, len(self.result.frequency_inv_angst) - 1)]
            self.lowpass_box.setValue(1 / float(frequency))

    def _lowpass_changed(self, resolution: float) -> None:
        if self.result is None:
            return
        with QSignalBlocker(self.lowpass):
            self.lowpass.setValue(self._shell_of(resolution))
        self._mark_lowpass()
        self._sharpen()

    @property
    def lowpass_angst(self) -> float | None:
        """The low-pass that the slider asks for; None at Nyquist."""
        value = self.lowpass_box.value()
        return float(value) if value > self.lowpass_box.minimum() else None

    def _mark_lowpass(self) -> None:
        lowpass = self.lowpass_angst
        at = 1 / lowpass if lowpass else np.nan
        self._at_lowpass.set_xdata([at, at])
        self.fsc.redraw_moving()

    def _sharpen(self) -> None:
        """Sharpen with the sliders' values, in a worker; only the newest values count."""
        result = self.result
        if result is None or result.sharpener is None:
            return
        b, lowpass = self.bfactor_box.value(), self.lowpass_angst
        fsc = result.curves.get("corrected") if self.weighting.isChecked() else None
        mask = result.mask.data if self.in_mask.isChecked() and result.mask is not None else None

        def work() -> tuple[NDArray[np.float32], tuple[float, float, float]]:
            data = result.sharpener(b, lowpass, fsc)
            if mask is not None and mask.shape == data.shape:
                data = data * mask
            return data, display_range(data)

        self._sharpening.request(
            work,
            done=lambda answer: self._show_map(*answer),
            failed=lambda error: self.card.tell("error", "Sharpening failed", str(error)),
        )

    def _show_map(self, data: NDArray[np.float32], limits: tuple[float, float, float]) -> None:
        layer = self._layer() if self._layer is not None else None
        if self.bench.closed or self.result is None:
            return
        if layer is None or layer not in self.bench.viewer.layers:
            name = layer_name(self.result.path)
            [layer] = self.bench.shown.add([map_layer(Volume(data, self.result.pixel_size_angst), name=name)])
            self._layer = weakref.ref(layer)
        self.bench.shown.uncover(layer, [one for one in self.bench.ours("mask", "contour") if one.visible])
        layer.data = data
        layer.contrast_limits_range = (float(data.min()), float(data.max()))
        layer.contrast_limits = limits[:2]
        layer.iso_threshold = limits[2]

    def restore(self) -> None:
        """Show the map as the job wrote it."""
        result = self.result
        if result is None:
            return
        self._sharpening.cancel()
        self._reset_sliders()
        if result.map is not None:
            self._show_map(result.map.data, display_range(result.map.data))

    def as_new_job(self) -> None:
        """Fill the Job dock with the sliders' values."""
        result = self.result
        if result is None:
            return
        root = self.bench.root or Path()
        values = {
            "in_half_map": str(root / result.half_map) if result.half_map else "",
            "in_half_map2": str(root / result.half_map2) if result.half_map2 else None,
            "in_mask": str(root / result.mask_name) if result.mask_name else "",
            "auto_bfactor": False,
            "adhoc_bfactor_angst2": self.bfactor_box.value(),
            "lowpass_angst": self.lowpass_angst,
            "skip_fsc_weighting": not self.weighting.isChecked(),
        }
        self.bench.go_job("postprocess", values)

    # -- comparing ---------------------------------------------------------------------------------

    def _compare_chosen(self) -> None:
        path = str(self.compare.currentData() or "")
        self._comparing.cancel()
        self.other, self._other_layer = None, None
        self.blink_button.setEnabled(False)
        if self.result is not None:
            self._show_comparison()
        if not path:
            return
        self._comparing.request(
            lambda: read_result(path),
            done=self._other_arrived,
            failed=lambda error: self.card.tell("error", "The comparison cannot be shown", str(error)),
        )

    def _other_arrived(self, other: Result) -> None:
        if self.bench.closed:
            return
        self.other = other
        if other.map is not None:
            tuples = [map_layer(other.map, name=layer_name(other.path))]
            tuples[0][1]["visible"] = False
            self._other_layer = weakref.ref(self.bench.shown.add(tuples)[0])
        self.blink_button.setEnabled(other.map is not None)
        if self.result is not None:
            self._show_comparison()

    def blink(self) -> None:
        """Swap this map and the one compared with."""
        here = self._layer() if self._layer is not None else None
        there = self._other_layer() if self._other_layer is not None else None
        if here is None or there is None or self.other is None:
            return
        here.visible, there.visible = there.visible, not there.visible
        if here.visible == there.visible:
            here.visible = not there.visible


def _first_useful(x: NDArray[np.float64]) -> float:
    """Return the 1/d² from which a Guinier plot tells something: below are box and envelope."""
    return min(float(30.0**-2), float(x[-1]) / 4)


def _minus(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}".replace("-", "−")
