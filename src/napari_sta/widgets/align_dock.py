"""Overlay a mask on a map, read the offset between them, recentre the particles by it.

Convention: the offset d is how far the map's density lies from the mask along +Z, in map pixels. The mask
drawn at +d covers the density, and the density at Z = d becomes the centre: ``center_z_px = d``.
"""

from __future__ import annotations

import html
import math
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtGui import QFocusEvent, QKeyEvent, QKeySequence, QMouseEvent, QShortcut
from qtpy.QtWidgets import (
    QApplication,
    QButtonGroup,
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_sta.data.errors import InputError, StaError
from napari_sta.data.volume import Volume
from napari_sta.jobs._job import Job, job_named
from napari_sta.layers import is_job_folder, map_layer, mask_layers
from napari_sta.widgets import _napari_private
from napari_sta.widgets._background import Latest, in_background
from napari_sta.widgets.cards import Card
from napari_sta.widgets.command_line import CommandLine
from napari_sta.widgets.dock import Dock, small_button
from napari_sta.widgets.fields import NumberField, PathCombo
from napari_sta.widgets.plots import Plot
from napari_sta.widgets.project_files import ProjectView, settings_of
from napari_sta.widgets.run_queue import Ticket
from napari_sta.widgets.themes import mark
from napari_sta.widgets.words import in_plain_words
from napari_sta.widgets.workbench import Workbench

if TYPE_CHECKING:
    import napari.viewer

RANGE_PX = 20.0
STEP_PX, FINE_PX, COARSE_PX = 0.25, 0.05, 1.0
SETTLE_MS = 150
BURST_S = 0.4
"""Steps by keys that follow on one another faster than this are undone together."""


@dataclass(frozen=True)
class Pair:
    """A map and a mask, read and scored.

    Attributes
    ----------
    map, mask
        As read, each on its own grid.
    curve
        Score against offset along Z, with candidates, from :func:`napari_sta.kernels.alignment.score_curve`.
    notes
        What was done to bring the mask to the map's grid.
    """

    map: Volume
    mask: Volume
    curve: Any
    notes: str


@dataclass(frozen=True)
class Before:
    """What was chosen when recentring was applied: where Undo goes back to.

    Attributes
    ----------
    map_path, mask_path
        As in the boxes.
    particles
        Kind and path.
    offset_zyx_px
        Map pixels.
    """

    map_path: str
    mask_path: str
    particles: tuple[str, str]
    offset_zyx_px: tuple[float, float, float]


def step_for_modifiers() -> float:
    """Return the step that the keys held down ask for: Shift 1 px, Alt 0.05 px, else 0.25 px."""
    held = QApplication.keyboardModifiers()
    if held & Qt.KeyboardModifier.ShiftModifier:
        return COARSE_PX
    if held & Qt.KeyboardModifier.AltModifier:
        return FINE_PX
    return STEP_PX


class OffsetBox(QDoubleSpinBox):
    """The offset as a signed number; Up and Down step by 0.25, with Shift by 1, with Alt by 0.05.

    Attributes
    ----------
    held
        A key or a mouse button that steps the number went down (True) or up (False).
    undone
        Ctrl+Z, but for digits being typed: those are the text's own to undo.
    """

    held = Signal(bool)
    undone = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setDecimals(2)
        self.setRange(-500.0, 500.0)
        self.setSingleStep(STEP_PX)
        self.setKeyboardTracking(False)
        self.setAlignment(Qt.AlignmentFlag.AlignRight)

    def textFromValue(self, value: float) -> str:
        """Show the sign always."""
        return f"{value:+.2f}" if round(value, 2) else "0.00"

    def stepBy(self, steps: int) -> None:
        """Step by what the held keys ask for."""
        direction = 1 if steps > 0 else -1
        self.setValue(self.value() + direction * step_for_modifiers())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Let Alt+Up and Shift+Up step too, which a spin box ignores; undo steps."""
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self.held.emit(True)
            self.stepBy(1 if event.key() == Qt.Key.Key_Up else -1)
            event.accept()
            return
        if event.matches(QKeySequence.StandardKey.Undo) and not self.lineEdit().isUndoAvailable():
            self.undone.emit()
            event.accept()
            return
        super().keyPressEvent(event)

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        """End what a held key did."""
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down) and not event.isAutoRepeat():
            self.held.emit(False)
        super().keyReleaseEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Take what a held arrow button does as one change."""
        self.held.emit(True)
        super().mousePressEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End it."""
        super().mouseReleaseEvent(event)
        self.held.emit(False)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Miss no release."""
        super().focusOutEvent(event)
        self.held.emit(False)


class SourceBox(QWidget):
    """A map or a mask: from the viewer's layers, the project, or any file.

    A file whose header states no pixel size is asked for it in a field below.
    """

    changed = Signal()

    def __init__(self, bench: Workbench, what: str) -> None:
        super().__init__()
        self.bench = bench
        self.what = what
        self.kinds = ("mask",) if what == "mask" else ("map", "half")
        self.combo = PathCombo()
        browse = small_button("…", "Choose a file")
        browse.clicked.connect(self._browse)
        self.pixel_size = NumberField()
        self.pixel_size.configure(integer=False, optional=True, placeholder="Å", gt=0)
        self.ask = QWidget()
        below = QHBoxLayout(self.ask)
        below.setContentsMargins(0, 0, 0, 0)
        below.addWidget(QLabel("Pixel size (Å)"))
        below.addWidget(self.pixel_size)
        below.addStretch(1)
        self.ask.hide()
        row = QHBoxLayout()
        row.setSpacing(2)
        row.addWidget(self.combo, 1)
        row.addWidget(browse)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(3)
        box.addLayout(row)
        box.addWidget(self.ask)
        self._extra: list[str] = []
        self._given: dict[str, float] = {}
        self.refresh()
        self.combo.currentIndexChanged.connect(self._chosen)
        self.pixel_size.editingFinished.connect(self._pixel_size_typed)
        self.setAcceptDrops(True)

    def refresh(self, *_: object) -> None:
        """List what there is now; the choice stays."""
        chosen = self.path()
        with QSignalBlocker(self.combo):
            self.combo.clear()
            self.combo.addItem(f"choose a {self.what} …", "")
            seen = set()
            shown = reversed(self.bench.ours(*self.kinds))
            layers = [path_of(layer) for layer in shown]
            for path in [*self._extra, *layers, *self.bench.files[self.what], chosen]:
                if path and path not in seen:
                    seen.add(path)
                    self.combo.addItem(self._shown(path), path)
                    self.combo.setItemData(self.combo.count() - 1, path, Qt.ItemDataRole.ToolTipRole)
            self._select(chosen)

    def _shown(self, path: str) -> str:
        root = self.bench.root
        if root is not None and Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
        return str(Path(*Path(path).parts[-3:]))

    def _select(self, path: str) -> None:
        self.combo.setCurrentIndex(max(0, self.combo.findData(path)))

    def path(self) -> str:
        """Return the chosen file, or empty."""
        return str(self.combo.currentData() or "")

    def set_path(self, path: str, *, quiet: bool = False) -> None:
        """Choose a file, listed or not."""
        if self.combo.findData(path) < 0 and path:
            self._extra.insert(0, path)
            self.refresh()
        before = self.path()
        with QSignalBlocker(self.combo):
            self._select(path)
        self._show_pixel_size()
        if self.path() != before and not quiet:
            self.changed.emit()

    def forget(self, folders: Sequence[Path]) -> None:
        """Offer nothing that lay in these folders any more."""
        self._extra = [p for p in self._extra if not _in_any(p, folders)]
        if _in_any(self.path(), folders):
            with QSignalBlocker(self.combo):
                self.combo.setCurrentIndex(0)

    @property
    def given_angst(self) -> float | None:
        """The pixel size given for the chosen file, whose header states none."""
        return self._given.get(self.path())

    def ask_pixel_size(self) -> None:
        """Show the field for it."""
        self.ask.show()
        self.pixel_size.setFocus()

    def _show_pixel_size(self) -> None:
        given = self.given_angst
        with QSignalBlocker(self.pixel_size):
            self.pixel_size.setValue(given)
        self.ask.setVisible(given is not None)

    def _chosen(self) -> None:
        self._show_pixel_size()
        self.changed.emit()

    def _pixel_size_typed(self) -> None:
        value = self.pixel_size.value()
        if not self.ask.isVisibleTo(self) or value == self.given_angst or not self.path():
            return
        if value is not None and value > 0:
            self._given[self.path()] = float(value)
        else:
            self._given.pop(self.path(), None)
        self.changed.emit()

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, f"Choose a {self.what}", str(self.bench.root or ""), "Maps (*.mrc *.map);;All files (*)"
        )
        if path:
            self.set_path(path)

    def dragEnterEvent(self, event: Any) -> None:
        """Take one local file."""
        urls = event.mimeData().urls()
        if len(urls) == 1 and urls[0].isLocalFile():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Choose the dropped file."""
        self.set_path(event.mimeData().urls()[0].toLocalFile())
        event.acceptProposedAction()


class AlignDock(Dock):
    """The *Align & recentre* dock.

    Parameters
    ----------
    viewer
        The napari viewer that shows map and mask.
    """

    moved = Signal(float)

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.bench = Workbench.of(viewer)
        self.pair: Pair | None = None
        self._offset = np.zeros(3)  # z, y, x
        self._history: list[tuple[float, ...]] = []  # what Ctrl+Z goes back to
        self._gesture, self._noted = False, False  # a drag or a held key; whether it is in the history
        self._changed_at = -math.inf
        self._layers: dict[str, list[weakref.ref[Any]]] = {"map": [], "mask": []}
        self._slid: set[int] = set()  # layers that moved on the canvas only, until the drag settles
        self._base: dict[int, NDArray[np.float64]] = {}
        self._scored: dict[int, Any] = {}  # the data of a layer whose map or mask was scored
        self._moving_layers = False
        self._adding = False
        self._former: list[weakref.ref[Any]] = []  # layers of the pair before this one
        self._hidden: weakref.WeakSet[Any] = weakref.WeakSet()  # those of pairs before that
        self._loading = False
        self._refusal = ""  # why what is chosen cannot be compared
        self._compared = ("", "")  # map and mask of the last pair
        self._reading = Latest(self, 30)
        self._planning = Latest(self, 200)
        self._applied: Ticket | None = None
        self._applying = False
        self._placing: list[Any] | None = None
        self._before: Before | None = None
        self._going_back: Before | None = None
        self._plan: Job | None = None
        self._map_settings: dict[str, str] = {}
        self._pan_before = True

        self.map_box = SourceBox(self.bench, "map")
        self.mask_box = SourceBox(self.bench, "mask")
        self.symmetry = QLineEdit("C1")
        self.symmetry.setFixedWidth(44)
        self.symmetry.setToolTip("Point group of the map. Cn leaves only Z free: X or Y would break it.")
        self.x_box, self.y_box = OffsetBox(), OffsetBox()
        for box in (self.x_box, self.y_box):
            box.setFixedWidth(80)
        self.sideways = QWidget()
        self.lock = QLabel()
        mark(self.lock, "warning")
        self.offset_box = OffsetBox()
        self.offset_box.setToolTip("Up/Down 0.25 px · Shift 1 px · Alt 0.05 px; also on the canvas")
        font = self.offset_box.font()
        font.setPointSizeF(font.pointSizeF() * 1.35)
        font.setBold(True)
        self.offset_box.setFont(font)
        self.offset_box.setMinimumWidth(112)
        self.angstrom = QLabel()
        self.drag_button = QPushButton("Drag")
        self.drag_button.setCheckable(True)
        self.drag_button.setToolTip("Drag the mask along Z in the XZ view")
        self.xz_button = QPushButton("XZ")
        self.xz_button.setToolTip("Slice through the centre; +Z points down")

        self.plot = Plot(self.bench.viewer, rows=2, height=200)
        self._make_plot()

        self.suggest_button = QPushButton("Suggest")
        self.suggest_button.setToolTip("Jump to the best offset; nothing is written")
        self.candidates = QHBoxLayout()
        self.candidates.setSpacing(3)
        self.reset_button = QPushButton("Reset")
        self.reset_button.setToolTip("Back to 0")
        self.confidence = QLabel()
        self.confidence.setWordWrap(True)

        self.mask_moves = QRadioButton("mask moves")
        self.map_moves = QRadioButton("map moves")
        self.map_moves.setToolTip("What the next reconstruction will look like")
        self.mask_moves.setChecked(True)
        group = QButtonGroup(self)
        group.addButton(self.mask_moves)
        group.addButton(self.map_moves)
        self.sentence = QLabel()
        self.sentence.setWordWrap(True)
        self.sentence.setTextFormat(Qt.TextFormat.RichText)
        self.sentence.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

        self.mend_button = QPushButton("Show both again")
        self.mend_button.setToolTip("Read map and mask anew and put them where the offset says")
        self.mend_button.hide()

        self.particles = PathCombo()
        self.again = QCheckBox("Then reconstruct")
        self.again.setChecked(True)
        self.again_how = QLabel()
        mark(self.again_how, "quiet")
        self.apply_button = QPushButton("Apply recentring")
        mark(self.apply_button, "go")
        self.apply_button.setEnabled(False)
        self.undo_button = QPushButton("Undo")
        self.undo_button.setToolTip("Move the recentring job to the Trash")
        self.undo_button.setEnabled(False)
        self.command = CommandLine()
        self.card = Card()
        self._lay_out()

        self.map_box.changed.connect(self._sources_changed)
        self.mask_box.changed.connect(self._sources_changed)
        self.symmetry.textChanged.connect(self._symmetry_changed)
        for one in (self.offset_box, self.x_box, self.y_box):
            one.held.connect(lambda down: self._begin_gesture(burst=True) if down else self._end_gesture())
            one.undone.connect(self.step_back)
        self.offset_box.valueChanged.connect(lambda value: self.set_offset(value))
        self.x_box.valueChanged.connect(lambda value: self._set_axis(2, value))
        self.y_box.valueChanged.connect(lambda value: self._set_axis(1, value))
        self.drag_button.toggled.connect(self._drag_toggled)
        self.xz_button.clicked.connect(self.show_xz)
        self.suggest_button.clicked.connect(self.suggest)
        self.reset_button.clicked.connect(lambda: self.set_offset(0.0))
        self.mask_moves.toggled.connect(lambda _: self._place_layers(settle=True))
        self.particles.currentIndexChanged.connect(lambda _: self._replan())
        self.again.toggled.connect(lambda _: self._replan())
        self.mend_button.clicked.connect(self._sources_changed)
        self.apply_button.clicked.connect(self.apply)
        self.undo_button.clicked.connect(self.undo)
        self.bench.align.connect(self.load)
        self.bench.project_changed.connect(self._project_changed)
        viewer_layers = self.bench.viewer.layers
        viewer_layers.events.inserted.connect(self._layers_changed)
        viewer_layers.events.removed.connect(self._layers_changed)
        back = QShortcut(QKeySequence.StandardKey.Undo, self)
        back.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        back.activated.connect(self.step_back)

        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(lambda: self._place_layers(settle=True))
        self._canvas_look = QTimer(self)
        self._canvas_look.setSingleShot(True)
        self._canvas_look.setInterval(0)
        self._canvas_look.timeout.connect(self._look_at_canvas)
        canvas = _napari_private.canvas_of(self.bench.viewer)
        canvas.installEventFilter(self)
        self._bind_undo(self.bench.viewer)  # where no layer is selected, or one that has none of its own
        self._symmetry_changed()
        self._project_changed(self.bench.view)
        self._show_numbers()

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setVerticalSpacing(4)
        grid.setHorizontalSpacing(6)
        grid.addWidget(QLabel("Map"), 0, 0)
        grid.addWidget(self.map_box, 0, 1)
        grid.addWidget(QLabel("Mask"), 1, 0)
        grid.addWidget(self.mask_box, 1, 1)
        row = QHBoxLayout()
        row.addWidget(self.symmetry)
        row.addWidget(self.lock)
        sideways = QHBoxLayout(self.sideways)
        sideways.setContentsMargins(0, 0, 0, 0)
        sideways.addWidget(QLabel("X"))
        sideways.addWidget(self.x_box)
        sideways.addWidget(QLabel("Y"))
        sideways.addWidget(self.y_box)
        row.addWidget(self.sideways)
        row.addStretch(1)
        grid.addWidget(QLabel("Symmetry"), 2, 0)
        grid.addLayout(row, 2, 1)
        row = QHBoxLayout()
        row.addWidget(self.offset_box)
        row.addWidget(QLabel("px"))
        row.addWidget(self.angstrom)
        row.addStretch(1)
        grid.addWidget(QLabel("Z offset"), 3, 0)
        grid.addLayout(row, 3, 1)
        suggest = QHBoxLayout()
        suggest.addWidget(self.suggest_button)
        suggest.addLayout(self.candidates, 1)
        suggest.addWidget(self.reset_button)
        preview = QHBoxLayout()
        preview.addWidget(QLabel("Preview"))
        preview.addWidget(self.mask_moves)
        preview.addWidget(self.map_moves)
        preview.addStretch(1)
        preview.addWidget(self.drag_button)
        preview.addWidget(self.xz_button)
        below = QGridLayout()
        below.addWidget(QLabel("Particles"), 0, 0)
        below.addWidget(self.particles, 0, 1)
        below.addWidget(self.again, 1, 0)
        below.addWidget(self.again_how, 1, 1)
        below.setColumnStretch(1, 1)
        act = QHBoxLayout()
        act.addWidget(self.apply_button, 3)
        act.addWidget(self.undo_button, 1)

        inside = QWidget()
        box = QVBoxLayout(inside)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(grid)
        box.addWidget(self.plot, 1)
        box.addLayout(suggest)
        box.addWidget(self.confidence)
        box.addLayout(preview)
        box.addWidget(self.sentence)
        box.addWidget(self.mend_button, 0, Qt.AlignmentFlag.AlignLeft)
        box.addLayout(below)
        box.addLayout(act)
        box.addWidget(self.command)
        box.addWidget(self.card)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll)
        self.setMinimumWidth(380)

    # -- the plot ----------------------------------------------------------------------------------

    def _make_plot(self) -> None:
        profile, score = self.plot.panes
        (self._map_line,) = profile.plot([], [], lw=1.4, label="map")
        (self._mask_line,) = profile.plot([], [], lw=1.4, label="mask")
        (self._score_line,) = score.plot([], [], lw=1.4)
        (self._peaks,) = score.plot([], [], "o", ms=4)
        self._cursor = score.axvline(0.0, lw=1.2)
        (self._here,) = score.plot([0], [np.nan], "o", ms=5)
        self.plot.tint("blue", self._map_line)
        self.plot.tint("pink", self._mask_line, self._cursor, self._here)
        self.plot.tint("amber", self._score_line)
        self.plot.tint("green", self._peaks)
        profile.set_yticks([])
        profile.set_ylabel("density")
        score.set_ylabel("score")
        score.set_xlabel("Z offset, px")
        profile.set_xlabel("Z from the centre, px")
        score.set_xlim(-RANGE_PX, RANGE_PX)
        profile.set_ylim(-0.05, 1.12)
        self.plot.legend(profile, loc="upper right", ncols=2)
        self.plot.moving(self._mask_line, self._cursor, self._here)
        self._grabbed: tuple[float, float] | None = None
        self.plot.mpl_connect("button_press_event", self._plot_press)
        self.plot.mpl_connect("motion_notify_event", self._plot_drag)
        self.plot.mpl_connect("button_release_event", self._plot_release)
        self.plot.setCursor(Qt.CursorShape.SizeHorCursor)
        self.plot.restyle()

    def _plot_press(self, event: Any) -> None:
        if event.inaxes is None or event.xdata is None or self.pair is None:
            return
        self._begin_gesture()
        if event.inaxes is self.plot.panes[1]:
            self._grabbed = (0.0, 0.0)
            self.set_offset(float(event.xdata))
        else:
            self._grabbed = (float(event.xdata), self.offset_px)

    def _plot_drag(self, event: Any) -> None:
        if self._grabbed is None or event.inaxes is None or event.xdata is None:
            return
        start, offset = self._grabbed
        self.set_offset(offset + float(event.xdata) - start)

    def _plot_release(self, event: Any) -> None:
        self._grabbed = None
        self._end_gesture()

    def _draw_curves(self) -> None:
        profile, score = self.plot.panes
        pair = self.pair
        if pair is None:
            for line in (self._map_line, self._mask_line, self._score_line, self._peaks, self._here):
                line.set_data([], [])
            self._cursor.set_xdata([np.nan, np.nan])
            self.plot.draw_idle()
            return
        curve = pair.curve
        n = len(curve.profile_map)
        self._z = np.arange(n) - n // 2
        self._map_line.set_data(self._z, _unit(np.asarray(curve.profile_map)))
        self._mask_profile = _unit(np.asarray(curve.profile_mask))
        # Half a box on either side at most, and room for the mask to move.
        reach = min(n / 2, max(1.2 * RANGE_PX, 1.15 * _extent(self._mask_profile)))
        profile.set_xlim(-reach, reach)
        self._score_line.set_data(curve.offset_px, curve.score)
        peaks = np.array(_maxima(curve), dtype=float).reshape(-1, 2)
        self._peaks.set_data(peaks[:, 0], peaks[:, 1])
        low, high = float(np.min(curve.score)), float(np.max(curve.score))
        room = 0.12 * max(high - low, 1e-6)
        score.set_ylim(low - room, high + room)
        score.set_xlim(float(curve.offset_px[0]), float(curve.offset_px[-1]))
        self._move_curves()
        self.plot.draw_idle()

    def _move_curves(self) -> None:
        if self.pair is None:
            return
        d = self.offset_px
        self._mask_line.set_data(self._z + d, self._mask_profile)
        self._cursor.set_xdata([d, d])
        self._here.set_data([d], [self.score])

    @property
    def score(self) -> float:
        """Score at the current offset, NaN outside the curve or without one."""
        if self.pair is None:
            return float("nan")
        curve = self.pair.curve
        return float(np.interp(self.offset_px, curve.offset_px, curve.score, left=np.nan, right=np.nan))

    # -- sources -----------------------------------------------------------------------------------

    def load(self, map_path: str, mask_path: str = "") -> None:
        """Choose a map and a mask; without a mask the project's alignment mask is taken."""
        self.map_box.set_path(map_path, quiet=True)
        if not mask_path and not self.mask_box.path():
            masks = self.bench.files["mask"]
            mask_path = next((m for m in masks if "align" in Path(m).stem), masks[0] if masks else "")
        if mask_path:
            self.mask_box.set_path(mask_path, quiet=True)
        self._sources_changed()

    def _layers_changed(self, event: Any = None) -> None:
        self.map_box.refresh()
        self.mask_box.refresh()
        if self._adding:
            return  # the canvas is looked at when map and mask are in it
        new = event.value if event is not None and event.type == "inserted" else None
        took = False
        # While one is being read, another may be dropped: it fills what is empty, and takes nothing away.
        for box in (self.map_box, self.mask_box):
            if self._loading and box.path():
                continue
            # What was dropped into the viewer is what the user wants to compare, unless that is there; the
            # half maps of a refinement come by themselves, an iteration after the other.
            ours = [one for one in self.bench.ours(*box.kinds) if "run" not in one.metadata["napari_sta"]]
            if new in ours and path_of(new) and not self._is_shown(box, but=new):
                box.set_path(path_of(new), quiet=True)
                took = True
        boxes = (self.map_box, self.mask_box)
        if took and (self._loading or all(self._is_shown(box) or not box.path() for box in boxes)):
            self._sources_changed()
        else:
            self._canvas_look.start()

    def _is_shown(self, box: SourceBox, but: Any = None) -> bool:
        """Whether the file chosen in a box is among the layers, one of them left out."""
        shown = [path_of(one) for one in self.bench.ours(*box.kinds) if one is not but]
        return bool(box.path()) and box.path() in shown

    def _sources_changed(self) -> None:
        map_path, mask_path = self.map_box.path(), self.mask_box.path()
        self._going_back = None
        self._placing = None
        self.card.hide()
        self._refusal = ""
        self._loading = bool(map_path)
        if not map_path:
            self._reading.cancel()
            self._release()
            self._forget_layers()
            self._tell_state()
            return
        view = self.bench.view
        given = {"map": self.map_box.given_angst, "mask": self.mask_box.given_angst}

        def read() -> tuple[dict[str, list[Any]], Pair | None, dict[str, str]]:
            from napari_sta.io.mrc import read_volume

            volumes = {
                what: read_volume(path) for what, path in (("map", map_path), ("mask", mask_path)) if path
            }
            sizes = {what: given[what] or _pixel_size_of(one) for what, one in volumes.items()}
            unknown = [what for what, size in sizes.items() if size is None]
            if unknown:
                raise NoPixelSizeError(unknown, [volumes[what].path for what in unknown])
            for what, size in sizes.items():
                if size is not None:
                    volumes[what] = Volume(volumes[what].data, size, volumes[what].path)
            # The box it was chosen in says what a file is, not its name or values.
            layers = {"map": [map_layer(volumes["map"])], "mask": []}
            if mask_path:
                layers["mask"] = mask_layers(volumes["mask"])
            settings = _made_with(view, map_path)
            return layers, _score(volumes["map"], volumes["mask"]) if mask_path else None, settings

        self.confidence.setText("reading and scoring …")
        self._tell_state()
        self._reading.request(read, done=self._arrived, failed=self._not_read)

    def _not_read(self, error: StaError) -> None:
        self._loading = False
        self._release()
        self._forget_layers()
        self._refusal = in_plain_words(str(error), root=self.bench.root)
        if isinstance(error, NoPixelSizeError):
            for what in error.unknown:
                (self.map_box if what == "map" else self.mask_box).ask_pixel_size()
        self.card.tell("error", "Map and mask cannot be compared", self._refusal)
        self._tell_state()

    def _arrived(self, answer: tuple[dict[str, list[Any]], Pair | None, dict[str, str]]) -> None:
        if self.bench.closed:
            return
        tuples, pair, settings = answer
        first = not self.bench.viewer.layers
        self._forget_layers()
        waiting = [(what, one) for what in ("map", "mask") for one in tuples[what]]
        self._placing = waiting

        def turn() -> None:
            """Add one layer, then let the viewer breathe: its first layers take napari a while each."""
            if not isalive(self) or self.bench.closed or self._placing is not waiting:
                return
            if not waiting:
                self._placing = None
                self._loading = False
                self._compare(pair, settings, first)
                return
            what, one = waiting.pop(0)
            self._adding = True
            try:
                added = self.bench.shown.add([one])
            finally:
                self._adding = False
            for layer in added:
                self._hold(what, layer, one[1])
            QTimer.singleShot(0, turn)

        turn()

    def _hold(self, what: str, layer: Any, meta: Mapping[str, Any]) -> None:
        """Take a layer into the pair: it stands as the file says, and what becomes of it is watched."""
        if not _is_upright(layer):
            layer.affine = np.eye(layer.ndim + 1)
            layer.rotate = np.eye(layer.ndim)
            layer.shear = np.zeros(layer.ndim * (layer.ndim - 1) // 2)
        if [str(unit) for unit in layer.units] != list(meta["units"]):
            layer.units, layer.name = meta["units"], meta["name"]  # its pixel size is known by now
        for name in ("scale", "translate"):
            if not np.array_equal(getattr(layer, name), meta[name]):
                setattr(layer, name, meta[name])
        self._layers[what].append(weakref.ref(layer))
        self._base[id(layer)] = np.array(meta["translate"], dtype=np.float64)
        self._scored[id(layer)] = layer.data
        for event in self._watched(layer):
            event.connect(self._layer_touched)
        self._bind_keys(layer)

    @staticmethod
    def _watched(layer: Any) -> list[Any]:
        events = layer.events
        return [events.data, events.scale, events.translate, events.rotate, events.shear, events.affine]

    def _layer_touched(self, event: Any = None) -> None:
        if not self._moving_layers:
            self._canvas_look.start()

    def _look_at_canvas(self) -> None:
        """Let go of a map or mask that is no longer in the viewer; say what else is not as it was."""
        if self.bench.closed or self._loading:
            return
        if self.pair is not None and self._gone():
            self._release()
        for layer in self._held("map", "mask"):
            # The same file read again, by another dock perhaps, is no change.
            old = self._scored[id(layer)]
            if layer.data is not old and np.array_equal(layer.data, old):
                self._scored[id(layer)] = layer.data
        self._tell_state()

    def _release(self) -> None:
        """Compare nothing any more; the number stays."""
        self.pair = None
        self._draw_curves()
        self._list_candidates()

    def _tell_state(self) -> None:
        self._show_numbers()
        self._replan()

    def _held(self, *kinds: str) -> list[Any]:
        """Return the layers of the pair that are in the viewer."""
        if self.bench.closed:
            return []
        found = (reference() for what in kinds for reference in self._layers[what])
        return [layer for layer in found if layer is not None and layer in self.bench.viewer.layers]

    def _gone(self) -> list[str]:
        """Return which of map and mask is not in the viewer any more; the mask's contour may go."""
        here = self._held("map", "mask")
        return [
            what for what, references in self._layers.items() if references and references[0]() not in here
        ]

    def _why_stale(self) -> str:
        """Return why what is on the canvas is not what would be applied; empty if it is."""
        if self._loading:
            return "Map and mask are being read."
        if not self.map_box.path() or not self.mask_box.path():
            return "Choose a map and a mask: the mask can then be moved along Z."
        if self._refusal:
            return f"Nothing can be applied: {self._refusal}"
        if gone := self._gone():
            boxes = {"map": self.map_box, "mask": self.mask_box}
            gone = [what for what in gone if not self._is_shown(boxes[what])] or gone
            words = " and ".join(gone)
            verb = "are" if len(gone) > 1 else "is"
            return f"Nothing can be applied: the {words} {verb} no longer in the viewer."
        if self.pair is None or self._compared != (self.map_box.path(), self.mask_box.path()):
            return "Choose a map and a mask: the mask can then be moved along Z."
        for what in ("map", "mask"):
            for layer in self._held(what):
                if layer.data is not self._scored[id(layer)]:
                    return f"Nothing can be applied: the {what}'s data are not those of the score any more."
                if not self._stands_right(what, layer):
                    return (
                        f"Nothing can be applied: the {what} was moved or scaled by hand, so it is not where "
                        "the offset says."
                    )
        return ""

    def _stands_right(self, what: str, layer: Any) -> bool:
        assert self.pair is not None
        pixel = (self.pair.map if what == "map" else self.pair.mask).pixel_size_angst
        return bool(
            np.allclose(layer.translate, self._base[id(layer)] + self._shifts()[what], atol=1e-4 * pixel)
            and np.allclose(layer.scale, pixel, rtol=1e-6)
            and _is_upright(layer)
        )

    def _compare(self, pair: Pair | None, settings: dict[str, str], first: bool) -> None:
        """Take over a map and mask whose layers are in the viewer."""
        self.pair, self._map_settings = pair, settings
        chosen = (self.map_box.path(), self.mask_box.path())
        again = chosen == self._compared and pair is not None  # the same two: the number stays
        if pair is not None:
            self._compared = chosen
        had_gone = not any(one() in self.bench.viewer.layers for one in self._former)
        self._uncover()
        symmetry = self._map_settings.get("symmetry")
        if symmetry and not again:
            self.symmetry.setText(symmetry)
        self._draw_curves()
        self._list_candidates()
        back, self._going_back = self._going_back, None
        at: Sequence[float] = (0.0, 0.0, 0.0)
        if back is not None:
            at = back.offset_zyx_px
        elif again:
            at = [float(v) for v in self._offset]
        self._set_sideways(at[1:])
        if not again:
            self._history.clear()
        if first or (self.bench.viewer.dims.ndisplay == 2 and (not again or had_gone)):
            self.show_xz()
        self._fill_particles(
            fresh=not again or back is not None, wanted=None if back is None else back.particles
        )
        self.set_offset(at[0], note=False)
        self._settle.stop()
        self._place_layers(settle=True)
        self._look_at_canvas()
        if not settings:
            self._learn_settings()  # the project may have been opened meanwhile
        if self.pair is not None and self.pair.notes and back is None:
            self.card.tell("info", self.pair.notes)

    def _learn_settings(self) -> None:
        """Look up how the map was made, if that is not known: its project may come after the map."""
        view, path = self.bench.view, self.map_box.path()
        if view is None or not path or self._map_settings:
            return

        def learnt(settings: dict[str, str]) -> None:
            if settings and not self._map_settings and path == self.map_box.path():
                self._map_settings = settings
                if settings.get("symmetry") and self.symmetry.text().strip() in ("", "C1"):
                    self.symmetry.setText(settings["symmetry"])
                self._fill_particles()

        in_background(self, _made_with, view, path, done=learnt)

    def _uncover(self) -> None:
        """Hide the pair before this one, and draw the mask over the map, the map over other maps."""
        layers, held = self.bench.viewer.layers, self._held("map", "mask")
        former = [layer for one in self._former if (layer := one()) is not None and layer in layers]
        self._former = []
        for layer in former:
            if layer not in held and layer.visible:
                layer.visible = False
                self._hidden.add(layer)
        for layer in held:
            if layer in self._hidden:
                layer.visible = True
                self._hidden.discard(layer)
        self.bench.shown.hide_contours_in_3d()
        masks = self._held("mask")
        for map_ in self._held("map"):
            if masks:
                self.bench.shown.uncover(map_, masks)
            else:
                map_.visible = True
                layers.move(layers.index(map_), 0)
            layers.selection.active = map_

    def _forget_layers(self) -> None:
        """Put layers that are no longer compared back where they belong."""
        self._former = [weakref.ref(one) for one in self._held("map", "mask")] or self._former
        for references in self._layers.values():
            for reference in references:
                layer = reference()
                if layer is not None and id(layer) in self._base:
                    for event in self._watched(layer):
                        event.disconnect(self._layer_touched)
                    layer.translate = self._base[id(layer)]
        self._base.clear()
        self._scored.clear()
        self._slid.clear()
        self._layers = {"map": [], "mask": []}

    def show_xz(self) -> None:
        """Show the slice through the centre with Z vertical: the plane where a Z offset is seen."""
        viewer = self.bench.viewer
        viewer.dims.ndisplay = 2
        if viewer.dims.ndim >= 3:
            first = viewer.dims.ndim - 3
            viewer.dims.order = (*range(first), first + 1, first, first + 2)
            viewer.dims.set_point(first + 1, 0.0)
        viewer.fit_to_view()
        viewer.status = "XZ slice through the centre; +Z points down"

    # -- the offset --------------------------------------------------------------------------------

    @property
    def offset_px(self) -> float:
        """How far the map's density lies from the mask along +Z, in map pixels."""
        return float(self._offset[0])

    @property
    def pixel_size_angst(self) -> float | None:
        """Of the map; None while there is none to compare."""
        return self.pair.map.pixel_size_angst if self.pair is not None else None

    def set_offset(self, offset_px: float, *, note: bool = True) -> None:
        """Move to an offset: layers, number, sentence and cursors; a few milliseconds.

        Parameters
        ----------
        offset_px
            Map pixels along +Z; rounded to 0.01 px, which is what is applied.
        note
            Whether Ctrl+Z steps back to where it was before.
        """
        offset_px = round(float(np.clip(offset_px, -500.0, 500.0)), 2) + 0.0
        if note and offset_px != self.offset_px:
            self._note()
        self._offset[0] = offset_px
        self._place_layers()
        self._show_numbers()
        if self.pair is not None:
            self._move_curves()
            self.plot.redraw_moving()
        self._settle.start()
        self._changed_at = time.monotonic()
        self.moved.emit(offset_px)

    def step(self, steps: float, size_px: float = STEP_PX) -> None:
        """Move by some steps; positive is +Z."""
        self.set_offset(self.offset_px + steps * size_px)

    def step_back(self) -> None:
        """Go back to the offset before the last change (Ctrl+Z)."""
        if self._history:
            z, *yx = self._history.pop()
            self._noted = False
            self._set_sideways(yx)
            self.set_offset(z, note=False)

    def _note(self) -> None:
        """Remember where the offset is, for Ctrl+Z: once for a whole drag or a held key, however slow."""
        if not (self._noted and (self._gesture or self._settle.isActive())):
            self._history.append(tuple(float(v) for v in self._offset))
            self._noted = True

    def _begin_gesture(self, *, burst: bool = False) -> None:
        """Take all changes until :meth:`_end_gesture` as one (``burst``: with those just before)."""
        if not self._gesture:
            self._gesture = True
            self._noted = burst and self._noted and time.monotonic() - self._changed_at < BURST_S

    def _end_gesture(self) -> None:
        self._gesture = False

    def _set_sideways(self, yx_px: Sequence[float]) -> None:
        """Take these Y and X offsets without moving anything yet."""
        self._offset[1:] = yx_px
        for box, value in zip((self.y_box, self.x_box), yx_px, strict=True):
            with QSignalBlocker(box):
                box.setValue(value)

    def _set_axis(self, axis: int, value: float) -> None:
        self._note()
        self._offset[axis] = round(value, 2)
        self._place_layers(settle=True)
        self._show_numbers()
        self._settle.start()
        self._changed_at = time.monotonic()

    def _shifts(self) -> dict[str, NDArray[np.float64]]:
        """Return how far map and mask are moved from where they belong, zyx in Å."""
        assert self.pair is not None
        shift = self._offset * self.pair.map.pixel_size_angst
        mask_moves = self.mask_moves.isChecked()
        return {"mask": shift if mask_moves else 0 * shift, "map": 0 * shift if mask_moves else -shift}

    def _place_layers(self, *, settle: bool = False) -> None:
        """Translate the layers; while dragging only on the canvas, until the drag settles."""
        if self.pair is None:
            return
        moves = self._shifts()
        self._moving_layers = True
        for what, references in self._layers.items():
            for reference in references:
                layer = reference()
                base = self._base.get(id(layer)) if layer is not None else None
                if layer is None or base is None:
                    continue
                target = base + moves[what]
                moves_now = not np.array_equal(target, layer.translate)
                if settle and (moves_now or id(layer) in self._slid):
                    layer.translate = target  # slices, thumbnail and the viewer's extent follow
                elif moves_now:
                    self._slide(layer, target)
        self._moving_layers = False
        if settle:
            self._slid.clear()
            self._replan()

    def _slide(self, layer: Any, target: NDArray[np.float64]) -> None:
        """Translate a layer on the canvas only; it is sliced again only where the slice can change.

        What is shown of a layer depends on where it is along the axes that are not displayed. Slicing it
        again at every tick of a drag costs milliseconds in a section and the upload of the whole map in 3D.
        """
        viewer = self.bench.viewer
        moved = np.flatnonzero(target != layer.translate) + viewer.dims.ndim - layer.ndim
        with ExitStack() as quiet:
            if set(moved) <= set(viewer.dims.displayed):
                quiet.enter_context(_napari_private.no_slicing(layer))
            quiet.enter_context(_napari_private.no_extent(viewer, layer))
            layer.translate = target
        self._slid.add(id(layer))

    def _show_numbers(self) -> None:
        d, pixel = self.offset_px, None if self._loading else self.pixel_size_angst
        with QSignalBlocker(self.offset_box):
            self.offset_box.setValue(d)
        self.angstrom.setText("" if pixel is None else f"= {d * pixel:+.2f} Å" if d else "= 0 Å")
        stale = self._why_stale()
        self.mend_button.setVisible(self._can_mend(stale))
        if stale or pixel is None:
            self.sentence.setText(html.escape(stale))
            return
        if not np.any(self._offset):
            self.sentence.setText("Map and mask as they are. Move the mask until it covers the density.")
            return
        extra = "".join(
            f" --center_{name} {value:g}" for name, value in zip("YX", self._offset[1:], strict=True) if value
        )
        self.sentence.setText(
            f"Density at <b>Z = {d:+.2f} px ({d * pixel:+.2f} Å)</b> becomes the centre.<br>"
            f"RELION: <code>--center_Z {d:g}{extra}</code>"
        )

    def _can_mend(self, stale: str) -> bool:
        """Whether reading map and mask again, and placing them, makes good what is stale."""
        return bool(
            stale and self.map_box.path() and self.mask_box.path() and not self._loading and not self._refusal
        )

    # -- suggestions -------------------------------------------------------------------------------

    def _list_candidates(self) -> None:
        while self.candidates.count():
            item = self.candidates.takeAt(0)
            if item.widget() is not None:
                item.widget().hide()
                item.widget().deleteLater()
        self.suggest_button.setEnabled(False)
        if self.pair is None:
            self.candidates.addStretch(1)
            self.confidence.setText("")
            return
        found = _maxima(self.pair.curve)
        self.suggest_button.setEnabled(bool(found) and not self.pair.curve.at_end)
        for i, (offset, score) in enumerate(found[:3], start=1):
            button = QToolButton()
            button.setText(f"{i}: {offset:+.2f}")
            button.setToolTip(f"Offset {offset:+.2f} px, score {score:.3f}")
            button.clicked.connect(lambda _checked=False, offset=offset: self.set_offset(offset))
            self.candidates.addWidget(button)
        self.candidates.addStretch(1)
        self.confidence.setText(_confidence_words(self.pair.curve))

    def suggest(self) -> None:
        """Jump to the best candidate; nothing is written."""
        if self.pair is not None and not self.pair.curve.at_end:
            for offset, _ in _maxima(self.pair.curve)[:1]:
                self.set_offset(offset)

    # -- on the canvas -----------------------------------------------------------------------------

    def _drag_toggled(self, on: bool) -> None:
        viewer = self.bench.viewer
        callbacks = viewer.mouse_drag_callbacks
        if on:
            if viewer.dims.ndisplay != 2 or viewer.dims.ndim - 3 not in viewer.dims.displayed:
                self.show_xz()
            self._pan_before = viewer.scene.camera.mouse_pan
            viewer.scene.camera.mouse_pan = False
            callbacks.append(self._drag)
            viewer.status = "Drag up or down on the canvas to move the mask along Z"
        else:
            if self._drag in callbacks:
                callbacks.remove(self._drag)
            viewer.scene.camera.mouse_pan = self._pan_before

    def _drag(self, viewer: Any, event: Any) -> Generator[None]:
        axis = viewer.dims.ndim - 3
        if viewer.dims.ndisplay != 2 or axis not in viewer.dims.displayed or self.pair is None:
            return
        start, offset = float(event.position[axis]), self.offset_px
        sign = 1.0 if self.mask_moves.isChecked() else -1.0
        pixel = self.pair.map.pixel_size_angst
        self._begin_gesture()
        yield
        while event.type == "mouse_move":
            moved = (float(event.position[axis]) - start) / pixel
            self.set_offset(offset + sign * moved)
            event.handled = True
            yield
        self._end_gesture()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Learn of keys held on the canvas, which napari does not tell: their steps are undone together."""
        if isinstance(event, QKeyEvent) and event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            if event.type() == QEvent.Type.KeyPress:
                self._begin_gesture(burst=True)
            elif event.type() == QEvent.Type.KeyRelease and not event.isAutoRepeat():
                # After napari has seen it.
                QTimer.singleShot(0, self._end_gesture)
        return False

    def _bind_keys(self, layer: Any) -> None:
        dock = weakref.ref(self)

        def stepper(steps: int, size: float) -> Any:
            def press(_layer: Any) -> None:
                widget = dock()
                if widget is not None:
                    # Downwards on the canvas is +Z in the XZ view: the mask follows the arrow.
                    sign = 1 if widget.mask_moves.isChecked() else -1
                    widget.step(sign * steps, size)

            return press

        for prefix, size in (("", STEP_PX), ("Shift-", COARSE_PX), ("Alt-", FINE_PX)):
            layer.bind_key(f"{prefix}Up", stepper(-1, size), overwrite=True)
            layer.bind_key(f"{prefix}Down", stepper(1, size), overwrite=True)

        self._bind_undo(layer)

    def _bind_undo(self, keys_of: Any) -> None:
        dock = weakref.ref(self)

        def back(_: Any) -> None:
            widget = dock()
            if widget is not None and isalive(widget):
                widget.step_back()

        keys_of.bind_key("Control-Z", back, overwrite=True)

    # -- symmetry ----------------------------------------------------------------------------------

    def _symmetry_changed(self, *_: object) -> None:
        from napari_sta.kernels.rotations import parse_symmetry

        name = self.symmetry.text().strip() or "C1"
        self.symmetry.setProperty("wrong", False)
        try:
            family, order = parse_symmetry(name)
        except ValueError:
            self.symmetry.setProperty("wrong", True)
            self.sideways.hide()
            self.lock.show()
            self.lock.setText("no such point group")
            self.lock.setToolTip(f"{name} is no point group")
            self._replan()
            return
        free_xy = (family, order) == ("C", 1)
        free_z = family == "C"
        for box, axis in ((self.y_box, 1), (self.x_box, 2)):
            box.setEnabled(free_xy)
            if not free_xy and self._offset[axis]:
                box.setValue(0.0)
        self.offset_box.setEnabled(free_z)
        if not free_z and self.offset_px:
            self.set_offset(0.0)
        self.sideways.setVisible(free_xy)
        self.lock.setVisible(not free_xy)
        self.lock.setText("only Z may move" if free_z else "nothing may move")
        words = {
            (True, True): "C1: X, Y and Z may move",
            (False, True): f"{name}: only the symmetry axis, Z, may move; X or Y would break the symmetry",
            (False, False): f"{name}: any shift would break the symmetry",
        }[(free_xy, free_z)]
        self.lock.setToolTip(words)
        self.symmetry.setToolTip(words)
        self._replan()

    # -- applying ----------------------------------------------------------------------------------

    def _project_changed(self, view: ProjectView | None) -> None:
        self.map_box.refresh()
        self.mask_box.refresh()
        self._fill_particles()
        self._learn_settings()

    def _fill_particles(self, *, fresh: bool = False, wanted: tuple[str, str] | None = None) -> None:
        """List the particle sets; choose the one the map was made from (``fresh``: whatever was chosen)."""
        view = self.bench.view
        chosen = None if fresh else self.particles.currentData()
        with QSignalBlocker(self.particles):
            self.particles.clear()
            self.particles.addItem("choose a particle set …", ("", ""))
            if view is not None:
                for kind in ("optimisation_set", "particles"):
                    for path in view.files[kind]:
                        self.particles.addItem(str(Path(path).relative_to(view.root)), (kind, path))
            if wanted is None:
                wanted = self._source_of_map() if not chosen or not chosen[1] else chosen
            for i in range(self.particles.count()):
                if self.particles.itemData(i) == wanted:
                    self.particles.setCurrentIndex(i)
        self._replan()

    def _source_of_map(self) -> tuple[str, str]:
        """Return the set that the map was reconstructed from: what has to be recentred."""
        view = self.bench.view
        if view is not None:
            for key, kind in (("in_optimisation_set", "optimisation_set"), ("in_parts", "particles")):
                named = self._map_settings.get(key)
                if named:
                    return kind, str(view.root / named)
        return "", ""

    def jobs_to_run(self) -> tuple[Job | None, dict[str, Any] | None]:
        """Return the recentring job and the values of the reconstruction after it (None: not wanted).

        Raises
        ------
        InputError
            If what is on the canvas is not what would be applied, or a particle set has not been chosen.
        """
        if stale := self._why_stale():
            raise InputError(stale)
        if self.symmetry.property("wrong"):
            raise InputError(f"{self.symmetry.text().strip()} is no point group; correct the symmetry.")
        assert self.pair is not None
        kind, path = self.particles.currentData() or ("", "")
        if not path:
            raise InputError("Choose the particle set to recentre.")
        field = "in_optimisation_set" if kind == "optimisation_set" else "in_parts"
        values: dict[str, Any] = {field: path}
        z, y, x = (float(v) for v in self._offset)
        values |= {"center_z_px": z, "center_y_px": y, "center_x_px": x}
        recenter = job_named("recenter")
        if "pixel_size_angst" in recenter.model_fields:
            values["pixel_size_angst"] = round(self.pair.map.pixel_size_angst, 6)
        job = recenter.from_text(values)
        return job, self._reconstruct_values() if self.again.isChecked() else None

    def _reconstruct_values(self) -> dict[str, Any]:
        """Return the settings of the map's own reconstruction, or what its header allows to say."""
        keys = ("binning", "box_size_px", "crop_size_px", "wiener_snr")
        values: dict[str, Any] = {k: self._map_settings[k] for k in keys if self._map_settings.get(k)}
        if "box_size_px" not in values and self.pair is not None:
            box = self.pair.map.box_px
            values |= {"box_size_px": 2 * box, "crop_size_px": box}
        values["symmetry"] = self.symmetry.text().strip() or "C1"
        return values

    def _replan(self) -> None:
        try:
            job, after = self.jobs_to_run()
        except StaError as error:
            self.apply_button.setEnabled(False)
            self.apply_button.setToolTip(in_plain_words(str(error), root=self.bench.root))
            self.command.set("", None)
            self.again_how.setText("")
            return
        assert job is not None
        if after is not None:
            words = [f"binning {after['binning']}"] if "binning" in after else []
            words += [f"box {after['box_size_px']}"]
            words += [f"crop {after['crop_size_px']}"] if after.get("crop_size_px") else []
            words += [str(after["symmetry"])]
            known = self._map_settings.get("box_size_px")
            origin = "as the map was made" if known else "from the map's header"
            self.again_how.setText(", ".join(words))
            self.again_how.setToolTip(f"Settings {origin}")
        moved = bool(np.any(self._offset))
        self.apply_button.setEnabled(moved and not self._applying)
        reason = "Its last run is not finished yet" if self._applying else "The offset is 0: nothing to apply"
        self.apply_button.setToolTip("" if moved and not self._applying else reason)
        self.command.set(job.command_line(), job.relion_command("External/jobNNN/"))

    def apply(self) -> None:
        """Run the recentring as a job of its own, then the reconstruction if wanted."""
        try:
            job, after = self.jobs_to_run()
        except StaError as error:
            self.card.tell("error", "Not applied", str(error))
            return
        assert job is not None
        assert self.pair is not None
        if self._applying or not np.any(self._offset):
            return
        y, x = self._offset[1:]
        before = Before(
            self.map_box.path(), self.mask_box.path(), self.particles.currentData(),
            (self.offset_px, float(y), float(x)),
        )  # fmt: skip
        self._set_applying(True)
        words = f"{self.offset_px:+.2f} px ({self.offset_px * self.pair.map.pixel_size_angst:+.2f} Å)"
        self.card.tell("info", "Recentring …", f"Z {words}, as a job of its own; inputs are not changed.")

        def ended(ticket: Ticket) -> None:
            if ticket.state == "stopped":
                self._set_applying(False)
                self.card.tell("info", "Recentring stopped", "Nothing was changed.")
                return
            if ticket.state != "done":
                self._set_applying(False)
                retry = [("Retry", self.apply)]
                self.card.tell("error", "Recentring failed", str(ticket.error), actions=retry)
                return
            self._applied, self._before = ticket, before
            if after is None:
                self._set_applying(False)
                self.card.tell("good", f"Recentred by {words}", f"New particle set in {ticket.title}.")
            else:
                self._reconstruct(ticket, after, words)

        self.bench.queue.run(job, done=ended)

    def _set_applying(self, applying: bool) -> None:
        """Neither apply again nor take away what is being made."""
        self._applying = applying
        self.undo_button.setEnabled(
            not applying and self._applied is not None and self.bench.view is not None
        )
        self._replan()

    def _reconstruct(self, recentred: Ticket, values: Mapping[str, Any], words: str) -> None:
        assert recentred.out is not None
        source = recentred.out / "optimisation_set.star"
        try:
            job = job_named("reconstruct").from_text({**values, "in_optimisation_set": str(source)})
        except StaError as error:
            self._set_applying(False)
            self.card.tell("error", "The reconstruction could not start", str(error))
            return
        self.card.tell(
            "info", f"Recentred by {words}: {recentred.title}",
            "Reconstructing from the recentred particles …",
            actions=[("Stop", self.bench.queue.stop_all)],
        )  # fmt: skip

        def ended(ticket: Ticket) -> None:
            self._set_applying(False)
            if ticket.state == "done" and ticket.out is not None:
                self.card.tell(
                    "good", f"Recentred by {words}",
                    f"{recentred.title} holds the particles, {ticket.title} the new map, shown here.",
                )  # fmt: skip
                text = self.card.text
                self._hide_map_layers()
                self.load(str(ticket.out / "merged.mrc"), self.mask_box.path())
                title, _, rest = text.partition("\n")
                self.card.tell("good", title.lstrip("✔ "), rest)
            elif ticket.state == "failed":
                self.card.tell("error", "The reconstruction failed", str(ticket.error))
            else:
                self.card.tell(
                    "info", "The reconstruction was stopped",
                    f"{recentred.title} holds the recentred particles; Undo takes them back.",
                )  # fmt: skip

        self.bench.queue.run(job, done=ended)

    def _hide_map_layers(self) -> None:
        for reference in self._layers["map"]:
            layer = reference()
            if layer is not None:
                layer.visible = False

    def undo(self) -> None:
        """Move the recentring job (and its reconstruction, if nothing else stops it) to the Trash."""
        ticket, view = self._applied, self.bench.view
        if ticket is None or view is None:
            return
        name = ticket.name or f"{ticket.out.parent.name}/{ticket.out.name}" if ticket.out else ticket.name

        def trash() -> list[str]:
            gone = []
            for user in view.project.downstream(name):
                view.project.trash_job(user)
                gone.append(user.rstrip("/"))
            view.project.trash_job(name)
            return [name.rstrip("/"), *gone]

        def done(gone: list[str]) -> None:
            self._applied = None
            self.undo_button.setEnabled(False)
            self._leave([view.root / job for job in gone])
            self.bench.refresh()
            self.card.tell(
                "info", "Recentring undone", f"{html.escape(' and '.join(gone))} moved to the Trash."
            )
            self._replan()

        in_background(self, trash, done=done, failed=lambda e: self.card.tell("error", "Not undone", str(e)))

    def _leave(self, folders: Sequence[Path]) -> None:
        """Show nothing from folders that are gone; go back to what was chosen before Apply."""
        back, self._before = self._before, None
        on_gone_map = _in_any(self.map_box.path(), folders)
        for layer in self.bench.ours():
            if _in_any(path_of(layer), folders):
                self.bench.viewer.layers.remove(layer)
        for box in (self.map_box, self.mask_box):
            box.forget(folders)
        if back is not None and on_gone_map:
            self.load(back.map_path, back.mask_path)
            self._going_back = back
        elif _in_any((self.particles.currentData() or ("", ""))[1], folders):
            self._fill_particles(fresh=True, wanted=back.particles if back is not None else None)

    def hideEvent(self, event: Any) -> None:
        """Let go of the canvas when the dock goes out of sight."""
        self.drag_button.setChecked(False)
        super().hideEvent(event)


class NoPixelSizeError(InputError):
    """The header of the map or the mask states no pixel size.

    Attributes
    ----------
    unknown
        ``map``, ``mask`` or both.
    """

    def __init__(self, unknown: list[str], paths: list[str]) -> None:
        self.unknown = unknown
        words = f"the header of {paths[0]} states" if len(paths) == 1 else "the headers of map and mask state"
        super().__init__(f"{words} no pixel size; give it below the {' and the '.join(unknown)}.")


def path_of(layer: Any) -> str:
    """Return the file that a layer of ours was read from; empty if it does not say."""
    return str(layer.metadata.get("napari_sta", {}).get("path") or "")


def _is_upright(layer: Any) -> bool:
    """Whether nothing but scale and translation takes a layer to the world."""
    return bool(
        np.allclose(layer.rotate, np.eye(layer.ndim))
        and not np.any(layer.shear)
        and np.allclose(layer.affine.affine_matrix, np.eye(layer.ndim + 1))
    )


def _pixel_size_of(volume: Volume) -> float | None:
    """Return the pixel size that a file states; None if it states none."""
    try:
        size = volume.pixel_size_angst
    except InputError:
        return None
    return size if size and math.isfinite(size) and size > 0 else None


def _score(density: Volume, mask: Volume) -> Pair:
    """Bring the mask to the map's grid and score the two along Z; in a worker."""
    from napari_sta.kernels.alignment import score_curve
    from napari_sta.kernels.filters import resample_to_grid

    if len(set(density.data.shape)) != 1:
        raise InputError("The map is not cubic; recentring needs a cubic map.")
    notes = ""
    ratio = mask.pixel_size_angst / density.pixel_size_angst
    if mask.data.shape != density.data.shape or abs(ratio - 1) > 1e-3:
        notes = (
            f"The mask is {mask.box_px} px at {mask.pixel_size_angst:.4g} Å, the map {density.box_px} px at "
            f"{density.pixel_size_angst:.4g} Å: overlaid in Å; the mask was resampled for the score."
        )
    on_grid = resample_to_grid(mask.data, mask.pixel_size_angst, density.box_px, density.pixel_size_angst)
    reach = min(RANGE_PX, density.box_px / 2 - 1)
    try:
        curve = score_curve(density.data, on_grid, "z", reach, pixel_size_angst=density.pixel_size_angst)
    except ValueError as error:
        raise InputError(f"{mask.path or 'The mask'} cannot be scored: {error}.") from error
    return Pair(density, mask, curve, notes)


def _made_with(view: ProjectView | None, map_path: str) -> dict[str, str]:
    """Return how the map was made, its input set by a path from the project folder; in a worker."""
    if view is None:
        return {}
    folder = Path(map_path).absolute().parent
    if not is_job_folder(folder) or not folder.is_relative_to(view.root):
        return {}
    name = str(folder.relative_to(view.root))
    settings = settings_of(folder)
    if not any(key in settings for key in ("in_optimisation_set", "in_parts")):
        job = next((j for j in view.jobs if j.name.rstrip("/") == name), None)
        for path in job.inputs if job is not None else ():
            if "optimisation_set" in Path(path).name:
                settings["in_optimisation_set"] = path
            elif path.endswith("particles.star"):
                settings["in_parts"] = path
    return settings


def _in_any(path: str, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of the folders."""
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _unit(values: NDArray[Any]) -> NDArray[np.float64]:
    """Scale to 0..1 for drawing."""
    values = np.asarray(values, dtype=np.float64)
    span = float(values.max() - values.min())
    return (values - values.min()) / span if span else np.zeros_like(values)


def _extent(profile: NDArray[np.float64]) -> float:
    """Return how far from the centre a profile reaches, in planes."""
    where = np.flatnonzero(profile > 0.02)
    n = len(profile)
    return float(np.abs(where - n // 2).max()) if len(where) else n / 2


def _maxima(curve: Any) -> list[tuple[float, float]]:
    """Return offset and score of the maxima inside the range, best first; its ends are none."""
    reach = float(np.max(np.abs(curve.offset_px)))
    return [(float(c.offset_px), float(c.score)) for c in curve.candidates if abs(c.offset_px) < reach]


def _confidence_words(curve: Any) -> str:
    if curve.at_end:
        return (
            f"No offset found: the score still rises at {curve.candidates[0].offset_px:+.2f} px, the end of "
            "the range. Do map and mask belong together?"
        )
    if not curve.candidates:
        return "No offset stands out within the range."
    from napari_sta.kernels.alignment import trust

    confidence = float(curve.confidence)
    word = trust(confidence)
    word += "" if word == "clear" else ": compare by eye"
    best = f"{curve.candidates[0].offset_px:+.2f} ± {curve.uncertainty_px:.2f} px"
    return f"Best {best}; confidence {confidence:.2f} ({word})"
