"""The layers of a map and a mask that are compared: held, placed by the offset, watched, let go."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal

from napari_sta.widgets import _napari_private
from napari_sta.widgets.align_pair import Pair
from napari_sta.widgets.of_viewer import OfViewer
from napari_sta.widgets.shown import Shown


class PairLayers(OfViewer):
    """Layers of the pair, by what they are: ``map`` and ``mask`` (with its contour).

    Parameters
    ----------
    shown
        What is on the canvas.

    Attributes
    ----------
    touched
        Somebody else has moved one of them, or changed its data.
    """

    touched = Signal()

    def __init__(self, shown: Shown) -> None:
        super().__init__(shown.viewer)
        self._shown = shown
        self._layers: dict[str, list[weakref.ref[Any]]] = {"map": [], "mask": []}
        self._slid: set[int] = set()  # layers that moved on the canvas only, until the drag settles
        self._base: dict[int, NDArray[np.float64]] = {}
        self._scored: dict[int, Any] = {}  # the data of a layer whose map or mask was scored
        self._placing = False
        self._former: list[weakref.ref[Any]] = []  # layers of the pair before this one
        self._hidden: weakref.WeakSet[Any] = weakref.WeakSet()  # those of pairs before that

    def hold(self, what: str, layer: Any, meta: Mapping[str, Any]) -> None:
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

    @staticmethod
    def _watched(layer: Any) -> list[Any]:
        events = layer.events
        return [events.data, events.scale, events.translate, events.rotate, events.shear, events.affine]

    def _layer_touched(self, event: Any = None) -> None:
        if not self._placing:
            self.touched.emit()

    def held(self, *kinds: str) -> list[Any]:
        """Return the layers of the pair that are in the viewer."""
        if self.closed:
            return []
        layers = (reference() for what in kinds for reference in self._layers[what])
        return [layer for layer in layers if layer is not None and layer in self.viewer.layers]

    def gone(self) -> list[str]:
        """Return which of map and mask is not in the viewer any more; the mask's contour may go."""
        here = self.held("map", "mask")
        return [
            what for what, references in self._layers.items() if references and references[0]() not in here
        ]

    @property
    def former_are_gone(self) -> bool:
        """Whether nothing of the pair before this one is in the viewer."""
        return not any(reference() in self.viewer.layers for reference in self._former)

    def take_same_data(self) -> None:
        """Take the same values read again, by another dock perhaps, for those that were scored."""
        for layer in self.held("map", "mask"):
            scored = self._scored[id(layer)]
            if layer.data is not scored and np.array_equal(layer.data, scored):
                self._scored[id(layer)] = layer.data

    def why_stale(self, pair: Pair, shifts: Mapping[str, NDArray[np.float64]]) -> str:
        """Return what is not as it was scored, or not where the offset says; empty if all is well.

        Parameters
        ----------
        pair
            Whose layers these are.
        shifts
            How far map and mask are moved, zyx in Å.
        """
        for what in ("map", "mask"):
            pixel = (pair.map if what == "map" else pair.mask).pixel_size_angst
            for layer in self.held(what):
                if layer.data is not self._scored[id(layer)]:
                    return f"the {what}'s data are not those of the score any more."
                place = self._base[id(layer)] + shifts[what]
                stands_right = (
                    np.allclose(layer.translate, place, atol=1e-4 * pixel)
                    and np.allclose(layer.scale, pixel, rtol=1e-6)
                    and _is_upright(layer)
                )
                if not stands_right:
                    return f"the {what} was moved or scaled by hand, so it is not where the offset says."
        return ""

    def uncover(self) -> None:
        """Hide the pair before this one, and draw the mask over the map, the map over other maps."""
        layers, held = self.viewer.layers, self.held("map", "mask")
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
        self._shown.hide_contours_in_3d()
        masks = self.held("mask")
        for map_ in self.held("map"):
            if masks:
                self._shown.uncover(map_, masks)
            else:
                map_.visible = True
                layers.move(layers.index(map_), 0)
            layers.selection.active = map_

    def hide_map(self) -> None:
        """Make room for another map."""
        for layer in self.held("map"):
            layer.visible = False

    def forget(self) -> None:
        """Put layers that are no longer compared back where they belong."""
        self._former = [weakref.ref(layer) for layer in self.held("map", "mask")] or self._former
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

    def place(self, shifts: Mapping[str, NDArray[np.float64]], *, settle: bool = False) -> None:
        """Translate the layers; while dragging only on the canvas, until the drag settles.

        Parameters
        ----------
        shifts
            How far map and mask are moved from where they belong, zyx in Å.
        settle
            Whether the drag has ended.
        """
        self._placing = True
        for what, references in self._layers.items():
            for reference in references:
                layer = reference()
                base = self._base.get(id(layer)) if layer is not None else None
                if layer is None or base is None:
                    continue
                target = base + shifts[what]
                moves_now = not np.array_equal(target, layer.translate)
                if settle and (moves_now or id(layer) in self._slid):
                    layer.translate = target  # slices, thumbnail and the viewer's extent follow
                elif moves_now:
                    self._slide(layer, target)
        self._placing = False
        if settle:
            self._slid.clear()

    def _slide(self, layer: Any, target: NDArray[np.float64]) -> None:
        """Translate a layer on the canvas only; it is sliced again only where the slice can change.

        What is shown of a layer depends on where it is along the axes that are not displayed. Slicing it
        again at every tick of a drag costs milliseconds in a section and the upload of the whole map in 3D.
        """
        viewer = self.viewer
        moved = np.flatnonzero(target != layer.translate) + viewer.dims.ndim - layer.ndim
        with ExitStack() as quiet:
            if set(moved) <= set(viewer.dims.displayed):
                quiet.enter_context(_napari_private.no_slicing(layer))
            quiet.enter_context(_napari_private.no_extent(viewer, layer))
            layer.translate = target
        self._slid.add(id(layer))


def show_xz(viewer: Any) -> None:
    """Show the slice through the centre with Z vertical: the plane where a Z offset is seen."""
    viewer.dims.ndisplay = 2
    if viewer.dims.ndim >= 3:
        first = viewer.dims.ndim - 3
        viewer.dims.order = (*range(first), first + 1, first, first + 2)
        viewer.dims.set_point(first + 1, 0.0)
    viewer.fit_to_view()
    viewer.status = "XZ slice through the centre; +Z points down"


def _is_upright(layer: Any) -> bool:
    """Whether nothing but scale and translation takes a layer to the world."""
    return bool(
        np.allclose(layer.rotate, np.eye(layer.ndim))
        and not np.any(layer.shear)
        and np.allclose(layer.affine.affine_matrix, np.eye(layer.ndim + 1))
    )
