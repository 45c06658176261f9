"""Overlay a mask on a map, read the offset between them, recentre the particles by it.

Convention: the offset d is how far the map's density lies from the mask along +Z, in map pixels. The mask
drawn at +d covers the density, and the density at Z = d becomes the centre: ``center_z_px = d``.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QButtonGroup,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_sta.data.errors import InputError, StaError
from napari_sta.widgets._background import Latest, in_background
from napari_sta.widgets.align_hand import CanvasHand
from napari_sta.widgets.align_layers import PairLayers, show_xz
from napari_sta.widgets.align_offset import Offset
from napari_sta.widgets.align_pair import NoPixelSizeError, Pair, Reading, made_with, read_pair
from napari_sta.widgets.align_plot import OffsetPlot
from napari_sta.widgets.cards import Card
from napari_sta.widgets.dock import Dock
from napari_sta.widgets.of_viewer import entries_of, lies_in, path_of
from napari_sta.widgets.offset_box import OffsetBox
from napari_sta.widgets.project_files import ProjectView
from napari_sta.widgets.recentre_panel import Before, RecentrePanel, Recentring
from napari_sta.widgets.source_box import SourceBox
from napari_sta.widgets.suggestions import Suggestions
from napari_sta.widgets.themes import mark
from napari_sta.widgets.words import in_plain_words
from napari_sta.widgets.workbench import Workbench

if TYPE_CHECKING:
    import napari.viewer


class AlignDock(Dock):
    """The *Align & recentre* dock.

    Parameters
    ----------
    viewer
        The napari viewer that shows map and mask.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.bench = Workbench.of(viewer)
        self.pair: Pair | None = None
        self.offset = Offset(self)
        self.layers = PairLayers(self.bench.shown)
        self.hand = CanvasHand(self.bench.viewer, self.offset)
        self._adding = False
        self._loading = False
        self._refusal = ""  # why what is chosen cannot be compared
        self._compared = ("", "")  # map and mask of the last pair
        self._reading = Latest(self, 30)
        self._placing: list[Any] | None = None
        self._going_back: Before | None = None

        self.map_box = SourceBox(self.bench, "map")
        self.mask_box = SourceBox(self.bench, "mask")
        self.plot = OffsetPlot(self.bench.viewer)
        self.suggestions = Suggestions()
        self.card = Card()
        self.recentre = RecentrePanel(self.bench, self.card, self._recentring)
        self._lay_out()
        self._canvas_look = QTimer(self)
        self._canvas_look.setSingleShot(True)
        self._canvas_look.setInterval(0)
        self._connect()
        self._symmetry_changed()
        self._project_changed(self.bench.view)
        self._show_numbers()

    def _lay_out(self) -> None:
        inside = QWidget()
        box = QVBoxLayout(inside)
        box.setContentsMargins(8, 6, 8, 6)
        box.setSpacing(5)
        box.addLayout(self._sources_and_offset())
        box.addWidget(self.plot, 1)
        box.addWidget(self.suggestions)
        box.addLayout(self._preview())
        box.addWidget(self._sentence())
        box.addWidget(self._mend(), 0, Qt.AlignmentFlag.AlignLeft)
        box.addWidget(self.recentre)
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

    def _sources_and_offset(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setVerticalSpacing(4)
        grid.setHorizontalSpacing(6)
        grid.addWidget(QLabel("Map"), 0, 0)
        grid.addWidget(self.map_box, 0, 1)
        grid.addWidget(QLabel("Mask"), 1, 0)
        grid.addWidget(self.mask_box, 1, 1)
        grid.addWidget(QLabel("Symmetry"), 2, 0)
        grid.addLayout(self._symmetry_row(), 2, 1)
        grid.addWidget(QLabel("Z offset"), 3, 0)
        grid.addLayout(self._offset_row(), 3, 1)
        return grid

    def _symmetry_row(self) -> QHBoxLayout:
        self.symmetry = QLineEdit("C1")
        self.symmetry.setFixedWidth(44)
        self.symmetry.setToolTip("Point group of the map. Cn leaves only Z free: X or Y would break it.")
        self.lock = QLabel()
        mark(self.lock, "warning")
        self.x_box, self.y_box = OffsetBox(), OffsetBox()
        self.sideways = QWidget()
        sideways = QHBoxLayout(self.sideways)
        sideways.setContentsMargins(0, 0, 0, 0)
        for name, box in (("X", self.x_box), ("Y", self.y_box)):
            box.setFixedWidth(80)
            sideways.addWidget(QLabel(name))
            sideways.addWidget(box)
        row = QHBoxLayout()
        row.addWidget(self.symmetry)
        row.addWidget(self.lock)
        row.addWidget(self.sideways)
        row.addStretch(1)
        return row

    def _offset_row(self) -> QHBoxLayout:
        self.offset_box = OffsetBox()
        self.offset_box.setToolTip("Up/Down 0.25 px · Shift 1 px · Alt 0.05 px; also on the canvas")
        font = self.offset_box.font()
        font.setPointSizeF(font.pointSizeF() * 1.35)
        font.setBold(True)
        self.offset_box.setFont(font)
        self.offset_box.setMinimumWidth(112)
        self.angstrom = QLabel()
        row = QHBoxLayout()
        row.addWidget(self.offset_box)
        row.addWidget(QLabel("px"))
        row.addWidget(self.angstrom)
        row.addStretch(1)
        return row

    def _preview(self) -> QHBoxLayout:
        self.mask_moves = QRadioButton("mask moves")
        self.map_moves = QRadioButton("map moves")
        self.map_moves.setToolTip("What the next reconstruction will look like")
        self.mask_moves.setChecked(True)
        group = QButtonGroup(self)
        group.addButton(self.mask_moves)
        group.addButton(self.map_moves)
        self.drag_button = QPushButton("Drag")
        self.drag_button.setCheckable(True)
        self.drag_button.setToolTip("Drag the mask along Z in the XZ view")
        self.xz_button = QPushButton("XZ")
        self.xz_button.setToolTip("Slice through the centre; +Z points down")
        row = QHBoxLayout()
        row.addWidget(QLabel("Preview"))
        row.addWidget(self.mask_moves)
        row.addWidget(self.map_moves)
        row.addStretch(1)
        row.addWidget(self.drag_button)
        row.addWidget(self.xz_button)
        return row

    def _sentence(self) -> QLabel:
        self.sentence = QLabel()
        self.sentence.setWordWrap(True)
        self.sentence.setTextFormat(Qt.TextFormat.RichText)
        self.sentence.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        return self.sentence

    def _mend(self) -> QPushButton:
        self.mend_button = QPushButton("Show both again")
        self.mend_button.setToolTip("Read map and mask anew and put them where the offset says")
        self.mend_button.hide()
        return self.mend_button

    def _connect(self) -> None:
        self.map_box.changed.connect(self._sources_changed)
        self.mask_box.changed.connect(self._sources_changed)
        self.symmetry.textChanged.connect(self._symmetry_changed)
        for box in (self.offset_box, self.x_box, self.y_box):
            box.held.connect(lambda down: self.offset.hold(down, burst=True))
            box.undone.connect(self.offset.step_back)
        self.offset_box.valueChanged.connect(lambda value: self.offset.set_z(value))
        self.x_box.valueChanged.connect(lambda value: self.offset.set_axis(2, value))
        self.y_box.valueChanged.connect(lambda value: self.offset.set_axis(1, value))
        self.plot.held.connect(lambda down: self.offset.hold(down))
        self.plot.dragged.connect(lambda offset_px: self.offset.set_z(offset_px))
        self.suggestions.chosen.connect(lambda offset_px: self.offset.set_z(offset_px))
        self.offset.moved.connect(self._moved)
        self.offset.moved_sideways.connect(self._moved_sideways)
        self.offset.went_back.connect(self._show_sideways)
        self.offset.settled.connect(self._settle)
        self.drag_button.toggled.connect(self.hand.let_drag)
        self.xz_button.clicked.connect(self.show_xz)
        self.mask_moves.toggled.connect(self._preview_changed)
        self.mend_button.clicked.connect(self._sources_changed)
        self.recentre.reconstructed.connect(self._show_new_map)
        self.recentre.undone.connect(self._leave)
        self.layers.touched.connect(self._canvas_look.start)
        self._canvas_look.timeout.connect(self._look_at_canvas)
        self.bench.align.connect(self.load)
        self.bench.project_changed.connect(self._project_changed)
        viewer_layers = self.bench.viewer.layers
        viewer_layers.events.inserted.connect(self._layers_changed)
        viewer_layers.events.removed.connect(self._layers_changed)
        back = QShortcut(QKeySequence.StandardKey.Undo, self)
        back.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        back.activated.connect(self.offset.step_back)

    # -- sources -----------------------------------------------------------------------------------

    def load(self, map_path: str, mask_path: str = "") -> None:
        """Choose a map and a mask; without a mask the project's alignment mask is taken."""
        self.map_box.set_value(map_path, quiet=True)
        if not mask_path and not self.mask_box.value():
            masks = self.bench.files["mask"]
            mask_path = next((m for m in masks if "align" in Path(m).stem), masks[0] if masks else "")
        if mask_path:
            self.mask_box.set_value(mask_path, quiet=True)
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
            if self._loading and box.value():
                continue
            # What was dropped into the viewer is what the user wants to compare, unless that is there; the
            # half maps of a refinement come by themselves, an iteration after the other.
            ours = [layer for layer in self.bench.ours(*box.kinds) if "run" not in entries_of(layer)]
            if new in ours and path_of(new) and not self._is_shown(box, but=new):
                box.set_value(path_of(new), quiet=True)
                took = True
        boxes = (self.map_box, self.mask_box)
        if took and (self._loading or all(self._is_shown(box) or not box.value() for box in boxes)):
            self._sources_changed()
        else:
            self._canvas_look.start()

    def _is_shown(self, box: SourceBox, but: Any = None) -> bool:
        """Whether the file chosen in a box is among the layers, one of them left out."""
        shown = [path_of(layer) for layer in self.bench.ours(*box.kinds) if layer is not but]
        return bool(box.value()) and box.value() in shown

    def _sources_changed(self) -> None:
        map_path, mask_path = self.map_box.value(), self.mask_box.value()
        self._going_back = None
        self._placing = None
        self.card.hide()
        self._refusal = ""
        self._loading = bool(map_path)
        if not map_path:
            self._reading.cancel()
            self._take_pair(None)
        view = self.bench.view
        paths = {"map": map_path, "mask": mask_path}
        given = {"map": self.map_box.given_angst, "mask": self.mask_box.given_angst}
        self.suggestions.confidence.setText("reading and scoring …")
        self._tell_state()
        self._reading.request(
            lambda: read_pair(paths, given, view), done=self._arrived, failed=self._not_read
        )

    def _not_read(self, error: StaError) -> None:
        self._loading = False
        self._take_pair(None)
        self.layers.forget()
        self._refusal = in_plain_words(str(error), root=self.bench.root)
        if isinstance(error, NoPixelSizeError):
            for what in error.unknown:
                (self.map_box if what == "map" else self.mask_box).ask_pixel_size()
        self.card.tell("error", "Map and mask cannot be compared", self._refusal)
        self._tell_state()

    def _arrived(self, reading: Reading) -> None:
        if self.bench.closed:
            return
        first = not self.bench.viewer.layers
        self.layers.forget()
        waiting = [(what, layer) for what in ("map", "mask") for layer in reading.layers[what]]
        self._placing = waiting

        def turn() -> None:
            """Add one layer, then let the viewer breathe: its first layers take napari a while each."""
            if not isalive(self) or self.bench.closed or self._placing is not waiting:
                return
            if not waiting:
                self._placing = None
                self._loading = False
                self._compare(reading, first)
                return
            what, layer_data = waiting.pop(0)
            self._adding = True
            try:
                added = self.bench.shown.add([layer_data])
            finally:
                self._adding = False
            for layer in added:
                self.layers.hold(what, layer, layer_data[1])
                self.hand.bind_keys(layer)
            QTimer.singleShot(0, turn)

        turn()

    def _look_at_canvas(self) -> None:
        """Let go of a map or mask that is no longer in the viewer; say what else is not as it was."""
        if self.bench.closed or self._loading:
            return
        if self.pair is not None and self.layers.gone():
            self._take_pair(None)
        self.layers.take_same_data()
        self._tell_state()

    def _take_pair(self, pair: Pair | None) -> None:
        """Compare these two, or nothing any more; the number stays."""
        self.pair = pair
        self.hand.pixel_size_angst = self.pixel_size_angst
        self.plot.show_pair(pair, self.offset_px)
        self.suggestions.show_pair(pair)

    def _tell_state(self) -> None:
        self._show_numbers()
        self.recentre.replan()

    def _why_stale(self) -> str:
        """Return why what is on the canvas is not what would be applied; empty if it is."""
        if self._loading:
            return "Map and mask are being read."
        if not self.map_box.value() or not self.mask_box.value():
            return "Choose a map and a mask: the mask can then be moved along Z."
        if self._refusal:
            return f"Nothing can be applied: {self._refusal}"
        if gone := self.layers.gone():
            boxes = {"map": self.map_box, "mask": self.mask_box}
            gone = [what for what in gone if not self._is_shown(boxes[what])] or gone
            words = " and ".join(gone)
            verb = "are" if len(gone) > 1 else "is"
            return f"Nothing can be applied: the {words} {verb} no longer in the viewer."
        if self.pair is None or self._compared != (self.map_box.value(), self.mask_box.value()):
            return "Choose a map and a mask: the mask can then be moved along Z."
        stale = self.layers.why_stale(self.pair, self._shifts())
        return f"Nothing can be applied: {stale}" if stale else ""

    def _compare(self, reading: Reading, first: bool) -> None:
        """Take over a map and mask whose layers are in the viewer."""
        pair, self.recentre.settings = reading.pair, reading.settings
        self.pair = pair
        chosen = (self.map_box.value(), self.mask_box.value())
        again = chosen == self._compared and pair is not None  # the same two: the number stays
        if pair is not None:
            self._compared = chosen
        former_are_gone = self.layers.former_are_gone
        self.layers.uncover()
        symmetry = reading.settings.get("symmetry")
        if symmetry and not again:
            self.symmetry.setText(symmetry)
        self._take_pair(pair)
        back, self._going_back = self._going_back, None
        at: Sequence[float] = (0.0, 0.0, 0.0)
        if back is not None:
            at = back.recentring.offset_zyx_px
        elif again:
            at = [float(v) for v in self.offset.zyx_px]
        self.offset.set_sideways(at[1:])
        if not again:
            self.offset.forget()
        if first or (self.bench.viewer.dims.ndisplay == 2 and (not again or former_are_gone)):
            self.show_xz()
        self.recentre.fill_particles(
            fresh=not again or back is not None, wanted=None if back is None else back.particles
        )
        self.offset.set_z(at[0], note=False)
        self.offset.be_settled()
        self._settle()
        self._look_at_canvas()
        if not reading.settings:
            self._learn_settings()  # the project may have been opened meanwhile
        if self.pair is not None and self.pair.notes and back is None:
            self.card.tell("info", self.pair.notes)

    def _project_changed(self, view: ProjectView | None) -> None:
        self.map_box.refresh()
        self.mask_box.refresh()
        self.recentre.fill_particles()
        self._learn_settings()

    def _learn_settings(self) -> None:
        """Look up how the map was made, if that is not known: its project may come after the map."""
        view, path = self.bench.view, self.map_box.value()
        if view is None or not path or self.recentre.settings:
            return

        def learnt(settings: dict[str, str]) -> None:
            if settings and not self.recentre.settings and path == self.map_box.value():
                self.recentre.settings = settings
                if settings.get("symmetry") and self.symmetry.text().strip() in ("", "C1"):
                    self.symmetry.setText(settings["symmetry"])
                self.recentre.fill_particles()

        in_background(self, made_with, view, path, done=learnt)

    def show_xz(self) -> None:
        """Show the slice through the centre with Z vertical: the plane where a Z offset is seen."""
        show_xz(self.bench.viewer)

    # -- the offset --------------------------------------------------------------------------------

    @property
    def offset_px(self) -> float:
        """How far the map's density lies from the mask along +Z, in map pixels."""
        return self.offset.z_px

    @property
    def pixel_size_angst(self) -> float | None:
        """Of the map; None while there is none to compare."""
        return self.pair.map.pixel_size_angst if self.pair is not None else None

    def set_offset(self, offset_px: float) -> None:
        """Move to an offset: layers, number, sentence and cursors; a few milliseconds.

        Parameters
        ----------
        offset_px
            Map pixels along +Z; rounded to 0.01 px, which is what is applied.
        """
        self.offset.set_z(offset_px)

    def suggest(self) -> None:
        """Jump to the best candidate; nothing is written."""
        self.suggestions.suggest()

    def _shifts(self) -> dict[str, NDArray[np.float64]]:
        """Return how far map and mask are moved from where they belong, zyx in Å."""
        assert self.pair is not None
        shift = self.offset.zyx_px * self.pair.map.pixel_size_angst
        mask_moves = self.mask_moves.isChecked()
        return {"mask": shift if mask_moves else 0 * shift, "map": 0 * shift if mask_moves else -shift}

    def _moved(self) -> None:
        if self.pair is not None:
            self.layers.place(self._shifts())
        self._show_numbers()
        self.plot.move_to(self.offset_px)

    def _moved_sideways(self) -> None:
        self._settle()
        self._show_numbers()

    def _settle(self) -> None:
        if self.pair is not None:
            self.layers.place(self._shifts(), settle=True)
            self.recentre.replan()

    def _preview_changed(self, mask_moves: bool) -> None:
        self.hand.sign = 1 if mask_moves else -1
        self._settle()

    def _show_sideways(self, yx_px: Sequence[float]) -> None:
        for box, value in zip((self.y_box, self.x_box), yx_px, strict=True):
            with QSignalBlocker(box):
                box.setValue(value)

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
        if not np.any(self.offset.zyx_px):
            self.sentence.setText("Map and mask as they are. Move the mask until it covers the density.")
            return
        sideways = zip("YX", self.offset.zyx_px[1:], strict=True)
        extra = "".join(f" --center_{name} {value:g}" for name, value in sideways if value)
        self.sentence.setText(
            f"Density at <b>Z = {d:+.2f} px ({d * pixel:+.2f} Å)</b> becomes the centre.<br>"
            f"RELION: <code>--center_Z {d:g}{extra}</code>"
        )

    def _can_mend(self, stale: str) -> bool:
        """Whether reading map and mask again, and placing them, makes good what is stale."""
        chosen = self.map_box.value() and self.mask_box.value()
        return bool(stale and chosen and not self._loading and not self._refusal)

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
            self.recentre.replan()
            return
        free_xy = (family, order) == ("C", 1)
        free_z = family == "C"
        for box, axis in ((self.y_box, 1), (self.x_box, 2)):
            box.setEnabled(free_xy)
            if not free_xy and self.offset.zyx_px[axis]:
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
        self.recentre.replan()

    # -- applying ----------------------------------------------------------------------------------

    def _recentring(self) -> Recentring:
        """Return what is to be applied.

        Raises
        ------
        InputError
            If what is on the canvas is not what would be applied.
        """
        if stale := self._why_stale():
            raise InputError(stale)
        name = self.symmetry.text().strip()
        if self.symmetry.property("wrong"):
            raise InputError(f"{name} is no point group; correct the symmetry.")
        assert self.pair is not None
        density = self.pair.map
        z, y, x = (float(v) for v in self.offset.zyx_px)
        return Recentring(
            self.map_box.value(), self.mask_box.value(), (z, y, x), density.pixel_size_angst, density.box_px,
            name or "C1",
        )  # fmt: skip

    def _show_new_map(self, path: str) -> None:
        """Show the map of the recentred particles in the place of the one before."""
        self.layers.hide_map()
        self.load(path, self.mask_box.value())

    def _leave(self, folders: list[Path], before: Before | None) -> None:
        """Show nothing from folders that are gone; go back to what was chosen before Apply."""
        on_gone_map = lies_in(self.map_box.value(), folders)
        for layer in self.bench.ours():
            if lies_in(path_of(layer), folders):
                self.bench.viewer.layers.remove(layer)
        for box in (self.map_box, self.mask_box):
            box.forget(folders)
        if before is not None and on_gone_map:
            self.load(before.recentring.map_path, before.recentring.mask_path)
            self._going_back = before
        else:
            self.recentre.choose_again(folders, before)

    def hideEvent(self, event: Any) -> None:
        """Let go of the canvas when the dock goes out of sight."""
        self.drag_button.setChecked(False)
        super().hideEvent(event)
