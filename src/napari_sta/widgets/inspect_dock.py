"""Look at a result: a post-processed map, to re-sharpen it live, or the iterations of a refinement."""

from __future__ import annotations

import html
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QLabel,
    QPushButton,
    QStackedWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_sta.data.errors import StaError
from napari_sta.data.volume import Volume
from napari_sta.jobs._job import job_named
from napari_sta.layers.keywords import layer_name
from napari_sta.layers.volumes import display_range, map_layer, mask_layers
from napari_sta.widgets._background import Latest
from napari_sta.widgets.cards import Card
from napari_sta.widgets.dock import Dock, small_button
from napari_sta.widgets.fields import PathCombo
from napari_sta.widgets.project_files import ProjectView
from napari_sta.widgets.refine_history import is_refinement
from napari_sta.widgets.refine_monitor import RefineMonitor
from napari_sta.widgets.result import IGNORED_MASK, Result, read_result
from napari_sta.widgets.result_plots import FscPlot, GuinierPlot, minus
from napari_sta.widgets.sharpen_panel import SharpenPanel
from napari_sta.widgets.themes import mark
from napari_sta.widgets.workbench import Workbench

if TYPE_CHECKING:
    import napari.viewer

HINT = "Move over the FSC to read it; click to low-pass the map there."


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

        self.card = Card()
        self.controls = SharpenPanel()
        self.monitor = RefineMonitor(self.bench)
        self.pages = QStackedWidget()
        self.pages.addWidget(self._sharpening_page())
        self.pages.addWidget(self.monitor)
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(self._choices())
        box.addWidget(self.pages, 1)
        box.addWidget(self.card)
        self.setMinimumWidth(360)
        self.setAcceptDrops(True)
        self._connect()
        self._project_changed(self.bench.view)
        self._show_result()

    def _choices(self) -> QGridLayout:
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
        return grid

    def _sharpening_page(self) -> QWidget:
        self.headline = QLabel()
        self.headline.setWordWrap(True)
        self.headline.setTextFormat(Qt.TextFormat.RichText)
        self.headline.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.warning = Card()

        self.fsc = FscPlot(self.bench.viewer)
        self.guinier = GuinierPlot(self.bench.viewer)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.fsc, "FSC")
        self.tabs.addTab(self.guinier, "Guinier")
        self.readout = QLabel(HINT)
        self.readout.setWordWrap(True)
        mark(self.readout, "quiet")
        widget = QWidget()
        page = QVBoxLayout(widget)
        page.setContentsMargins(0, 0, 0, 0)
        page.setSpacing(5)
        page.addWidget(self.headline)
        page.addWidget(self.warning)
        page.addWidget(self.tabs, 1)
        page.addWidget(self.readout)
        page.addWidget(self.controls)
        return widget

    def _connect(self) -> None:
        self.chooser.currentIndexChanged.connect(lambda _: self._chosen())
        self.compare.currentIndexChanged.connect(lambda _: self._compare_chosen())
        self.blink_button.clicked.connect(self.blink)
        self.fsc.pointed.connect(self._read_out)
        self.fsc.clicked.connect(lambda frequency: self.controls.lowpass_box.setValue(1 / frequency))
        self.controls.lowpass_changed.connect(self.fsc.mark_lowpass)
        self.controls.changed.connect(self._sharpen)
        self.controls.original_button.clicked.connect(self.restore)
        self.controls.save_button.clicked.connect(self.as_new_job)
        self.bench.inspect.connect(self.load)
        self.bench.project_changed.connect(self._project_changed)
        key = QShortcut(QKeySequence("B"), self)
        key.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        key.activated.connect(self.blink)

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
        self.controls.set_result(None)
        self.tabs.setEnabled(False)
        self.headline.setText("")
        self.warning.hide()
        self.readout.setText(HINT)
        self.fsc.show_result(None)
        self.guinier.show_result(None)

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

    def _show_result(self) -> None:
        result = self.result
        self.tabs.setEnabled(result is not None)
        if result is None:
            self.controls.set_result(None)
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
        self.guinier.show_result(result)
        self.controls.set_result(result)

    def _show_comparison(self) -> None:
        """Say the numbers, and draw the FSC, of the result and of the one it is compared with."""
        result = self.result
        assert result is not None
        parts = [f"<b style='font-size:14pt'>{result.resolution_angst:.2f} Å</b> at FSC 0.143"]
        if np.isfinite(result.bfactor_angst2):
            parts.append(f"B {minus(result.bfactor_angst2, 0)} Å²")
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
        self.fsc.show_result(result, self.other, self._shown(str(self.other.path)) if self.other else "")

    def _check_mask(self) -> None:
        if self.result is not None and self.result.map is not None and self.result.mask is not None:
            self.bench.go_align(self.result.map.path, self.result.mask.path)

    def _read_out(self, shell: int) -> None:
        """Say the values of the shell that the mouse is over."""
        result = self.result
        if result is not None:
            frequency = float(result.frequency_inv_angst[shell])
            values = [f"{name} {curve[shell]:.3f}" for name, curve in result.curves.items()]
            self.readout.setText(f"<b>{1 / max(frequency, 1e-6):.2f} Å</b>: " + " · ".join(values))

    # -- sharpening --------------------------------------------------------------------------------

    def _sharpen(self) -> None:
        """Sharpen with the sliders' values, in a worker; only the newest values count."""
        result = self.result
        if result is None or result.sharpener is None:
            return
        asked = self.controls.value()
        fsc = result.curves.get("corrected") if asked.fsc_weighting else None
        mask = result.mask.data if asked.in_mask and result.mask is not None else None

        def work() -> tuple[NDArray[np.float32], tuple[float, float, float]]:
            data = result.sharpener(asked.bfactor_angst2, asked.lowpass_angst, fsc)
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
        self.bench.shown.uncover(layer, [mask for mask in self.bench.ours("mask", "contour") if mask.visible])
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
        self.controls.set_result(result)
        if result.map is not None:
            self._show_map(result.map.data, display_range(result.map.data))

    def as_new_job(self) -> None:
        """Fill the Job dock with the sliders' values."""
        result = self.result
        if result is None:
            return
        root = self.bench.root or Path()
        asked = self.controls.value()
        values = {
            "in_half_map": str(root / result.half_map) if result.half_map else "",
            "in_half_map2": str(root / result.half_map2) if result.half_map2 else None,
            "in_mask": str(root / result.mask_name) if result.mask_name else "",
            "auto_bfactor": False,
            "adhoc_bfactor_angst2": asked.bfactor_angst2,
            "lowpass_angst": asked.lowpass_angst,
            "skip_fsc_weighting": not asked.fsc_weighting,
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
