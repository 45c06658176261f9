"""Slices of a reference."""

from __future__ import annotations

import numpy as np

from napari_sta.kernels.refine.images import image_transforms
from napari_sta.kernels.refine.pixels import make_pixel_list
from napari_sta.kernels.refine.projector import (
    interpolation_falloff,
    make_projector,
    slice_axes,
)
from toy_refinement import PADDING, RADIUS, SIZE, blob_map
from twins import gather_reference


def test_slice_of_the_identity_is_the_projection():
    volume = blob_map()
    pixels = make_pixel_list(SIZE, RADIUS)
    projector = make_projector(volume, RADIUS, PADDING)
    rows, _ = gather_reference(projector, slice_axes(np.eye(3)[None], PADDING), pixels, np.zeros(len(pixels)))
    corrected = volume / interpolation_falloff(SIZE, PADDING)  # on grid points nothing falls off
    expected = pixels.take(image_transforms(corrected.sum(dim=0)[None].float()))
    np.testing.assert_allclose(rows[0].numpy(), expected[0], atol=1e-5)
