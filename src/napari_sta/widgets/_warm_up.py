"""Load in a thread, while the user still looks around, what the first map and mask would have to wait for.

napari imports and compiles a good deal at its first layers (units, the colours of labels), in the GUI
thread: about three seconds without an answer. Here the same is done to layers nobody sees.
"""

from __future__ import annotations

import logging
import threading

import numpy as np

logger = logging.getLogger("napari_sta")

_state = {"asked": False}


def warm_up_once() -> None:
    """Start warming up in a thread, the first time it is asked for in this process.

    A plain thread: it has nothing to tell, and the viewer may be closed before it ends.
    """
    if not _state["asked"]:
        _state["asked"] = True
        threading.Thread(target=_quietly, name="napari-sta warm-up").start()


def _quietly() -> None:
    try:
        warm_up()
    except Exception as error:  # the first load is slow then, as it would have been
        logger.info("warming up failed: %s", error)


def warm_up() -> None:
    """Make the layers of a small map and mask, slice them, and score the map against the mask."""
    from napari.components import Dims
    from napari.layers import Layer
    from scipy.spatial.transform import Rotation

    from napari_sta.data.volume import Volume
    from napari_sta.kernels.alignment import score_curve
    from napari_sta.kernels.warm_up import warm_up as warm_up_kernels
    from napari_sta.layers.volumes import map_layer, mask_layers
    from napari_sta.widgets._napari_private import slice_once
    from napari_sta.widgets.shown import outline_contour

    ball = np.zeros((16, 16, 16), np.float32)
    ball[5:11, 5:11, 5:11] = 1
    volume = Volume(ball, 2.0)
    for data, meta, kind in [map_layer(volume), *mask_layers(volume)]:
        layer = Layer.create(data, dict(meta), kind)
        if kind == "labels":
            outline_contour(layer)
        for order in ((0, 1, 2), (1, 0, 2)):
            slice_once(layer, Dims(ndim=3, ndisplay=2, order=order))
    Rotation.identity()  # napari's camera needs it when the hand is set
    score_curve(ball, ball, "z", 5.0, pixel_size_angst=2.0)
    warm_up_kernels()
