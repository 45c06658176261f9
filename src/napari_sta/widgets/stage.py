"""Which of our layers are on the canvas: one place hides what lies behind, raises, and brings back."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer, Signal

from napari_sta.widgets.of_viewer import OfViewer, entries_of

if TYPE_CHECKING:
    from napari.layers import Layer

TILTS = "tilt series"
"""Owner of the stage while a tilt series is looked at."""


class Stage(OfViewer):
    """The canvas, taken by whoever shows something that others would cover.

    Whoever takes it has their layers seen: all other layers of ours are hidden until it is left, and then
    are as they were. It is left when its owner says so, when the last of its layers is removed, when
    another layer of ours comes, and when somebody works on a hidden one (moves it, sharpens it).

    Attributes
    ----------
    owner
        Who has it; None: nobody, and every layer is as visible as the user made it.
    taken
        It has a new owner, or none (argument: the owner).
    """

    taken = Signal(object)

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self.owner: Any = None
        self._front: list[weakref.ref[Any]] = []
        self._behind: list[weakref.ref[Any]] = []
        self._places: dict[int, Any] = {}
        self._deaf = False
        layers = viewer.layers
        layers.events.inserted.connect(self._inserted)
        layers.events.removed.connect(self._removed)

    def take(self, owner: Any, layers: Sequence[Layer]) -> None:
        """Show these layers and none but these, of ours; above all others.

        Parameters
        ----------
        owner
            Who asks; the stage is taken from any other.
        layers
            In the viewer, at least one.
        """
        for layer in self._there(self._front):
            if layer not in layers:
                layer.visible = False
        for layer in self.ours():
            if layer.visible and layer not in layers:
                self._put_behind(layer)
                layer.visible = False
        self._behind = [behind for behind in self._behind if behind() is not None and behind() not in layers]
        self._front = [weakref.ref(layer) for layer in layers]
        for layer in layers:
            layer.visible = True
        self._raise(layers)
        if owner is not self.owner:
            self.owner = owner
            self.taken.emit(owner)

    def leave(self, owner: Any = None) -> None:
        """Hide what is on the stage and show what was hidden for it.

        Parameters
        ----------
        owner
            Only if it is theirs; None: whoever has it.
        """
        if self.owner is None or (owner is not None and owner is not self.owner):
            return
        self.owner = None
        for layer in self._there(self._front):
            layer.visible = False
        behind, self._behind, self._front = self._behind, [], []
        for layer in self._there(behind):
            self._listen(layer, False)
            layer.visible = True
        self.taken.emit(None)

    def show(self, layer: Layer) -> None:
        """Make a layer visible; one that is not on the stage ends the show there."""
        if not self.shows(layer):
            self.leave()
        layer.visible = True

    def shows(self, layer: Layer) -> bool:
        """Whether a layer is on the stage."""
        return self.owner is not None and layer in self._there(self._front)

    def keep_behind(self, layer: Layer) -> bool:
        """Remember that a hidden layer is to be seen once the stage is left; False if nobody has it."""
        if self.owner is None or self.shows(layer):
            return False
        self._put_behind(layer)
        return True

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Do not take what is done to hidden layers here for work of the user's: a file is read anew."""
        before, self._deaf = self._deaf, True
        try:
            yield
        finally:
            self._deaf = before

    # -- inside ------------------------------------------------------------------------------------

    def _there(self, references: Sequence[weakref.ref[Any]]) -> list[Any]:
        if self.closed:
            return []
        layers = self.viewer.layers
        return [layer for reference in references if (layer := reference()) is not None and layer in layers]

    def _put_behind(self, layer: Layer) -> None:
        if layer not in [behind() for behind in self._behind]:
            self._behind.append(weakref.ref(layer))
            self._listen(layer, True)

    def _listen(self, layer: Layer, on: bool) -> None:
        # A refinement's half maps get new data by themselves, an iteration after the other.
        if "run" in entries_of(layer):
            return
        for event, called in ((layer.events.translate, self._moved), (layer.events.data, self._worked_on)):
            event.connect(called) if on else event.disconnect(called)
        if on:
            self._places[id(layer)] = np.array(layer.translate)
        else:
            self._places.pop(id(layer), None)

    def _moved(self, event: Any) -> None:
        place = self._places.get(id(event.source))
        if place is None or not np.array_equal(event.source.translate, place):
            self._worked_on()

    def _worked_on(self, event: Any = None) -> None:
        if not self._deaf:
            self.leave()

    def _raise(self, layers: Sequence[Layer]) -> None:
        """Move layers to the top, unless no visible layer lies above them: a move costs a redraw."""
        everything = self.viewer.layers
        lowest = min(everything.index(layer) for layer in layers)
        if any(above.visible and above not in layers for above in everything[lowest:]):
            for layer in layers:
                everything.move(everything.index(layer), len(everything))

    def _inserted(self, event: Any) -> None:
        ours = entries_of(event.value)
        kind = ours.get("kind")
        if kind == "tilt_series":
            if event.value.visible:
                self._take_for_tilts(event.value)
        elif kind and "run" not in ours:
            if self.owner == TILTS and event.value.visible and kind in ("particles", "vectors"):
                _tell("The tilt series is hidden: a tilt image lies in no tomogram. Its eye icon shows it.")
            self.leave()

    def _take_for_tilts(self, layer: Layer) -> None:
        """Show a tilt series on its own: the number of a tilt is no place in a tomogram."""
        others = [one for one in self.ours() if one.visible and one is not layer]
        self.take(TILTS, [layer])
        QTimer.singleShot(0, self._face_tilts)  # once napari knows of the layer's axes
        if any(one.metadata["napari_sta"]["kind"] != "tilt_series" for one in others):
            _tell(
                f"{layer.name}: a tilt series is looked at on its own, because a tilt image lies in no "
                "tomogram. The other layers are hidden until it is removed; their eye icons show them."
            )

    def _face_tilts(self) -> None:
        """Look at tilt images from the front, whatever was looked at before."""
        if self.owner != TILTS or self.closed:
            return
        viewer = self.viewer
        viewer.dims.ndisplay = 2
        viewer.dims.order = tuple(range(viewer.dims.ndim))
        viewer.dims.set_point(viewer.dims.ndim - 3, 0.0)
        viewer.fit_to_view()

    def _removed(self, event: Any) -> None:
        if self.owner is not None and not self._there(self._front):
            self.leave()


def _tell(words: str) -> None:
    from napari.utils.notifications import show_info

    show_info(words)
