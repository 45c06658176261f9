"""What files and jobs put on the canvas: layers added in place, seen, with the true hand, masks as lines."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import Signal

from napari_sta.data.errors import StaError
from napari_sta.layers.read import read_layers
from napari_sta.widgets._background import in_background
from napari_sta.widgets.of_viewer import OfViewer, entries_of
from napari_sta.widgets.stage import Stage

HAND = ("away", "down", "right")
"""Camera orientation that shows z, y, x data unmirrored; napari's default shows the mirror image."""


class Shown(OfViewer):
    """Our layers of one viewer, as they come and go.

    Parameters
    ----------
    viewer
        The napari viewer itself.

    Attributes
    ----------
    stage
        Who has the canvas for themselves.
    failed
        A file could not be read, and who asked did not want to know (argument: the error).
    """

    failed = Signal(object)

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self._hand_before: Any = None
        self._bar_before = False
        self._contours_off: list[weakref.ref[Any]] = []
        viewer.layers.events.inserted.connect(self._outline)
        self.stage = Stage(viewer)
        self.stage.taken.connect(self._stage_taken)
        viewer.layers.events.inserted.connect(self._keep_hand)
        viewer.layers.events.removed.connect(self._keep_hand)
        viewer.dims.events.ndisplay.connect(self.hide_contours_in_3d)

    # -- camera ------------------------------------------------------------------------------------

    def _keep_hand(self, event: Any = None) -> None:
        """Show z, y, x data unmirrored, with a scale bar, as long as one of our layers is there."""
        if self._viewer() is None:
            return
        camera = self.viewer.scene.camera
        if self.ours():
            if self._hand_before is None:
                self._hand_before = tuple(str(getattr(o, "value", o)) for o in camera.orientation)
                camera.orientation = HAND
                bar = self.viewer.canvas.overlays.scale_bar
                self._bar_before, bar.visible = bar.visible, True
                if self._hand_before != HAND:
                    self.viewer.status = "3D view set to the true hand (napari's default mirrors maps)"
        elif self._hand_before is not None:
            camera.orientation = self._hand_before
            self._hand_before = None
            self.viewer.canvas.overlays.scale_bar.visible = self._bar_before
        self.hide_contours_in_3d()

    def _outline(self, event: Any) -> None:
        """Make a line of a contour, whoever has put it into the viewer."""
        layer = event.value
        if entries_of(layer).get("kind") == "contour":
            outline_contour(layer)
            layer.visible = True

    def hide_contours_in_3d(self, event: Any = None) -> None:
        """Contours belong to slices; in 3D they would hide the isosurface of the mask."""
        if self._viewer() is None:
            return
        # napari's own handlers come first, and would put this up as a notification.
        warnings.filterwarnings("ignore", message="Contours are not displayed during 3D")
        if self.viewer.dims.ndisplay == 3:
            for layer in self.ours("contour"):
                if layer.visible:
                    layer.visible = False
                    self._contours_off.append(weakref.ref(layer))
        else:
            for reference in self._contours_off:
                layer = reference()
                if layer is None or layer not in self.viewer.layers:
                    continue
                if not self.stage.keep_behind(layer):
                    layer.visible = True
            self._contours_off.clear()

    def _stage_taken(self, owner: object) -> None:
        if owner is None:  # a contour that was hidden for it is back
            self.hide_contours_in_3d()

    # -- layers ------------------------------------------------------------------------------------

    def add(self, tuples: Iterable[tuple[Any, dict[str, Any], str]]) -> list[Layer]:
        """Put layer tuples into the viewer; a file that is shown already is replaced in place."""
        added: list[Layer] = []
        if self.closed:
            return added
        for data, meta, kind in tuples:
            ours = meta.get("metadata", {}).get("napari_sta", {})
            old = self._same_file(ours)
            if old is not None and type(old).__name__.lower() == kind:
                if getattr(old.data, "shape", None) == getattr(data, "shape", None):
                    with self.stage.unmoved():
                        _replace_data(old, data, meta, kind)
                    added.append(old)
                    continue
                self.viewer.layers.remove(old)
            layer = Layer.create(data, dict(meta), kind)
            self.viewer.add_layer(layer)
            if ours.get("kind") == "map":
                self._put_below_masks(layer)
            if ours.get("kind") == "tomogram":  # behind the particles in it
                self.viewer.layers.move(self.viewer.layers.index(layer), 0)
            if kind == "image":
                _note_limits(layer)
            added.append(layer)
        return added

    def _put_below_masks(self, layer: Layer) -> None:
        """Let masks and their contours be seen over a map that came after them."""
        layers = self.viewer.layers
        masks = [layers.index(mask) for mask in self.ours("mask", "contour")]
        if masks and min(masks) < layers.index(layer):
            layers.move(layers.index(layer), min(masks))

    def uncover(self, layer: Layer, masks: Sequence[Layer] = ()) -> None:
        """Let a map be seen over the other maps, and its masks over it."""
        layers = self.viewer.layers
        layer.visible = True
        others = [
            layers.index(map_) for map_ in self.ours("map", "half") if map_ is not layer and map_.visible
        ]
        if others and max(others) > layers.index(layer):
            layers.move(layers.index(layer), max(others) + 1)
        for mask in masks:
            if layers.index(mask) < layers.index(layer):
                layers.move(layers.index(mask), len(layers))

    def _same_file(self, ours: Mapping[str, Any]) -> Layer | None:
        for layer in self.ours(str(ours.get("kind"))):
            other = layer.metadata["napari_sta"]
            if ours.get("run") and (ours["run"], ours["half"]) == (other.get("run"), other.get("half")):
                return layer  # the same half map, at another iteration
            same_path = ours.get("path") and other.get("path") == ours["path"]
            if same_path and other.get("tomogram") == ours.get("tomogram"):
                return layer
        return None

    def show(
        self,
        paths: Iterable[str | Path],
        *,
        done: Callable[[list[Layer]], None] | None = None,
        failed: Callable[[StaError], None] | None = None,
    ) -> None:
        """Read files or job folders in a thread and add their layers."""
        wanted = [Path(p) for p in paths]

        def read() -> list[Any]:
            return [layer for path in wanted for layer in read_layers(path)]

        def arrived(tuples: list[Any]) -> None:
            if self.closed:
                return
            first = not self.viewer.layers
            point = self.viewer.dims.point
            layers = self.add(tuples)
            for layer, (_, meta, _) in zip(layers, tuples, strict=True):
                if meta.get("visible", True):
                    self.stage.show(layer)
            particles = [layer for layer in layers if layer in self.ours("particles")]
            if particles:
                self._show_particles(particles, None if first else point)
            elif first and layers:
                self.viewer.fit_to_view()
            if done is not None:
                done(layers)

        in_background(self, read, done=arrived, failed=failed or self.failed.emit)

    def _show_particles(self, layers: list[Layer], point: tuple[float, ...] | None) -> None:
        """Show a whole cloud of particles and say what is seen; a slice would hold a few of them at most.

        Parameters
        ----------
        layers
            Their Points, a layer per tomogram.
        point
            Where the sliders were; a set of particles must not move them.
        """
        from napari.utils.notifications import show_info

        dims = self.viewer.dims
        dims.ndisplay = 3
        if point is not None and len(point) == dims.ndim:
            dims.point = point
        self.viewer.fit_to_view()
        ours = layers[0].metadata["napari_sta"]
        hidden = int(ours["n_tomograms"]) - 1
        rest = f"; those of {hidden} more tomogram{'s' * (hidden > 1)} are hidden" if hidden else ""
        show_info(
            f"{len(layers[0].data)} of {ours['n_particles']} particles are shown in 3D: tomogram "
            f"{ours['tomogram']}{rest}. Ctrl+Y goes back to slices."
        )


def _replace_data(layer: Any, data: Any, meta: Mapping[str, Any], kind: str) -> None:
    """Give a layer new data, and limits that suit them unless the user has chosen their own."""
    before = layer.metadata["napari_sta"].get("limits")
    layer.data = data
    layer.metadata = meta["metadata"]
    if "run" in meta["metadata"]["napari_sta"]:
        layer.name = meta["name"]
    if kind == "image":
        if before is None or tuple(layer.contrast_limits) == before[0]:
            layer.contrast_limits = meta["contrast_limits"]
        if "iso_threshold" in meta and before is not None and layer.iso_threshold == before[1]:
            layer.iso_threshold = meta["iso_threshold"]
        _note_limits(layer)


def _note_limits(layer: Any) -> None:
    """Remember the limits that were set for the user, to know later whether they are still those."""
    ours = layer.metadata["napari_sta"]
    if "run" in ours:
        ours["limits"] = (tuple(layer.contrast_limits), layer.iso_threshold)


def outline_contour(layer: Any) -> None:
    """Show a contour layer as a line, which nobody paints on by accident."""
    layer.contour = 1
    layer.editable = False
