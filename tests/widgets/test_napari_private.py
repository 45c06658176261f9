"""What we reach for behind napari's public face is there, does what we think, and stands in one module."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import napari_sta
from napari_sta.widgets import _napari_private as private

WIDGETS = Path(napari_sta.__file__).parent / "widgets"


@pytest.mark.usefixtures("real_window")
def test_a_proxy_gives_its_viewer(viewer):
    from napari.utils._proxies import PublicOnlyProxy

    assert private.plain(PublicOnlyProxy(viewer)) is viewer
    assert private.plain(viewer) is viewer


def test_every_open_viewer_is_known(make_napari_viewer):
    first, second = make_napari_viewer(show=False), make_napari_viewer(show=False)
    assert {id(one) for one in private.open_viewers(second)} >= {id(first), id(second)}


def test_window_is_napari_s_until_it_is_closed(make_napari_viewer):
    from qtpy.QtWidgets import QMainWindow

    viewer = make_napari_viewer(show=False)
    assert isinstance(private.window_of(viewer), QMainWindow)
    viewer.close()
    assert private.window_of(viewer) is None


def test_a_model_has_no_window():
    from napari.components import ViewerModel

    assert private.window_of(ViewerModel()) is None


@pytest.mark.usefixtures("real_window")
def test_drops_and_keys_go_to_widgets_of_the_window(viewer):
    window, target, canvas = (
        private.window_of(viewer),
        private.drop_target_of(viewer),
        private.canvas_of(viewer),
    )
    assert target.acceptDrops()
    assert type(target).dropEvent is not type(window).dropEvent
    assert window.isAncestorOf(canvas)
    assert target.isAncestorOf(canvas)


@pytest.mark.usefixtures("real_window")
def test_quit_is_told_by_the_window_before_it_closes(viewer):
    window = private.window_of(viewer)
    assert "_quit_app" in vars(window), "napari keeps it elsewhere now"
    assert not private.quits(window)
    window._quit_app = True  # what File > Quit does
    assert private.quits(window)
    private.quit_no_more(window)
    assert not private.quits(window)


def test_no_slicing_while_a_layer_moves(viewer):
    layer = viewer.add_image(np.zeros((4, 5, 6)))
    sliced = []
    layer.events.set_data.connect(lambda event: sliced.append(event))
    layer.translate = (0, 1, 0)
    assert sliced
    sliced.clear()
    with private.no_slicing(layer):
        layer.translate = (0, 2, 0)
    assert not sliced
    layer.translate = (0, 3, 0)
    assert sliced


def test_no_extent_while_a_layer_moves(viewer):
    layer = viewer.add_image(np.zeros((4, 5, 6)))
    before = viewer.dims.range
    with private.no_extent(viewer, layer):
        layer.translate = (100, 0, 0)
    assert viewer.dims.range == before
    layer.translate = (200, 0, 0)
    assert viewer.dims.range[0].start == 200


def test_a_layer_without_viewer_is_sliced():
    from napari.components import Dims
    from napari.layers import Image

    data = np.arange(24.0).reshape(2, 3, 4)
    layer = Image(data)
    private.slice_once(layer, Dims(ndim=3, ndisplay=2, order=(1, 0, 2), point=(0, 1, 0)))
    np.testing.assert_array_equal(layer._slice.image.raw, data[:, 1])


def test_a_field_is_a_value_of_magicgui(qtbot):
    from napari_sta.widgets.fields import NumberEdit

    edit = NumberEdit()
    edit.native.configure(integer=False, optional=True)
    told = []
    edit.changed.connect(told.append)
    edit.native.set_value(2.5)
    assert edit.get_value() == 2.5
    assert told == [2.5]
    edit.value = 3.5
    assert edit.native.value() == 3.5


def test_nothing_private_is_used_elsewhere():
    """Names with an underscore that are not of the object itself."""
    of_napari = re.compile(
        r"_qt_window|_qt_viewer|qt_viewer|_block_refresh|_on_layers_change|_slice_dims|_instances|_quit_app|_mgui"
        r"|magicgui\.backends|napari\._|vispy|(?:layer|viewer|layers|dims|canvas|window)\._[a-z]"
    )
    for path in WIDGETS.glob("*.py"):
        if path.name != "_napari_private.py":
            found = of_napari.findall(path.read_text())
            assert not found, f"{path.name}: {found}"
