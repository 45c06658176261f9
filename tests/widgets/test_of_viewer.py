"""Our layers are told from others, and a closed window is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_sta.data.volume import Volume
from napari_sta.layers.volumes import map_layer, mask_layers
from napari_sta.widgets.of_viewer import entries_of, lies_in, path_of


def test_our_layers_are_listed_bottom_first_by_kind(viewer, bench):
    ball = Volume(np.ones((4, 4, 4), np.float32), 2.0, "/x/ball.mrc")
    theirs = viewer.add_image(np.zeros((4, 4, 4)))
    added = bench.shown.add([map_layer(ball), *mask_layers(ball)])
    assert bench.ours() == added
    assert bench.ours("mask", "contour") == added[1:]
    assert entries_of(theirs) == {}
    assert path_of(theirs) == ""
    assert path_of(added[0]) == "/x/ball.mrc"


def test_window_that_is_gone_is_known(viewer, bench):
    assert not bench.closed
    viewer.close()
    assert bench.closed


def test_files_in_folders():
    assert lies_in("/p/External/job004/a.mrc", [Path("/p/External/job004")])
    assert not lies_in("/p/External/job0041/a.mrc", [Path("/p/External/job004")])
    assert not lies_in("", [Path("/p")])
