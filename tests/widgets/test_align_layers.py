"""The layers of a pair are placed by the offset, watched, and let go as they were."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sta.data.volume import Volume
from napari_sta.layers.volumes import map_layer, mask_layers
from napari_sta.widgets.align_layers import PairLayers, show_xz
from napari_sta.widgets.align_pair import Pair

HERE = {"map": np.zeros(3), "mask": np.zeros(3)}
MOVED = {"map": np.zeros(3), "mask": np.array([6.0, 0.0, 0.0])}


@pytest.fixture
def pair():
    ball = np.zeros((12, 12, 12), np.float32)
    ball[3:9, 3:9, 3:9] = 1
    return Pair(Volume(ball, 2.0, "map.mrc"), Volume(ball, 3.0, "mask.mrc"), None, "")


@pytest.fixture
def held(bench, pair):
    layers = PairLayers(bench.shown)
    for what, tuples in (("map", [map_layer(pair.map)]), ("mask", mask_layers(pair.mask))):
        for layer, (_, meta, _) in zip(bench.shown.add(tuples), tuples, strict=True):
            layers.hold(what, layer, meta)
    return layers


def test_they_are_placed_and_put_back(held, pair):
    density, mask, contour = held.held("map", "mask")
    held.place(MOVED)
    assert held.why_stale(pair, MOVED) == ""
    assert "mask was moved" in held.why_stale(pair, HERE)
    for layer in (mask, contour):
        assert layer.translate[0] == -18 + 6
    assert density.translate[0] == -12
    held.forget()
    assert mask.translate[0] == contour.translate[0] == -18
    assert held.held("map", "mask") == []


def test_only_what_others_do_is_told(held, pair):
    told = []
    held.touched.connect(lambda: told.append(True))
    held.place(MOVED)
    held.place(MOVED, settle=True)
    assert told == []
    density = held.held("map")[0]
    density.translate = density.translate + 1
    assert told
    held.forget()
    told.clear()
    density.translate = density.translate + 1
    assert told == []


def test_other_data_are_stale_but_the_same_read_again_are_not(held, pair):
    density = held.held("map")[0]
    density.data = density.data.copy()
    assert "map's data" in held.why_stale(pair, HERE)
    held.take_same_data()
    assert held.why_stale(pair, HERE) == ""
    density.data = density.data[::-1] + 1
    held.take_same_data()
    assert "map's data" in held.why_stale(pair, HERE)


def test_a_removed_contour_is_no_loss_but_a_mask_is(held, viewer):
    _, mask, contour = held.held("map", "mask")
    viewer.layers.remove(contour)
    assert held.gone() == []
    viewer.layers.remove(mask)
    assert held.gone() == ["mask"]


def test_a_turned_layer_is_put_upright(bench, pair):
    layers = PairLayers(bench.shown)
    tuples = [map_layer(pair.map)]
    [layer] = bench.shown.add(tuples)
    layer.rotate = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    layer.scale = (1.0, 2.0, 3.0)
    layers.hold("map", layer, tuples[0][1])
    np.testing.assert_allclose(layer.rotate, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(layer.scale, 2.0)


def test_z_is_vertical_in_the_xz_view(held, viewer):
    viewer.dims.ndisplay = 3
    show_xz(viewer)
    assert tuple(viewer.dims.displayed) == (0, 2)
    assert viewer.dims.point[1] == pytest.approx(0, abs=1.5)
