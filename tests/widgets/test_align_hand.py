"""Mouse and keys on the canvas move the offset, in the direction of the hand."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest

from napari_sta.widgets.align_hand import CanvasHand
from napari_sta.widgets.align_offset import Offset


@pytest.fixture
def hand(viewer):
    viewer.add_image(np.zeros((8, 8, 8)))
    made = CanvasHand(viewer, Offset())
    made.pixel_size_angst = 2.0
    return made


def drag(viewer, *places: float):
    event = SimpleNamespace(type="mouse_press", position=(places[0], 0.0, 0.0), handled=False)
    moves = viewer.mouse_drag_callbacks[-1](viewer, event)
    next(moves, None)
    event.type = "mouse_move"
    for place in places[1:]:
        event.position = (place, 5.0, 5.0)
        next(moves, None)
    event.type = "mouse_release"
    next(moves, None)
    return event


@pytest.mark.parametrize("sign", [1, -1])
def test_a_drag_moves_by_pixels_of_the_map(hand, viewer, sign):
    hand.sign = sign
    before = list(viewer.mouse_drag_callbacks)
    hand.let_drag(True)
    assert viewer.scene.camera.mouse_pan is False
    assert drag(viewer, 10.0, 13.0, 16.0).handled
    assert hand._offset.z_px == sign * 3.0
    hand._offset.step_back()
    assert hand._offset.z_px == 0
    hand.let_drag(False)
    assert viewer.scene.camera.mouse_pan is True
    assert viewer.mouse_drag_callbacks == before


def test_nothing_is_dragged_where_z_is_not_seen_or_nothing_compared(hand, viewer):
    hand.let_drag(True)
    viewer.dims.order = (0, 1, 2)  # z is the slider
    drag(viewer, 10.0, 13.0)
    assert hand._offset.z_px == 0
    viewer.dims.order = (1, 0, 2)
    hand.pixel_size_angst = None
    drag(viewer, 10.0, 13.0)
    assert hand._offset.z_px == 0


def test_keys_of_a_layer_step(hand, viewer):
    layer = viewer.layers[0]
    hand.bind_keys(layer)
    keys = {str(key): call for key, call in layer.keymap.items()}
    keys["Down"](layer)
    keys["Shift+Down"](layer)
    keys["Alt+Up"](layer)
    assert hand._offset.z_px == pytest.approx(1.2)
    hand.sign = -1
    keys["Down"](layer)
    assert hand._offset.z_px == pytest.approx(0.95)
    keys["Ctrl+Z"](layer)
    assert hand._offset.z_px == 0


def test_keys_outlive_the_dock_without_harm(viewer):
    layer = viewer.add_image(np.zeros((8, 8, 8)))
    hand = CanvasHand(viewer, Offset())
    hand.bind_keys(layer)
    hand.deleteLater()
    del hand
    gc.collect()
    for call in list(layer.keymap.values()):
        call(layer)
